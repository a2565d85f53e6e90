//! [`Section`]: the keys of one table, taken one by one.

use std::collections::BTreeMap;

use super::error::{ConfigError, ConfigErrors, Place};
use super::value::Value;

/// The keys of one table. What is never asked for is an unknown key.
#[derive(Debug)]
pub(super) struct Section {
    /// How errors call it: `server`, `upstream[0]`.
    name: String,
    /// Where it begins.
    place: Place,
    entries: BTreeMap<String, (Value, Place)>,
    known: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

impl Section {
    pub(super) fn new(name: impl Into<String>, place: Place) -> Self {
        Self { name: name.into(), place, entries: BTreeMap::new(), known: Vec::new(), errors: Vec::new() }
    }

    /// Sets `key`, over what it was.
    pub(super) fn set(&mut self, key: String, value: Value, place: Place) {
        self.entries.insert(key, (value, place));
    }

    /// Returns what `read` makes of `key`, or `default` when it is absent or wrong.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Value) -> Result<T, String>) -> T {
        self.known.push(key);
        let Some((value, _)) = self.entries.get(key) else { return default };
        match read(value) {
            Ok(value) => value,
            Err(problem) => {
                self.error(key, problem);
                default
            }
        }
    }

    /// Returns what `read` makes of `key`, or `None` when it is absent, empty or wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        self.or(key, None, |value| if value.is_set() { read(value).map(Some) } else { Ok(None) })
    }

    /// Reports `key` where `wants` says that its value asks for what this version cannot do.
    pub(super) fn not_built(&mut self, key: &'static str, wants: impl FnOnce(&Value) -> bool) {
        self.known.push(key);
        if self.entries.get(key).is_some_and(|(value, _)| wants(value)) {
            self.error(key, "not built yet in this version");
        }
    }

    /// Tells whether `key` is there and not empty.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|(value, _)| value.is_set())
    }

    /// Reports `problem` at the place of `key`.
    pub(super) fn error(&mut self, key: &str, problem: impl Into<String>) {
        let place = self.entries.get(key).map_or(&self.place, |(_, place)| place).clone();
        self.errors.push(ConfigError::new(place, format!("{}.{key}", self.name), problem));
    }

    /// Reports the keys that nothing asked for, and hands over all errors.
    pub(super) fn finish(mut self, errors: &mut ConfigErrors) {
        self.known.sort_unstable();
        self.known.dedup();
        let unknown: Vec<_> = self.entries.keys().filter(|key| !self.known.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            let problem = format!("unknown key; the keys here are {}", self.known.join(", "));
            self.error(&key, problem);
        }
        errors.extend(self.errors);
    }
}

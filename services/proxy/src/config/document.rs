//! [`Document`]: the tables of the file with the variables over them.

mod variable;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cache::Cache;
use super::error::{ConfigError, ConfigErrors, Place};
use super::section::Section;
use super::upstream::Upstreams;
use super::value::Value;
use variable::Target;

pub(super) use variable::PREFIX;

/// The tables that are there once each.
const SECTIONS: [&str; 5] = ["server", "storage", "catalog", "convert", "cache"];
/// The largest file read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most `[[upstream]]` entries.
const MAX_UPSTREAMS: usize = 256;

/// The tables of the file with the variables over them.
#[derive(Debug, Default)]
pub(super) struct Document {
    sections: BTreeMap<&'static str, Section>,
    upstreams: Vec<Section>,
    errors: ConfigErrors,
}

impl Document {
    /// Reads the file and the variables. What is wrong with them is reported by [`Document::finish`].
    pub(super) fn read(path: Option<&Path>, env: Vec<(String, String)>) -> Self {
        let mut document = Self::default();
        if let Some(path) = path {
            match read_file(path) {
                Ok(text) => document.add_file(&Source { path, text: &text }),
                Err(problem) => document.errors.push(ConfigError::new(Place::File(path.into()), "", problem)),
            }
        }
        document.add_variables(env);
        document
    }

    /// Returns what `read` makes of the table `name`.
    pub(super) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section) -> T) -> T {
        let mut section = self.sections.remove(name).unwrap_or_else(|| Section::new(name, Place::Nowhere));
        let value = read(&mut section);
        section.finish(&mut self.errors);
        value
    }

    /// Returns the upstreams.
    pub(super) fn upstreams(&mut self, cache: &Cache) -> Upstreams {
        Upstreams::read(std::mem::take(&mut self.upstreams), cache, &mut self.errors)
    }

    /// Reports all that was wrong.
    pub(super) fn finish(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }

    fn add_file(&mut self, source: &Source<'_>) {
        let (root, errors) = DeTable::parse_recoverable(source.text);
        self.errors.extend(errors.iter().map(|error| {
            let place = error.span().map_or_else(|| Place::File(source.path.into()), |span| source.place(span));
            ConfigError::new(place, "", error.message().trim_end())
        }));
        // Maps are sorted by key; errors are read in the order of the file.
        let mut tables: Vec<_> = root.get_ref().iter().collect();
        tables.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in tables {
            let (name, place) = (key.get_ref().as_ref(), source.place(key.span()));
            match (SECTIONS.into_iter().find(|section| *section == name), name, value.get_ref()) {
                (Some(name), _, DeValue::Table(table)) => {
                    let section = source.section(name.into(), place, table);
                    self.sections.insert(name, section);
                }
                (None, "upstream", DeValue::Array(entries)) => self.add_upstreams(source, entries.iter()),
                (Some(_), ..) => self.errors.push(ConfigError::new(place, name, format!("expected [{name}]"))),
                (None, "upstream", _) => self.errors.push(ConfigError::new(place, name, "expected [[upstream]]")),
                (None, ..) => {
                    let problem = format!("unknown; the tables are {} and upstream", SECTIONS.join(", "));
                    self.errors.push(ConfigError::new(place, name, problem));
                }
            }
        }
    }

    fn add_upstreams<'a>(
        &mut self,
        source: &Source<'_>,
        entries: impl ExactSizeIterator<Item = &'a Spanned<DeValue<'a>>>,
    ) {
        for (n, entry) in entries.enumerate() {
            let place = source.place(entry.span());
            match entry.get_ref() {
                DeValue::Table(table) if n < MAX_UPSTREAMS => {
                    self.upstreams.push(source.section(format!("upstream[{n}]"), place, table));
                }
                DeValue::Table(_) => {
                    let problem = format!("more than {MAX_UPSTREAMS} upstreams");
                    return self.errors.push(ConfigError::new(place, "upstream", problem));
                }
                _ => self.errors.push(ConfigError::new(place, "upstream", "expected [[upstream]]")),
            }
        }
    }

    fn add_variables(&mut self, mut env: Vec<(String, String)>) {
        // In order, so that a new upstream follows the one before it.
        env.sort_by_cached_key(|(name, _)| variable::order(name));
        for (name, text) in env {
            let (value, place) = (Value::Variable(text), Place::Variable(name.clone()));
            match Target::of(&name, &SECTIONS) {
                Target::Foreign => {}
                Target::Key(section, key) => {
                    let section = self.sections.entry(section).or_insert_with(|| Section::new(section, Place::Nowhere));
                    section.set(key, value, place);
                }
                Target::Upstream(n, key) => match self.upstream(n) {
                    Some(section) => section.set(key, value, place),
                    None => {
                        let problem = format!("there is no upstream {} before it", n.saturating_sub(1));
                        self.errors.push(ConfigError::new(place, format!("upstream[{n}].{key}"), problem));
                    }
                },
                Target::Unknown => {
                    let problem = "unknown variable; expected FIRSTLIGHT_SECTION_KEY or FIRSTLIGHT_UPSTREAM_0_KEY";
                    self.errors.push(ConfigError::new(place, "", problem));
                }
            }
        }
    }

    /// Returns the n-th upstream; the one after the last is made.
    fn upstream(&mut self, n: usize) -> Option<&mut Section> {
        if n == self.upstreams.len() && n < MAX_UPSTREAMS {
            self.upstreams.push(Section::new(format!("upstream[{n}]"), Place::Nowhere));
        }
        self.upstreams.get_mut(n)
    }
}

/// The file, to find lines in.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        Place::Line(self.path.into(), 1 + before.iter().filter(|b| **b == b'\n').count())
    }

    fn section(&self, name: String, place: Place, table: &DeTable<'_>) -> Section {
        let mut section = Section::new(name, place);
        for (key, value) in table {
            section.set(key.get_ref().to_string(), value.get_ref().into(), self.place(key.span()));
        }
        section
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

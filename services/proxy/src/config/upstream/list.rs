//! [`Upstreams`]: the closed map of names to remote registries.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::known::Known;
use super::{Upstream, Visibility};
use crate::config::cache::Cache;
use crate::config::error::{ConfigError, ConfigErrors};
use crate::config::section::Section;
use crate::config::view::View;

/// The configured upstreams: at least one, no name or alias twice, exactly one of them the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstreams {
    list: Vec<Upstream>,
    default: usize,
}

impl Default for Upstreams {
    /// The seven public registries, docker.io being the default, with the default `cache.tag_ttl`.
    fn default() -> Self {
        Self::public(std::time::Duration::from_secs(60))
    }
}

impl Serialize for Upstreams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

impl Upstreams {
    /// Returns the upstream whose name or alias is exactly `name`.
    pub fn get(&self, name: &str) -> Option<&Upstream> {
        self.iter().find(|upstream| upstream.name == name || upstream.aliases.iter().any(|alias| alias == name))
    }

    /// Returns the upstream of names that begin with no upstream's name.
    pub fn default_upstream(&self) -> &Upstream {
        &self.list[self.default]
    }

    /// Returns the upstreams in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Upstream> {
        self.list.iter()
    }

    /// Reads the `[[upstream]]` entries; without any, the public registries.
    pub(in crate::config) fn read(sections: Vec<Section>, cache: &Cache, errors: &mut ConfigErrors) -> Self {
        if sections.is_empty() {
            return Self::public(cache.tag_ttl);
        }
        let only_one = sections.len() == 1;
        let mut owners = BTreeMap::new();
        let (mut list, mut default) = (Vec::with_capacity(sections.len()), None);
        for (n, mut section) in sections.into_iter().enumerate() {
            let mut upstream = Upstream::read(&mut section, cache);
            check_names(&upstream, &mut owners, &mut section);
            // A lone upstream is the default unless it says otherwise.
            upstream.default |= only_one && !section.is_set("default");
            match default {
                Some(_) if upstream.default => section.error("default", "another upstream is the default already"),
                None if upstream.default => default = Some(n),
                _ => {}
            }
            section.finish(errors);
            list.push(upstream);
        }
        if default.is_none() {
            errors.push(ConfigError::of_key("upstream", "one of them must have default = true"));
        }
        Self { list, default: default.unwrap_or(0) }
    }

    fn public(tag_ttl: std::time::Duration) -> Self {
        let upstream = |(n, name): (usize, &&str)| {
            let known = Known::named(name);
            Upstream {
                name: (*name).into(),
                aliases: known.aliases,
                url: known.url,
                auth_hosts: known.auth_hosts,
                default: n == 0,
                view: View::Estargz,
                mirror_view: View::Original,
                visibility: Visibility::Public,
                credentials: None,
                tag_ttl,
                allow: Vec::new(),
                deny: Vec::new(),
                ca_file: None,
                plain_http: false,
            }
        };
        Self { list: Known::NAMES.iter().enumerate().map(upstream).collect(), default: 0 }
    }
}

impl<'a> IntoIterator for &'a Upstreams {
    type Item = &'a Upstream;
    type IntoIter = std::slice::Iter<'a, Upstream>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Reports each name and alias of `upstream` that is in `owners`, and enters the others.
fn check_names(upstream: &Upstream, owners: &mut BTreeMap<String, String>, section: &mut Section) {
    let names = std::iter::once(("name", &upstream.name)).chain(upstream.aliases.iter().map(|a| ("aliases", a)));
    for (key, name) in names.filter(|(_, name)| !name.is_empty()) {
        match owners.insert(name.clone(), upstream.name.clone()) {
            None => {}
            Some(owner) => section.error(key, format!("{name:?} is a name of the upstream {owner:?} already")),
        }
    }
}

//! [`Trust`]: which layers are mounted before they are proven.

use std::collections::HashMap;

use crate::config::{Config, RegistryConfig};
use crate::layers::{Origin, Via};

/// Whose layers are mounted before they are proven.
///
/// What a proxy tells of a layer is bound to the image's digest by its diff id, which the proxy measured. A layer that is its own
/// twin is not until all of it is here: whoever may push to its repository could take the place of another image's layer.
#[derive(Debug)]
pub(crate) struct Trust {
    nobody: bool,
    /// The repositories of each registry.
    registries: HashMap<String, Vec<Repositories>>,
}

/// Some repositories of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Repositories {
    /// The one of this name.
    One(String),
    /// Those whose names begin with this, which ends with a slash or is empty.
    Below(String),
}

impl Repositories {
    /// Reads a name, `folder/*` or `*`.
    fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(folder) if folder.is_empty() || folder.ends_with('/') => Self::Below(folder.to_owned()),
            _ => Self::One(text.to_owned()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Below(folder) => name.starts_with(folder),
        }
    }
}

impl Trust {
    pub(crate) fn new(config: &Config) -> Self {
        let repositories = |registry: &RegistryConfig| {
            let trusted = registry.trusted.iter().map(|text| Repositories::parse(text)).collect();
            (registry.host.clone(), trusted)
        };
        Self { nobody: config.require_proof, registries: config.registry.iter().map(repositories).collect() }
    }

    /// Tells whether a layer is mounted before it is proven.
    pub(crate) fn covers(&self, origin: &Origin) -> bool {
        !self.nobody
            && match origin.via {
                Via::Proxy => true,
                Via::Registry => self.covers_repository(&origin.host, &origin.repository),
            }
    }

    fn covers_repository(&self, host: &str, name: &str) -> bool {
        let registry = self.registries.get(host).or_else(|| self.registries.get(RegistryConfig::ANY));
        registry.is_some_and(|trusted| trusted.iter().any(|repositories| repositories.has(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_trusted_by_name() {
        let load = |text: &str| Trust::new(&toml::from_str(text).unwrap());
        assert!(load("require_proof = true").nobody);
        let some = load("[[registry]]\nhost = 'a'\n[[registry]]\nhost = 'b'\ntrusted = ['team/*', 'library/app']");
        for (host, name, is_trusted) in [
            ("a", "team/app", false),
            ("b", "team/app", true),
            ("b", "team/sub/app", true),
            ("b", "library/app", true),
            ("b", "library/app2", false),
            ("b", "teams/app", false),
            ("c", "team/app", false),
        ] {
            assert_eq!(some.covers_repository(host, name), is_trusted, "{host}/{name}");
        }
        let all = load("[[registry]]\nhost = '*'\ntrusted = ['*']\n[[registry]]\nhost = 'b'");
        assert!(all.covers_repository("a", "team/app") && !all.covers_repository("b", "team/app"));
    }
}

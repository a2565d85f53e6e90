//! [`Trust`]: which layers are mounted before they are proven.

use std::collections::HashMap;

use crate::config::{Config, RegistryConfig};
use crate::layers::Via;

/// Whose layers are mounted before they are proven.
///
/// What a proxy tells of a layer is bound to the image's digest by its diff id, which the proxy measured. A layer that is its own
/// twin is not until all of it is here: whoever may push to its registry could take the place of another image's layer.
#[derive(Debug)]
pub(crate) struct Trust {
    nobody: bool,
    registries: HashMap<String, bool>,
}

impl Trust {
    pub(crate) fn new(config: &Config) -> Self {
        let trusted = |registry: &RegistryConfig| (registry.host.clone(), !registry.require_proof);
        Self { nobody: config.require_proof, registries: config.registry.iter().map(trusted).collect() }
    }

    /// Tells whether a layer of the registry `host` is mounted before it is proven.
    pub(crate) fn covers(&self, via: Via, host: &str) -> bool {
        let registry = || self.registries.get(host).or_else(|| self.registries.get(RegistryConfig::ANY));
        !self.nobody
            && match via {
                Via::Proxy => true,
                Via::Registry => registry().copied().unwrap_or(false),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_trusted_by_name() {
        let load = |text: &str| Trust::new(&toml::from_str(text).unwrap());
        let nobody = load("require_proof = true\n[[registry]]\nhost = 'a'");
        assert!(!nobody.covers(Via::Proxy, "a") && !nobody.covers(Via::Registry, "a"));
        let some = load("[[registry]]\nhost = 'a'\n[[registry]]\nhost = 'b'\nrequire_proof = true");
        assert!(some.covers(Via::Proxy, "b") && some.covers(Via::Registry, "a"));
        assert!(!some.covers(Via::Registry, "b") && !some.covers(Via::Registry, "c"));
        let all = load("[[registry]]\nhost = '*'\n[[registry]]\nhost = 'b'\nrequire_proof = true");
        assert!(all.covers(Via::Registry, "a") && !all.covers(Via::Registry, "b"));
    }
}

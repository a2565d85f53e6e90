//! [`Config`]: where the snapshotter keeps its things, and where containerd finds it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

/// The configuration of a snapshotter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of snapshots and their database.
    pub root: PathBuf,
    /// The Unix socket for containerd.
    pub address: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/firstlight-snapshotter"),
            address: PathBuf::from("/run/firstlight-snapshotter/snapshotter.sock"),
        }
    }
}

impl Config {
    /// Reads the TOML file at `path`; without one, the defaults.
    ///
    /// # Errors
    /// Says which key or value cannot be used.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no configuration of a snapshotter", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            let path = folder.path().join("config.toml");
            fs::write(&path, text).unwrap();
            Config::load(Some(&path))
        };
        let given = load("root = \"/r\"").unwrap();
        assert_eq!(given, Config { root: "/r".into(), ..Config::default() });
        let refused = format!("{:#}", load("rooot = \"/r\"").unwrap_err());
        assert!(refused.contains("config.toml") && refused.contains("rooot"), "{refused}");
        assert_eq!(Config::load(None).unwrap(), Config::default());
    }
}

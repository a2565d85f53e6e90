//! [`Config`]: all that an operator decides, from one TOML file and the environment.
//!
//! Every key is also a variable, `FIRSTLIGHT_SECTION_KEY`, which wins over the file. Lists are comma
//! separated there, and the n-th `[[upstream]]` (from 0) is `FIRSTLIGHT_UPSTREAM_n_KEY`.

mod cache;
mod catalog;
mod convert;
mod document;
mod duration;
mod error;
mod pattern;
mod section;
mod server;
mod size;
mod storage;
mod toml_text;
mod upstream;
mod value;
mod view;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use cache::Cache;
pub use catalog::{Catalog, CatalogUrl};
pub use convert::Convert;
pub use error::{ConfigError, ConfigErrors, Place};
pub use pattern::Pattern;
pub use server::{Internal, Server, TlsFiles};
pub use size::{ByteSize, MinFree};
pub use storage::{Backend, Storage};
pub use upstream::{CredentialSource, Upstream, Upstreams, Visibility};
pub use view::View;

use document::Document;

/// The variable that names the configuration file when `--config` does not.
pub const CONFIG_VARIABLE: &str = "FIRSTLIGHT_CONFIG";

/// The effective configuration, checked. It holds paths of secrets, never secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Listeners, TLS and the gate.
    pub server: Server,
    /// Where bytes are kept.
    pub storage: Storage,
    /// Where rows are kept.
    pub catalog: Catalog,
    /// How layers are converted.
    pub convert: Convert,
    /// How long things are kept.
    pub cache: Cache,
    /// The remote registries.
    #[serde(rename = "upstream")]
    pub upstreams: Upstreams,
}

impl Config {
    /// Reads the file at `path` (or else the one that `FIRSTLIGHT_CONFIG` in `env` names, or else none) and
    /// the variables in `env` over it. See [`environment`] for the process's own.
    ///
    /// # Errors
    /// All that is wrong, not only the first: each with its key and its line or variable.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        let env: Vec<_> = env.collect();
        let named = env.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
        let path = path.map(PathBuf::from).or_else(|| named.map(|(_, file)| PathBuf::from(file)));
        let mut document = Document::read(path.as_deref(), env);
        let storage = document.section("storage", Storage::read);
        let catalog = document.section("catalog", |section| Catalog::read(section, &storage));
        let config = Self {
            server: document.section("server", |section| Server::read(section, &catalog.url)),
            catalog,
            storage,
            convert: document.section("convert", Convert::read),
            cache: document.section("cache", Cache::read),
            upstreams: Upstreams::default(),
        };
        let upstreams = document.upstreams(&config.cache);
        document.finish()?;
        Ok(Self { upstreams, ..config })
    }

    /// Returns the configuration as a TOML file that gives this configuration again.
    pub fn describe(&self) -> String {
        toml_text::write(self)
    }
}

/// Returns the process's variables that concern this program. Bytes that are not UTF-8 are replaced.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(document::PREFIX))
}

/// Returns where Docker keeps its `config.json`: in `DOCKER_CONFIG`, else in `.docker` of the home folder; `None`
/// without either.
pub fn docker_config() -> Option<PathBuf> {
    let named = std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named.or_else(|| std::env::home_dir().map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}

//! [`Registries`]: the registries themselves, for images whose own layers are eStargz.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use upstream::docker_config::{self, DockerConfigError};
use upstream::{Client, Credentials, RetryPolicy, Secret, Settings, SettingsError, Timeouts};

use crate::config::RegistryConfig;
use crate::proxies::is_loopback;

/// How long a registry may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take for the next byte of a blob.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client is used: credentials change.
const KEPT: Duration = Duration::from_secs(300);
/// Docker Hub's name in references, its registry, and who gives tokens for it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_URL: &str = "https://registry-1.docker.io";
const DOCKER_HUB_TOKENS: &str = "auth.docker.io";

/// The registries that images come from.
#[derive(Debug)]
pub(crate) struct Registries {
    configs: HashMap<String, RegistryConfig>,
    docker_config: Option<PathBuf>,
    clients: Mutex<HashMap<String, (Instant, Client)>>,
}

/// Why a registry cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// A file that is configured cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The Docker configuration cannot be used.
    #[error("the credentials in {} cannot be used", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DockerConfigError,
    },
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Registries {
    pub(crate) fn new(configs: &[RegistryConfig], docker_config: Option<PathBuf>) -> Self {
        let configs = configs.iter().map(|config| (config.host.clone(), config.clone())).collect();
        Self { configs, docker_config, clients: Mutex::default() }
    }

    /// Returns a client of a registry, by the name that references have for it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn of(&self, host: &str) -> Result<Client, RegistryError> {
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients().get(host).filter(|(made, _)| made.elapsed() < KEPT) {
            return Ok(client.clone());
        }
        let client = Client::new(self.settings(host)?)?;
        let mut clients = clients();
        clients.retain(|_, (made, _)| made.elapsed() < KEPT);
        clients.insert(host.to_owned(), (Instant::now(), client.clone()));
        Ok(client)
    }

    fn settings(&self, host: &str) -> Result<Settings, RegistryError> {
        let config = self.configs.get(host);
        let default_url = match host {
            DOCKER_HUB => DOCKER_HUB_URL.to_owned(),
            // As containerd does.
            host if is_loopback(host) => format!("http://{host}"),
            host => format!("https://{host}"),
        };
        let url = config.and_then(|config| config.url.clone()).unwrap_or(default_url);
        let mut auth_hosts = config.map(|config| config.auth_hosts.clone()).unwrap_or_default();
        if host == DOCKER_HUB {
            auth_hosts.push(DOCKER_HUB_TOKENS.to_owned());
        }
        let ca_pem = match config.and_then(|config| config.ca_file.as_ref()) {
            Some(path) => Some(fs::read(path).map_err(|source| RegistryError::File { path: path.clone(), source })?),
            None => None,
        };
        Ok(Settings {
            plain_http: url.starts_with("http://"),
            auth_hosts,
            ca_pem,
            credentials: self.credentials(host, config)?,
            timeouts: Timeouts { connect: CONNECT, idle: IDLE, ..Timeouts::default() },
            // Reads have a patience of their own.
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
            ..Settings::new(host, url)
        })
    }

    fn credentials(&self, host: &str, config: Option<&RegistryConfig>) -> Result<Option<Credentials>, RegistryError> {
        if let Some((username, path)) = config.and_then(|c| c.username.as_ref().zip(c.password_file.as_ref())) {
            let read = fs::read_to_string(path);
            let password = read.map_err(|source| RegistryError::File { path: path.clone(), source })?;
            let password = Secret::new(password.trim_end_matches('\n'));
            return Ok(Some(Credentials { username: username.clone(), password }));
        }
        let Some(path) = &self.docker_config else { return Ok(None) };
        let config = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| RegistryError::File { path: path.clone(), source })?,
        };
        match docker_config::credentials(&config, host) {
            Ok(credentials) => Ok(Some(credentials)),
            Err(DockerConfigError::Missing { .. }) => Ok(None),
            Err(source) => Err(RegistryError::DockerConfig { path: path.clone(), source }),
        }
    }
}

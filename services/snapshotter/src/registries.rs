//! [`Registries`]: the registries themselves, for images whose own layers are eStargz.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use upstream::docker_config::{self, DockerConfigError};
use upstream::{Client, Credentials, RetryPolicy, Settings, SettingsError, Timeouts};

use crate::access::{self, Access, FileError, is_loopback};
use crate::config::RegistryConfig;

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
    #[error(transparent)]
    File(#[from] FileError),
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
        let access = config.map(|config| config.access.clone()).unwrap_or_default();
        Ok(Settings {
            plain_http: url.starts_with("http://"),
            auth_hosts,
            ca_pem: access.ca_pem()?,
            credentials: self.credentials(host, &access)?,
            timeouts: Timeouts { connect: CONNECT, idle: IDLE, ..Timeouts::default() },
            // Reads have a patience of their own.
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
            ..Settings::new(host, url)
        })
    }

    fn credentials(&self, host: &str, access: &Access) -> Result<Option<Credentials>, RegistryError> {
        let given = access.credentials()?;
        let Some(path) = self.docker_config.as_ref().filter(|_| given.is_none()) else { return Ok(given) };
        let config = match access::read(path) {
            Err(error) if error.is_missing() => return Ok(None),
            read => read?,
        };
        match docker_config::credentials(&config, host) {
            Ok(credentials) => Ok(Some(credentials)),
            Err(DockerConfigError::Missing { .. }) => Ok(None),
            Err(helper @ (DockerConfigError::Helper { .. } | DockerConfigError::IdentityToken { .. })) => {
                tracing::warn!(path = %path.display(), error = &helper as &dyn std::error::Error, "asking without credentials");
                Ok(None)
            }
            Err(source) => Err(RegistryError::DockerConfig { path: path.clone(), source }),
        }
    }
}

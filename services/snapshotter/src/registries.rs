//! [`Registries`]: the registries themselves, for images whose own layers are eStargz.

mod hosts;
mod hosts_file;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use upstream::docker_config::{self, DockerConfigError};
use upstream::{Client, Credentials, RetryPolicy, Secret, Settings, SettingsError, Timeouts};

use crate::access::{self, Access, FileError, is_loopback};
use crate::config::{Config, RegistryConfig};
use hosts_file::{Host, HostsError, Url};

pub(crate) use hosts::Hosts;

/// How long a registry may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take for the next byte of a blob.
const IDLE: Duration = Duration::from_secs(10);
/// How long a mirror may take to begin its answer: another one has it, too.
const MIRROR_HEAD: Duration = Duration::from_secs(5);
/// How long clients are used: credentials change.
const KEPT: Duration = Duration::from_secs(300);
/// Docker Hub's name in references, its registry, and who gives tokens for it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_AUTHORITY: &str = "registry-1.docker.io";
const DOCKER_HUB_TOKENS: &str = "auth.docker.io";

/// The registries that images come from.
#[derive(Debug)]
pub(crate) struct Registries {
    configs: HashMap<String, RegistryConfig>,
    hosts_dir: Option<PathBuf>,
    docker_config: Option<PathBuf>,
    hosts: Mutex<HashMap<String, (Instant, Hosts)>>,
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
    /// What containerd's configuration says of its hosts cannot be used.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// Nobody may be pulled from.
    #[error("the configuration of its hosts lets nobody pull")]
    Nobody,
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Registries {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            configs: config.registry.iter().map(|registry| (registry.host.clone(), registry.clone())).collect(),
            hosts_dir: config.hosts_dir.clone(),
            docker_config: config.docker_config.clone(),
            hosts: Mutex::default(),
        }
    }

    /// Returns who is asked for what a registry has, by the name that references have for it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn of(&self, name: &str) -> Result<Hosts, RegistryError> {
        let known = || self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hosts)) = known().get(name).filter(|(made, _)| made.elapsed() < KEPT) {
            return Ok(hosts.clone());
        }
        let clients = self.hosts_of(name)?.iter().map(|host| self.client(name, host)).collect::<Result<_, _>>()?;
        let hosts = Hosts::new(clients).ok_or(RegistryError::Nobody)?;
        let mut known = known();
        known.retain(|_, (made, _)| made.elapsed() < KEPT);
        known.insert(name.to_owned(), (Instant::now(), hosts.clone()));
        Ok(hosts)
    }

    /// Returns who is asked for what the registry `name` has: where its own table says where it is, that is all.
    fn hosts_of(&self, name: &str) -> Result<Vec<Host>, RegistryError> {
        let is_said = self.configs.get(name).is_some_and(|config| config.url.is_some());
        match self.hosts_dir.as_ref().filter(|_| !is_said) {
            Some(root) => Ok(hosts_file::read(root, name)?),
            None => Ok(vec![Host::default()]),
        }
    }

    /// Makes a client of `host`, who is the registry `name` or stands for it.
    fn client(&self, name: &str, host: &Host) -> Result<Client, RegistryError> {
        let config = self.configs.get(name);
        let own_url = || config.and_then(|config| config.url.clone()).unwrap_or_else(|| default_url(name));
        let stands_for_it = |url: &Url| url.authority != name && url.authority != authority_of(name);
        let mirror = host.url.as_ref().filter(|url| stands_for_it(url));
        // What is said of the registry holds for itself alone.
        let config = config.filter(|_| mirror.is_none());
        let access = config.map(|config| config.access.clone()).unwrap_or_default();
        let mut auth_hosts = config.map(|config| config.auth_hosts.clone()).unwrap_or_default();
        if name == DOCKER_HUB && mirror.is_none() {
            auth_hosts.push(DOCKER_HUB_TOKENS.to_owned());
        }
        let url = host.url.as_ref().map_or_else(own_url, |url| url.text.clone());
        let head = if mirror.is_some() { MIRROR_HEAD } else { Timeouts::default().head };
        let known_as = mirror.map_or(name, |url| &url.authority);
        let client = Client::new(Settings {
            plain_http: url.starts_with("http://"),
            auth_hosts,
            ca_pem: certificates(&access, host)?,
            any_certificate: host.skip_verify,
            identity_pem: identity(host)?,
            headers: host.headers.clone(),
            is_api_root: host.url.as_ref().is_some_and(|url| url.is_api_root),
            credentials: self.credentials(known_as, &access)?,
            timeouts: Timeouts { connect: CONNECT, head, idle: IDLE, ..Timeouts::default() },
            // Reads have a patience of their own.
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
            ..Settings::new(known_as, url)
        })?;
        Ok(if mirror.is_some() { client.for_namespace(name) } else { client })
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

/// Returns the host and port of a registry, which Docker Hub's name is not.
fn authority_of(name: &str) -> &str {
    if name == DOCKER_HUB { DOCKER_HUB_AUTHORITY } else { name }
}

fn default_url(name: &str) -> String {
    // As containerd does.
    let scheme = if is_loopback(name) { "http" } else { "https" };
    format!("{scheme}://{}", authority_of(name))
}

/// Returns the certificates to trust, of both configurations.
fn certificates(access: &Access, host: &Host) -> Result<Option<Vec<u8>>, FileError> {
    let files = host.ca.iter().map(|path| access::read(path));
    let pieces: Vec<Vec<u8>> = access.ca_pem().transpose().into_iter().chain(files).collect::<Result<_, _>>()?;
    Ok((!pieces.is_empty()).then(|| pieces.join(&b'\n')))
}

/// Returns the certificate and the key to show.
fn identity(host: &Host) -> Result<Option<Secret>, FileError> {
    let Some([certificate, key]) = &host.identity else { return Ok(None) };
    let mut pem = access::read(certificate)?;
    if key != certificate {
        pem.push(b'\n');
        pem.extend(access::read(key)?);
    }
    Ok(Some(Secret::new(String::from_utf8_lossy(&pem))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &str, folder: &std::path::Path, registry: &str) -> Vec<String> {
        let config: Config = toml::from_str(config).unwrap();
        let registries = Registries::new(&Config { hosts_dir: Some(folder.to_owned()), docker_config: None, ..config });
        registries.of(registry).unwrap().clients().iter().map(|client| client.name().to_owned()).collect()
    }

    #[test]
    fn a_table_with_a_url_goes_before_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("_default");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), "[host.'http://mirror.example:5000']").unwrap();
        let (with_url, without) = ("[[registry]]\nhost = 'a'\nurl = 'http://a:80'", "[[registry]]\nhost = 'a'");
        assert_eq!(names(with_url, folder.path(), "a"), ["a"]);
        assert_eq!(names(without, folder.path(), "a"), ["mirror.example:5000", "a"]);
        assert_eq!(names("", folder.path(), "docker.io"), ["mirror.example:5000", "docker.io"]);
        std::fs::write(own.join("hosts.toml"), "server = 'https://registry-1.docker.io'").unwrap();
        assert_eq!(names("", folder.path(), "docker.io"), ["docker.io"]);
    }
}

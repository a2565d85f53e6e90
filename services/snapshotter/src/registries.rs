//! [`Registries`]: the registries themselves, for images whose own layers are eStargz.

mod hosts_file;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use upstream::docker_config::{self, DockerConfigError};
use upstream::{Client, Credentials, RetryPolicy, Secret, Settings, SettingsError, Timeouts, UpstreamError};

use crate::access::{self, Access, FileError, is_loopback};
use crate::config::{Config, RegistryConfig};
use hosts_file::{Host, Url};

/// How long a registry may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take for the next byte of a blob.
const IDLE: Duration = Duration::from_secs(10);
/// How long a mirror may take to begin its answer, unless it is the last one: another one has it, too.
const HEAD: Duration = Duration::from_secs(5);
/// How long one that did not answer is asked last.
const BREAK: Duration = Duration::from_secs(30);
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
    known: Mutex<HashMap<String, Known>>,
}

/// Who has what a registry has.
#[derive(Debug, Clone)]
struct Known {
    at: Instant,
    hosts: Arc<[Member]>,
}

/// One of a registry's hosts.
#[derive(Debug)]
struct Member {
    host: Host,
    client: OnceLock<Client>,
    /// Until when it is asked last.
    silent_until: Mutex<Option<Instant>>,
}

impl Member {
    fn new(host: Host) -> Self {
        Self { host, client: OnceLock::new(), silent_until: Mutex::default() }
    }

    /// Returns what names it among the hosts of its registry: its URL, nothing for the registry itself.
    fn key(&self) -> &str {
        self.host.url.as_ref().map_or("", |url| &url.text)
    }

    fn is_silent(&self) -> bool {
        let until = *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
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
    /// Nobody may be pulled from.
    #[error("the hosts.toml of the registry lets nobody pull")]
    Nobody,
    /// The host is none of its any more.
    #[error("{host} is not in the configuration of its hosts any more")]
    Gone {
        /// The host's URL.
        host: String,
    },
    /// The password would be sent for all to read.
    #[error(
        "{url} is plain http to another machine: no password is sent there unless its [[registry]] says insecure = true"
    )]
    Plain {
        /// Where it would go.
        url: String,
    },
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
            known: Mutex::default(),
        }
    }

    /// Returns whom to ask for what a registry has, by the name that references have for it: its hosts in the order of the
    /// configuration, but those that did not answer last. There is always one.
    pub(crate) fn hosts(&self, name: &str) -> Vec<String> {
        let mut hosts: Vec<&Member> = Vec::new();
        let known = self.known(name).hosts;
        hosts.extend(known.iter());
        hosts.sort_by_key(|member| member.is_silent());
        let keys: Vec<String> = hosts.into_iter().map(|member| member.key().to_owned()).collect();
        if keys.is_empty() { vec![String::new()] } else { keys }
    }

    /// Returns a client of one of a registry's hosts.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn client(&self, name: &str, host: &str) -> Result<Client, RegistryError> {
        let Known { hosts, .. } = self.known(name);
        let last = hosts.last().ok_or(RegistryError::Nobody)?;
        let member = hosts.iter().find(|member| member.key() == host);
        let member = member.ok_or_else(|| RegistryError::Gone { host: host.to_owned() })?;
        if let Some(client) = member.client.get() {
            return Ok(client.clone());
        }
        let head = if std::ptr::eq(member, last) { Timeouts::default().head } else { HEAD };
        let client = self.new_client(name, &member.host, head)?;
        Ok(member.client.get_or_init(|| client).clone())
    }

    /// Notes what a host answered: one that does not answer is asked last for a while.
    pub(crate) fn note(&self, name: &str, host: &str, error: &UpstreamError) {
        tracing::debug!(registry = name, host, error = error as &dyn std::error::Error, "a host does not send a blob");
        if !matches!(error, UpstreamError::Timeout | UpstreamError::Network { .. }) {
            return;
        }
        if let Some(member) = self.known(name).hosts.iter().find(|member| member.key() == host) {
            *member.silent_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + BREAK);
        }
    }

    fn known(&self, name: &str) -> Known {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = known().get(name).filter(|known| known.at.elapsed() < KEPT) {
            return fresh.clone();
        }
        // Where a registry's own table says where it is, that is all.
        let is_said = self.configs.get(name).is_some_and(|config| config.url.is_some());
        let hosts = match self.hosts_dir.as_ref().filter(|_| !is_said) {
            Some(folders) => hosts_file::read(folders, name),
            None => vec![Host::default()],
        };
        let new = Known { at: Instant::now(), hosts: hosts.into_iter().map(Member::new).collect() };
        let mut known = known();
        known.retain(|_, known| known.at.elapsed() < KEPT);
        // Another one may have been as fast.
        known.entry(name.to_owned()).or_insert(new).clone()
    }

    /// Makes a client of `host`, who is the registry `name` or stands for it.
    fn new_client(&self, name: &str, host: &Host, head: Duration) -> Result<Client, RegistryError> {
        let stands_for_it = |url: &&Url| url.authority != name && url.authority != authority_of(name);
        let mirror = host.url.as_ref().filter(stands_for_it).map(|url| url.authority.as_str());
        let known_as = mirror.unwrap_or(name);
        let config = self.configs.get(known_as);
        let access = config.map(|config| config.access.clone()).unwrap_or_default();
        let mut auth_hosts = config.map(|config| config.auth_hosts.clone()).unwrap_or_default();
        if authority_of(known_as) == DOCKER_HUB_AUTHORITY {
            auth_hosts.push(DOCKER_HUB_TOKENS.to_owned());
        }
        let url = match &host.url {
            Some(url) => url.text.clone(),
            None => config.and_then(|config| config.url.clone()).unwrap_or_else(|| default_url(name)),
        };
        if access.username.is_some() && access.check(&url).is_err() {
            return Err(RegistryError::Plain { url });
        }
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
    use std::path::Path;

    use super::*;

    fn registries(config: &str, folder: &Path) -> Registries {
        let config: Config = toml::from_str(config).unwrap();
        Registries::new(&Config { hosts_dir: Some(folder.to_owned()), docker_config: None, ..config })
    }

    fn names(config: &str, folder: &Path, registry: &str) -> Vec<String> {
        let registries = registries(config, folder);
        let name = |host: String| registries.client(registry, &host).unwrap().name().to_owned();
        registries.hosts(registry).into_iter().map(name).collect()
    }

    fn write(folder: &Path, text: &str) {
        std::fs::create_dir_all(folder.join("_default")).unwrap();
        std::fs::write(folder.join("_default/hosts.toml"), text).unwrap();
    }

    #[test]
    fn a_table_with_a_url_goes_before_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "[host.'http://mirror.example:5000']");
        let (with_url, without) = ("[[registry]]\nhost = 'a'\nurl = 'http://a:80'", "[[registry]]\nhost = 'a'");
        assert_eq!(names(with_url, folder, "a"), ["a"]);
        assert_eq!(names(without, folder, "a"), ["mirror.example:5000", "a"]);
        assert_eq!(names("", folder, "docker.io"), ["mirror.example:5000", "docker.io"]);
        write(folder, "server = 'https://registry-1.docker.io'");
        assert_eq!(names("", folder, "docker.io"), ["docker.io"]);
    }

    #[test]
    fn who_does_not_answer_is_asked_last_and_who_cannot_be_asked_is_alone_in_that() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "[host.'http://one']\n[host.'http://two']\nca = 'none.crt'\n");
        let registries = registries("", folder);
        assert_eq!(registries.hosts("a"), ["http://one", "http://two", ""]);
        registries.note("a", "http://one", &UpstreamError::NotFound);
        registries.note("a", "http://two", &UpstreamError::Timeout);
        assert_eq!(registries.hosts("a"), ["http://one", "", "http://two"]);
        assert_eq!(registries.hosts("b"), ["http://one", "http://two", ""]);
        assert!(matches!(registries.client("a", "http://two"), Err(RegistryError::File(_))));
        assert!(matches!(registries.client("a", "http://three"), Err(RegistryError::Gone { .. })));
        assert_eq!(registries.client("a", "").unwrap().name(), "a");
        write(folder, "capabilities = ['push']\nserver = 'http://a'");
        assert_eq!(registries.hosts("c"), [""]);
        assert!(matches!(registries.client("c", ""), Err(RegistryError::Nobody)));
    }

    #[test]
    fn no_password_leaves_the_machine_for_all_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "server = 'http://a'\n[host.'https://mirror']");
        std::fs::write(folder.join("password"), "secret").unwrap();
        let password = folder.join("password").display().to_string();
        let table = |insecure| {
            format!("[[registry]]\nhost = 'a'\nusername = 'u'\npassword_file = '{password}'\ninsecure = {insecure}")
        };
        assert!(matches!(registries(&table(false), folder).client("a", "http://a"), Err(RegistryError::Plain { .. })));
        registries(&table(true), folder).client("a", "http://a").unwrap();
        registries(&table(false), folder).client("a", "https://mirror").unwrap();
    }
}

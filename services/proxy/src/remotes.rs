//! [`Remotes`]: the closed map of upstreams, and which one a request means (design: never dial a
//! name that a client sent).

mod reach;

use std::collections::HashMap;
use std::sync::Arc;

use api::{Repository, RepositoryName};

use crate::config::{Config, CredentialSource, Upstream, Visibility};

pub(crate) use reach::Reach;

/// The bodies one upstream sends us at the same time. Streamed-through ones last as long as their
/// clients like, so this is well above what fills need.
const MAX_CONNECTIONS: usize = 256;

/// One configured upstream and the client that speaks to it.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) config: Upstream,
    pub(crate) client: upstream::Client,
    /// Whether it could be reached a moment ago.
    pub(crate) reach: Reach,
}

impl Remote {
    /// Tells whether a digest named by a linked manifest needs no word from the upstream.
    pub(crate) fn is_public(&self) -> bool {
        self.config.visibility == Visibility::Public
    }
}

/// Every upstream, by its names.
#[derive(Debug)]
pub(crate) struct Remotes {
    by_name: HashMap<String, Arc<Remote>>,
    default: Arc<Remote>,
}

/// What a request's name means.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) remote: Arc<Remote>,
    pub(crate) repository: Repository,
    /// Why this upstream; shown by `explain`.
    pub(crate) chosen_by: ChosenBy,
}

/// What decided the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    /// `?ns=`.
    Namespace,
    /// The first segment of the name.
    Path,
    /// Nothing named one.
    Default,
}

impl ChosenBy {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "ns parameter",
            Self::Path => "first path segment",
            Self::Default => "default upstream",
        }
    }
}

/// Why a request's name means nothing here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// `?ns=` names no configured upstream.
    #[error("{ns:?} is not a configured upstream")]
    UnknownNamespace {
        /// The value sent.
        ns: String,
    },
    /// The name is only an upstream's.
    #[error("the name has no repository after the upstream")]
    NoRepository,
    /// `allow` or `deny` forbid it.
    #[error("repository {repository} is not allowed by the configuration of this proxy")]
    Forbidden {
        /// The repository.
        repository: Repository,
    },
    /// The upstream and the name together are malformed.
    #[error(transparent)]
    Reference(#[from] api::ReferenceError),
}

impl Remotes {
    /// Builds the clients.
    ///
    /// # Errors
    /// Names the upstream whose settings, credentials or certificates cannot be used.
    pub(crate) fn build(config: &Config) -> anyhow::Result<Self> {
        use anyhow::Context;
        let mut by_name = HashMap::new();
        let mut default = None;
        for entry in config.upstreams.iter() {
            let client = client(entry).with_context(|| format!("upstream {}", entry.name))?;
            let remote = Arc::new(Remote { config: entry.clone(), client, reach: Reach::default() });
            for name in std::iter::once(&entry.name).chain(&entry.aliases) {
                by_name.insert(name.clone(), Arc::clone(&remote));
            }
            if entry.default {
                default = Some(remote);
            }
        }
        Ok(Self { by_name, default: default.context("no upstream is the default")? })
    }

    /// Returns the remote that stores its content under `upstream`.
    pub(crate) fn of(&self, repository: &Repository) -> Option<&Arc<Remote>> {
        self.by_name.get(repository.upstream())
    }

    /// Returns the target that stands for a repository of the catalog.
    pub(crate) fn target(&self, repository: &Repository) -> Option<Target> {
        let remote = Arc::clone(self.of(repository)?);
        Some(Target { remote, repository: repository.clone(), chosen_by: ChosenBy::Path })
    }

    /// Returns every remote once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.by_name.iter().filter(|(name, remote)| **name == remote.config.name).map(|(_, remote)| remote)
    }

    /// Returns what `name`, with `ns` where the request has one, means.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub(crate) fn resolve(&self, name: &RepositoryName, ns: Option<&str>) -> Result<Target, RouteError> {
        let (remote, rest, chosen_by) = match ns {
            Some(ns) => {
                let remote = self.by_namespace(ns).ok_or_else(|| RouteError::UnknownNamespace { ns: ns.into() })?;
                (remote, name.as_str(), ChosenBy::Namespace)
            }
            None => self.by_path(name)?,
        };
        let repository = repository(remote, rest)?;
        if !remote.config.permits(repository.name()) {
            return Err(RouteError::Forbidden { repository });
        }
        Ok(Target { remote: Arc::clone(remote), repository, chosen_by })
    }

    fn by_namespace(&self, ns: &str) -> Option<&Arc<Remote>> {
        let host = ns.to_ascii_lowercase();
        let host = host.strip_suffix(":443").unwrap_or(&host);
        self.by_name.get(host)
    }

    fn by_path<'n>(&self, name: &'n RepositoryName) -> Result<(&Arc<Remote>, &'n str, ChosenBy), RouteError> {
        match name.as_str().split_once('/') {
            Some((first, rest)) if self.by_name.contains_key(first) => Ok((&self.by_name[first], rest, ChosenBy::Path)),
            None if self.by_name.contains_key(name.as_str()) => Err(RouteError::NoRepository),
            _ => Ok((&self.default, name.as_str(), ChosenBy::Default)),
        }
    }
}

/// Docker Hub's official images have one segment for people and two for the registry.
fn repository(remote: &Remote, name: &str) -> Result<Repository, RouteError> {
    let official = remote.config.name == "docker.io" && !name.contains('/');
    let full = if official { format!("library/{name}") } else { name.to_owned() };
    Ok(Repository::new(&remote.config.name, RepositoryName::parse(&full)?)?)
}

/// Returns a client of `entry`.
///
/// # Errors
/// When its settings, credentials or certificates cannot be used.
pub(crate) fn client(entry: &Upstream) -> anyhow::Result<upstream::Client> {
    use anyhow::Context;
    let mut settings = upstream::Settings::new(&entry.name, &entry.url);
    settings.auth_hosts.clone_from(&entry.auth_hosts);
    settings.plain_http = entry.plain_http;
    settings.max_connections = MAX_CONNECTIONS;
    settings.credentials = credentials(entry)?;
    if let Some(path) = &entry.ca_file {
        settings.ca_pem = Some(std::fs::read(path).with_context(|| format!("ca_file {}", path.display()))?);
    }
    Ok(upstream::Client::new(settings)?)
}

fn credentials(entry: &Upstream) -> anyhow::Result<Option<upstream::Credentials>> {
    use anyhow::Context;
    Ok(match &entry.credentials {
        None => None,
        Some(CredentialSource::Password { username, password_file }) => {
            let text = std::fs::read_to_string(password_file)
                .with_context(|| format!("password_file {}", password_file.display()))?;
            let password = upstream::Secret::new(text.strip_suffix('\n').unwrap_or(&text));
            Some(upstream::Credentials { username: username.clone(), password })
        }
        Some(CredentialSource::DockerConfig { path }) => {
            let text = std::fs::read(path).with_context(|| format!("docker_config {}", path.display()))?;
            let host = entry.url.split("://").last().unwrap_or(&entry.url);
            Some(upstream::docker_config::credentials(&text, host)?)
        }
    })
}

//! [`Registry`]: a repository of a registry named on the command line.

use std::net::IpAddr;

use anyhow::Context;
use api::RepositoryName;

use super::location::RegistryRef;
use crate::config::{self, Config, Upstream, Upstreams};
use crate::remotes;

/// A repository of a registry.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    pub(super) client: upstream::Client,
    pub(super) name: RepositoryName,
}

impl Registry {
    /// Returns the repository that `image` names. A host that is a configured upstream (or one of the public
    /// registries) is spoken to as that; any other with the credentials that Docker's own config has for it, if any,
    /// and by plain HTTP where it is this machine or `plain_http` says so.
    ///
    /// # Errors
    /// When the upstream's settings or credentials cannot be used.
    pub(super) fn open(config: &Config, image: &RegistryRef, plain_http: bool) -> anyhow::Result<Self> {
        let host = image.host.as_str();
        let public = Upstreams::default();
        let at_host = |upstream: &&Upstream| upstream.url.split("://").last() == Some(host);
        let known = config.upstreams.get(host).or_else(|| config.upstreams.iter().find(at_host));
        let client = match known.or_else(|| public.get(host)) {
            Some(upstream) => remotes::client(upstream).with_context(|| format!("upstream {}", upstream.name))?,
            None => upstream::Client::new(settings(host, plain_http)?)?,
        };
        Ok(Self { client, name: image.name.clone() })
    }
}

fn settings(host: &str, plain_http: bool) -> anyhow::Result<upstream::Settings> {
    let plain_http = plain_http || is_loopback(host);
    let scheme = if plain_http { "http" } else { "https" };
    let mut settings = upstream::Settings::new(host, format!("{scheme}://{host}"));
    settings.plain_http = plain_http;
    settings.credentials = credentials(host)?;
    Ok(settings)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let bare = authority.host().trim_matches(['[', ']']);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns what Docker's config has for `host`; nothing where there is no config or no entry.
fn credentials(host: &str) -> anyhow::Result<Option<upstream::Credentials>> {
    let Some(path) = config::docker_config() else { return Ok(None) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    match upstream::docker_config::credentials(&text, host) {
        Ok(found) => Ok(Some(found)),
        Err(upstream::docker_config::DockerConfigError::Missing { .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_plainly() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:5000", "ghcr.io", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

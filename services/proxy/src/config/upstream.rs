//! [`Upstream`]: a remote registry.

mod files;
mod known;
mod list;
mod url;

use std::path::PathBuf;
use std::time::Duration;

use api::RepositoryName;
use serde::Serialize;

use super::cache::{Cache, MAX_TTL};
use super::duration;
use super::pattern::Pattern;
use super::section::Section;
use super::value::Value;
use super::view::View;
use known::Known;

pub use list::Upstreams;

/// One `[[upstream]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The name that stored content is filed under: one segment of a repository name.
    pub name: String,
    /// Other names that clients may use, in the path or as `ns`: hosts, with a port if need be.
    pub aliases: Vec<String>,
    /// Where the registry is: scheme, host and port, no path and no slash at the end.
    pub url: String,
    /// The hosts, beside the registry's own, that may issue its tokens.
    pub auth_hosts: Vec<String>,
    /// Whether names that begin with no upstream's name are looked up here. Exactly one upstream is.
    pub default: bool,
    /// The view of its tags. Default `estargz`.
    pub view: View,
    /// The view of its tags for mirrors (`ns=` or `server.mirror_listen`). Default `original`.
    pub mirror_view: View,
    /// Who may read what was pulled. Default `public`; with credentials it must be said.
    pub visibility: Visibility,
    /// Where the credentials are. Default: none are sent.
    #[serde(flatten)]
    pub credentials: Option<CredentialSource>,
    /// How long a tag's target is trusted. Default `cache.tag_ttl`.
    #[serde(serialize_with = "duration::serialize")]
    pub tag_ttl: Duration,
    /// The repositories served; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Pattern>,
    /// The repositories refused; wins over `allow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Pattern>,
    /// CA certificates (PEM) trusted for this registry beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether the registry is spoken to without TLS. Default false.
    pub plain_http: bool,
}

/// Who may read what was pulled from an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everyone could read it at the upstream too.
    Public,
    /// Everyone who reaches this proxy may read what its credentials can.
    Shared,
}

/// Where an upstream's credentials are. The secrets are read when they are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CredentialSource {
    /// A user name here, the password in a file (without its last newline).
    Password {
        /// The user name.
        username: String,
        /// The file that holds the password.
        password_file: PathBuf,
    },
    /// A Docker `config.json`.
    DockerConfig {
        /// The file.
        #[serde(rename = "docker_config")]
        path: PathBuf,
    },
}

impl Upstream {
    /// Tells whether `repository` is served: named by `allow` (or `allow` is empty) and not by `deny`.
    pub fn permits(&self, repository: &RepositoryName) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(repository.as_str()));
        (self.allow.is_empty() || named(&self.allow)) && !named(&self.deny)
    }

    pub(super) fn read(section: &mut Section, cache: &Cache) -> Self {
        let name = section.or("name", String::new(), name);
        if !section.is_set("name") {
            section.error("name", "must be set");
        }
        let known = Known::named(&name);
        let plain_http = section.or("plain_http", false, Value::boolean);
        let upstream = Self {
            aliases: section.or("aliases", known.aliases, hosts),
            url: section.or("url", known.url, |value| url::read(value, plain_http)),
            auth_hosts: section.or("auth_hosts", known.auth_hosts, hosts),
            default: section.or("default", false, Value::boolean),
            view: section.or("view", View::Estargz, view),
            mirror_view: section.or("mirror_view", View::Original, view),
            credentials: read_credentials(section),
            visibility: read_visibility(section),
            tag_ttl: section.or("tag_ttl", cache.tag_ttl, |value| duration::at_most(value, MAX_TTL)),
            allow: section.or("allow", Vec::new(), Pattern::read_list),
            deny: section.or("deny", Vec::new(), Pattern::read_list),
            ca_file: section.optional("ca_file", Value::readable_file),
            plain_http,
            name,
        };
        files::check(&upstream, section);
        upstream
    }
}

fn read_credentials(section: &mut Section) -> Option<CredentialSource> {
    let username = section.optional("username", Value::non_empty);
    let password_file = section.optional("password_file", Value::readable_file);
    let docker_config = section.optional("docker_config", Value::readable_file);
    match (section.is_set("username"), section.is_set("password_file"), section.is_set("docker_config")) {
        (true, false, _) => section.error("username", "password_file must be set too"),
        (false, true, _) => section.error("password_file", "username must be set too"),
        (true, true, true) => section.error("docker_config", "username and password_file are set already"),
        _ => {}
    }
    match docker_config {
        Some(path) => Some(CredentialSource::DockerConfig { path }),
        None => Some(CredentialSource::Password { username: username?, password_file: password_file? }),
    }
}

fn read_visibility(section: &mut Section) -> Visibility {
    let with_credentials = section.is_set("username") || section.is_set("docker_config");
    section.not_built("visibility", |value| value.text() == Some("caller"));
    let visibility = section.or("visibility", Visibility::Public, |value| match value.text() {
        Some("public") => Ok(Visibility::Public),
        // caller has its own error above.
        Some("shared" | "caller") => Ok(Visibility::Shared),
        _ => Err(value.expected("public or shared")),
    });
    if with_credentials && visibility == Visibility::Public {
        let why = "an upstream with credentials must say \"shared\": everyone who reaches this proxy may read it";
        section.error("visibility", why);
    }
    visibility
}

fn view(value: &Value) -> Result<View, String> {
    value.text().and_then(View::parse).ok_or_else(|| value.expected("estargz or original"))
}

fn name(value: &Value) -> Result<String, String> {
    let text = value.non_empty()?;
    match RepositoryName::parse(&text) {
        Ok(_) if !text.contains('/') => Ok(text),
        _ => Err(value.expected("one segment of a repository name, such as docker.io")),
    }
}

/// The most entries of a list of hosts or patterns.
pub(super) const MAX_LIST: usize = 256;

fn hosts(value: &Value) -> Result<Vec<String>, String> {
    let texts = value.texts()?;
    if texts.len() > MAX_LIST {
        return Err(format!("expected at most {MAX_LIST} hosts"));
    }
    match texts.iter().find(|text| !url::is_host(text)) {
        None => Ok(texts),
        Some(text) => Err(format!("{text:?} is not a host in lower case, with a port if need be")),
    }
}

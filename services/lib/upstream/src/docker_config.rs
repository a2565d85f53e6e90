//! Reads credentials from a Docker `config.json`.

use std::collections::HashMap;

use base64::Engine as _;
use serde::Deserialize;

use crate::{Credentials, Secret};

/// Why a Docker config gives no credentials.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// The file is not JSON of the right shape. The text is not shown, it has secrets.
    #[error("docker config is not valid at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// A helper program keeps the credentials; none is ever run.
    #[error("docker config keeps the credentials for {host} in helper {helper:?}, which is not supported; use auths")]
    Helper {
        /// The registry.
        host: String,
        /// The helper's name.
        helper: String,
    },
    /// The entry has an identity token, which is of use only to Docker's own login.
    #[error("docker config has an identity token for {host}, which is not supported; use a password or access token")]
    IdentityToken {
        /// The registry.
        host: String,
    },
    /// There is no entry for the registry.
    #[error("docker config has no credentials for {host}")]
    Missing {
        /// The registry.
        host: String,
    },
    /// `auth` is not base64 of `user:password`.
    #[error("docker config has a malformed auth for {host}")]
    Malformed {
        /// The registry.
        host: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// Returns the credentials that `config` (a Docker `config.json`) has for the registry `host`, as
/// `host` or `host:port`. Docker's own names for Docker Hub stand for `docker.io`. Of an entry that
/// has both, `auth` goes before user name and password, as for Docker.
///
/// # Errors
/// Says why there are none; credential helpers are never run.
pub fn credentials(config: &[u8], host: &str) -> Result<Credentials, DockerConfigError> {
    let file: File =
        serde_json::from_slice(config).map_err(|e| DockerConfigError::Json { line: e.line(), column: e.column() })?;
    let host = canonical(host);
    let named = |helper: &String| DockerConfigError::Helper { host: host.clone(), helper: helper.clone() };
    if let Some((_, helper)) = file.cred_helpers.iter().find(|(key, _)| canonical(key) == host) {
        return Err(named(helper));
    }
    let entry =
        file.auths.iter().filter(|(key, _)| canonical(key) == host).find_map(|(_, e)| e.read(&host).transpose());
    match entry {
        Some(found) => found,
        None if !file.creds_store.is_empty() => Err(named(&file.creds_store)),
        None => Err(DockerConfigError::Missing { host }),
    }
}

impl Entry {
    /// Returns `None` for an empty entry, which a credentials store leaves behind.
    fn read(&self, host: &str) -> Result<Option<Credentials>, DockerConfigError> {
        if !self.identitytoken.is_empty() {
            return Err(DockerConfigError::IdentityToken { host: host.into() });
        }
        let pair = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            decode(&self.auth).ok_or_else(|| DockerConfigError::Malformed { host: host.into() })?
        };
        let (username, password) = pair;
        Ok((!username.is_empty()).then(|| Credentials { username, password: Secret::new(password) }))
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    // Docker pads the password with NUL bytes in old files.
    let (username, password) = text.split_once(':')?;
    Some((username.into(), password.trim_end_matches('\0').into()))
}

/// Reduces a key of `auths` (`https://host/v1/`, `host`) to its host; Docker Hub's become `docker.io`.
fn canonical(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => String::from("docker.io"),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
            "ghcr.io": {"username": "bot", "password": "token"},
            "broken.example:5000": {"auth": "!"},
            "sso.example": {"auth": "dXNlcjpwYXNz", "identitytoken": "x"},
            "stored.example": {}
        },
        "credHelpers": {"public.ecr.aws": "ecr-login"},
        "credsStore": "desktop",
        "HttpHeaders": {"x": "y"}
    }"#;

    #[test]
    fn credentials_are_found_by_host() {
        for (host, username, password) in [
            ("docker.io", "user", "pa:ss"),
            ("registry-1.docker.io", "user", "pa:ss"),
            ("ghcr.io", "bot", "token"),
            ("GHCR.io", "bot", "token"),
        ] {
            let found = credentials(CONFIG.as_bytes(), host).unwrap();
            assert_eq!((found.username.as_str(), found.password.expose()), (username, password), "{host}");
            assert!(!format!("{found:?}").contains(password));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let error = |host| credentials(CONFIG.as_bytes(), host).unwrap_err();
        assert!(matches!(error("public.ecr.aws"), DockerConfigError::Helper { .. }));
        assert!(matches!(error("stored.example"), DockerConfigError::Helper { .. }));
        assert!(matches!(error("broken.example:5000"), DockerConfigError::Malformed { .. }));
        assert!(matches!(error("sso.example"), DockerConfigError::IdentityToken { .. }));
        assert!(matches!(credentials(b"{}", "x").unwrap_err(), DockerConfigError::Missing { .. }));
        assert!(matches!(credentials(b"{\"auths\":", "x").unwrap_err(), DockerConfigError::Json { line: 1, .. }));
    }
}

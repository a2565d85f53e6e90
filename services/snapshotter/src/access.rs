//! [`Access`]: what a server is asked with, and whether it may be asked so.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Deserialize;
use upstream::{Credentials, Secret};

/// What a proxy or a registry is asked with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Access {
    /// A PEM file of certificates to trust beside the platform's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Allows plain HTTP to another machine: whoever is on the way may change what is mounted, until it is proven.
    #[serde(default)]
    pub insecure: bool,
    /// The user.
    #[serde(default)]
    pub username: Option<String>,
    /// The file that holds the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// A file of the configuration that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub(crate) struct FileError {
    path: PathBuf,
    source: std::io::Error,
}

impl FileError {
    /// Tells whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

impl Access {
    /// Checks that `url` may be asked so.
    ///
    /// # Errors
    /// Says which setting has to change.
    pub(crate) fn check(&self, url: &str) -> anyhow::Result<()> {
        if self.username.is_some() != self.password_file.is_some() {
            bail!("username and password_file are set together or not at all");
        }
        let authority = url.strip_prefix("http://").map(|rest| rest.split('/').next().unwrap_or_default());
        if authority.is_some_and(|authority| !is_loopback(authority)) && !self.insecure {
            bail!("plain http to another machine: use https with ca_file, or say insecure = true");
        }
        Ok(())
    }

    /// Reads the certificates.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn ca_pem(&self) -> Result<Option<Vec<u8>>, FileError> {
        self.ca_file.as_deref().map(read).transpose()
    }

    /// Reads the password of the user, if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>, FileError> {
        let Some((username, path)) = self.username.as_ref().zip(self.password_file.as_deref()) else { return Ok(None) };
        let password = read(path)?;
        let password = Secret::new(String::from_utf8_lossy(&password).trim_end_matches('\n'));
        Ok(Some(Credentials { username: username.clone(), password }))
    }
}

/// Reads a file of the configuration.
///
/// # Errors
/// It names the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError { path: path.to_owned(), source })
}

/// Tells whether a host, with or without a port, is this machine.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_leaves_the_machine_only_where_that_was_said() {
        for (url, insecure, is_taken) in [
            ("http://127.0.0.1:5080", false, true),
            ("http://127.0.0.1:5080/", false, true),
            ("http://[::1]:5080", false, true),
            ("http://localhost", false, true),
            ("http://proxy:5080", false, false),
            ("http://127.0.0.1.example.com", false, false),
            ("http://proxy:5080", true, true),
            ("https://proxy", false, true),
        ] {
            let access = Access { insecure, ..Access::default() };
            assert_eq!(access.check(url).is_ok(), is_taken, "{url} {insecure}");
        }
    }
}

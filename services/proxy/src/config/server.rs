//! [`Server`]: listeners, TLS and the gate.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::section::Section;
use super::value::Value;
use crate::htpasswd::Gate;
use crate::tls::{TlsAcceptorHandle, TlsError};

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Where `/v2/` and the lazy API are served. Default `127.0.0.1:5080`.
    pub listen: SocketAddr,
    /// Where the same API is served with every tag in its upstream's `mirror_view`. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_listen: Option<SocketAddr>,
    /// Where health, metrics and the admin API are served. Default `127.0.0.1:5081`.
    pub admin_listen: SocketAddr,
    /// Set: `listen` and `mirror_listen` speak TLS. Default: plain HTTP.
    #[serde(flatten)]
    pub tls: Option<TlsFiles>,
    /// Set: `/v2/` and the lazy API ask for Basic credentials from this file. Default: open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub htpasswd: Option<PathBuf>,
}

/// The files of the server's certificate, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// The certificate, then its chain.
    #[serde(rename = "tls_cert")]
    pub cert: PathBuf,
    /// The private key.
    #[serde(rename = "tls_key")]
    pub key: PathBuf,
}

impl Server {
    pub(super) fn read(section: &mut Section) -> Self {
        let server = Self {
            listen: section.or("listen", SocketAddr::from(([127, 0, 0, 1], 5080)), address),
            mirror_listen: section.optional("mirror_listen", address),
            admin_listen: section.or("admin_listen", SocketAddr::from(([127, 0, 0, 1], 5081)), address),
            tls: read_tls(section),
            htpasswd: section.optional("htpasswd", htpasswd),
        };
        for key in ["internal_listen", "advertise", "internal_secret_file"] {
            section.not_built(key, Value::is_set);
        }
        server.check_clashes(section);
        server
    }

    fn check_clashes(&self, section: &mut Section) {
        if clash(self.listen, self.admin_listen) {
            section.error("admin_listen", format!("{} is the address of server.listen", self.admin_listen));
        }
        let Some(mirror) = self.mirror_listen else { return };
        if clash(self.listen, mirror) {
            section.error("mirror_listen", format!("{mirror} is the address of server.listen"));
        }
        if clash(self.admin_listen, mirror) {
            section.error("mirror_listen", format!("{mirror} is the address of server.admin_listen"));
        }
    }
}

fn read_tls(section: &mut Section) -> Option<TlsFiles> {
    let cert = section.optional("tls_cert", Value::readable_file);
    let key = section.optional("tls_key", Value::readable_file);
    // A file that cannot be read has its own error; only an unset key leaves the pair incomplete.
    match (section.is_set("tls_cert"), section.is_set("tls_key")) {
        (true, false) => section.error("tls_cert", "server.tls_key must be set too"),
        (false, true) => section.error("tls_key", "server.tls_cert must be set too"),
        _ => {}
    }
    let files = TlsFiles { cert: cert?, key: key? };
    if let Err(error) = TlsAcceptorHandle::load(&files) {
        let key = match &error {
            TlsError::Read { path, .. } | TlsError::Pem { path, .. } if *path == files.key => "tls_key",
            _ => "tls_cert",
        };
        section.error(key, format!("{:#}", anyhow::Error::from(error)));
    }
    Some(files)
}

/// Returns the path of an htpasswd file that can be used now.
fn htpasswd(value: &Value) -> Result<PathBuf, String> {
    let path = value.readable_file()?;
    Gate::load(&path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    Ok(path)
}

fn address(value: &Value) -> Result<SocketAddr, String> {
    let expected = || value.expected("an IP address and a port, such as 127.0.0.1:5080");
    value.text().and_then(|text| text.parse().ok()).ok_or_else(expected)
}

/// Tells whether both cannot be bound. Port 0 never clashes: the system chooses.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && overlap
}

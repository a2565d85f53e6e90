//! [`Server`]: listeners, TLS and the gate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::catalog::CatalogUrl;
use super::duration;
use super::section::Section;
use super::value::Value;
use crate::fleet::Secret;
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
    /// Where the other replicas of one PostgreSQL catalog read this one's spools. Default: nowhere.
    #[serde(flatten)]
    pub internal: Option<Internal>,
    /// How long the right to a fill or a conversion lasts when its replica is not heard of. Default `10s`, `1s` to `5m`.
    #[serde(serialize_with = "duration::serialize")]
    pub lease: Duration,
}

/// The listener for the other replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Internal {
    /// Where it listens.
    #[serde(rename = "internal_listen")]
    pub listen: SocketAddr,
    /// Where the other replicas reach it, as `host:port`. Default: `internal_listen`.
    pub advertise: String,
    /// The file with the secret that all replicas share.
    #[serde(rename = "internal_secret_file")]
    pub secret_file: PathBuf,
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
    pub(super) fn read(section: &mut Section, catalog: &CatalogUrl) -> Self {
        let server = Self {
            listen: section.or("listen", SocketAddr::from(([127, 0, 0, 1], 5080)), address),
            mirror_listen: section.optional("mirror_listen", address),
            admin_listen: section.or("admin_listen", SocketAddr::from(([127, 0, 0, 1], 5081)), address),
            tls: read_tls(section),
            htpasswd: section.optional("htpasswd", htpasswd),
            internal: read_internal(section, catalog),
            lease: section.or("lease", Duration::from_secs(10), lease),
        };
        server.check_clashes(section);
        server
    }

    /// Reports each listener that has the address of one before it.
    fn check_clashes(&self, section: &mut Section) {
        let internal = self.internal.as_ref().map(|internal| internal.listen);
        let listeners = [
            ("listen", Some(self.listen)),
            ("admin_listen", Some(self.admin_listen)),
            ("mirror_listen", self.mirror_listen),
            ("internal_listen", internal),
        ];
        for (n, (key, address)) in listeners.iter().enumerate() {
            for (earlier, other) in &listeners[..n] {
                if let (Some(address), Some(other)) = (address, other)
                    && clash(*address, *other)
                {
                    section.error(key, format!("{address} is the address of server.{earlier}"));
                }
            }
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

fn read_internal(section: &mut Section, catalog: &CatalogUrl) -> Option<Internal> {
    let listen = section.optional("internal_listen", address);
    let advertise = section.optional("advertise", host_and_port);
    let secret_file = section.optional("internal_secret_file", secret_file);
    if !section.is_set("internal_listen") {
        for key in ["advertise", "internal_secret_file"] {
            if section.is_set(key) {
                section.error(key, "it is of no use without server.internal_listen");
            }
        }
        return None;
    }
    if matches!(catalog, CatalogUrl::Sqlite(_)) {
        section.error("internal_listen", "replicas share a PostgreSQL catalog: set catalog.url to one");
    }
    if !section.is_set("internal_secret_file") {
        let problem = "server.internal_secret_file must be set too: a file with a secret that all replicas share";
        section.error("internal_listen", problem);
    }
    let listen = listen?;
    if listen.ip().is_unspecified() && !section.is_set("advertise") {
        section.error("internal_listen", format!("other replicas cannot reach {listen}: set server.advertise"));
    }
    Some(Internal { listen, advertise: advertise.unwrap_or_else(|| listen.to_string()), secret_file: secret_file? })
}

fn lease(value: &Value) -> Result<Duration, String> {
    let lease = duration::at_most(value, 5 * 60)?;
    if lease >= Duration::from_secs(1) { Ok(lease) } else { Err(value.expected("at least 1s")) }
}

/// Returns `host:port`, the host as a name or an address (an IPv6 one in brackets).
fn host_and_port(value: &Value) -> Result<String, String> {
    let expected = || value.expected("a host and a port, such as 10.0.0.7:5083 or firstlight-0.firstlight:5083");
    let text = value.non_empty().map_err(|_| expected())?;
    let authority: http::uri::Authority = text.parse().map_err(|_| expected())?;
    let is_plain = !text.contains('@') && !authority.host().is_empty();
    if is_plain && authority.port_u16().is_some_and(|port| port > 0) { Ok(text) } else { Err(expected()) }
}

/// Returns the path of a file with a secret that can be used.
fn secret_file(value: &Value) -> Result<PathBuf, String> {
    let path = value.readable_file()?;
    Secret::load(&path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    Ok(path)
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

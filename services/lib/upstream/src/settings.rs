//! [`Settings`]: what a client is told about its upstream.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::HeaderMap;

use crate::{Credentials, Secret};

/// What a client is told about its upstream.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The upstream's name, for logs.
    pub name: String,
    /// The registry's URL, such as `https://registry-1.docker.io`; a path is kept in front of `/v2/`.
    pub url: String,
    /// The hosts, as `host` or `host:port`, that may be asked for tokens with our credentials. The
    /// registry's own host and port always may. Without a port, the scheme's default one is meant.
    pub auth_hosts: Vec<String>,
    /// The credentials; without any, access is anonymous.
    pub credentials: Option<Credentials>,
    /// Certificates in PEM that are trusted beside the platform's.
    pub ca_pem: Option<Vec<u8>>,
    /// Takes whatever certificate the server shows. Default `false`.
    pub any_certificate: bool,
    /// The certificate and key in PEM that the server is shown, where it asks for one.
    pub identity_pem: Option<Secret>,
    /// What is sent along to the registry, also for tokens, but not to where it redirects; an `Authorization` only where there is no
    /// other one.
    pub headers: HeaderMap,
    /// The path of [`Self::url`] stands in the place of `/v2`, and not in front of it. Default `false`.
    pub is_api_root: bool,
    /// Allows plain HTTP for the registry, its token hosts and its redirects. Default `false`.
    pub plain_http: bool,
    /// Goes straight to the registry, whatever proxy the environment names. Default `false`.
    pub direct: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How often and how long to try.
    pub retry: RetryPolicy,
    /// The most blob bodies under way at once, and the most other requests. Default 64 each. More
    /// wait for [`Timeouts::queue`], then fail with [`crate::UpstreamError::Busy`].
    pub max_connections: usize,
    /// Counts the body bytes received, of manifests, lists and blobs alike.
    pub received: Option<Arc<AtomicU64>>,
}

impl Settings {
    /// Returns settings for anonymous access to the registry at `url`, all else at its default.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            auth_hosts: Vec::new(),
            credentials: None,
            ca_pem: None,
            any_certificate: false,
            identity_pem: None,
            headers: HeaderMap::new(),
            is_api_root: false,
            plain_http: false,
            direct: false,
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            max_connections: 64,
            received: None,
        }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// For the head of an answer, connecting included. Default 30 s.
    pub head: Duration,
    /// For the next byte of a body. Default 30 s.
    pub idle: Duration,
    /// For one of [`Settings::max_connections`] to fall free. Default 30 s.
    pub queue: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            queue: Duration::from_secs(30),
        }
    }
}

/// How often and how long to try. Both bounds hold; only transient errors are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most attempts, the first one included; 0 counts as 1. Default 4.
    pub attempts: u32,
    /// The most time for all attempts and the pauses between them. It covers a blob's answer up to
    /// its head, all other answers up to their end. Default 60 s.
    pub total: Duration,
    /// The pause before the second attempt, doubled for each further one and shortened at random by
    /// up to a half. Default 200 ms.
    pub base: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, total: Duration::from_secs(60), base: Duration::from_millis(200) }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL is none, or has a user, a query or a fragment.
    #[error("upstream url {url:?} is not of the form https://host[:port][/path]")]
    Url {
        /// The text given, up to its query.
        url: String,
    },
    /// The URL is plain HTTP, and that is not allowed.
    #[error("upstream url {url:?} is plain http; set plain_http to allow it")]
    PlainHttp {
        /// The text given.
        url: String,
    },
    /// An entry of `auth_hosts` is not `host` or `host:port`.
    #[error("auth_hosts entry {host:?} is not of the form host or host:port")]
    AuthHost {
        /// The text given.
        host: String,
    },
    /// User name and password cannot be sent in a header.
    #[error("credentials have a character that cannot be sent")]
    Credentials,
    /// The certificates cannot be read.
    #[error("ca certificates are not valid pem")]
    Certificates(#[source] reqwest::Error),
    /// There is no certificate among them.
    #[error("ca file has no certificate")]
    NoCertificate,
    /// The certificate that the server is to be shown cannot be used.
    #[error("the client's certificate and key are not valid pem")]
    Identity(#[source] reqwest::Error),
    /// The HTTP client cannot be built.
    #[error("cannot set up the http client")]
    Build(#[source] reqwest::Error),
}

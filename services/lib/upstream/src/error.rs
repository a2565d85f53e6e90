//! [`UpstreamError`]: what can go wrong between us and a registry.

use std::sync::Arc;
use std::time::Duration;

/// Why an upstream gave no usable answer.
///
/// Cheap to clone, so that one failure can be told to everyone who waited for it. No variant
/// carries a URL: those of redirects are signed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The upstream does not have it (404, 410).
    #[error("not found at the upstream")]
    NotFound,
    /// The upstream does not let us read it, after its token was refreshed once.
    #[error("upstream denied the access with status {status}")]
    Denied {
        /// The status: 401, 403 or 451.
        status: u16,
    },
    /// The token endpoint, or a registry with Basic authentication, refuses the configured credentials.
    #[error("{host} refused the configured credentials with status {status}")]
    CredentialsRefused {
        /// Who refused, as `host[:port]`.
        host: String,
        /// The status: 401 or 403.
        status: u16,
    },
    /// The registry asks for a token from a host that is not on the upstream's list, or over plain HTTP.
    #[error("upstream wants a token from {host}, which its auth_hosts do not allow")]
    RealmRefused {
        /// The host named, as `scheme://host[:port]`.
        host: String,
    },
    /// The registry redirects to where we do not follow.
    #[error("upstream redirects to {host}, which is refused: {why}")]
    RedirectRefused {
        /// The target, as `scheme://host[:port]`.
        host: String,
        /// The rule that forbids it.
        why: &'static str,
    },
    /// The upstream asks us to slow down (429).
    #[error("upstream limits the rate of requests")]
    RateLimited {
        /// The time it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The upstream failed (5xx or 408).
    #[error("upstream failed with status {status}")]
    Server {
        /// The status.
        status: u16,
        /// The time it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke.
    #[error("cannot reach the upstream or lost the connection")]
    Network {
        /// The cause, without its URL.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// No answer, or no next byte of one, within the time allowed.
    #[error("upstream did not answer in time")]
    Timeout,
    /// All connections that may be open to this upstream are in use.
    #[error("too many requests to this upstream are under way")]
    Busy,
    /// The body ended early.
    #[error("upstream sent {received} of {expected} bytes")]
    Truncated {
        /// The bytes announced.
        expected: u64,
        /// The bytes that came.
        received: u64,
    },
    /// The document is larger than is read of its kind.
    #[error("answer of the upstream is larger than the {limit} bytes allowed")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The range asked for starts behind the end of the blob (416).
    #[error("range lies outside the blob")]
    RangeNotSatisfiable {
        /// The size of the blob, where the upstream said so.
        size: Option<u64>,
    },
    /// The answer breaks the protocol.
    #[error("answer of the upstream is not valid: {what}")]
    Protocol {
        /// What is wrong.
        what: String,
    },
    /// The manifest is not the one its digest names.
    #[error("content from the upstream has another digest")]
    DigestMismatch(#[from] api::VerifyError),
}

impl UpstreamError {
    /// Tells whether the same request may succeed when made again.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::Network { .. }
            | Self::Timeout
            | Self::Busy
            | Self::Truncated { .. } => true,
            Self::NotFound
            | Self::Denied { .. }
            | Self::CredentialsRefused { .. }
            | Self::RealmRefused { .. }
            | Self::RedirectRefused { .. }
            | Self::TooLarge { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::Protocol { .. }
            | Self::DigestMismatch(_) => false,
        }
    }

    /// Tells whether the upstream is out of reach, as opposed to having answered: then, and only
    /// then, what it said earlier may be served again. Refused credentials count as out of reach,
    /// for it is we who are refused and not the content that is gone.
    pub const fn is_outage(&self) -> bool {
        self.is_transient() || matches!(self, Self::CredentialsRefused { .. })
    }

    /// Returns how long the upstream asked us to wait.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn network(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        Self::Network { source: Arc::new(error.without_url()) }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }
}

//! [`RegistryError`]: the one map from what can go wrong to what a client of `/v2/` is told.

use std::sync::Arc;
use std::time::Duration;

use api::{ErrorBody, ErrorCode};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use upstream::UpstreamError;

use crate::fill::FillError;
use crate::path::PathError;
use crate::pull::PullError;
use crate::remotes::RouteError;
use crate::stock::StockError;

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct RegistryError {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

/// What was asked for, for the choice of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Manifest,
    Blob,
    Repository,
}

impl Subject {
    const fn unknown(self) -> ErrorCode {
        match self {
            Self::Manifest => ErrorCode::ManifestUnknown,
            Self::Blob => ErrorCode::BlobUnknown,
            Self::Repository => ErrorCode::NameUnknown,
        }
    }
}

impl RegistryError {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: None, retry_after: None }
    }

    fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Returns the answer to a write.
    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unsupported,
            "this registry is a pull-through proxy; push to the upstream",
        )
    }

    /// Returns the answer to who only looks at what is there to be written to.
    pub(crate) fn only_post() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, "a hold is taken by POST")
    }

    /// Returns the answer for something that is not there, and why.
    pub(crate) fn unknown(subject: Subject, detail: impl Into<String>) -> Self {
        let what = match subject {
            Subject::Manifest => "manifest unknown",
            Subject::Blob => "blob unknown to this repository",
            Subject::Repository => "repository unknown",
        };
        Self::new(StatusCode::NOT_FOUND, subject.unknown(), what).with_detail(detail)
    }

    /// Returns what an upstream's failure means to a client. A 401 or 403 of the upstream is never
    /// passed on: clients would send us their credentials.
    pub(crate) fn upstream(error: &UpstreamError, subject: Subject) -> Self {
        let detail = chain(error);
        let unavailable = |status, message: &str| Self {
            retry_after: error.retry_after(),
            ..Self::new(status, ErrorCode::Unavailable, message).with_detail(detail.clone())
        };
        match error {
            UpstreamError::NotFound | UpstreamError::Denied { .. } => Self::unknown(subject, detail),
            UpstreamError::RateLimited { .. } => Self {
                code: ErrorCode::TooManyRequests,
                retry_after: error.retry_after().or(Some(Duration::from_secs(10))),
                // 503 rather than 429: containerd repeats a 429 five times at once, and Docker leaves
                // the mirror for good, which drains the same quota.
                ..unavailable(StatusCode::SERVICE_UNAVAILABLE, "the upstream limits the rate of pulls")
            },
            UpstreamError::Timeout => unavailable(StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time"),
            UpstreamError::Busy => unavailable(StatusCode::SERVICE_UNAVAILABLE, "too many requests to the upstream"),
            _ => unavailable(StatusCode::BAD_GATEWAY, "the upstream could not be used"),
        }
    }

    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unavailable, "this proxy failed; its log says why")
    }

    /// Returns the answer for a catalog or a store that is out of reach for a moment.
    fn away(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "request failed, it may be repeated");
        let message = "this proxy's catalog or store is out of reach for a moment; its log says more";
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
        }
    }

    /// Returns the answer for bytes that were lost and are being fetched or made again.
    pub(crate) fn lost() -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "the stored bytes were lost and are being made again",
            )
        }
    }

    /// Returns what a fill's failure means to a client.
    pub(crate) fn fill(error: &FillError, subject: Subject) -> Self {
        match error {
            FillError::Upstream(error) => Self::upstream(error, subject),
            FillError::WrongDigest { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, "the upstream delivered wrong content")
                    .with_detail(chain(error))
            }
            FillError::Catalog(cause) if cause.is_transient() => Self::away(error),
            FillError::Store(cause) if cause.is_transient() => Self::away(error),
            FillError::Spool { .. }
            | FillError::NoRoom
            | FillError::HeldElsewhere
            | FillError::NotStored
            | FillError::Key(_)
            | FillError::Broken
            | FillError::Catalog(_)
            | FillError::Store(_) => Self::internal(error),
        }
    }

    /// Returns what a failed manifest pull means to a client.
    pub(crate) fn pull(error: &Arc<PullError>) -> Self {
        match &**error {
            PullError::Upstream(error) => Self::upstream(error, Subject::Manifest),
            PullError::Manifest(_) | PullError::WrongDigest(_) => Self::new(
                StatusCode::BAD_GATEWAY,
                ErrorCode::ManifestInvalid,
                "the upstream delivered an invalid manifest",
            )
            .with_detail(chain(&**error)),
            PullError::NewTarget(error) => Self::pull(error),
            PullError::Lost => Self::lost(),
            PullError::Catalog(cause) if cause.is_transient() => Self::away(&**error),
            PullError::Store(cause) if cause.is_transient() => Self::away(&**error),
            PullError::Stock(cause) if cause.is_transient() => Self::away(&**error),
            PullError::Catalog(_) | PullError::Store(_) | PullError::Stock(_) => Self::internal(&**error),
        }
    }

    /// Returns the answer; a HEAD request gets the same head.
    pub(crate) fn into_answer(self) -> Response<Body> {
        let body = ErrorBody::one(self.code, self.message, self.detail).to_json();
        let mut answer = Response::new(Body::from(body));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        answer
    }
}

impl axum::response::IntoResponse for RegistryError {
    fn into_response(self) -> Response<Body> {
        self.into_answer()
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<PathError> for RegistryError {
    fn from(error: PathError) -> Self {
        let status = match error.code() {
            ErrorCode::Unsupported | ErrorCode::ManifestUnknown => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.code(), chain(&error))
    }
}

impl From<RouteError> for RegistryError {
    fn from(error: RouteError) -> Self {
        match &error {
            RouteError::UnknownNamespace { .. } | RouteError::NoRepository => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, "repository unknown")
                    .with_detail(chain(&error))
            }
            RouteError::Forbidden { .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, "access denied").with_detail(chain(&error))
            }
            RouteError::Reference(_) => Self::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, chain(&error)),
        }
    }
}

impl From<Arc<PullError>> for RegistryError {
    fn from(error: Arc<PullError>) -> Self {
        Self::pull(&error)
    }
}

impl From<StockError> for RegistryError {
    fn from(error: StockError) -> Self {
        if error.is_transient() { Self::away(&error) } else { Self::internal(&error) }
    }
}

impl From<catalog::CatalogError> for RegistryError {
    fn from(error: catalog::CatalogError) -> Self {
        if error.is_transient() { Self::away(&error) } else { Self::internal(&error) }
    }
}

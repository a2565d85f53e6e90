//! [`Client::push_blob`] and [`Client::push_manifest`]: uploads, whole (distribution-spec, "Pushing blobs", POST then
//! PUT).

use std::path::Path;
use std::sync::Arc;

use api::{Digest, MediaType, Reference, RepositoryName};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use reqwest::{Body, Url};
use tokio::time::{Duration, timeout};

use crate::challenge::Challenge;
use crate::origin::Origin;
use crate::transport::{Call, Landed};
use crate::{Client, RetryPolicy, UpstreamError, retry};

/// The slowest upload that is waited for, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Why content could not be pushed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PushError {
    /// The registry refused or failed.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The local file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// The registry stored it under another digest.
    #[error("registry calls the content {found} instead of {expected}")]
    Digest {
        /// What was pushed.
        expected: Digest,
        /// What the registry says.
        found: String,
    },
}

impl PushError {
    /// Tells whether the same push may succeed when made again.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Upstream(error) => error.is_transient(),
            Self::File { .. } | Self::Digest { .. } => false,
        }
    }
}

impl Client {
    /// Uploads `file`, which has the digest `digest`, to the repository `name`, unless the registry has it there.
    /// Returns whether it was sent. It is streamed from the file, in one piece.
    ///
    /// # Errors
    /// See [`PushError`]; transient ones were tried again as the policy says.
    pub async fn push_blob(&self, name: &RepositoryName, digest: &Digest, file: &Path) -> Result<bool, PushError> {
        match self.blob_size(name, digest).await {
            Ok(_) => return Ok(false),
            // What may not be asked for may still be pushed, and if not, the push says so.
            Err(UpstreamError::NotFound | UpstreamError::Denied { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let unreadable = |source| PushError::File { path: file.display().to_string(), source: Arc::new(source) };
        let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        let patience = self.inner.settings.timeouts.head + Duration::from_secs(size / SLOWEST);
        let attempts = self.retry.attempts.max(1);
        let policy = RetryPolicy { total: self.retry.total + patience * attempts, ..self.retry };
        retry::run(&policy, self.name(), || async {
            // A file that cannot be opened is told apart below; the retries know only the upstream's errors.
            let opened = match tokio::fs::File::open(file).await {
                Ok(opened) => opened,
                Err(error) => return Ok(Err(unreadable(error))),
            };
            self.upload(name, digest, opened, size, patience).await.map(Ok)
        })
        .await??;
        Ok(true)
    }

    async fn upload(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        file: tokio::fs::File,
        size: u64,
        patience: Duration,
    ) -> Result<(), UpstreamError> {
        let inner = &self.inner;
        let _permit = self.permit(&inner.bodies).await?;
        let mut call = self.call(Method::POST, name, "blobs/uploads/", "*/*");
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        let Landed { response, .. } = inner.net.send(&inner.tokens, &call).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(inner.net.failure(response, "upload").await);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| UpstreamError::protocol("upload without a location"))?;
        let mut url = inner.net.boundary.redirect(&call.url, location)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let octets = HeaderValue::from_static("application/octet-stream");
        let response = self.put(&call, url, octets, size, Body::from(file), patience).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(());
        }
        Err(inner.net.failure(response, "upload").await)
    }

    /// Puts `bytes` into the repository `name` under `reference`.
    ///
    /// # Errors
    /// See [`PushError`]; transient ones were tried again as the policy says.
    pub async fn push_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<(), PushError> {
        let content_type = HeaderValue::from_str(media_type.as_str())
            .map_err(|_| UpstreamError::protocol("media type cannot be sent"))?;
        let call = self.call(Method::PUT, name, &format!("manifests/{reference}"), "*/*");
        let inner = &self.inner;
        let said = retry::run(&self.retry, self.name(), || async {
            let _permit = self.permit(&inner.requests).await?;
            let send = || {
                let (url, size, body) = (call.url.clone(), bytes.len() as u64, Body::from(bytes.clone()));
                self.put(&call, url, content_type.clone(), size, body, inner.settings.timeouts.head)
            };
            let mut response = send().await?;
            if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                // The grant at hand may be one for reading.
                let challenge = Challenge::from_headers(response.headers());
                if challenge.is_some() && inner.tokens.renew(&inner.net, name, challenge, None).await?.is_some() {
                    response = send().await?;
                }
            }
            if response.status() != StatusCode::CREATED {
                return Err(inner.net.failure(response, "manifest").await);
            }
            let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            Ok(said.map(str::to_owned))
        })
        .await?;
        let expected = Digest::of(bytes);
        match said {
            Some(found) if found.starts_with("sha256:") && found != expected.to_string() => {
                Err(PushError::Digest { expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Sends a body to `url`. Credentials go along only to the registry itself; redirects are not followed, the body
    /// being spent.
    async fn put(
        &self,
        call: &Call,
        url: Url,
        content_type: HeaderValue,
        size: u64,
        body: Body,
        patience: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        let inner = &self.inner;
        let own = Origin::of(&url).as_ref() == Some(inner.net.boundary.registry());
        let mut request = inner.net.http.put(url).header(CONTENT_TYPE, content_type).header(CONTENT_LENGTH, size);
        if own && let Some(grant) = inner.tokens.current(&inner.net, &call.name).await? {
            request = request.header(AUTHORIZATION, grant.header.clone());
        }
        match timeout(patience, request.body(body).send()).await {
            Ok(answer) => answer.map_err(UpstreamError::network),
            Err(_) => Err(UpstreamError::Timeout),
        }
    }
}

//! [`Client::lazy_index`], [`Client::lazy_layers`] [`Client::toc`] and [`Client::hold`]: the lazy API of a proxy of ours.

use std::time::Duration;

use api::lazy::Toc;
use api::{Digest, LazyIndex, RepositoryName};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::timeout;

use crate::transport::{Call, Landed, read_capped};
use crate::{Client, UpstreamError};

/// The largest lazy index that is read, in bytes: twice what the most layers take.
const MAX_INDEX: u64 = 1 << 20;

/// The bytes of a TOC as they come.
#[derive(Debug)]
pub struct TocBody {
    response: reqwest::Response,
    idle: Duration,
    /// Whether they are packed with zstd.
    pub is_packed: bool,
}

impl TocBody {
    /// Returns the next bytes, or `None` when all have come.
    ///
    /// # Errors
    /// The connection broke, or nothing came for [`crate::Timeouts::idle`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let next = timeout(self.idle, self.response.chunk()).await.map_err(|_| UpstreamError::Timeout)?;
        next.map_err(UpstreamError::network)
    }
}

impl Client {
    /// Returns what a proxy knows of the layers of an image, after up to `wait` for those that it converts.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] from a registry that is no such proxy; else what went wrong.
    pub async fn lazy_index(
        &self,
        name: &RepositoryName,
        manifest: &Digest,
        wait: Duration,
    ) -> Result<LazyIndex, UpstreamError> {
        self.index(self.waiting(name, &format!("_firstlight/lazy/{manifest}"), &[], wait)).await
    }

    /// Returns what a proxy knows of `layers`, as [`Self::lazy_index`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn lazy_layers(
        &self,
        name: &RepositoryName,
        layers: &[Digest],
        wait: Duration,
    ) -> Result<LazyIndex, UpstreamError> {
        self.index(self.waiting(name, "_firstlight/layers", layers, wait)).await
    }

    fn waiting(&self, name: &RepositoryName, tail: &str, layers: &[Digest], wait: Duration) -> Call {
        let mut call = self.call(Method::GET, name, tail, "*/*");
        let mut query = call.url.query_pairs_mut();
        query.append_pair("wait", &wait.as_secs().to_string());
        query.extend_pairs(layers.iter().map(|layer| ("digest", layer.to_string())));
        drop(query);
        call
    }

    async fn index(&self, call: Call) -> Result<LazyIndex, UpstreamError> {
        self.ask(&call, |Landed { response, .. }| async move {
            if !response.status().is_success() {
                return Err(self.inner.net.failure(response, "lazy index").await);
            }
            let body = read_capped(response, MAX_INDEX, self.inner.settings.timeouts.idle, None).await?;
            serde_json::from_slice(&body).map_err(|error| UpstreamError::protocol(format!("lazy index: {error}")))
        })
        .await
    }

    /// Has a proxy keep `blob`, a twin, for an hour: `holder` has parts of it.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn hold(&self, name: &RepositoryName, blob: &Digest, holder: &str) -> Result<(), UpstreamError> {
        let mut call = self.call(Method::POST, name, "_firstlight/holds", "*/*");
        call.url.query_pairs_mut().append_pair("holder", holder).append_pair("digest", &blob.to_string());
        self.ask(&call, |Landed { response, .. }| async move {
            if response.status().is_success() { Ok(()) } else { Err(self.inner.net.failure(response, "hold").await) }
        })
        .await
    }

    /// Asks a proxy for the JSON of a TOC. The bytes are not verified.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn toc(&self, name: &RepositoryName, toc: &Toc) -> Result<TocBody, UpstreamError> {
        let mut call = self.call(Method::GET, name, &format!("_firstlight/toc/{}", toc.digest), "*/*");
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("zstd"));
        self.ask(&call, |Landed { response, .. }| async move {
            if response.status() != StatusCode::OK {
                return Err(self.inner.net.failure(response, "toc").await);
            }
            let is_packed = response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding == "zstd");
            Ok(TocBody { response, idle: self.inner.settings.timeouts.idle, is_packed })
        })
        .await
    }
}

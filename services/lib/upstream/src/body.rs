//! [`BlobBody`]: the bytes of a blob as they come.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, timeout};

use crate::UpstreamError;

/// The bytes of a blob, or of a range of it, as they come.
///
/// Reading is pulled: nothing more than the connection's window is read ahead. Dropping the body
/// ends the transfer and frees its place among the upstream's connections.
pub struct BlobBody {
    response: Option<Response>,
    expected: u64,
    taken: u64,
    idle: Duration,
    received: Option<Arc<AtomicU64>>,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The response would show its URL, which may be signed.
        f.debug_struct("BlobBody").field("expected", &self.expected).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl BlobBody {
    pub(crate) fn new(
        response: Response,
        expected: u64,
        idle: Duration,
        received: Option<Arc<AtomicU64>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { response: Some(response), expected, taken: 0, idle, received, _permit: permit }
    }

    /// Returns how many bytes the whole body has.
    pub const fn expected(&self) -> u64 {
        self.expected
    }

    /// Returns the next bytes, or `None` when all have come. Safe to cancel.
    ///
    /// # Errors
    /// [`UpstreamError::Truncated`] or [`UpstreamError::Network`] when the body ends early,
    /// [`UpstreamError::Timeout`] when no byte comes for [`crate::Timeouts::idle`], and
    /// [`UpstreamError::Protocol`] when more comes than was announced. After an error, and after
    /// `None`, there is nothing more to read.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(response) = &mut self.response else { return Ok(None) };
        let next = match timeout(self.idle, response.chunk()).await {
            Ok(next) => next.map_err(UpstreamError::network),
            Err(_) => Err(UpstreamError::Timeout),
        };
        let next = next.and_then(|chunk| self.account(chunk));
        if !matches!(next, Ok(Some(_))) {
            self.response = None;
        }
        next
    }

    fn account(&mut self, chunk: Option<Bytes>) -> Result<Option<Bytes>, UpstreamError> {
        let Some(bytes) = chunk else {
            return if self.taken == self.expected {
                Ok(None)
            } else {
                Err(UpstreamError::Truncated { expected: self.expected, received: self.taken })
            };
        };
        let length = bytes.len() as u64;
        if let Some(received) = &self.received {
            received.fetch_add(length, Ordering::Relaxed);
        }
        self.taken += length;
        if self.taken > self.expected {
            return Err(UpstreamError::protocol(format!("body is longer than the {} bytes announced", self.expected)));
        }
        Ok(Some(bytes))
    }
}

//! [`BlobBody`]: the bytes of a blob on their way to one client.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use api::{Digest, Hasher};
use axum::body::Body;
use blobstore::OpenBlob;
use bytes::Bytes;
use futures_util::stream;

use crate::error::RegistryError;
use crate::fill::FillReader;
use crate::metrics::{Fetched, Metrics, Reader};

/// The bytes read from the store in one step.
const STEP: u64 = 256 << 10;
/// The bytes at the end of a streamed-through blob that wait for the digest.
const HELD_BACK: usize = 64 << 10;

/// Where the bytes of an answer come from.
pub(crate) enum BlobBody {
    /// The store.
    Stored {
        /// The blob.
        blob: Arc<dyn OpenBlob>,
        /// What is left to send.
        rest: Range<u64>,
    },
    /// A running fill.
    Filling(FillReader),
    /// The upstream itself: there is no room to store the blob.
    Passing(Box<Passing>),
}

impl BlobBody {
    /// Returns the next piece, or `None` at a clean end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self {
            Self::Stored { blob, rest } => {
                if rest.is_empty() {
                    return Ok(None);
                }
                let want = usize::try_from((rest.end - rest.start).min(STEP)).map_err(|e| Box::new(e) as BodyError)?;
                let piece = blob.read(rest.start, want).await?;
                if piece.is_empty() {
                    return Err("the stored blob is shorter than its row says".into());
                }
                rest.start += piece.len() as u64;
                Ok(Some(piece))
            }
            Self::Filling(reader) => Ok(reader.next().await?),
            Self::Passing(passing) => passing.next().await,
        }
    }

    /// Returns all bytes, which are at most `most`.
    pub(crate) async fn collect(mut self, most: u64) -> Result<Bytes, RegistryError> {
        let failed = |error: BodyError| RegistryError::internal(&*error);
        let mut all = Vec::new();
        while let Some(piece) = self.next().await.map_err(failed)? {
            all.extend_from_slice(&piece);
            if all.len() as u64 > most {
                return Err(failed(format!("more than {most} bytes").into()));
            }
        }
        Ok(all.into())
    }

    /// Returns the HTTP body. An error in it resets the connection: there is never a clean end after
    /// wrong or missing bytes.
    pub(crate) fn into_body(self, metrics: Arc<Metrics>, what: Digest, reader: Reader) -> Body {
        let begun = (self, metrics, what, reader);
        Body::from_stream(stream::try_unfold(begun, async |(mut body, metrics, what, reader)| {
            match body.next().await {
                Ok(Some(piece)) => {
                    metrics.served(reader, piece.len());
                    Ok(Some((piece, (body, metrics, what, reader))))
                }
                Ok(None) => Ok(None),
                Err(error) => {
                    tracing::warn!(blob.digest = %what, error = &*error as &dyn std::error::Error, "an answer was cut off");
                    Err(error)
                }
            }
        }))
    }
}

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that comes straight from the upstream.
#[derive(Debug)]
pub(crate) struct Passing {
    body: upstream::BlobBody,
    /// The hash of what passed, for whole blobs.
    check: Option<(Hasher, Digest)>,
    /// The last bytes, kept until the digest is known.
    held: VecDeque<Bytes>,
    held_len: usize,
    metrics: Arc<Metrics>,
}

impl Passing {
    /// Returns a body that is checked against `digest` when it is the whole blob.
    pub(crate) fn new(body: upstream::BlobBody, digest: &Digest, whole: bool, metrics: Arc<Metrics>) -> Self {
        metrics.uncached_stream();
        let check = whole.then(|| (Hasher::new(digest.algorithm()), digest.clone()));
        Self { body, check, held: VecDeque::new(), held_len: 0, metrics }
    }

    /// Lets through all but the newest [`HELD_BACK`] bytes of a whole blob, however it is cut.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let excess = self.held_len.saturating_sub(HELD_BACK);
            if excess > 0
                && let Some(mut first) = self.held.pop_front()
            {
                if first.len() > excess {
                    self.held.push_front(first.split_off(excess));
                }
                self.held_len -= first.len();
                return Ok(Some(first));
            }
            let Some(chunk) = self.body.chunk().await? else { return self.last() };
            self.metrics.fetched(Fetched::Uncached, chunk.len());
            let Some((hasher, _)) = &mut self.check else { return Ok(Some(chunk)) };
            hasher.update(&chunk);
            if !chunk.is_empty() {
                self.held_len += chunk.len();
                self.held.push_back(chunk);
            }
        }
    }

    fn last(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some((hasher, expected)) = self.check.take() {
            let found = hasher.finish();
            if found != expected {
                return Err(api::VerifyError { expected, found }.into());
            }
        }
        // The hash is right, or this is a range, of which nothing is held.
        let held = self.held.pop_front();
        self.held_len -= held.as_ref().map_or(0, Bytes::len);
        Ok(held)
    }
}

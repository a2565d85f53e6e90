//! [`Flight`]: neighbouring blocks on their way from the store.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::index::{FileId, extent};
use crate::StoreError;
use crate::error::Cause;

/// Neighbouring blocks of one blob that one request fetches; whoever wants any of them waits for it.
#[derive(Debug)]
pub(super) struct Flight {
    id: FileId,
    first: u32,
    count: u32,
    size: u64,
    arrived: watch::Sender<Option<Result<Bytes, Arc<StoreError>>>>,
}

impl Flight {
    /// Returns a flight of `count` blocks from `first` on, of the blob of `size` bytes whose file is `id`.
    pub(super) fn new(id: FileId, first: u32, count: u32, size: u64) -> Self {
        Self { id, first, count, size, arrived: watch::Sender::new(None) }
    }

    pub(super) const fn id(&self) -> FileId {
        self.id
    }

    /// Returns the size of the whole blob, in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) const fn blocks(&self) -> Range<u32> {
        self.first..self.first + self.count
    }

    /// Returns where its bytes begin in the blob.
    pub(super) const fn offset(&self) -> u64 {
        extent(self.size, self.first).0
    }

    /// Returns how many bytes it has; at most [`super::index::MAX_FETCH`] blocks.
    pub(super) const fn len(&self) -> usize {
        let (offset, len) = extent(self.size, self.first + self.count - 1);
        (offset + len - self.offset()) as usize
    }

    /// Hands the outcome to all who wait and will. Only the first counts.
    pub(super) fn arrive(&self, outcome: Result<Bytes, StoreError>) {
        self.arrived.send_if_modified(|arrived| {
            let is_first = arrived.is_none();
            if is_first {
                *arrived = Some(outcome.map_err(Arc::new));
            }
            is_first
        });
    }

    /// Waits for it and returns `len` bytes at `offset` of the blob, which it has: a copy, so that a slow client does
    /// not keep the whole of it in memory.
    pub(super) async fn bytes(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let mut arrived = self.arrived.subscribe();
        let start = (offset - self.offset()) as usize;
        match arrived.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(bytes))) => Ok(Bytes::copy_from_slice(&bytes[start..start + len])),
            Ok(Some(Err(error))) => Err(error.again()),
            Ok(None) | Err(_) => Err(stopped()),
        }
    }
}

/// Returns the error of a fetch that nobody will end.
pub(super) fn stopped() -> StoreError {
    let source = Cause::new("the fetch was given up");
    StoreError::Unavailable { action: "read", place: "a block".into(), source }
}

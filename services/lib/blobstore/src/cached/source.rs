//! [`Source`]: the blob in the store behind the cache.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::error::Cause;
use crate::{BlobKey, BlobStore, OpenBlob, StoreError};

/// A blob of the store, opened when first needed.
#[derive(Debug)]
pub(super) struct Source {
    store: Arc<dyn BlobStore>,
    key: BlobKey,
    opened: OnceCell<Arc<dyn OpenBlob>>,
}

impl Source {
    pub(super) fn new(store: &Arc<dyn BlobStore>, key: &BlobKey) -> Self {
        Self { store: Arc::clone(store), key: key.clone(), opened: OnceCell::new() }
    }

    pub(super) async fn open(&self) -> Result<&Arc<dyn OpenBlob>, StoreError> {
        self.opened.get_or_try_init(|| self.store.open(&self.key)).await
    }

    pub(super) async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.open().await?.read(offset, len).await
    }

    /// Returns the error for bytes that ended early.
    pub(super) fn changed(&self, len: usize) -> StoreError {
        let source = Cause::new(format!("there were only {len} bytes left"));
        StoreError::Unavailable { action: "read", place: self.key.to_string(), source }
    }
}

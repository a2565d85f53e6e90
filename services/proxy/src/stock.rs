//! [`Stock`]: the store as the catalog's rows know it. A row whose bytes are gone is dropped, so that they are fetched or made again.

use std::sync::Arc;

use api::Digest;
use blobstore::{BlobKey, BlobStore, OpenBlob, StoreError};
use catalog::Catalog;

/// The catalog and the store it speaks of.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) catalog: Catalog,
    pub(crate) store: Arc<dyn BlobStore>,
    /// Whether rows without bytes are dropped.
    drops: bool,
}

/// Why a stored blob cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    /// The store failed.
    #[error("blob store failed")]
    Store(#[from] StoreError),
    /// The catalog names a key that is none.
    #[error("catalog row of a blob is damaged")]
    Key(#[from] blobstore::KeyError),
    /// The catalog failed.
    #[error("catalog failed")]
    Catalog(#[from] catalog::CatalogError),
}

impl Stock {
    /// Returns the stock of a proxy that serves.
    pub(crate) const fn new(catalog: Catalog, store: Arc<dyn BlobStore>) -> Self {
        Self { catalog, store, drops: true }
    }

    /// Returns a stock that is only looked at: no row is dropped.
    pub(crate) const fn looked_at(catalog: Catalog, store: Arc<dyn BlobStore>) -> Self {
        Self { catalog, store, drops: false }
    }

    /// Opens the bytes of `digest`, which its row says lie under `key`. Returns `None` where there are none: then the
    /// digest is no longer stored.
    ///
    /// # Errors
    /// See [`StockError`].
    pub(crate) async fn open(&self, digest: &Digest, key: &str) -> Result<Option<Arc<dyn OpenBlob>>, StockError> {
        match self.store.open(&key.parse::<BlobKey>()?).await {
            Ok(blob) => Ok(Some(blob)),
            Err(StoreError::NotFound { .. }) => {
                if self.drops && self.catalog.lose_blob(digest, key).await? {
                    tracing::warn!(blob.digest = %digest, key, "a stored file is gone and will be fetched or made again");
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

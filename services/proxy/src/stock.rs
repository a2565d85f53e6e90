//! [`Stock`]: the store as the catalog's rows know it. A row whose bytes are gone is dropped, so that they are fetched or made again.

use std::sync::Arc;

use blobstore::{BlobKey, BlobStore, OpenBlob, StoreError};
use catalog::{BlobRow, Catalog, CatalogError};

/// The catalog and the store it speaks of.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) catalog: Catalog,
    pub(crate) store: Arc<dyn BlobStore>,
    /// Whether rows without bytes are dropped.
    drops: bool,
}

/// Why something cannot be read from the stock, or recorded in it.
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
    Catalog(#[from] CatalogError),
}

impl StockError {
    /// Tells whether the same call may succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Catalog(error) => error.is_transient(),
            Self::Key(_) => false,
        }
    }
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

    /// Opens the bytes that `row` names. Returns `None` where there are none, or not as many as it says: then its digest
    /// is no longer stored.
    ///
    /// # Errors
    /// See [`StockError`].
    pub(crate) async fn open(&self, row: &BlobRow) -> Result<Option<Arc<dyn OpenBlob>>, StockError> {
        let found = match self.store.open(&row.key.parse::<BlobKey>()?).await {
            Ok(blob) if blob.size() == row.size => return Ok(Some(blob)),
            Ok(blob) => Some(blob.size()),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if self.drops && self.catalog.lose_blob(&row.digest, &row.key).await? {
            let BlobRow { digest, size, key } = row;
            match found {
                None => {
                    tracing::warn!(blob.digest = %digest, key, "a stored file is gone and will be fetched or made again");
                }
                Some(found) => tracing::warn!(
                    blob.digest = %digest, key, size, found,
                    "a stored file has another size than its row says and will be fetched or made again"
                ),
            }
        }
        Ok(None)
    }
}

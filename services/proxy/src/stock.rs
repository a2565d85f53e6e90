//! [`Stock`]: the store as the catalog's rows know it. A row whose bytes are gone is dropped, so that they are fetched or made again.

use std::sync::Arc;

use api::Digest;
use blobstore::{BlobKey, BlobStore, OpenBlob, StoreError};
use bytes::Bytes;
use catalog::{BlobRow, Catalog, CatalogError};
use moka::future::Cache;

/// The largest TOC that is kept in memory, and the bytes of all that are.
const SMALL_TOC: usize = 1 << 20;
const TOCS: u64 = 16 << 20;

/// The catalog and the store it speaks of.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) catalog: Catalog,
    pub(crate) store: Arc<dyn BlobStore>,
    /// Small TOCs: images that share layers want the same ones.
    tocs: Cache<Digest, Bytes>,
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
    pub(crate) fn new(catalog: Catalog, store: Arc<dyn BlobStore>) -> Self {
        let weigh = |_: &Digest, toc: &Bytes| u32::try_from(toc.len()).unwrap_or(u32::MAX);
        let tocs = Cache::builder().max_capacity(TOCS).weigher(weigh).build();
        Self { catalog, store, tocs, drops: true }
    }

    /// Returns a stock that is only looked at: no row is dropped.
    pub(crate) fn looked_at(catalog: Catalog, store: Arc<dyn BlobStore>) -> Self {
        Self { drops: false, ..Self::new(catalog, store) }
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

    /// Returns the JSON of a TOC, or `None` where it is not stored.
    ///
    /// # Errors
    /// See [`StockError`].
    pub(crate) async fn toc(&self, digest: &Digest) -> Result<Option<Bytes>, StockError> {
        if let Some(kept) = self.tocs.get(digest).await {
            return Ok(Some(kept));
        }
        let Some(row) = self.catalog.blob(digest).await? else { return Ok(None) };
        let Some(blob) = self.open(&row).await? else { return Ok(None) };
        let json = blob.read(0, usize::try_from(row.size).unwrap_or(usize::MAX)).await?;
        if json.len() <= SMALL_TOC {
            self.tocs.insert(digest.clone(), json.clone()).await;
        }
        Ok(Some(json))
    }
}

#[cfg(test)]
mod tests {
    use blobstore::{FsStore, Generation};
    use catalog::CatalogUrl;

    use super::*;

    /// A small TOC is read once; a large one takes no memory.
    #[tokio::test]
    async fn small_tocs_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
        let catalog = Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap();
        let stock = Stock::new(catalog, Arc::new(FsStore::open(folder.path()).unwrap()));
        for (size, stays) in [(SMALL_TOC, true), (SMALL_TOC + 1, false)] {
            let json = Bytes::from(vec![b' '; size]);
            let digest = Digest::of(&json);
            assert_eq!(stock.toc(&digest).await.unwrap(), None);
            let key = BlobKey::toc(&digest, Generation::random());
            stock.store.put_bytes(&key, json.clone()).await.unwrap();
            let row = BlobRow { digest: digest.clone(), size: size as u64, key: key.to_string() };
            stock.catalog.add_blob(&row, &[]).await.unwrap();
            assert_eq!(stock.toc(&digest).await.unwrap().as_ref(), Some(&json));
            stock.store.delete(&key).await.unwrap();
            assert_eq!(stock.toc(&digest).await.unwrap(), stays.then_some(json));
        }
    }
}

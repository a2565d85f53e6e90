//! [`CachedStore`]: a disk cache in front of another store.

mod blob;
mod cache;
mod counters;
mod flight;
mod folder;
mod index;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::Digest;
use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlobKey, BlobStore, Listed, MetaKey, OpenBlob, Refusal, StoreError};
use blob::CachedBlob;
use cache::Cache;
pub use counters::CacheCounts;

/// A store whose bytes are kept on this machine's disk as they are read and put: in blocks of 1 MiB, as many as a cap
/// allows, the least recently used leaving first.
///
/// - A block is fetched by one request, whoever and however many ask for it; blocks that one reader reads one after the
///   other are fetched together, and up to 8 MiB ahead of it. At most 64 MiB are on their way at a time.
/// - A block is served from the disk only after it was written whole by this process. The folder is emptied at the
///   start, so what a crash left is never believed.
/// - When the disk is full, or the cap is taken by blobs that are being read, bytes are passed on and not kept.
/// - A file that was put is kept as it is, not copied. Others may still have it open, so it leaves only as a whole.
/// - A blob whose file was handed out ([`OpenBlob::local_file`]) keeps its blocks until it is dropped, so that nothing
///   is cut out of a file that somebody reads. Deleted, it stays readable.
/// - The disk is believed as far as a directory store believes it: a cut file is noticed, changed bytes are not.
///
/// Clones are the same cache.
#[derive(Debug, Clone)]
pub struct CachedStore {
    inner: Arc<dyn BlobStore>,
    cache: Arc<Cache>,
}

impl CachedStore {
    /// Puts a cache in `folder`, of at most `cap` bytes, in front of `inner`. Makes the folder if there is none and
    /// empties it: it must hold nothing else. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the folder cannot be made or emptied, or another process has it.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime.
    pub fn open(inner: Arc<dyn BlobStore>, folder: &Path, cap: u64) -> Result<Self, StoreError> {
        Ok(Self { inner, cache: Cache::open(folder, cap)? })
    }

    /// Returns what the cache has done so far and holds now.
    pub fn counts(&self) -> CacheCounts {
        self.cache.counts()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl BlobStore for CachedStore {
    async fn put_file(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError> {
        // A second name for the file survives the put, which takes the first away.
        let draft = self.cache.link(file).await;
        self.inner.put_file(key, file).await?;
        if let Some(draft) = draft {
            self.cache.adopt(key, draft).await;
        }
        Ok(())
    }

    async fn put_bytes(&self, key: &BlobKey, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.put_bytes(key, bytes.clone()).await?;
        if let Some(draft) = self.cache.write(bytes).await {
            self.cache.adopt(key, draft).await;
        }
        Ok(())
    }

    /// Asks the inner store nothing when some of the bytes are cached: a key always means the same bytes.
    async fn open(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError> {
        Ok(Arc::new(CachedBlob::open(&self.cache, &self.inner, key).await?))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.cache.forget(std::slice::from_ref(key)).await;
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[BlobKey]) -> Result<Vec<Refusal>, StoreError> {
        self.cache.forget(keys).await;
        self.inner.delete_many(keys).await
    }

    async fn sweep_uploads_of(&self, digest: &Digest) -> Result<usize, StoreError> {
        self.inner.sweep_uploads_of(digest).await
    }

    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError> {
        self.inner.sweep_uploads(older_than).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(after, limit).await
    }

    async fn put_meta(&self, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.put_meta(key, bytes).await
    }

    /// Never cached: they may be replaced, and only a rebuild reads many.
    async fn meta(&self, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
        self.inner.meta(key).await
    }

    async fn delete_meta(&self, key: &MetaKey) -> Result<(), StoreError> {
        self.inner.delete_meta(key).await
    }

    async fn list_meta(&self, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
        self.inner.list_meta(after, limit).await
    }
}

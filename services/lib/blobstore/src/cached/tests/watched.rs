//! [`Watched`]: a store to put a cache in front of.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{BlobKey, BlobStore, FsStore, Listed, MetaKey, OpenBlob, StoreError};

/// A directory store that counts, fails on request, and can hold reads up.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) store: FsStore,
    pub(super) opens: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) fails: AtomicBool,
    pub(super) is_short: AtomicBool,
    pub(super) gate: Semaphore,
}

#[derive(Debug)]
struct WatchedBlob(Arc<Watched>, Arc<dyn OpenBlob>);

/// [`Watched`] as a store: its blobs need the whole of it.
#[derive(Debug)]
pub(super) struct Inner(pub(super) Arc<Watched>);

#[async_trait]
impl BlobStore for Inner {
    async fn put_file(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError> {
        // As an object store does: the bytes go, and then the file.
        let bytes = fs::read(file).map_err(|error| StoreError::io("read", file, error))?;
        self.0.store.put_bytes(key, bytes.into()).await?;
        fs::remove_file(file).map_err(|error| StoreError::io("remove", file, error))
    }

    async fn put_bytes(&self, key: &BlobKey, bytes: Bytes) -> Result<(), StoreError> {
        self.0.store.put_bytes(key, bytes).await
    }

    async fn open(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError> {
        self.0.opens.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(WatchedBlob(Arc::clone(&self.0), self.0.store.open(key).await?)))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.0.store.delete(key).await
    }

    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError> {
        self.0.store.sweep_uploads(older_than).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.store.list(after, limit).await
    }

    async fn put_meta(&self, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError> {
        self.0.store.put_meta(key, bytes).await
    }

    async fn meta(&self, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
        self.0.store.meta(key).await
    }

    async fn delete_meta(&self, key: &MetaKey) -> Result<(), StoreError> {
        self.0.store.delete_meta(key).await
    }

    async fn list_meta(&self, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
        self.0.store.list_meta(after, limit).await
    }
}

#[async_trait]
impl OpenBlob for WatchedBlob {
    fn size(&self) -> u64 {
        self.1.size()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let _turn = self.0.gate.acquire().await.unwrap();
        if self.0.fails.load(Ordering::SeqCst) {
            let source = crate::Cause::new("on request");
            return Err(StoreError::Unavailable { action: "read", place: "here".into(), source });
        }
        let bytes = self.1.read(offset, len).await?;
        Ok(if self.0.is_short.load(Ordering::SeqCst) { bytes.slice(1..) } else { bytes })
    }

    fn read_blocking(&self, _: &mut [u8], _: u64) -> Result<usize, StoreError> {
        panic!("the cache reads in one way")
    }

    fn local_file(&self) -> Option<&fs::File> {
        None
    }
}

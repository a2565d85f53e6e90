//! [`S3Store`]: a bucket as a store.

mod blob;
mod bucket;
mod config;
mod delete;
mod error;
mod list;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use telemetry::blocking;

use crate::{BlobKey, BlobStore, OpenBlob, StoreError};
use blob::S3Blob;
use bucket::Bucket;
pub use config::S3Config;

/// A store in a bucket of an S3-compatible service; each key's text form, behind a prefix, is an object's name.
///
/// What a crash can leave: complete objects that no row names, and unfinished multipart uploads, which are visible to
/// no reader and which [`BlobStore::sweep_uploads`] takes away. Clones are the same store; any number of processes may
/// share a bucket and prefix. Every request has a time limit and a bounded number of attempts.
#[derive(Debug, Clone)]
pub struct S3Store {
    bucket: Arc<Bucket>,
}

impl S3Store {
    /// Opens the store, with credentials from the usual AWS places (environment, profile files, web identity, container
    /// and instance roles), and checks that the bucket is there.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the bucket is not there or these credentials may not use it,
    /// [`StoreError::Unavailable`] when nobody answers.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime.
    pub async fn open(config: &S3Config) -> Result<Self, StoreError> {
        Self::over(Bucket::connect(config, None).await).await
    }

    async fn over(bucket: Bucket) -> Result<Self, StoreError> {
        bucket.check().await?;
        Ok(Self { bucket: Arc::new(bucket) })
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn put_file(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError> {
        let path = file.to_owned();
        let asked =
            blocking(move || std::fs::metadata(&path).map_err(|e| StoreError::io("ask for the size of", &path, e)));
        upload::put_file(&self.bucket, key, file, asked.await?.len()).await?;
        let path = file.to_owned();
        blocking(move || std::fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))).await
    }

    async fn put_bytes(&self, key: &BlobKey, bytes: Bytes) -> Result<(), StoreError> {
        upload::put_whole(&self.bucket, key, bytes.into()).await
    }

    async fn open(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError> {
        Ok(Arc::new(S3Blob::open(&self.bucket, key).await?))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        delete::delete(&self.bucket, key).await
    }

    async fn delete_many(&self, keys: &[BlobKey]) -> Result<(), StoreError> {
        delete::delete_many(&self.bucket, keys).await
    }

    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError> {
        sweep::sweep(&self.bucket, older_than).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<(BlobKey, u64)>, StoreError> {
        list::list(&self.bucket, after, limit).await
    }
}

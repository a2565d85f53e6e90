//! [`S3Store`]: a bucket as a store.

mod blob;
mod bucket;
mod config;
mod delete;
mod error;
mod list;
mod meta;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use telemetry::blocking;

use crate::error::Cause;
use crate::{BlobKey, BlobStore, Listed, MetaKey, OpenBlob, Refusal, StoreError};
use blob::S3Blob;
use bucket::Bucket;
pub use config::S3Config;

/// How long a put may take; one that takes longer is given up. So an upload that began longer ago is nobody's.
pub const LONGEST_PUT: Duration = Duration::from_secs(12 * 60 * 60);

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
        let put = upload::put_file(&self.bucket, key, file, asked.await?.len());
        within(LONGEST_PUT, || self.bucket.place(key), Box::pin(put)).await?;
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

    async fn delete_many(&self, keys: &[BlobKey]) -> Result<Vec<Refusal>, StoreError> {
        delete::delete_many(&self.bucket, keys).await
    }

    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError> {
        sweep::sweep(&self.bucket, older_than).await
    }

    async fn sweep_uploads_of(&self, digest: &Digest) -> Result<usize, StoreError> {
        sweep::sweep_of(&self.bucket, digest).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        list::list(&self.bucket, after, limit).await
    }

    async fn put_meta(&self, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError> {
        meta::put(&self.bucket, key, bytes).await
    }

    async fn meta(&self, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
        meta::read(&self.bucket, key).await
    }

    async fn delete_meta(&self, key: &MetaKey) -> Result<(), StoreError> {
        meta::delete(&self.bucket, key).await
    }

    async fn list_meta(&self, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
        meta::list(&self.bucket, after, limit).await
    }
}

/// Does `put`, and gives up after `limit`.
async fn within(
    limit: Duration,
    place: impl FnOnce() -> String,
    put: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    tokio::time::timeout(limit, put).await.unwrap_or_else(|_elapsed| {
        let source = Cause::new(format!("it took longer than {limit:?}"));
        Err(StoreError::Unavailable { action: "put", place: place(), source })
    })
}

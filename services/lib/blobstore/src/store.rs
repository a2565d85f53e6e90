//! [`BlobStore`]: what every place for bytes can do.

use std::fmt::Debug;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::Digest;
use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlobKey, MetaKey, StoreError};

/// What a store lists of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The key.
    pub key: BlobKey,
    /// How many bytes lie under it.
    pub size: u64,
    /// When they were put, by the store's clock; to the second.
    pub put_at: SystemTime,
}

/// A key whose bytes a store did not delete.
#[derive(Debug)]
pub struct Refusal {
    /// The key.
    pub key: BlobKey,
    /// Why.
    pub error: StoreError,
}

/// A place for bytes. What a put stored is complete, durable and never changes; nothing else is ever visible.
///
/// Futures may be dropped at any time: a put then either happened or did not.
#[async_trait]
pub trait BlobStore: Send + Sync + Debug {
    /// Takes over `file`, which is complete and verified, as the bytes of `key`; `file` is gone from its old place
    /// afterwards. On an error it may be gone only if the bytes are stored. A repeated put of the same bytes under
    /// the same key is no error.
    async fn put_file(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError>;

    /// Stores `bytes` under `key`. A repeated put of the same bytes under the same key is no error.
    async fn put_bytes(&self, key: &BlobKey, bytes: Bytes) -> Result<(), StoreError>;

    /// Opens the bytes of `key`. They stay readable through the returned value even if `key` is deleted meanwhile,
    /// where the store can do that (a directory can).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when nothing is stored under `key`.
    async fn open(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError>;

    /// Deletes the bytes of `key`; no error when there are none.
    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError>;

    /// Deletes the bytes of every one of `keys`, in as few calls to the store as it allows, and returns those that it
    /// refused to delete, each with why: one of them keeps none of the others. Keys that have no bytes are not refused.
    ///
    /// # Errors
    /// When the store refuses or fails as a whole; any of them may be deleted then.
    async fn delete_many(&self, keys: &[BlobKey]) -> Result<Vec<Refusal>, StoreError> {
        let mut refused = Vec::new();
        for key in keys {
            if let Err(error) = self.delete(key).await {
                refused.push(Refusal { key: key.clone(), error });
            }
        }
        Ok(refused)
    }

    /// Takes away what puts that never came to an end have left, where they began longer than `older_than` ago, and
    /// returns how many there were. Choose it longer than any put takes: a put that still runs may fail.
    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError>;

    /// Takes away what puts of blobs with `digest` have left that never came to an end, however old, and returns how many
    /// there were. For who alone should put that digest now: a put of it that still runs elsewhere fails with an error
    /// that is transient. A store that cannot tell whose a left-over is leaves it to [`BlobStore::sweep_uploads`].
    async fn sweep_uploads_of(&self, digest: &Digest) -> Result<usize, StoreError> {
        let _digest = digest;
        Ok(0)
    }

    /// Returns up to `limit` keys that sort after `after` (from the first when `None`), in order. An empty answer
    /// means that there are no more.
    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// Stores a meta object, in place of the one that `key` had. When this returns it is durable; who reads meanwhile
    /// reads the old one or the new one, whole.
    async fn put_meta(&self, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError>;

    /// Returns the meta object of `key`, or `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::MetaTooLarge`] when it is larger than [`crate::MAX_META`].
    async fn meta(&self, key: &MetaKey) -> Result<Option<Bytes>, StoreError>;

    /// Deletes the meta object of `key`; no error when there is none.
    async fn delete_meta(&self, key: &MetaKey) -> Result<(), StoreError>;

    /// Returns up to `limit` keys of meta objects that sort after `after` (from the first when `None`), in order. An
    /// empty answer means that there are no more.
    async fn list_meta(&self, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError>;
}

/// Stored bytes, opened.
#[async_trait]
pub trait OpenBlob: Send + Sync + Debug {
    /// Returns how many bytes there are.
    fn size(&self) -> u64;

    /// Returns the bytes from `offset` on: `len` of them, or fewer where the blob ends (none at or past its end).
    /// They are held in memory at once, so callers keep `len` small.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError>;

    /// Fills `buf` with the bytes from `offset` on and returns how many there were: fewer than `buf` holds only
    /// where the blob ends. Blocks; for code that is off the async threads.
    fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError>;

    /// Returns the local file that holds exactly these bytes, where there is one; for `sendfile` and the like.
    /// Read it only at given offsets: its cursor is shared.
    fn local_file(&self) -> Option<&File>;
}

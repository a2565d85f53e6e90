//! Bytes by key: a directory, or S3 behind a disk cache; the only user of aws-sdk-s3.
//!
//! A store keeps what it is given under a [`BlobKey`] and knows nothing of what the bytes mean. Bytes are written
//! before the row that names their key, and deleted after it, so a key that a row names is always there. Beside the
//! bytes lie meta objects, each under a [`MetaKey`]: what a lost database can be rebuilt from.

mod bridge;
mod buffers;
mod cached;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod disk;
mod error;
mod fs;
mod key;
mod local;
mod meta;
mod s3;
mod store;

pub use cached::{CacheCounts, CachedStore};
pub use disk::free_fraction;
pub use error::{Cause, StoreError};
pub use fs::FsStore;
pub use key::{BlobKey, Generation, KeyError};
pub use meta::{MAX_META, MetaKey, MetaKind};
pub use s3::{LONGEST_PUT, S3Config, S3Store};
pub use store::{BlobStore, Listed, OpenBlob, Refusal};

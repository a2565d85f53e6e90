//! Bytes by key: a directory now, S3 later; the only user of aws-sdk-s3.
//!
//! A store keeps what it is given under a [`BlobKey`] and knows nothing of what the bytes mean. Bytes are written
//! before the row that names their key, and deleted after it, so a key that a row names is always there.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod disk;
mod error;
mod fs;
mod key;
mod store;

pub use disk::free_fraction;
pub use error::StoreError;
pub use fs::FsStore;
pub use key::{BlobKey, Generation, KeyError};
pub use store::{BlobStore, OpenBlob};

//! [`ReadError`], [`OpenError`]: why a layer cannot be read, or not even opened.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use upstream::UpstreamError;

use crate::memory::Full;
use crate::tree::TreeError;

/// Why bytes of a layer cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ReadError {
    /// There is no room for what nobody waits for.
    #[error("the cache or the disk is full")]
    NoRoom,
    /// Nobody wants them any more.
    #[error("the work is over")]
    Over,
    /// They do not come.
    #[error("the bytes do not come")]
    Upstream(#[from] UpstreamError),
    /// What comes is something else.
    #[error("chunk {chunk} of the blob is not what its digest says")]
    Corrupt {
        /// Its number.
        chunk: u32,
    },
    /// The disk failed.
    #[error("the cache on disk failed")]
    Disk(#[source] Arc<io::Error>),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}

/// Why a layer cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its folder cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its TOC is not the one that was fetched.
    #[error("the TOC in {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Its TOC makes no tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no memory for its tree.
    #[error(transparent)]
    Memory(#[from] Full),
}

//! [`LocalFile`]: a file on this machine whose bytes are read at offsets.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use telemetry::blocking;

use crate::StoreError;
use crate::buffers::Buffer;

/// The most bytes copied from the page cache on an async thread, about 50 µs of work.
const MAX_INLINE: usize = 256 << 10;

/// An open file of a known size.
#[derive(Debug)]
pub(crate) struct LocalFile {
    file: File,
    path: PathBuf,
    size: u64,
}

impl LocalFile {
    /// Returns `file`, which lies at `path`, with the size it has now.
    pub(crate) fn new(file: File, path: PathBuf) -> Result<Self, StoreError> {
        let size = file.metadata().map_err(|e| StoreError::io("ask for the size of", &path, e))?.len();
        Ok(Self { file, path, size })
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads exactly `len` bytes at `offset`; at once when they are few and in the page cache.
    pub(crate) async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let mut buf = Buffer::new(len);
        let cached = if len <= MAX_INLINE { self.read_cached(buf.as_mut(), offset) } else { 0 };
        if cached == len {
            return Ok(buf.into_bytes());
        }
        let file = Arc::clone(self);
        blocking(move || {
            file.read_blocking(&mut buf.as_mut()[cached..], offset + cached as u64)?;
            Ok(buf.into_bytes())
        })
        .await
    }

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// [`StoreError::Truncated`] when the file ends before that.
    pub(crate) fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => StoreError::Truncated { path: self.path.clone(), size: self.size },
            _ => StoreError::io("read", &self.path, error),
        })
    }

    /// Reads what the page cache has at `offset` without waiting for the disk, and returns how much that was.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> usize {
        // Every failure (nothing cached, not supported here) means the same: read it the blocking way, which
        // reports what is really wrong.
        rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }
}

/// Returns how many of `len` bytes lie between `offset` and the end of `size` bytes.
pub(crate) fn clamp(size: u64, offset: u64, len: usize) -> usize {
    usize::try_from(size.saturating_sub(offset)).map_or(len, |left| left.min(len))
}

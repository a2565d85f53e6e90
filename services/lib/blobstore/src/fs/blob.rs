//! [`FsBlob`]: an open file of the store.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use telemetry::blocking;

use crate::{OpenBlob, StoreError};

/// The most bytes copied from the page cache on an async thread, about 50 µs of work.
const MAX_INLINE: usize = 256 << 10;

/// An open file of the store. Its bytes never change, and stay readable after the key was deleted.
#[derive(Debug, Clone)]
pub(super) struct FsBlob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    size: u64,
}

impl FsBlob {
    pub(super) fn new(file: File, path: PathBuf) -> Result<Self, StoreError> {
        let size = file.metadata().map_err(|e| StoreError::io("ask for the size of", &path, e))?.len();
        Ok(Self { inner: Arc::new(Inner { file, path, size }) })
    }

    /// Returns how many of `len` bytes lie between `offset` and the end.
    fn clamp(&self, offset: u64, len: usize) -> usize {
        let left = self.inner.size.saturating_sub(offset);
        usize::try_from(left).map_or(len, |left| left.min(len))
    }

    /// Reads what the page cache has at `offset` without waiting for the disk, and returns how much that was.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> usize {
        // Every failure (nothing cached, not supported here) means the same: read it the blocking way, which
        // reports what is really wrong.
        rustix::io::preadv2(&self.inner.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }
}

#[async_trait]
impl OpenBlob for FsBlob {
    fn size(&self) -> u64 {
        self.inner.size
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let mut buf = vec![0; self.clamp(offset, len)];
        let cached = if buf.len() <= MAX_INLINE { self.read_cached(&mut buf, offset) } else { 0 };
        if cached < buf.len() {
            let blob = self.clone();
            buf = blocking(move || {
                blob.read_blocking(&mut buf[cached..], offset + cached as u64)?;
                Ok::<_, StoreError>(buf)
            })
            .await?;
        }
        Ok(buf.into())
    }

    fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let Inner { file, path, size } = &*self.inner;
        let len = self.clamp(offset, buf.len());
        match file.read_exact_at(&mut buf[..len], offset) {
            Ok(()) => Ok(len),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(StoreError::Truncated { path: path.clone(), size: *size })
            }
            Err(error) => Err(StoreError::io("read", path, error)),
        }
    }

    fn local_file(&self) -> Option<&File> {
        Some(&self.inner.file)
    }
}

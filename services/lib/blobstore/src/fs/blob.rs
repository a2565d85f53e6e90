//! [`FsBlob`]: an open file of the store.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::local::{LocalFile, clamp};
use crate::{OpenBlob, StoreError};

/// An open file of the store. Its bytes never change, and stay readable after the key was deleted.
#[derive(Debug)]
pub(super) struct FsBlob {
    file: Arc<LocalFile>,
}

impl FsBlob {
    pub(super) fn new(file: File, path: PathBuf) -> Result<Self, StoreError> {
        Ok(Self { file: Arc::new(LocalFile::new(file, path)?) })
    }
}

#[async_trait]
impl OpenBlob for FsBlob {
    fn size(&self) -> u64 {
        self.file.size()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.file.read(offset, clamp(self.file.size(), offset, len)).await
    }

    fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let len = clamp(self.file.size(), offset, buf.len());
        self.file.read_blocking(&mut buf[..len], offset)?;
        Ok(len)
    }

    fn local_file(&self) -> Option<&File> {
        Some(self.file.file())
    }
}

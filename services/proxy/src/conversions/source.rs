//! Where a conversion reads its layer from: the store, or the spool of a running fill.

use std::io;
use std::sync::Arc;

use blobstore::OpenBlob;

use crate::fill::Fill;

/// A layer's bytes, blocking.
#[derive(Debug)]
pub(super) enum LayerSource {
    Stored(Arc<dyn OpenBlob>),
    Filling(Arc<Fill>),
}

impl convert::Source for LayerSource {
    fn size(&self) -> u64 {
        match self {
            Self::Stored(blob) => blob.size(),
            Self::Filling(fill) => fill.size(),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Stored(blob) => blob.read_blocking(buffer, offset).map_err(io::Error::other),
            Self::Filling(fill) => fill.spool().read_blocking(buffer, offset),
        }
    }
}

//! [`Room`]: whether the disk has room for another blob.

use std::path::PathBuf;

use crate::config::MinFree;
use crate::fill::FillError;

/// Checks the disk that holds the spool and the store against `storage.min_free`.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    path: PathBuf,
    min_free: MinFree,
}

impl Room {
    pub(crate) const fn new(path: PathBuf, min_free: MinFree) -> Self {
        Self { path, min_free }
    }

    /// Checks that `size` more bytes leave enough of the disk free.
    ///
    /// # Errors
    /// [`FillError::NoRoom`] when they do not. A disk that cannot be asked counts as having room:
    /// writing will tell.
    pub(crate) async fn check(&self, size: u64) -> Result<(), FillError> {
        let path = self.path.clone();
        let space = telemetry::blocking(move || blobstore::free_fraction(&path)).await;
        match space {
            Ok((free, total)) => {
                let floor = self.min_free.of(total);
                if free < floor.saturating_add(size) { Err(FillError::NoRoom) } else { Ok(()) }
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the disk's free space could not be read");
                Ok(())
            }
        }
    }
}

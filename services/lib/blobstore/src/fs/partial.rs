//! [`Partial`]: a file that is being written and has no key yet.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Generation, StoreError};

/// The folder of partial files in a store.
pub(super) const FOLDER: &str = "partial";
/// How often a name may be lost to a sweep before that is an error.
const MAX_TRIES: u32 = 16;

/// A file that is being written. Locked while its writer lives, so that a sweep can tell what a crash left;
/// removed when dropped unpublished.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Partial {
    /// Makes an empty partial file in the store at `root`.
    pub(super) fn create(root: &Path) -> Result<Self, StoreError> {
        let folder = root.join(FOLDER);
        for _ in 0..MAX_TRIES {
            let path = folder.join(Generation::random().to_string());
            let file = File::create_new(&path).map_err(|e| StoreError::io("create", &path, e))?;
            file.lock().map_err(|e| StoreError::io("lock", &path, e))?;
            // A sweep by a starting process may have taken it between the two calls; then the name is gone.
            let links = file.metadata().map_err(|e| StoreError::io("ask for the links of", &path, e))?.nlink();
            if links > 0 {
                return Ok(Self { file, path, published: false });
            }
        }
        Err(StoreError::io("create a file in", &folder, io::ErrorKind::ResourceBusy.into()))
    }

    /// Appends all of `source`.
    pub(super) fn fill(&mut self, source: &mut impl Read) -> Result<(), StoreError> {
        io::copy(source, &mut self.file).map_err(|e| StoreError::io("write", &self.path, e))?;
        Ok(())
    }

    /// Makes the bytes durable and names the file `target`. The caller syncs the folder of `target`.
    pub(super) fn publish(mut self, target: &Path) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|e| StoreError::io("sync", &self.path, e))?;
        fs::rename(&self.path, target).map_err(|e| StoreError::io("name", target, e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is there to tell; the next sweep tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes every partial file whose writer is gone and that was last written longer than `older_than` ago; returns
/// how many.
pub(super) fn sweep(folder: &Path, older_than: Duration) -> Result<usize, StoreError> {
    let mut removed = 0;
    let entries = fs::read_dir(folder).map_err(|e| StoreError::io("list", folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| StoreError::io("list", folder, e))?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            // Published or dropped since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let written = written.map_err(|e| StoreError::io("ask for the age of", &path, e))?;
        // A time in the future counts as new, but for a sweep of all.
        if written.elapsed().unwrap_or_default() < older_than {
            continue;
        }
        match file.try_lock() {
            // Names are never used twice, so this one is gone or still the locked file's.
            Ok(()) => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path, error));
                }
                outcome => removed += usize::from(outcome.is_ok()),
            },
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path, error)),
        }
    }
    Ok(removed)
}

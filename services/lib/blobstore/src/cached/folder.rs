//! [`Folder`]: where the cache's files lie.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use super::index::FileId;
use crate::StoreError;
use crate::local::LocalFile;

/// The file whose lock tells that a process has the folder.
const LOCK: &str = "lock";
/// The folder of everything else, which a start removes.
const FILES: &str = "files";

/// A folder that one process has to itself: a file for each blob that is cached, named by a number.
#[derive(Debug)]
pub(super) struct Folder {
    files: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the folder at `root`, making it if there is none, and empties it.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(|e| StoreError::io("make the directory", root, e))?;
        let path = root.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| StoreError::io("open", &path, e))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let error = io::Error::other("another process caches in this folder; give each its own");
                StoreError::io("lock", &path, error)
            }
            TryLockError::Error(error) => StoreError::io("lock", &path, error),
        })?;
        let files = root.join(FILES);
        match fs::remove_dir_all(&files) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("empty", &files, error));
            }
            _ => {}
        }
        fs::create_dir(&files).map_err(|e| StoreError::io("make the directory", &files, e))?;
        Ok(Self { files, _lock: lock })
    }

    fn path(&self, id: FileId) -> PathBuf {
        self.files.join(id.to_string())
    }

    /// Opens the file of `id`, which is to have `size` bytes; `may_make`: makes it, sparse, if there is none.
    pub(super) fn file(&self, id: FileId, size: u64, may_make: bool) -> Result<LocalFile, StoreError> {
        let path = self.path(id);
        let file = File::options().create(may_make).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|e| StoreError::io("open", &path, e))?;
        if may_make {
            file.set_len(size).map_err(|e| StoreError::io("size", &path, e))?;
        }
        let file = LocalFile::new(file, path.clone())?;
        if file.size() == size { Ok(file) } else { Err(StoreError::Truncated { path, size }) }
    }

    /// Gives `file` a second name, that of `id`, and returns its size.
    pub(super) fn link(&self, id: FileId, file: &Path) -> io::Result<u64> {
        let path = self.path(id);
        fs::hard_link(file, &path)?;
        Ok(fs::metadata(path)?.len())
    }

    /// Writes a file for `id`.
    pub(super) fn write(&self, id: FileId, bytes: &Bytes) -> io::Result<()> {
        fs::write(self.path(id), bytes)
    }

    /// Tells whether the file of `id` has no other name, so that holes may be cut into it.
    pub(super) fn is_ours_alone(&self, id: FileId) -> bool {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.path(id)).is_ok_and(|metadata| metadata.nlink() == 1)
    }

    /// Gives the disk space of a range back; its bytes are gone.
    pub(super) fn punch(&self, id: FileId, offset: u64, len: u64) -> io::Result<()> {
        let file = File::options().write(true).open(self.path(id))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(file, flags, offset, len)?)
    }

    /// Removes the file of `id`. Who has it open goes on reading it.
    pub(super) fn remove(&self, id: FileId) {
        // Nobody is there to tell; the next start removes what stays.
        let _ = fs::remove_file(self.path(id));
    }
}

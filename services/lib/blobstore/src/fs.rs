//! [`FsStore`]: a directory as a store.

mod blob;
mod list;
mod meta;
mod partial;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::Algorithm;
use async_trait::async_trait;
use bytes::Bytes;
use telemetry::blocking;

use crate::key::Kind;
use crate::{BlobKey, BlobStore, Listed, MetaKey, MetaKind, OpenBlob, StoreError};
use blob::FsBlob;
use partial::Partial;

/// A store in a directory; each key's text form is a file's path in it.
///
/// What a crash can leave: complete files that no row names (they were put, the row was not written), and partial
/// ones in `partial/`, which the next [`FsStore::open`] removes. Never a partial file under a key: bytes reach one
/// only by a rename after they were synced. Clones are the same store; several processes may share a directory.
#[derive(Debug, Clone)]
pub struct FsStore {
    root: Arc<Path>,
}

impl FsStore {
    /// Opens the store at `root`, making the directory if there is none, and removes what a crash left half written.
    /// Blocks briefly; meant for the start of a process.
    ///
    /// # Errors
    /// [`StoreError::Io`] when a directory cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let make =
            |folder: &Path| fs::create_dir_all(folder).map_err(|e| StoreError::io("make the directory", folder, e));
        for kind in Kind::ALL {
            let folder = root.join(kind.folder());
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                make(&folder.join(algorithm.name()))?;
            }
            sync_dir(&folder)?;
        }
        for kind in MetaKind::ALL {
            make(&root.join(kind.folder()))?;
        }
        sync_dir(&root.join("meta"))?;
        let partial = root.join(partial::FOLDER);
        make(&partial)?;
        sync_dir(root)?;
        partial::sweep(&partial, Duration::ZERO)?;
        Ok(Self { root: root.into() })
    }

    fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// Makes the folder `name`, whose parent is there, durably, and returns its path.
    fn make_folder(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("make the directory", &folder, error));
            }
            // Also when it was there: another put may have made it just now and not have synced its parent yet.
            // Costs next to nothing where there is nothing to sync.
            _ => sync_dir(folder.parent().unwrap_or(&self.root))?,
        }
        Ok(folder)
    }

    fn put_file_blocking(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError> {
        // The order is what a crash must not break: bytes on disk, then the name, then the folder's entry on disk.
        let source = File::open(file).map_err(|e| StoreError::io("open", file, e))?;
        let folder = self.make_folder(&key.folder())?;
        let target = self.path(key);
        // The time of the put and not of the last write, which may be long ago: what no row names is deleted by its age.
        source.set_modified(SystemTime::now()).map_err(|e| StoreError::io("set the time of", file, e))?;
        source.sync_all().map_err(|e| StoreError::io("sync", file, e))?;
        match fs::rename(file, &target) {
            Ok(()) => sync_dir(&folder),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut partial = Partial::create(&self.root)?;
                partial.fill(&mut &source)?;
                partial.publish(&target)?;
                sync_dir(&folder)?;
                fs::remove_file(file).map_err(|e| StoreError::io("remove", file, e))
            }
            Err(error) => Err(StoreError::io("move to the store", file, error)),
        }
    }

    fn put_bytes_blocking(&self, key: &BlobKey, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = self.make_folder(&key.folder())?;
        let mut partial = Partial::create(&self.root)?;
        partial.fill(&mut &*bytes)?;
        partial.publish(&self.path(key))?;
        sync_dir(&folder)
    }

    fn open_blocking(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError> {
        let path = self.path(key);
        match File::open(&path) {
            Ok(file) => Ok(Arc::new(FsBlob::new(file, path)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NotFound { key: key.clone() }),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    fn delete_blocking(&self, key: &BlobKey) -> Result<(), StoreError> {
        let path = self.path(key);
        // Not synced: a file that a crash brings back is one that no row names, as before the call.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path, error)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl BlobStore for FsStore {
    async fn put_file(&self, key: &BlobKey, file: &Path) -> Result<(), StoreError> {
        let (store, key, file) = (self.clone(), key.clone(), file.to_owned());
        blocking(move || store.put_file_blocking(&key, &file)).await
    }

    async fn put_bytes(&self, key: &BlobKey, bytes: Bytes) -> Result<(), StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || store.put_bytes_blocking(&key, &bytes)).await
    }

    async fn open(&self, key: &BlobKey) -> Result<Arc<dyn OpenBlob>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || store.open_blocking(&key)).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || store.delete_blocking(&key)).await
    }

    async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, StoreError> {
        let folder = self.root.join(partial::FOLDER);
        blocking(move || partial::sweep(&folder, older_than)).await
    }

    async fn list(&self, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let (store, after) = (self.clone(), after.cloned());
        blocking(move || list::list(&store.root, after.as_ref(), limit)).await
    }

    async fn put_meta(&self, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || meta::put(&store, &key, &bytes)).await
    }

    async fn meta(&self, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || meta::read(&store, &key)).await
    }

    async fn delete_meta(&self, key: &MetaKey) -> Result<(), StoreError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || meta::delete(&store, &key)).await
    }

    async fn list_meta(&self, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
        let (store, after) = (self.clone(), after.cloned());
        blocking(move || meta::list(&store, after.as_ref(), limit)).await
    }
}

/// Makes the names in `folder` survive a crash.
fn sync_dir(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("sync the directory", folder, e))
}

//! [`LayoutWriter`]: puts an image into a layout. Blobs appear whole, by a rename; the name of the image comes last.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Digest, MediaType};
use blobstore::Generation;
use serde_json::{Value, json};

use super::{INDEX, Layout, LayoutError, MARKER, REF_NAME, blob_path, make_dir, read_capped};

/// What the folders of unfinished files begin with.
const STAGING: &str = ".firstlight-";

/// Puts an image into a layout. What is not finished lies in a folder of its own, which is removed with this value;
/// what a killed process left is removed by the next one that writes to the layout.
#[derive(Debug)]
pub(in crate::commands) struct LayoutWriter {
    dir: PathBuf,
    tag: Option<String>,
    staging: Staging,
}

#[derive(Debug)]
struct Staging {
    path: PathBuf,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nobody is there to tell; the next writer tries again.
        let _left = fs::remove_dir_all(&self.path);
    }
}

impl Staging {
    fn create(dir: &Path) -> Result<Self, LayoutError> {
        sweep(dir)?;
        let path = dir.join(format!("{STAGING}{}", Generation::random()));
        fs::create_dir(&path).map_err(LayoutError::io("make", &path))?;
        let lock = File::open(&path).map_err(LayoutError::io("open", &path))?;
        lock.lock().map_err(LayoutError::io("lock", &path))?;
        Ok(Self { path, _lock: lock })
    }
}

/// Removes the folders of writers that are gone.
fn sweep(dir: &Path) -> Result<(), LayoutError> {
    for entry in fs::read_dir(dir).map_err(LayoutError::io("list", dir))? {
        let entry = entry.map_err(LayoutError::io("list", dir))?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(STAGING) {
            continue;
        }
        match File::open(&path).map(|folder| folder.try_lock().map(|()| folder)) {
            Ok(Ok(_lock)) => fs::remove_dir_all(&path).map_err(LayoutError::io("remove", &path))?,
            Ok(Err(TryLockError::WouldBlock)) => {}
            Ok(Err(TryLockError::Error(source))) => return Err(LayoutError::Io { action: "lock", path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LayoutError::Io { action: "open", path, source }),
        }
    }
    Ok(())
}

impl LayoutWriter {
    /// Opens the layout in `dir` for an image called `tag`, making the folder if there is none. A folder that has
    /// something else in it is refused.
    pub(in crate::commands) fn open(dir: &Path, tag: Option<String>) -> Result<Self, LayoutError> {
        make_dir(dir)?;
        match Layout::open(dir) {
            Ok(_) => {
                // Said before hours of work, not after.
                entries(dir)?;
            }
            Err(LayoutError::NotALayout { .. }) if is_unused(dir)? => {}
            Err(error) => return Err(error),
        }
        Ok(Self { dir: dir.into(), tag, staging: Staging::create(dir)? })
    }

    /// Returns the folder for unfinished files.
    pub(in crate::commands) fn staging(&self) -> &Path {
        &self.staging.path
    }

    /// Returns where the blob `digest` is, if it is there.
    pub(in crate::commands) fn path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.dir, digest)
    }

    /// Takes over `file`, in the folder for unfinished files, as the blob `digest`. Its bytes are on the disk before
    /// its name is: a name says that they are right.
    pub(in crate::commands) fn put(&self, digest: &Digest, file: &Path) -> Result<(), LayoutError> {
        let path = self.path(digest);
        make_dir(path.parent().unwrap_or(&self.dir))?;
        sync(file)?;
        fs::rename(file, &path).map_err(LayoutError::io("move a blob to", &path))
    }

    /// Names the image: from now on it is in the layout. The names of its blobs are on the disk before.
    pub(in crate::commands) fn finish(
        &self,
        digest: &Digest,
        media_type: &MediaType,
        size: u64,
    ) -> Result<(), LayoutError> {
        // One writer of the index at a time; the lock goes with the process.
        let lock = File::open(&self.dir).map_err(LayoutError::io("open", &self.dir))?;
        lock.lock().map_err(LayoutError::io("lock", &self.dir))?;
        self.replace(MARKER, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut index = entries(&self.dir)?;
        let mut entry = json!({ "mediaType": media_type.as_str(), "digest": digest.to_string(), "size": size });
        if let Some(tag) = &self.tag {
            entry["annotations"] = json!({ REF_NAME: tag });
        }
        let replaced = |old: &Value| match &self.tag {
            Some(tag) => old["annotations"][REF_NAME].as_str() == Some(tag),
            None => old["annotations"][REF_NAME].is_null() && old["digest"] == entry["digest"],
        };
        if let Some(list) = index["manifests"].as_array_mut() {
            list.retain(|old| !replaced(old));
            list.push(entry);
        }
        self.sync_names()?;
        self.replace(INDEX, index.to_string().as_bytes())
    }

    /// Syncs the folders that blobs are in.
    fn sync_names(&self) -> Result<(), LayoutError> {
        let blobs = self.dir.join("blobs");
        if blobs.is_dir() {
            for entry in fs::read_dir(&blobs).map_err(LayoutError::io("list", &blobs))? {
                sync(&entry.map_err(LayoutError::io("list", &blobs))?.path())?;
            }
            sync(&blobs)?;
        }
        sync(&self.dir)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let (draft, path) = (self.staging.path.join(name), self.dir.join(name));
        let failed = LayoutError::io("write", &path);
        let mut file = File::create(&draft).map_err(&failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&failed)?;
        fs::rename(&draft, &path).map_err(&failed)
    }
}

/// Waits until a file's bytes, or a folder's names, are on the disk.
fn sync(path: &Path) -> Result<(), LayoutError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(LayoutError::io("sync", path))
}

/// Tells whether `dir` has nothing in it but what an interrupted first writer left.
fn is_unused(dir: &Path) -> Result<bool, LayoutError> {
    for entry in fs::read_dir(dir).map_err(LayoutError::io("list", dir))? {
        let name = entry.map_err(LayoutError::io("list", dir))?.file_name();
        if !name.to_string_lossy().starts_with(STAGING) && name != "blobs" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the index of the layout in `dir`, or an empty one. It has an array of manifests.
fn entries(dir: &Path) -> Result<Value, LayoutError> {
    let path = dir.join(INDEX);
    let json = match read_capped(&path, MAX_MANIFEST_SIZE) {
        Ok(json) => json,
        Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(json!({ "schemaVersion": 2, "mediaType": MediaType::OciIndex.as_str(), "manifests": [] }));
        }
        Err(error) => return Err(error),
    };
    let index: Value =
        serde_json::from_slice(&json).map_err(|source| LayoutError::Index { path: path.clone(), source })?;
    if index["manifests"].is_array() {
        return Ok(index);
    }
    Err(LayoutError::Index { path, source: serde::de::Error::missing_field("manifests") })
}

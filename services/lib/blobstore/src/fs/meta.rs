//! Meta objects in a directory: each a small file under its key.

use std::fs::{self, File};
use std::io::{self, Read};

use bytes::Bytes;

use super::list::names;
use super::partial::Partial;
use super::{FsStore, sync_dir};
use crate::{MAX_META, MetaKey, MetaKind, StoreError};

/// Replaces the object of `key`; a crash leaves the old one or the new one.
pub(super) fn put(store: &FsStore, key: &MetaKey, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = store.make_folder(&key.folder())?;
    let mut partial = Partial::create(&store.root)?;
    partial.fill(&mut &*bytes)?;
    partial.publish(&store.root.join(key.to_string()))?;
    sync_dir(&folder)
}

pub(super) fn read(store: &FsStore, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
    let path = store.root.join(key.to_string());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", &path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_META as u64 + 1).read_to_end(&mut bytes).map_err(|error| StoreError::io("read", &path, error))?;
    if bytes.len() > MAX_META {
        return Err(StoreError::MetaTooLarge { key: key.clone() });
    }
    Ok(Some(bytes.into()))
}

pub(super) fn delete(store: &FsStore, key: &MetaKey) -> Result<(), StoreError> {
    let path = store.root.join(key.to_string());
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(&store.root.join(key.folder())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("remove", &path, error)),
    }
}

/// Returns up to `limit` keys after `after`. Holds the names of one folder (1/256 of the keys of one kind) at a time.
/// Files that are not named by a key are passed over: they are not ours.
pub(super) fn list(store: &FsStore, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
    let mut found = Vec::new();
    let after_folder = after.map(MetaKey::folder);
    for kind in MetaKind::ALL {
        let parent = kind.folder();
        for shard in names(&store.root.join(parent))? {
            let folder = format!("{parent}/{shard}");
            if after_folder.as_ref().is_some_and(|after| folder < *after) {
                continue;
            }
            let names = names(&store.root.join(&folder))?;
            let keys = names.iter().filter_map(|name| MetaKey::parse(&format!("{folder}/{name}")).ok());
            let wanted = keys.filter(|key| after.is_none_or(|after| key > after));
            found.extend(wanted.take(limit - found.len()));
            if found.len() >= limit {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

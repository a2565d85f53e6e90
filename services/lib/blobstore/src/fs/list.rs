//! Lists the keys of a directory store in the order of their texts.

use std::fs;
use std::io;
use std::path::Path;

use api::Algorithm;

use crate::key::Kind;
use crate::{BlobKey, Listed, StoreError};

/// Returns up to `limit` keys after `after`. Holds the names of one folder (1/256 of the keys of
/// one kind) at a time. Files that are not named by a key are passed over: they are not ours.
pub(super) fn list(root: &Path, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let mut found = Vec::new();
    let after_folder = after.map(BlobKey::folder);
    for kind in Kind::ALL {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let parent = format!("{}/{}", kind.folder(), algorithm.name());
            for shard in names(&root.join(&parent))? {
                let folder = format!("{parent}/{shard}");
                if after_folder.as_ref().is_some_and(|after| folder < *after) {
                    continue;
                }
                add_folder(root, &folder, after, limit, &mut found)?;
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn add_folder(
    root: &Path,
    folder: &str,
    after: Option<&BlobKey>,
    limit: usize,
    found: &mut Vec<Listed>,
) -> Result<(), StoreError> {
    for name in names(&root.join(folder))? {
        if found.len() >= limit {
            break;
        }
        let Ok(key) = BlobKey::parse(&format!("{folder}/{name}")) else { continue };
        if after.is_some_and(|after| key <= *after) {
            continue;
        }
        let path = root.join(folder).join(&name);
        match fs::metadata(&path) {
            Ok(metadata) => {
                let put_at = metadata.modified().map_err(|e| StoreError::io("ask for the age of", &path, e))?;
                found.push(Listed { key, size: metadata.len(), put_at });
            }
            // Deleted since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("ask for the size of", &path, error)),
        }
    }
    Ok(())
}

/// Returns the UTF-8 names in `folder`, sorted; none when it is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(StoreError::io("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("list", folder, e))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

//! [`Folders`]: the folder of each snapshot, `snapshots/<id>` with `fs` and `work` in it.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::SnapshotError;

/// The folders of all snapshots.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    above: PathBuf,
}

/// Where the files of a snapshot are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a folder of its own.
    Unpacked,
    /// In the file system of layers whose bytes come when they are read.
    Lazy,
    /// In the one of those of them that have no extended attributes.
    Bare,
}

impl Place {
    /// The file systems that are ours.
    pub(crate) const LAZY: [Self; 2] = [Self::Lazy, Self::Bare];

    /// Returns where the snapshots of this kind are, below the root of all.
    pub(crate) fn folder(self, root: &Path) -> PathBuf {
        root.join(match self {
            Self::Unpacked => "snapshots",
            Self::Lazy => "lazy",
            Self::Bare => "bare",
        })
    }
}

/// What the root of a new snapshot looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Folders {
    /// Opens the folders below `root`, which is made if it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, SnapshotError> {
        let (above, root) = (root.to_owned(), Place::Unpacked.folder(root));
        fs::create_dir_all(&root).map_err(|error| SnapshotError::io("make the folder", &root, error))?;
        let only_ours = fs::set_permissions(&root, Permissions::from_mode(0o700));
        only_ours.map_err(|error| SnapshotError::io("set the mode of", &root, error))?;
        Ok(Self { root, above })
    }

    /// Returns the folder of all.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn of(&self, id: u64) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Returns what a snapshot holds.
    pub(crate) fn fs(&self, id: u64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// Returns where the files of a snapshot are seen.
    pub(crate) fn shown(&self, id: u64, place: Place) -> PathBuf {
        match place {
            Place::Unpacked => self.fs(id),
            Place::Lazy | Place::Bare => place.folder(&self.above).join(id.to_string()),
        }
    }

    /// Returns what the root of a snapshot looks like that has a folder.
    pub(crate) fn root_of(&self, id: u64) -> Result<Root, SnapshotError> {
        let fs = self.fs(id);
        let found = fs::metadata(&fs).map_err(|error| SnapshotError::io("look at", &fs, error))?;
        Ok(Root { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() })
    }

    /// Returns what overlayfs works in.
    pub(crate) fn work(&self, id: u64) -> PathBuf {
        self.of(id).join("work")
    }

    /// Makes the folder of a new snapshot, in place of one that a call which broke off left. Its root looks like `like`, that
    /// of its parent, since overlayfs shows the uppermost one.
    pub(crate) fn make(&self, id: u64, like: Option<Root>) -> Result<(), SnapshotError> {
        self.remove(id)?;
        let (fs, work) = (self.fs(id), self.work(id));
        for folder in [&fs, &work] {
            fs::create_dir_all(folder).map_err(|error| SnapshotError::io("make the folder", folder, error))?;
        }
        let like_parent = || match like {
            Some(Root { mode, uid, gid }) => {
                chown(&fs, Some(uid), Some(gid))?;
                fs::set_permissions(&fs, Permissions::from_mode(mode))
            }
            None => fs::set_permissions(&fs, Permissions::from_mode(0o755)),
        };
        like_parent().map_err(|error| SnapshotError::io("set owner and mode of", &fs, error))
    }

    /// Removes the folder of a snapshot, if it is there.
    pub(crate) fn remove(&self, id: u64) -> Result<(), SnapshotError> {
        remove(&self.of(id))
    }

    /// Removes what belongs to none of the snapshots `known`: calls that broke off left it. What cannot be removed stays.
    pub(crate) fn sweep(&self, known: &HashSet<u64>) -> Result<(), SnapshotError> {
        let list = |error| SnapshotError::io("list", &self.root, error);
        for entry in fs::read_dir(&self.root).map_err(list)? {
            let path = entry.map_err(list)?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if id.is_none_or(|id| !known.contains(&id))
                && let Err(error) = remove(&path)
            {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the folder of no snapshot stays on the disk");
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SnapshotError::io("remove", path, error)),
        _ => Ok(()),
    }
}

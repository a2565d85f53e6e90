//! [`Mounted`]: a layer as one snapshot shows it. Folders that the layer only implies look as they do in the layers below.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::layer::{Expected, Layer, Proof, Verdict};
use crate::tree::{Attributes, OPAQUE, ROOT, Tree, Xattr};

/// A layer as one snapshot shows it.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) layer: Arc<Layer>,
    verdict: Arc<Verdict>,
    /// Folders that look otherwise than the layer alone would have them.
    implied: HashMap<u32, Folder>,
    /// Folders that hide something. Docker marks every new folder, of which nothing is below.
    opaque: HashSet<u32>,
}

/// What a folder looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    modified: (i64, u32),
    xattrs: Vec<Xattr>,
}

/// One of the layers below.
#[derive(Debug)]
pub(crate) enum Below<'a> {
    Lazy(Arc<Mounted>),
    /// Unpacked, with its files in this folder.
    Unpacked(&'a Path),
}

/// What a layer has at a path.
enum Found {
    Folder(Folder),
    /// Nothing, and it lets what is below show.
    Nothing,
    /// Something else, or it hides what is below.
    Hidden,
}

impl Mounted {
    /// Returns the layer on top of others, the nearest first.
    ///
    /// # Errors
    /// What lies below cannot be looked at.
    pub(crate) fn new(layer: Arc<Layer>, expected: &Expected, below: &[Below<'_>]) -> io::Result<Self> {
        let (mut implied, mut opaque) = (HashMap::new(), HashSet::new());
        for (folder, path) in layer.tree.folders(|folder| layer.tree.is_implied(folder)) {
            implied.extend(below_at(&path, below)?.map(|found| (folder, found)));
        }
        for (folder, path) in layer.tree.folders(|folder| layer.tree.is_opaque(folder)) {
            opaque.extend(below_at(&path, below)?.map(|_| folder));
        }
        Ok(Self { verdict: layer.verdict(expected), layer, implied, opaque })
    }

    /// Tells whether the layer came out as another one than its image says: nothing of it is shown.
    pub(crate) fn is_refused(&self) -> bool {
        self.verdict.get() == Proof::Refused
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.layer.tree
    }

    pub(crate) fn attributes(&self, inode: u32) -> Option<Attributes> {
        let own = self.tree().attributes(inode)?;
        Some(match self.implied.get(&inode) {
            Some(Folder { mode, uid, gid, modified, .. }) => {
                Attributes { mode: *mode, uid: *uid, gid: *gid, modified: *modified, ..own }
            }
            None => own,
        })
    }

    pub(crate) fn xattrs(&self, inode: u32) -> impl Iterator<Item = &Xattr> {
        let below = self.implied.get(&inode).map_or(&[][..], |folder| &folder.xattrs);
        let hides = self.opaque.contains(&inode);
        self.tree().xattrs(inode).iter().filter(move |(name, _)| hides || **name != *OPAQUE).chain(below)
    }

    /// Tells whether anything in it has an extended attribute.
    pub(crate) fn has_xattrs(&self) -> bool {
        let has_own = self.tree().has_xattrs() || !self.opaque.is_empty();
        has_own || self.implied.values().any(|folder| !folder.xattrs.is_empty())
    }

    /// Returns what the root looks like.
    pub(crate) fn root(&self) -> Folder {
        self.folder(ROOT).unwrap_or(Folder { mode: 0o755, uid: 0, gid: 0, modified: (0, 0), xattrs: Vec::new() })
    }

    fn folder(&self, inode: u32) -> Option<Folder> {
        let Attributes { mode, uid, gid, modified, .. } = self.attributes(inode)?;
        // That it hides what is below is this layer's alone.
        let xattrs = self.xattrs(inode).filter(|(name, _)| **name != *OPAQUE).cloned().collect();
        Some(Folder { mode, uid, gid, modified, xattrs })
    }

    fn at(&self, path: &str) -> Found {
        let mut at = ROOT;
        let mut is_opaque = false;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match self.tree().find(at, part.as_bytes()) {
                None if is_opaque => return Found::Hidden,
                None => return Found::Nothing,
                Some(next) if !self.tree().is_directory(next) => return Found::Hidden,
                Some(next) => at = next,
            }
            is_opaque |= self.tree().is_opaque(at);
        }
        self.folder(at).map_or(Found::Nothing, Found::Folder)
    }
}

/// Returns what the layers below show at a path, if that is a folder.
fn below_at(path: &str, below: &[Below<'_>]) -> io::Result<Option<Folder>> {
    for layer in below {
        let found = match layer {
            Below::Lazy(mounted) => mounted.at(path),
            Below::Unpacked(root) => unpacked_at(root, path)?,
        };
        match found {
            Found::Folder(folder) => return Ok(Some(folder)),
            Found::Nothing => {}
            Found::Hidden => return Ok(None),
        }
    }
    Ok(None)
}

fn unpacked_at(root: &Path, path: &str) -> io::Result<Found> {
    let mut at = root.to_owned();
    let mut is_opaque = false;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(Found::Hidden),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) if is_opaque => return Ok(Found::Hidden),
            Err(_) => return Ok(Found::Nothing),
        }
        let mut value = [0; 8];
        is_opaque |= rustix::fs::lgetxattr(&at, OPAQUE, &mut value).is_ok_and(|length| value[..length] == *b"y");
    }
    let found = fs::symlink_metadata(&at)?;
    Ok(Found::Folder(Folder {
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        modified: (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap_or(0)),
        xattrs: xattrs(&at),
    }))
}

fn xattrs(path: &Path) -> Vec<Xattr> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    names
        .filter(|name| !name.is_empty() && !name.starts_with("trusted.overlay."))
        .filter_map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.into(), value.into()))
        })
        .collect()
}

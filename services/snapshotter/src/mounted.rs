//! [`Mounted`]: a snapshot as it is shown: its layer, with what the lazy layers right below it show beneath. Folders that a layer
//! only implies look as they do in the layers below.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::layer::{Expected, Layer, Proof, Verdict};
use crate::tree::{Attributes, OPAQUE, ROOT, Tree, Xattr};

/// The most lazy layers that are shown as one.
pub(crate) const MOST_LAYERS: usize = 127;

/// A snapshot as it is shown.
#[derive(Debug)]
pub(crate) struct Mounted {
    id: u64,
    pub(crate) layer: Arc<Layer>,
    verdict: Arc<Verdict>,
    /// The lazy layers right below, the nearest first: what they hold is shown among what this one does.
    lower: Vec<Arc<Mounted>>,
    /// Whether nothing is below those: then nobody needs to be told what is hidden.
    is_bottom: bool,
    /// Of folders that were looked into, what each of the layers has of them.
    parts: RwLock<HashMap<Part, Parts>>,
    /// Folders that look otherwise than the layer alone would have them.
    implied: HashMap<u32, Folder>,
    /// Folders that hide something. Docker marks every new folder, of which nothing is below.
    opaque: HashSet<u32>,
}

/// A file or folder of one of the layers: how far below, and its inode there. A folder is named by the uppermost layer that has it.
pub(crate) type Part = (u8, u32);

/// What the layers have of a folder, the uppermost first.
pub(crate) type Parts = Arc<[Part]>;

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
    /// Returns a layer on top of others, the nearest first.
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
        let lazy = below.iter().map_while(|below| match below {
            Below::Lazy(mounted) => Some(Arc::clone(mounted)),
            Below::Unpacked(_) => None,
        });
        let lower: Vec<_> = lazy.take(MOST_LAYERS - 1).collect();
        let (is_bottom, verdict) = (lower.len() == below.len(), layer.verdict(expected));
        Ok(Self { id: 0, layer, verdict, lower, is_bottom, parts: RwLock::default(), implied, opaque })
    }

    /// Tells whether the layer came out as another one than its image says: nothing of it is shown.
    pub(crate) fn is_refused(&self) -> bool {
        self.verdict.get() == Proof::Refused
    }

    /// Tells whether any of the layers is refused: no folder is shown then.
    pub(crate) fn has_refused(&self) -> bool {
        self.is_refused() || self.lower.iter().any(|lower| lower.is_refused())
    }

    /// Returns its layers, the uppermost first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.lower.iter().map(|lower| &**lower))
    }

    /// Returns the snapshot of one of its layers.
    pub(crate) fn at_depth(&self, depth: u8) -> Option<&Self> {
        match usize::from(depth).checked_sub(1) {
            None => Some(self),
            Some(below) => self.lower.get(below).map(|lower| &**lower),
        }
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Returns what the layers have of a folder; `None` where it is none that is shown.
    pub(crate) fn parts(&self, folder: Part) -> Option<Parts> {
        if let Some(known) = self.known(folder) {
            return Some(known);
        }
        // overlayfs lets no root hide what is below.
        let roots = (0_u8..).zip(self.layers()).map(|(depth, _)| (depth, ROOT));
        let mut at = self.remember(roots.collect());
        let path = self.at_depth(folder.0)?.tree().path(folder.1);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.parts_of_child(&at, name.as_bytes())?;
        }
        (at.first() == Some(&folder)).then_some(at)
    }

    fn remember(&self, parts: Vec<Part>) -> Parts {
        // A folder has at least one part.
        let folder = parts[0];
        if let Some(known) = self.known(folder) {
            return known;
        }
        let mut known = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(folder).or_insert_with(|| parts.into()))
    }

    fn known(&self, folder: Part) -> Option<Parts> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).get(&folder).map(Arc::clone)
    }

    fn parts_of_child(&self, folder: &[Part], name: &[u8]) -> Option<Parts> {
        self.find(folder, name).and_then(|child| self.known(child))
    }

    /// Gives it its snapshot's number.
    pub(crate) const fn of(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    /// Returns what is shown of a name in a folder.
    pub(crate) fn find(&self, folder: &[Part], name: &[u8]) -> Option<Part> {
        let mut parts = Vec::new();
        for &(depth, inode) in folder {
            let tree = self.at_depth(depth)?.tree();
            let Some(child) = tree.find(inode, name) else { continue };
            if !tree.is_directory(child) {
                if parts.is_empty() {
                    return self.is_shown(tree, child).then_some((depth, child));
                }
                break;
            }
            parts.push((depth, child));
            if tree.is_opaque(child) {
                break;
            }
        }
        let first = *parts.first()?;
        self.remember(parts);
        Some(first)
    }

    /// Tells whether a file is shown: whiteouts are where they may hide something that is not ours.
    fn is_shown(&self, tree: &Tree, inode: u32) -> bool {
        !(self.is_bottom && tree.is_whiteout(inode))
    }

    /// Returns the names in a folder from a place on: each with what it names, and the place behind it.
    pub(crate) fn list<'a>(&'a self, folder: &'a [Part], from: u64) -> impl Iterator<Item = (&'a [u8], Part, u64)> {
        let (first, skip) = ((from >> 32) as usize, (from & 0xffff_ffff) as usize);
        (first..folder.len()).flat_map(move |part| {
            let (depth, inode) = folder[part];
            let skip = if part == first { skip } else { 0 };
            let names = self.at_depth(depth).into_iter().flat_map(move |layer| layer.tree().list(inode, skip));
            let places = ((part as u64) << 32 | skip as u64)..;
            names.zip(places).filter_map(move |((name, _), place)| {
                let is_above = |&(depth, inode): &Part| {
                    self.at_depth(depth).is_some_and(|above| above.tree().find(inode, name).is_some())
                };
                if folder[..part].iter().any(is_above) {
                    return None;
                }
                Some((name, self.find(&folder[part..], name)?, place + 1))
            })
        })
    }

    /// Returns the folder that a folder lies in; of the root, the root.
    pub(crate) fn parent(&self, folder: Part) -> Option<Part> {
        let path = self.at_depth(folder.0)?.tree().path(folder.1);
        let mut at = self.parts((0, ROOT))?;
        let names = path.rsplit_once('/').map_or("", |(above, _)| above);
        for name in names.split('/').filter(|name| !name.is_empty()) {
            at = self.parts_of_child(&at, name.as_bytes())?;
        }
        at.first().copied()
    }

    /// Returns the extended attributes of a folder.
    pub(crate) fn folder_xattrs(&self, folder: &[Part]) -> Vec<Xattr> {
        let Some(&(depth, inode)) = folder.first() else { return Vec::new() };
        let own = self.at_depth(depth).map(|layer| layer.xattrs(inode).filter(|(name, _)| **name != *OPAQUE).cloned());
        let hides = !self.is_bottom
            && folder
                .last()
                .is_some_and(|&(depth, inode)| self.at_depth(depth).is_some_and(|last| last.tree().is_opaque(inode)));
        own.into_iter().flatten().chain(hides.then(|| (OPAQUE.into(), Box::from(*b"y")))).collect()
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

    /// Tells whether anything that it shows has an extended attribute.
    pub(crate) fn has_xattrs(&self) -> bool {
        self.layers().any(|layer| {
            let hides = !self.is_bottom && !layer.opaque.is_empty();
            hides || layer.tree().has_xattrs() || layer.implied.values().any(|folder| !folder.xattrs.is_empty())
        })
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

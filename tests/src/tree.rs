//! Unpacked file trees, and what differs between two of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{lgetxattr, llistxattr};

/// What a file is, beyond what all files have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file: its size and the digest of its bytes.
    File(u64, String),
    /// A symbolic link: its target.
    Symlink(PathBuf),
    /// A character device: its number.
    Char(u64),
    /// A block device: its number.
    Block(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// All of a file that an unpack must bring out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the file is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// The first path of the same inode; the file's own path when it has no other.
    pub first_link: PathBuf,
}

/// An unpacked tree, by path below its root; the root itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The files.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// The files that eStargz layers have beside the image's own.
    pub const ESTARGZ_FILES: [&str; 3] = ["stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark"];

    /// Reads a tree, with the bytes of every file.
    ///
    /// # Errors
    /// Something could not be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut first_links = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        let mut paths = Vec::new();
        while let Some(path) = pending.pop() {
            let full = root.join(&path);
            let meta = match fs::symlink_metadata(&full) {
                // overlayfs lists the whiteouts of a directory that it does not merge, but there is nothing behind them.
                Err(error) if error.kind() == ErrorKind::NotFound && !path.as_os_str().is_empty() => continue,
                meta => meta?,
            };
            if meta.is_dir() {
                for child in fs::read_dir(&full)? {
                    pending.push(path.join(child?.file_name()));
                }
            }
            paths.push(path);
        }
        // In the order of their paths, so that the first link of an inode is the same in equal trees.
        paths.sort();
        for path in paths {
            let entry = read_entry(root, &path, &mut first_links).with_context(|| path.display().to_string())?;
            tree.entries.insert(path, entry);
        }
        Ok(tree)
    }

    /// Returns the tree without the files that eStargz adds, and without the root's time, which their creation changes.
    pub fn without_estargz(mut self) -> Self {
        for file in Self::ESTARGZ_FILES {
            self.entries.remove(Path::new(file));
        }
        if let Some(root) = self.entries.get_mut(Path::new("")) {
            root.modified = (0, 0);
        }
        self
    }

    /// Returns a line for every path that differs from another tree.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{}: only here: {entry:?}", path.display())),
                Some(theirs) if theirs != entry => {
                    lines.push(format!("{}: {entry:?} is not {theirs:?}", path.display()));
                }
                Some(_) => {}
            }
        }
        for path in other.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            lines.push(format!("{}: only there", path.display()));
        }
        lines
    }
}

fn read_entry(root: &Path, path: &Path, first_links: &mut BTreeMap<(u64, u64), PathBuf>) -> Result<Entry> {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full)?;
    let inode = (meta.dev(), meta.ino());
    let first_link = if meta.is_dir() || meta.nlink() == 1 {
        path.to_owned()
    } else {
        first_links.entry(inode).or_insert_with(|| path.to_owned()).clone()
    };
    Ok(Entry {
        kind: kind(&full, &meta)?,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes: attributes(&full)?,
        first_link,
    })
}

fn kind(full: &Path, meta: &fs::Metadata) -> Result<Kind> {
    let kind = meta.file_type();
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(full)?)
    } else if kind.is_char_device() {
        Kind::Char(meta.rdev())
    } else if kind.is_block_device() {
        Kind::Block(meta.rdev())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        Kind::File(meta.len(), crate::digest(&fs::read(full)?))
    })
}

fn attributes(full: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(full, &mut names)?;
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(name.to_vec());
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(full, &name, &mut value)?;
        value.truncate(length);
        attributes.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(attributes)
}

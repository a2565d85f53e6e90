//! [`Tree::difference`]: whether two trees look the same to a container.

use std::collections::HashMap;
use std::fmt;

use super::{Chunk, ROOT, Tree, Xattr};

/// Where two trees differ, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    path: String,
    what: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of /{}", self.what, self.path)
    }
}

impl Tree {
    /// Returns the first thing in which a container could tell this tree from `other`; `None` where there is nothing. Times
    /// may be those of `other` rounded to a second: other tools write them so.
    pub(crate) fn difference(&self, other: &Self) -> Option<Difference> {
        // The other's inode of each file that has several names.
        let mut linked = HashMap::new();
        let mut folders = vec![(ROOT, ROOT)];
        while let Some((ours, theirs)) = folders.pop() {
            let tell = |name: &[u8], what| {
                let (folder, name) = (self.path(ours), String::from_utf8_lossy(name));
                Some(Difference { path: format!("{folder}/{name}").trim_matches('/').to_owned(), what })
            };
            if let Some(what) = self.differs(ours, other, theirs) {
                return tell(b"", what);
            }
            let mut names = other.list(theirs, 0);
            for (name, inode) in self.list(ours, 0) {
                let their = match names.next() {
                    Some((same, their)) if same == name => their,
                    // Both are sorted: the lesser one is only in one of them.
                    other => return tell(other.map_or(name, |(their, _)| name.min(their)), "the existence"),
                };
                if self.is_directory(inode) && other.is_directory(their) {
                    folders.push((inode, their));
                    continue;
                }
                if let Some(what) = self.differs(inode, other, their) {
                    return tell(name, what);
                }
                let links = self.attributes(inode).map_or(0, |found| found.links);
                if links > 1 && *linked.entry(inode).or_insert(their) != their {
                    return tell(name, "the hard links");
                }
            }
            if let Some((name, _)) = names.next() {
                return tell(name, "the existence");
            }
        }
        None
    }

    fn differs(&self, inode: u32, other: &Self, their: u32) -> Option<&'static str> {
        let (Some(a), Some(b)) = (self.attributes(inode), other.attributes(their)) else { return Some("the type") };
        let rounded = (b.modified.0.saturating_add(i64::from(b.modified.1 >= 500_000_000)), 0);
        let found = [
            (a.mode != b.mode, "type or mode"),
            ((a.uid, a.gid) != (b.uid, b.gid), "the owner"),
            (a.links != b.links, "the number of links"),
            (a.size != b.size, "the size"),
            (a.device != b.device, "the device number"),
            (a.modified != b.modified && a.modified != rounded, "the modification time"),
            (self.target(inode) != other.target(their), "the target"),
            (sorted(self.xattrs(inode)) != sorted(other.xattrs(their)), "the extended attributes"),
            (self.is_implied(inode) != other.is_implied(their), "the entry"),
            (!self.bytes_of(inode).eq(other.bytes_of(their)), "the bytes"),
        ];
        found.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }

    /// Returns what the bytes of a file are, but for where they lie in the layer's data.
    fn bytes_of(&self, inode: u32) -> impl Iterator<Item = (u64, u32, u32, [u8; 32])> {
        let range = self.chunks_of(inode);
        self.chunks[range.start as usize..range.end as usize]
            .iter()
            .map(|Chunk { offset, inner, size, digest, .. }| (*offset, *inner, *size, *digest))
    }
}

fn sorted(xattrs: &[Xattr]) -> Vec<&Xattr> {
    let mut xattrs: Vec<&Xattr> = xattrs.iter().collect();
    xattrs.sort_unstable();
    xattrs
}

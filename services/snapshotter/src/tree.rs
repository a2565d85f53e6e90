//! [`Tree`]: what a layer holds, from its TOC, as overlayfs wants it: whiteouts are devices, opaque folders are marked.
//!
//! All of it lies in a few long arrays, so that a million files fit: an inode takes 48 bytes, a name 12 and its letters, a chunk 64.

mod builder;
mod by_digest;
mod compare;

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use api::Digest;
use estargz::TocError;

pub(crate) use builder::{Builder, WHITEOUT};
pub(crate) use by_digest::ByDigest;
pub(crate) use compare::Difference;

/// The inode of the root.
pub(crate) const ROOT: u32 = 0;
/// Where files begin in the data of a layer: at a page, so that whole pages can be given back.
pub(crate) const PAGE: u64 = 4096;
/// The attribute that makes a folder hide what lies below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The most packed bytes behind a chunk that are fetched with it: headers of files that have no bytes.
const LARGEST_REST: u64 = 64 << 20;

/// What an extended attribute takes beside its letters.
const XATTR: usize = 64;

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// The files of a layer. Inodes are numbers in the order of the TOC, the same whenever it is read.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Names and targets of symlinks.
    text: Vec<u8>,
    /// By folder, and in a folder by name.
    names: Vec<Name>,
    inodes: Vec<Inode>,
    /// In the order of the TOC.
    chunks: Vec<Chunk>,
    /// Names by their inodes, once they are wanted.
    by_inode: OnceLock<Box<[u32]>>,
    /// By inode.
    xattrs: Vec<(u32, Vec<Xattr>)>,
    /// The folders that have no entry of their own.
    implied: Vec<u32>,
    data_size: u64,
    /// Chunks in front of the landmark behind which nothing is fetched early.
    prefetched: u32,
}

/// Why a TOC makes no tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// It is none.
    #[error(transparent)]
    Toc(#[from] TocError),
    /// It tells what cannot be.
    #[error("TOC cannot be mounted: {name:?}: {what}")]
    Entry {
        /// The entry.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// One extended attribute.
pub(crate) type Xattr = (Box<str>, Box<[u8]>);

#[derive(Debug, Clone, Copy)]
struct Name {
    parent: u32,
    inode: u32,
    from: u32,
    length: u16,
}

/// What a file is. `first` and `count` are its chunks, the names in it, its target in the text or its device number.
#[derive(Debug, Clone, Copy, Default)]
struct Inode {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    seconds: i64,
    nanos: u32,
    first: u32,
    count: u32,
    /// Of a folder the one it lies in; of another file its size.
    size: u64,
}

/// A piece of a file that is fetched and verified whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    /// Where its gzip member begins in the blob.
    pub(crate) offset: u64,
    /// Where it lies in the layer's data.
    pub(crate) at: u64,
    /// Plain bytes of the member before it.
    pub(crate) inner: u32,
    /// Its size in bytes.
    pub(crate) size: u32,
    digest: [u8; 32],
}

/// Owner, mode and times of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    pub(crate) size: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// Of a device.
    pub(crate) device: u32,
}

impl Chunk {
    /// Tells whether `payload` is this chunk.
    pub(crate) fn is(&self, payload: &[u8]) -> bool {
        payload.len() == self.size as usize && Digest::of(payload) == self.digest()
    }

    /// Returns the digest of its bytes.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_sha256(&self.digest)
    }

    /// Returns the bytes of the disk that it takes.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.size).next_multiple_of(PAGE)
    }

    /// Returns an offset of the blob behind the last byte that is needed: no byte takes more than nine bits (RFC 1951, 3.2.6).
    fn bound(&self) -> u64 {
        let plain = u64::from(self.inner) + u64::from(self.size);
        self.offset + plain + plain / 8 + 1024
    }
}

impl Tree {
    /// Returns how many bytes the data of all files take.
    pub(crate) const fn data_size(&self) -> u64 {
        self.data_size
    }

    /// Returns how many of the first chunks the layer's author wants to be fetched early (stargz-snapshotter, "Prefetch landmark").
    pub(crate) const fn prefetched(&self) -> u32 {
        self.prefetched
    }

    /// Returns about how many bytes of memory it takes, with its chunks [`ByDigest`] and its names by inode.
    pub(crate) fn bytes(&self) -> u64 {
        let xattrs = self.xattrs.iter().flat_map(|(_, xattrs)| xattrs);
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len() + XATTR).sum();
        let by_inode = self.names.len() * size_of::<u32>();
        self.array_bytes() + (xattrs + by_inode) as u64 + ByDigest::bytes(self.chunks.len())
    }

    /// Returns the same without extended attributes.
    fn array_bytes(&self) -> u64 {
        let Self { text, names, inodes, chunks, implied, .. } = self;
        let fixed = names.capacity() * size_of::<Name>() + inodes.capacity() * size_of::<Inode>();
        (fixed + chunks.capacity() * size_of::<Chunk>() + implied.capacity() * size_of::<u32>() + text.capacity())
            as u64
    }

    /// Returns how many inodes there are.
    pub(crate) fn inodes(&self) -> u64 {
        self.inodes.len() as u64
    }

    fn inode(&self, inode: u32) -> Option<&Inode> {
        self.inodes.get(inode as usize)
    }

    fn text(&self, from: u32, length: usize) -> &[u8] {
        &self.text[from as usize..from as usize + length]
    }

    fn name(&self, name: &Name) -> &[u8] {
        self.text(name.from, usize::from(name.length))
    }

    /// Returns the attributes of an inode, or `None` where there is no such inode.
    pub(crate) fn attributes(&self, inode: u32) -> Option<Attributes> {
        let found = self.inode(inode)?;
        let (size, device) = match found.mode & TYPE {
            DIRECTORY => (PAGE, 0),
            SYMLINK => (u64::from(found.count), 0),
            CHARACTER | BLOCK => (0, found.first),
            _ => (found.size, 0),
        };
        let Inode { mode, uid, gid, links, seconds, nanos, .. } = *found;
        Some(Attributes { mode, uid, gid, links, size, modified: (seconds, nanos), device })
    }

    pub(crate) fn is_directory(&self, inode: u32) -> bool {
        self.inode(inode).is_some_and(|found| found.mode & TYPE == DIRECTORY)
    }

    /// Returns the folder that a folder lies in; of the root, the root.
    pub(crate) fn parent(&self, folder: u32) -> u32 {
        match self.inode(folder) {
            Some(found) if found.mode & TYPE == DIRECTORY => u32::try_from(found.size).unwrap_or(ROOT),
            _ => ROOT,
        }
    }

    fn names_in(&self, folder: u32) -> &[Name] {
        match self.inode(folder) {
            Some(found) if found.mode & TYPE == DIRECTORY => {
                &self.names[found.first as usize..found.first as usize + found.count as usize]
            }
            _ => &[],
        }
    }

    /// Returns the inode that `name` names in a folder.
    pub(crate) fn find(&self, folder: u32, name: &[u8]) -> Option<u32> {
        let names = self.names_in(folder);
        let found = names.binary_search_by(|probe| self.name(probe).cmp(name)).ok()?;
        Some(names[found].inode)
    }

    /// Returns the cleaned path of a folder.
    pub(crate) fn path(&self, folder: u32) -> String {
        let mut parts = Vec::new();
        let mut at = folder;
        while at != ROOT {
            let parent = self.parent(at);
            let name = self.names_in(parent).iter().find(|name| name.inode == at);
            parts.push(name.map(|name| String::from_utf8_lossy(self.name(name)).into_owned()).unwrap_or_default());
            at = parent;
        }
        parts.reverse();
        parts.join("/")
    }

    /// Returns a path of a file, one of its names if it has several. Takes a moment at first.
    pub(crate) fn path_of(&self, file: u32) -> Option<PathBuf> {
        let by_inode = self.by_inode.get_or_init(|| {
            let mut order: Box<[u32]> = (0..self.names.len() as u32).collect();
            order.sort_unstable_by_key(|&name| self.names[name as usize].inode);
            order
        });
        let (mut parts, mut at) = (Vec::new(), file);
        while at != ROOT {
            let place = by_inode.partition_point(|&name| self.names[name as usize].inode < at);
            let name = &self.names[*by_inode.get(place)? as usize];
            parts.push(OsStr::from_bytes(self.name(name)));
            at = (name.inode == at).then_some(name.parent)?;
        }
        Some(parts.into_iter().rev().collect())
    }

    /// Returns all folders of which `is_meant` holds, with their cleaned paths.
    pub(crate) fn folders(&self, is_meant: impl Fn(u32) -> bool) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        let mut folders = vec![(ROOT, String::new())];
        while let Some((folder, path)) = folders.pop() {
            for (name, inode) in self.list(folder, 0).filter(|(_, inode)| self.is_directory(*inode)) {
                let name = String::from_utf8_lossy(name);
                folders.push((inode, if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }));
            }
            if is_meant(folder) {
                found.push((folder, path));
            }
        }
        found
    }

    /// Tells whether a folder has no entry of its own: it looks as what lies below.
    pub(crate) fn is_implied(&self, folder: u32) -> bool {
        self.implied.binary_search(&folder).is_ok()
    }

    /// Tells whether it stands for nothing: it hides what lies below.
    pub(crate) fn is_whiteout(&self, inode: u32) -> bool {
        self.inode(inode).is_some_and(|found| found.mode & TYPE == CHARACTER && found.first == 0)
    }

    /// Tells whether a folder says that it hides what lies below.
    pub(crate) fn is_opaque(&self, folder: u32) -> bool {
        self.xattrs(folder).iter().any(|(name, _)| **name == *OPAQUE)
    }

    /// Returns the names in a folder from the `from`-th on, with their inodes.
    pub(crate) fn list(&self, folder: u32, from: usize) -> impl Iterator<Item = (&[u8], u32)> {
        self.names_in(folder).iter().skip(from).map(|name| (self.name(name), name.inode))
    }

    /// Returns where a symlink leads.
    pub(crate) fn target(&self, inode: u32) -> Option<&[u8]> {
        let found = self.inode(inode).filter(|found| found.mode & TYPE == SYMLINK)?;
        Some(self.text(found.first, found.count as usize))
    }

    /// Returns the extended attributes of an inode.
    pub(crate) fn xattrs(&self, inode: u32) -> &[Xattr] {
        match self.xattrs.binary_search_by_key(&inode, |(inode, _)| *inode) {
            Ok(found) => &self.xattrs[found].1,
            Err(_) => &[],
        }
    }

    /// Tells whether any inode has extended attributes, beside folders that hide what lies below.
    pub(crate) fn has_xattrs(&self) -> bool {
        self.xattrs.iter().flat_map(|(_, xattrs)| xattrs).any(|(name, _)| **name != *OPAQUE)
    }

    /// Returns all chunks.
    pub(crate) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Returns the chunks that hold `length` bytes at `offset` of a file, and where these lie in the layer's data. What is
    /// behind the file's end is left out; an empty range of data has no chunks.
    pub(crate) fn locate(&self, inode: u32, offset: u64, length: u64) -> (Range<u32>, Range<u64>) {
        let Some(file) = self.inode(inode).filter(|found| found.mode & TYPE == REGULAR && found.count > 0) else {
            return (0..0, 0..0);
        };
        let chunks = &self.chunks[file.first as usize..(file.first + file.count) as usize];
        let start = chunks[0].at;
        let (from, to) = (offset.min(file.size), offset.saturating_add(length).min(file.size));
        if from >= to {
            return (0..0, 0..0);
        }
        let first = chunks.partition_point(|chunk| chunk.at + u64::from(chunk.size) <= start + from) as u32;
        let last = chunks.partition_point(|chunk| chunk.at < start + to) as u32;
        (file.first + first..file.first + last, start + from..start + to)
    }

    /// Returns the chunks of a file.
    pub(crate) fn chunks_of(&self, inode: u32) -> Range<u32> {
        let file = self.inode(inode).filter(|found| found.mode & TYPE == REGULAR);
        file.map_or(0..0, |file| file.first..file.first + file.count)
    }

    /// Tells whether [`Self::span`] of a chunk ends where what follows it begins.
    pub(crate) fn knows_end_of(&self, chunk: u32, end: Option<u64>) -> bool {
        let span = self.span(chunk..chunk + 1, end);
        self.behind(self.chunks[chunk as usize].offset).or(end) == Some(span.end)
    }

    /// Returns the first chunk that begins at an offset of the blob or behind it.
    pub(crate) fn chunk_at(&self, offset: u64) -> u32 {
        self.chunks.partition_point(|chunk| chunk.offset < offset) as u32
    }

    /// Returns where the member behind the one at `offset` begins. Chunks lie in the order of the blob.
    fn behind(&self, offset: u64) -> Option<u64> {
        self.chunks.get(self.chunks.partition_point(|chunk| chunk.offset <= offset)).map(|chunk| chunk.offset)
    }

    /// Returns the bytes of the blob that the members of a run of chunks take; `end` is where the last member of all ends, if
    /// that is known.
    pub(crate) fn span(&self, chunks: Range<u32>, end: Option<u64>) -> Range<u64> {
        let run = &self.chunks[chunks.start as usize..chunks.end as usize];
        let start = run.first().map_or(0, |chunk| chunk.offset);
        let Some(last) = run.last() else { return start..start };
        // What follows in the blob begins a member of its own, and its own may have more of them.
        let next = self.chunks.partition_point(|chunk| chunk.offset <= last.offset);
        let last = &self.chunks[next - 1];
        match self.chunks.get(next).map(|chunk| chunk.offset).or(end) {
            Some(behind) => start..behind.min(last.bound() + LARGEST_REST),
            None => start..last.bound(),
        }
    }
}

#[cfg(test)]
mod tests;

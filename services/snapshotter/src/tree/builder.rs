//! Builds a [`Tree`] from the entries of a TOC, one after the other.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use api::Digest;
use estargz::{EntryType, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TOC_NAME, TocEntry, time};

use super::{
    BLOCK, CHARACTER, Chunk, DIRECTORY, FIFO, Inode, Name, OPAQUE, PAGE, REGULAR, ROOT, SYMLINK, TYPE, Tree, TreeError,
    XATTR, Xattr,
};

/// How the name of a whiteout begins, and the whole name of the one that hides all of a folder.
pub(crate) const WHITEOUT: &str = ".wh.";
const WHITEOUT_OPAQUE: &str = ".wh..wh..opq";
/// What eStargz adds at the root of a layer, and what hides files of a layer that have these names.
const RESERVED: [&str; 3] = [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK];
/// The longest path, and the longest name in it.
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;
/// The inode of a hard link whose target is looked for at the end.
const UNKNOWN: u32 = u32::MAX;
/// The largest chunk that is read.
const LARGEST_CHUNK: u64 = 64 << 20;
/// The most bytes of a member before a chunk: all of them are unpacked for it.
const MOST_INNER: u64 = 8 << 20;
/// The most inodes, bytes of the paths of folders that are only implied, and bytes of extended attributes.
const MOST_INODES: u32 = 8_000_000;
const MOST_IMPLIED: usize = 64 << 20;
const MOST_XATTRS: usize = 256 << 20;
/// What a whiteout or a hard link takes beside its text.
const TEXT: usize = 48;
/// What a key of the index takes.
const KEY: usize = 17;

/// Makes a tree of entries that are added in the order of a TOC.
pub(crate) struct Builder {
    tree: Tree,
    /// Names by the hash of folder and name.
    index: HashMap<u64, u32>,
    hasher: RandomState,
    /// The folder that was looked for last.
    last: Option<(String, u32)>,
    /// The time that was parsed last: one layer has few.
    time: (String, (i64, u32)),
    implied: HashSet<u32>,
    /// Bytes of their paths.
    implied_bytes: usize,
    xattrs: HashMap<u32, Vec<Xattr>>,
    xattr_bytes: usize,
    /// Bytes of the texts in the next two.
    text_bytes: usize,
    /// Whiteouts: they count only where nothing of that name is in the layer.
    whiteouts: Vec<(u32, String)>,
    /// Hard links: the name, and the path that it is another name of.
    links: Vec<(u32, String)>,
    /// The file that further chunks belong to, and how much of it is there.
    file: Option<(u32, u64)>,
}

fn refused(entry: &TocEntry, what: &'static str) -> TreeError {
    TreeError::Entry { name: entry.name.clone(), what }
}

impl Builder {
    pub(crate) fn new() -> Self {
        let root = Inode { mode: DIRECTORY | 0o755, links: 2, ..Inode::default() };
        let tree = Tree { inodes: vec![root], ..Tree::default() };
        Self {
            tree,
            index: HashMap::new(),
            hasher: RandomState::new(),
            last: None,
            time: (String::new(), (0, 0)),
            implied: HashSet::from([ROOT]),
            implied_bytes: 0,
            xattrs: HashMap::new(),
            xattr_bytes: 0,
            text_bytes: 0,
            whiteouts: Vec::new(),
            links: Vec::new(),
            file: None,
        }
    }

    /// Returns about how many bytes of memory it takes so far.
    pub(crate) fn bytes(&self) -> u64 {
        let beside = self.index.capacity() * KEY + self.xattr_bytes + self.implied_bytes + self.text_bytes;
        self.tree.array_bytes() + beside as u64
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub(crate) fn add(&mut self, entry: &TocEntry) -> Result<(), TreeError> {
        if entry.kind == EntryType::Chunk {
            return self.add_chunk(entry);
        }
        self.end_file(entry)?;
        let path = estargz::tree::clean_path(&entry.name);
        if path.len() > LONGEST_PATH || path.contains('\0') {
            return Err(refused(entry, "its path is too long or has a zero byte"));
        }
        let (folder, leaf) = path.rsplit_once('/').unwrap_or(("", &path));
        if leaf.len() > LONGEST_NAME {
            return Err(refused(entry, "its name is too long"));
        }
        let parent = self.folder(folder);
        let parent =
            parent.ok_or_else(|| refused(entry, "it lies below what is no folder, or in too many that are implied"))?;
        let xattrs = entry.xattrs.0.iter().map(|(name, value)| name.len() + value.len() + XATTR);
        self.xattr_bytes += xattrs.sum::<usize>();
        if self.xattr_bytes > MOST_XATTRS {
            return Err(refused(entry, "all extended attributes together are too long"));
        }
        if leaf == WHITEOUT_OPAQUE {
            self.mark_opaque(parent);
            return Ok(());
        }
        if let Some(hidden) = leaf.strip_prefix(WHITEOUT) {
            self.text_bytes += hidden.len() + TEXT;
            self.whiteouts.push((parent, hidden.to_owned()));
            return Ok(());
        }
        if path.is_empty() {
            // containerd passes over an entry for the root: it looks as its snapshotter made it.
            return if entry.kind == EntryType::Dir { Ok(()) } else { Err(refused(entry, "the root is no folder")) };
        }
        self.place(parent, leaf, entry)
    }

    /// Has a folder hide what lies below it.
    fn mark_opaque(&mut self, folder: u32) {
        let xattrs = self.xattrs.entry(folder).or_default();
        if xattrs.iter().all(|(name, _)| **name != *OPAQUE) {
            self.xattr_bytes += OPAQUE.len() + 1 + XATTR;
            xattrs.push((OPAQUE.into(), Box::from(*b"y")));
        }
    }

    fn place(&mut self, parent: u32, leaf: &str, entry: &TocEntry) -> Result<(), TreeError> {
        let slot = self.slot(parent, leaf);
        if let Ok(name) = slot
            && entry.kind == EntryType::Dir
            && self.tree.is_directory(self.tree.names[name as usize].inode)
        {
            return self.set_folder(self.tree.names[name as usize].inode, entry);
        }
        let name = match slot {
            Ok(name) => {
                // What is replaced may have been a folder.
                self.last = None;
                name
            }
            Err(key) => {
                let name = self.insert_at(key, parent, leaf);
                name.ok_or_else(|| refused(entry, "all names together are too long"))?
            }
        };
        if entry.kind == EntryType::Hardlink {
            if entry.link_name.len() > LONGEST_PATH {
                return Err(refused(entry, "what it is another name of has too long a path"));
            }
            self.tree.names[name as usize].inode = UNKNOWN;
            self.text_bytes += entry.link_name.len() + TEXT;
            self.links.push((name, estargz::tree::clean_path(&entry.link_name)));
            return Ok(());
        }
        let inode = self.make(parent, entry)?;
        self.tree.names[name as usize].inode = inode;
        Ok(())
    }

    /// Makes the inode of an entry that is neither a hard link nor a folder that is there.
    fn make(&mut self, parent: u32, entry: &TocEntry) -> Result<u32, TreeError> {
        let number = self.number(entry)?;
        let mut inode = attributes(entry, self.modified(entry))?;
        match entry.kind {
            EntryType::Dir => inode.size = u64::from(parent),
            EntryType::Symlink => {
                let from = self.push_text(&entry.link_name);
                inode.first = from.ok_or_else(|| refused(entry, "all names together are too long"))?;
                inode.count = entry.link_name.len() as u32;
            }
            EntryType::Reg => {
                inode.size = entry.size;
                inode.first = self.tree.chunks.len() as u32;
            }
            EntryType::Char | EntryType::Block => inode.first = device(entry.dev_major, entry.dev_minor),
            EntryType::Fifo | EntryType::Hardlink | EntryType::Chunk => {}
        }
        self.tree.inodes.push(inode);
        self.set_xattrs(number, entry);
        if entry.kind == EntryType::Reg && entry.size > 0 {
            self.tree.data_size = self.tree.data_size.next_multiple_of(PAGE);
            self.file = Some((number, 0));
            self.add_chunk(entry)?;
        }
        Ok(number)
    }

    fn number(&self, entry: &TocEntry) -> Result<u32, TreeError> {
        let number = u32::try_from(self.tree.inodes.len()).ok().filter(|&number| number < MOST_INODES);
        number.ok_or_else(|| refused(entry, "the layer has too many files"))
    }

    fn set_folder(&mut self, folder: u32, entry: &TocEntry) -> Result<(), TreeError> {
        let before = self.tree.inodes[folder as usize];
        self.tree.inodes[folder as usize] = Inode { size: before.size, ..attributes(entry, self.modified(entry))? };
        self.implied.remove(&folder);
        self.set_xattrs(folder, entry);
        Ok(())
    }

    fn modified(&mut self, entry: &TocEntry) -> (i64, u32) {
        if entry.modtime != self.time.0 {
            let parsed = time::parse(&entry.modtime);
            let bounded = parsed.map_or((0, 0), |(seconds, nanos)| time::bounded(seconds, nanos));
            self.time = (entry.modtime.clone(), bounded);
        }
        self.time.1
    }

    fn set_xattrs(&mut self, inode: u32, entry: &TocEntry) {
        let given = entry.xattrs.0.iter().map(|(name, value)| (name.as_str().into(), value.as_slice().into()));
        let given: Vec<Xattr> = given.collect();
        // A whiteout that came first has marked the folder.
        let marked = self.xattrs.remove(&inode).unwrap_or_default().into_iter().filter(|(name, _)| **name == *OPAQUE);
        let all: Vec<Xattr> = given.into_iter().chain(marked).collect();
        if !all.is_empty() {
            self.xattrs.insert(inode, all);
        }
    }

    fn add_chunk(&mut self, entry: &TocEntry) -> Result<(), TreeError> {
        let Some((file, filled)) = self.file.take() else { return Err(refused(entry, "a chunk belongs to no file")) };
        let rest = self.tree.inodes[file as usize].size - filled;
        let size = if entry.chunk_size == 0 { rest } else { entry.chunk_size.min(rest) };
        if entry.chunk_offset != filled || size == 0 {
            return Err(refused(entry, "a chunk does not begin where the one before ends"));
        }
        if size > LARGEST_CHUNK || entry.inner_offset > MOST_INNER {
            return Err(refused(
                entry,
                "a chunk is larger than 64 MiB, or lies more than 8 MiB behind its member's beginning",
            ));
        }
        let is_behind = |before: &Chunk| match before.offset.cmp(&entry.offset) {
            Ordering::Less => true,
            Ordering::Equal => u64::from(before.inner) + u64::from(before.size) <= entry.inner_offset,
            Ordering::Greater => false,
        };
        if !self.tree.chunks.last().is_none_or(is_behind) {
            return Err(refused(entry, "its bytes lie before those of the file before it"));
        }
        let whole = (size == self.tree.inodes[file as usize].size).then_some(entry.digest.as_ref()).flatten();
        let digest = entry.chunk_digest.as_ref().or(whole).and_then(sha256);
        self.tree.chunks.push(Chunk {
            offset: entry.offset,
            at: self.tree.data_size,
            inner: entry.inner_offset as u32,
            size: size as u32,
            digest: digest.ok_or_else(|| refused(entry, "a chunk has no SHA-256"))?,
        });
        self.tree.data_size += size;
        self.tree.inodes[file as usize].count += 1;
        if filled + size < self.tree.inodes[file as usize].size {
            self.file = Some((file, filled + size));
        }
        Ok(())
    }

    fn end_file(&self, entry: &TocEntry) -> Result<(), TreeError> {
        match self.file {
            Some(_) => Err(refused(entry, "the file before it has too few chunks")),
            None => Ok(()),
        }
    }

    /// Returns the folder at a cleaned path, made where it is not there; `None` where a file is in the way.
    fn folder(&mut self, path: &str) -> Option<u32> {
        if let Some((_, folder)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Some(*folder);
        }
        let folder = self.walk(path)?;
        self.last = Some((path.to_owned(), folder));
        Some(folder)
    }

    fn walk(&mut self, path: &str) -> Option<u32> {
        let (mut at, mut length) = (ROOT, 0);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            length += part.len() + 1;
            at = match self.find(at, part) {
                Some(name) => self.tree.names[name as usize].inode,
                None => {
                    self.implied_bytes += length;
                    let inode = u32::try_from(self.tree.inodes.len()).ok();
                    let inode = inode.filter(|&inode| inode < MOST_INODES && self.implied_bytes <= MOST_IMPLIED)?;
                    let name = self.insert(at, part)?;
                    let folder = Inode { mode: DIRECTORY | 0o755, links: 2, size: u64::from(at), ..Inode::default() };
                    self.tree.inodes.push(folder);
                    self.tree.names[name as usize].inode = inode;
                    self.implied.insert(inode);
                    inode
                }
            };
            if !self.tree.is_directory(at) {
                return None;
            }
        }
        Some(at)
    }

    fn find(&self, folder: u32, name: &str) -> Option<u32> {
        self.slot(folder, name).ok()
    }

    /// Returns the name, or the key under which it is to be kept.
    fn slot(&self, folder: u32, name: &str) -> Result<u32, u64> {
        let mut turn = 0_u32;
        loop {
            let key = self.hasher.hash_one((folder, name, turn));
            match self.index.get(&key) {
                None => return Err(key),
                Some(&found) => {
                    let known = &self.tree.names[found as usize];
                    if known.parent == folder && self.tree.name(known) == name.as_bytes() {
                        return Ok(found);
                    }
                }
            }
            turn += 1;
        }
    }

    /// Adds a name that is not there; its inode is still to be set.
    fn insert(&mut self, parent: u32, name: &str) -> Option<u32> {
        let key = self.slot(parent, name).err()?;
        self.insert_at(key, parent, name)
    }

    /// Adds a name whose slot is free.
    fn insert_at(&mut self, key: u64, parent: u32, name: &str) -> Option<u32> {
        let number = u32::try_from(self.tree.names.len()).ok()?;
        let from = self.push_text(name)?;
        self.tree.names.push(Name { parent, inode: UNKNOWN, from, length: u16::try_from(name.len()).ok()? });
        self.index.insert(key, number);
        Some(number)
    }

    fn push_text(&mut self, text: &str) -> Option<u32> {
        let from = u32::try_from(self.tree.text.len()).ok()?;
        u32::try_from(self.tree.text.len() + text.len()).ok()?;
        self.tree.text.extend_from_slice(text.as_bytes());
        Some(from)
    }

    /// Returns the tree of all entries.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub(crate) fn finish(mut self) -> Result<Tree, TreeError> {
        if self.file.is_some() {
            return Err(TreeError::Entry { name: String::new(), what: "the last file has too few chunks" });
        }
        for (parent, hidden) in std::mem::take(&mut self.whiteouts) {
            if self.find(parent, &hidden).is_none()
                && let Some(name) = self.insert(parent, &hidden)
            {
                let inode = u32::try_from(self.tree.inodes.len()).ok().filter(|&inode| inode < MOST_INODES);
                let what = "the layer has too many files";
                self.tree.names[name as usize].inode = inode.ok_or(TreeError::Entry { name: String::new(), what })?;
                self.tree.inodes.push(Inode { mode: CHARACTER, links: 1, ..Inode::default() });
            }
        }
        self.resolve_links()?;
        let landmark = self.find(ROOT, PREFETCH_LANDMARK).map(|name| self.tree.names[name as usize].inode);
        self.index = HashMap::new();
        let Self { mut tree, implied, xattrs, .. } = self;
        let landmark = landmark.and_then(|inode| tree.inode(inode)).filter(|found| found.mode & TYPE == REGULAR);
        tree.prefetched = landmark.map_or(0, |landmark| landmark.first);
        // Hard links may lead to them, so they go last.
        let text = std::mem::take(&mut tree.text);
        tree.names.retain(|name| {
            let range = name.from as usize..name.from as usize + usize::from(name.length);
            name.parent != ROOT || !RESERVED.iter().any(|reserved| reserved.as_bytes() == &text[range.clone()])
        });
        tree.text = text;
        tree.implied = implied.into_iter().collect();
        tree.implied.sort_unstable();
        tree.xattrs = xattrs.into_iter().collect();
        tree.xattrs.sort_unstable_by_key(|(inode, _)| *inode);
        sort(&mut tree);
        tree.text.shrink_to_fit();
        tree.names.shrink_to_fit();
        tree.inodes.shrink_to_fit();
        tree.chunks.shrink_to_fit();
        Ok(tree)
    }

    /// Gives hard links the inode of what they name, which may be a hard link itself.
    fn resolve_links(&mut self) -> Result<(), TreeError> {
        let targets: HashMap<u32, String> = std::mem::take(&mut self.links).into_iter().collect();
        let mut names: Vec<u32> = targets.keys().copied().collect();
        names.sort_unstable();
        for start in names {
            let (mut chain, mut name) = (Vec::new(), start);
            while self.tree.names[name as usize].inode == UNKNOWN {
                let target = &targets[&name];
                let wrong = |what| TreeError::Entry { name: target.clone(), what };
                chain.push(name);
                // A chain longer than all links has met itself.
                if chain.len() > targets.len() {
                    return Err(wrong("hard links form a cycle"));
                }
                name = self.name_at(target).ok_or_else(|| wrong("a hard link to what is not there"))?;
                if self.tree.is_directory(self.tree.names[name as usize].inode) {
                    return Err(wrong("a hard link to a folder"));
                }
            }
            let inode = self.tree.names[name as usize].inode;
            for link in chain {
                self.tree.names[link as usize].inode = inode;
            }
        }
        Ok(())
    }

    fn name_at(&self, path: &str) -> Option<u32> {
        let (folder, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        let parts = folder.split('/').filter(|part| !part.is_empty());
        let folder = parts
            .into_iter()
            .try_fold(ROOT, |at, part| self.find(at, part).map(|name| self.tree.names[name as usize].inode))?;
        self.find(folder, leaf)
    }
}

/// Sorts the names, gives every folder its own, and counts links.
fn sort(tree: &mut Tree) {
    let text = std::mem::take(&mut tree.text);
    let name = |name: &Name| &text[name.from as usize..name.from as usize + usize::from(name.length)];
    tree.names.sort_unstable_by(|a, b| a.parent.cmp(&b.parent).then_with(|| name(a).cmp(name(b))));
    tree.text = text;
    for inode in &mut tree.inodes {
        inode.links = if inode.mode & TYPE == DIRECTORY { 2 } else { 0 };
    }
    for (number, name) in tree.names.iter().enumerate() {
        let folder = &mut tree.inodes[name.parent as usize];
        if folder.mode & TYPE == DIRECTORY {
            if folder.count == 0 {
                folder.first = number as u32;
            }
            folder.count += 1;
        }
        let is_folder = tree.inodes[name.inode as usize].mode & TYPE == DIRECTORY;
        tree.inodes[name.inode as usize].links += u32::from(!is_folder);
        tree.inodes[name.parent as usize].links += u32::from(is_folder);
    }
}

fn attributes(entry: &TocEntry, modified: (i64, u32)) -> Result<Inode, TreeError> {
    let kind = match entry.kind {
        EntryType::Dir => DIRECTORY,
        EntryType::Symlink => SYMLINK,
        EntryType::Char => CHARACTER,
        EntryType::Block => BLOCK,
        EntryType::Fifo => FIFO,
        EntryType::Reg | EntryType::Hardlink | EntryType::Chunk => REGULAR,
    };
    let id = |id: i64| u32::try_from(id).map_err(|_| refused(entry, "an owner is out of range"));
    let permissions = if entry.kind == EntryType::Symlink { 0o777 } else { entry.mode as u32 & 0o7777 };
    let (seconds, nanos) = modified;
    Ok(Inode { mode: kind | permissions, uid: id(entry.uid)?, gid: id(entry.gid)?, seconds, nanos, ..Inode::default() })
}

/// Returns a device number as the kernel packs it into 32 bits.
fn device(major: i64, minor: i64) -> u32 {
    let (major, minor) = (major as u32, minor as u32);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn sha256(digest: &Digest) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    // One of another algorithm is longer.
    hex::decode_to_slice(digest.hex(), &mut hash).ok().map(|()| hash)
}

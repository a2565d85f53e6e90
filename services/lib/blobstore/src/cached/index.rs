//! [`Index`]: which blocks of which blobs are on the disk, and which of them leave next. Does no I/O.

#[cfg(test)]
mod check;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

use super::flight::Flight;
use super::source::Source;
use crate::BlobKey;
use crate::local::LocalFile;
pub(super) use room::Room;

/// The number of bytes in a block; a blob's last block is what is left.
pub(super) const BLOCK: u64 = 1 << 20;
/// The most blocks of one fetch.
pub(super) const MAX_FETCH: u32 = 8;
/// What disks give space in.
const SECTOR: u64 = 4 << 10;
/// The most blobs with cached bytes: what bounds the memory that small ones take.
const MAX_FILES: usize = 1 << 16;

/// The name of a cache file; none is used twice.
pub(super) type FileId = u64;

/// What is cached of all blobs.
///
/// Invariants: `order` has exactly the ready blocks, each at its tick; `held` is the space of the ready blocks and of
/// what is reserved; a block that is read or leaving, or whose file was handed out, is never chosen to leave; a hole
/// is never cut into a foreign file.
#[derive(Debug)]
pub(super) struct Index {
    ids: HashMap<BlobKey, FileId>,
    files: HashMap<FileId, Entry>,
    order: BTreeMap<u64, (FileId, u32)>,
    held: u64,
    cap: u64,
    next_id: FileId,
    clock: u64,
}

/// One blob.
#[derive(Debug)]
struct Entry {
    key: BlobKey,
    size: u64,
    blocks: Vec<Block>,
    /// How many blocks are not absent.
    present: u32,
    /// How many open blobs use it.
    handles: u32,
    /// How many of them have handed out the file.
    handed_out: u32,
    /// Others may have the file open, who do not know of the cache: it is never cut, but leaves as a whole.
    is_foreign: bool,
    /// When the file as a whole was last used (handed out; if it is foreign, read); its blocks are as young as that.
    used_at: u64,
    source: Weak<Source>,
    file: Weak<LocalFile>,
}

#[derive(Debug)]
enum Block {
    Absent,
    Coming(Arc<Flight>),
    Ready {
        tick: u64,
        /// How many reads of it are under way.
        readers: u32,
    },
    /// Chosen to leave; its bytes go at any moment.
    Leaving,
}

/// What an open blob is told of its file.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) id: FileId,
    pub(super) size: u64,
    /// The blob in the store behind; all who have it open share it, so it is opened once.
    pub(super) source: Arc<Source>,
    /// The file, if somebody has it open.
    pub(super) file: Option<Arc<LocalFile>>,
    /// Nothing is in it, so it need not be there.
    pub(super) is_empty: bool,
}

/// How a block of a read is had.
#[derive(Debug)]
pub(super) enum Piece {
    /// From the file; the block stays until [`Index::release`].
    Ready,
    /// From this fetch.
    Coming(Arc<Flight>),
    /// From the store, past the cache.
    Leaving,
}

/// What a read finds.
#[derive(Debug)]
pub(super) struct Found {
    /// One for each block of the read.
    pub(super) pieces: Vec<Piece>,
    /// The fetches that the caller must start.
    pub(super) flights: Vec<Arc<Flight>>,
}

impl Index {
    pub(super) fn new(cap: u64) -> Self {
        Self { ids: HashMap::new(), files: HashMap::new(), order: BTreeMap::new(), held: 0, cap, next_id: 0, clock: 0 }
    }

    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    pub(super) const fn cap(&self) -> u64 {
        self.cap
    }

    /// Returns the size of the blob whose file is `id`; 0 when it is not known any more.
    pub(super) fn size(&self, id: FileId) -> u64 {
        self.files.get(&id).map_or(0, |entry| entry.size)
    }

    /// Returns a name that no file has.
    pub(super) fn fresh_id(&mut self) -> FileId {
        self.next_id += 1;
        self.next_id
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    // --- open blobs ---

    /// Counts one more open blob of `key`, if that is known. `source` is used if nobody else has one.
    pub(super) fn join(&mut self, key: &BlobKey, source: &Arc<Source>) -> Option<Joined> {
        let id = *self.ids.get(key)?;
        let entry = self.files.get_mut(&id)?;
        entry.handles += 1;
        let source = entry.source.upgrade().unwrap_or_else(|| {
            entry.source = Arc::downgrade(source);
            Arc::clone(source)
        });
        Some(Joined { id, size: entry.size, source, file: entry.file.upgrade(), is_empty: entry.present == 0 })
    }

    /// The same for a `key` of `size` bytes that need not be known.
    pub(super) fn enter(&mut self, key: &BlobKey, size: u64, source: &Arc<Source>) -> Joined {
        if let Some(known) = self.join(key, source) {
            return known;
        }
        let id = self.fresh_id();
        let blocks = std::iter::repeat_with(|| Block::Absent).take(size.div_ceil(BLOCK) as usize).collect();
        let entry = self.insert(id, key, size, blocks);
        entry.handles = 1;
        entry.source = Arc::downgrade(source);
        Joined { id, size, source: Arc::clone(source), file: None, is_empty: true }
    }

    fn insert(&mut self, id: FileId, key: &BlobKey, size: u64, blocks: Vec<Block>) -> &mut Entry {
        let present = blocks.iter().filter(|block| !matches!(block, Block::Absent)).count() as u32;
        let entry = Entry {
            key: key.clone(),
            size,
            blocks,
            present,
            handles: 0,
            handed_out: 0,
            is_foreign: false,
            used_at: 0,
            source: Weak::new(),
            file: Weak::new(),
        };
        self.ids.insert(key.clone(), id);
        self.files.entry(id).insert_entry(entry).into_mut()
    }

    /// Remembers `file` as that of `id` and returns it; or the one that somebody was faster to open, so that all who
    /// have it open mean the same. `None` when `id` is not known any more.
    pub(super) fn opened(&mut self, id: FileId, file: LocalFile) -> Option<Arc<LocalFile>> {
        let entry = self.files.get_mut(&id)?;
        if let Some(first) = entry.file.upgrade() {
            return Some(first);
        }
        let file = Arc::new(file);
        entry.file = Arc::downgrade(&file);
        Some(file)
    }

    /// Counts one open blob less. Returns whether the file is of no more use and is to be removed.
    pub(super) fn leave(&mut self, id: FileId) -> bool {
        let Some(entry) = self.files.get_mut(&id) else { return false };
        entry.handles -= 1;
        self.drop_if_empty(id)
    }

    fn drop_if_empty(&mut self, id: FileId) -> bool {
        let is_empty = self.files.get(&id).is_some_and(|entry| entry.handles == 0 && entry.present == 0);
        if is_empty && let Some(entry) = self.files.remove(&id) {
            self.ids.remove(&entry.key);
        }
        is_empty
    }

    /// Forgets `key`; returns its file's name, to be removed. Blobs that are open go past the cache from now on.
    pub(super) fn forget(&mut self, key: &BlobKey) -> Option<FileId> {
        let id = self.ids.remove(key)?;
        if let Some(entry) = self.files.remove(&id) {
            for (n, block) in (0..).zip(&entry.blocks) {
                if let Block::Ready { tick, .. } = block {
                    self.order.remove(tick);
                    self.held -= space(entry.size, n);
                }
            }
        }
        Some(id)
    }

    /// Forgets the blob whose file is `id`, as [`Index::forget`] does.
    pub(super) fn forget_file(&mut self, id: FileId) {
        if let Some(key) = self.files.get(&id).map(|entry| entry.key.clone()) {
            self.forget(&key);
        }
    }

    /// Counts one more blob that has handed out the file of `id`, if all of it is there.
    pub(super) fn hand_out(&mut self, id: FileId) -> bool {
        let now = self.tick();
        let Some(entry) = self.files.get_mut(&id) else { return false };
        let is_whole = entry.blocks.iter().all(|block| matches!(block, Block::Ready { .. }));
        if is_whole {
            entry.handed_out += 1;
            entry.used_at = now;
        }
        is_whole
    }

    /// Takes [`Index::hand_out`] back.
    pub(super) fn take_back(&mut self, id: FileId) {
        let now = self.tick();
        if let Some(entry) = self.files.get_mut(&id) {
            entry.handed_out -= 1;
            entry.used_at = now;
        }
    }

    // --- reads ---

    /// Returns how the blocks of a read are had, or `None` when `id` is not known any more. What nobody has asked for
    /// is asked for, and so are up to `ahead` blocks behind it, when at least half of those are missing or the read
    /// itself is.
    pub(super) fn look(&mut self, id: FileId, blocks: RangeInclusive<u32>, ahead: u32) -> Option<Found> {
        let last = *blocks.end();
        let mut found = Found { pieces: Vec::with_capacity(blocks.clone().count()), flights: Vec::new() };
        let end = last.saturating_add(ahead).min((self.files.get(&id)?.blocks.len() as u32).saturating_sub(1));
        let goes_ahead = {
            let entry = self.files.get(&id)?;
            let is_absent = |n: u32| matches!(entry.blocks.get(n as usize), Some(Block::Absent));
            blocks.clone().any(is_absent) || (last + 1..=last.saturating_add(ahead / 2)).any(is_absent)
        };
        self.start(id, *blocks.start()..=if goes_ahead { end } else { last }, &mut found.flights);
        for n in blocks {
            let now = self.tick();
            let entry = self.files.get_mut(&id)?;
            if entry.is_foreign {
                entry.used_at = now;
            }
            let block = entry.blocks.get_mut(n as usize)?;
            found.pieces.push(match block {
                Block::Ready { tick, readers } => {
                    *readers += 1;
                    self.order.remove(tick);
                    self.order.insert(now, (id, n));
                    *tick = now;
                    Piece::Ready
                }
                Block::Coming(flight) => Piece::Coming(Arc::clone(flight)),
                Block::Leaving | Block::Absent => Piece::Leaving,
            });
        }
        Some(found)
    }

    /// Makes flights for the absent ones of `blocks`, neighbours together.
    fn start(&mut self, id: FileId, blocks: RangeInclusive<u32>, flights: &mut Vec<Arc<Flight>>) {
        let Some(entry) = self.files.get_mut(&id) else { return };
        let (end, mut n) = (*blocks.end(), *blocks.start());
        while n <= end {
            let is_absent = |n: &u32| matches!(entry.blocks.get(*n as usize), Some(Block::Absent));
            let count = (n..=end).take(MAX_FETCH as usize).take_while(is_absent).count() as u32;
            if count == 0 {
                n += 1;
                continue;
            }
            let flight = Arc::new(Flight::new(id, n, count, entry.size));
            for block in entry.blocks.iter_mut().skip(n as usize).take(count as usize) {
                *block = Block::Coming(Arc::clone(&flight));
            }
            entry.present += count;
            flights.push(flight);
            n += count;
        }
    }

    /// Says that the read of block `n`, which was [`Piece::Ready`], is done.
    pub(super) fn release(&mut self, id: FileId, n: u32) {
        let block = self.files.get_mut(&id).and_then(|entry| entry.blocks.get_mut(n as usize));
        if let Some(Block::Ready { readers, .. }) = block {
            *readers -= 1;
        }
    }

    // --- fetches ---

    /// Says that the bytes of a flight, for which space was reserved, are in the file.
    pub(super) fn landed(&mut self, flight: &Flight) {
        for n in flight.blocks() {
            let now = self.tick();
            let block = self.files.get_mut(&flight.id()).and_then(|entry| entry.blocks.get_mut(n as usize));
            match block {
                Some(block @ Block::Coming(_)) => {
                    *block = Block::Ready { tick: now, readers: 0 };
                    self.order.insert(now, (flight.id(), n));
                }
                // Forgotten meanwhile: its file was removed.
                _ => self.held -= space(flight.size(), n),
            }
        }
    }

    /// Says that nothing of a flight was kept; `had_space`: though space was reserved. Returns whether its file is of
    /// no more use and is to be removed.
    pub(super) fn lost(&mut self, flight: &Flight, had_space: bool) -> bool {
        if had_space {
            self.held -= flight.blocks().map(|n| space(flight.size(), n)).sum::<u64>();
        }
        let Some(entry) = self.files.get_mut(&flight.id()) else { return false };
        for n in flight.blocks() {
            if let Some(block @ Block::Coming(_)) = entry.blocks.get_mut(n as usize) {
                *block = Block::Absent;
                entry.present -= 1;
            }
        }
        self.drop_if_empty(flight.id())
    }

    /// Takes in a whole file of `size` bytes, for which space was reserved, as the bytes of `key`. `is_foreign`: others
    /// may have it open. Returns false, and gives the space back, when `key` is known: then the file is to be removed.
    pub(super) fn adopt(&mut self, id: FileId, key: &BlobKey, size: u64, is_foreign: bool) -> bool {
        let count = size.div_ceil(BLOCK) as u32;
        if self.ids.contains_key(key) {
            self.held -= (0..count).map(|n| space(size, n)).sum::<u64>();
            return false;
        }
        let mut blocks = Vec::with_capacity(count as usize);
        for n in 0..count {
            let tick = self.tick();
            self.order.insert(tick, (id, n));
            blocks.push(Block::Ready { tick, readers: 0 });
        }
        self.insert(id, key, size, blocks).is_foreign = is_foreign;
        true
    }
}

/// Returns where block `n` of a blob of `size` bytes begins, and how many bytes it has.
pub(super) const fn extent(size: u64, n: u32) -> (u64, u64) {
    let offset = n as u64 * BLOCK;
    let left = size.saturating_sub(offset);
    (offset, if left < BLOCK { left } else { BLOCK })
}

/// Returns the disk space of that block.
pub(super) const fn space(size: u64, n: u32) -> u64 {
    extent(size, n).1.next_multiple_of(SECTOR)
}

//! [`Data`]: the plain bytes of a layer's files in one sparse file, and which chunks of it are there.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::fs::FallocateFlags;

use super::inflate::Unpacked;
use super::rests::Rests;
use crate::tree::{Chunk, PAGE, Tree};

/// The plain bytes of a layer's files.
///
/// Bytes first, then fdatasync, then the bits: what they say is there was there. It is verified once more before it is read
/// for the first time, whatever the disk did meanwhile.
#[derive(Debug)]
pub(super) struct Data {
    file: File,
    bits: PathBuf,
    present: Bits,
    checked: Bits,
    pub(super) rests: Rests,
    /// Came along with what was asked for, and was not read since.
    unasked: Bits,
    /// Read since chunks were last evicted.
    used: Bits,
    /// Who reads or adds chunks holds it with others, who takes some away alone.
    lock: RwLock<()>,
    /// Whether `present` has changed since it was written down.
    is_dirty: AtomicBool,
    /// Who writes it down has this.
    writing: Mutex<()>,
}

/// A bit for each chunk.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    fn new(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn has(&self, chunk: u32) -> bool {
        let word = self.0.get(chunk as usize / 64).map_or(0, |word| word.load(Ordering::Acquire));
        word >> (chunk % 64) & 1 == 1
    }

    /// Sets or clears a bit, and returns what it was.
    fn set(&self, chunk: u32, on: bool) -> bool {
        let Some(word) = self.0.get(chunk as usize / 64) else { return false };
        let bit = 1 << (chunk % 64);
        let before = if on { word.fetch_or(bit, Ordering::AcqRel) } else { word.fetch_and(!bit, Ordering::AcqRel) };
        before & bit != 0
    }

    fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Release));
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect()
    }
}

impl Data {
    pub(super) fn open(folder: &Path, tree: &Tree) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(folder.join("data"))?;
        file.set_len(tree.data_size())?;
        let count = tree.chunks().len();
        let (present, bits) = (Bits::new(count), folder.join("bits"));
        match fs::read(&bits) {
            Ok(bytes) => {
                for (word, bytes) in present.0.iter().zip(bytes.chunks_exact(8)) {
                    word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let rests = Rests::open(folder, count)?;
        Ok(Self {
            file,
            bits,
            present,
            checked: Bits::new(count),
            rests,
            unasked: Bits::new(count),
            used: Bits::new(count),
            lock: RwLock::default(),
            is_dirty: AtomicBool::new(false),
            writing: Mutex::default(),
        })
    }

    /// Tells whether a chunk is here and was verified by this process.
    pub(super) fn is_checked(&self, chunk: u32) -> bool {
        self.checked.has(chunk)
    }

    /// Tells whether a chunk should be here.
    pub(super) fn is_present(&self, chunk: u32) -> bool {
        self.present.has(chunk)
    }

    /// Reads what lies in `chunks`; `None` where some of them are not here.
    pub(super) fn read_checked(&self, chunks: Range<u32>, at: u64, buffer: &mut [u8]) -> Option<io::Result<()>> {
        let _stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        if !chunks.clone().all(|chunk| self.checked.has(chunk)) {
            return None;
        }
        chunks.for_each(|chunk| {
            self.used.set(chunk, true);
            self.unasked.set(chunk, false);
        });
        Some(self.file.read_exact_at(buffer, at))
    }

    /// Takes chunks away of about `wanted` bytes, only such as were not read since the last time if `spared` is set. Returns the
    /// bytes that are free now.
    pub(super) fn evict(&self, tree: &Tree, wanted: u64, spared: bool) -> io::Result<u64> {
        let _alone = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for (number, chunk) in (0_u32..).zip(tree.chunks()) {
            if bytes >= wanted {
                break;
            }
            if !self.present.has(number) || (spared && self.used.has(number)) {
                continue;
            }
            self.present.set(number, false);
            self.checked.set(number, false);
            bytes += chunk.room();
            gone.push((chunk, tree.chunks().get(number as usize + 1)));
        }
        if gone.is_empty() {
            return Ok(0);
        }
        self.used.clear();
        self.is_dirty.store(true, Ordering::Release);
        match self.flush() {
            // What is evicted makes the room for writing that down; until then who believes in it finds out when it is read.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            // Nobody believes in them any more, whenever the machine stops.
            flushed => flushed?,
        }
        for (chunk, next) in gone {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Chunks begin at pages, except where a stranger cut them: then the pages that a neighbour has a part of stay.
            let end = next.map_or(u64::MAX, |next| next.at).min(chunk.at + chunk.room());
            let (start, end) = (chunk.at.next_multiple_of(PAGE), end / PAGE * PAGE);
            if start < end {
                rustix::fs::fallocate(&self.file, flags, start, end - start)?;
            }
        }
        Ok(bytes)
    }

    /// Tells whether a chunk and what lies behind it are here.
    pub(super) fn is_whole(&self, chunk: u32) -> bool {
        self.is_present(chunk) && self.rests.has(chunk + 1)
    }

    /// Notes that nobody asked for a chunk that is here now.
    pub(super) fn mark_unasked(&self, chunk: u32) {
        self.unasked.set(chunk, true);
    }

    /// Tells whether a chunk is here that nobody asked for and nobody has read.
    pub(super) fn is_unread(&self, chunk: u32) -> bool {
        self.unasked.has(chunk) && self.is_present(chunk)
    }

    /// Keeps a chunk that was verified, and what lies around it in its member, where that is known.
    pub(super) fn put(&self, number: u32, chunk: &Chunk, unpacked: &Unpacked) -> io::Result<()> {
        if let Some(rest) = unpacked.rest.as_ref().filter(|_| !self.rests.has(number + 1)) {
            if !unpacked.before.is_empty() {
                self.rests.put_before(number, &unpacked.before)?;
            }
            self.rests.put(number + 1, rest)?;
        }
        let _stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(&unpacked.payload, chunk.at)?;
        self.present.set(number, true);
        self.used.set(number, true);
        self.checked.set(number, true);
        self.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Verifies a chunk that an earlier process kept. If it is not right, it is no longer here: then returns the bytes that it had,
    /// to the first who finds out.
    pub(super) fn check(&self, number: u32, chunk: &Chunk) -> io::Result<Result<(), u64>> {
        let mut payload = vec![0; chunk.size as usize];
        let _stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        let is_right = match self.file.read_exact_at(&mut payload, chunk.at) {
            Ok(()) => chunk.is(&payload),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        if is_right {
            self.checked.set(number, true);
            return Ok(Ok(()));
        }
        let was_present = self.present.set(number, false);
        self.is_dirty.store(true, Ordering::Release);
        Ok(Err(if was_present { chunk.room() } else { 0 }))
    }

    /// Writes down what is here.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // What is set from now on may be missing on the disk.
        let bits = self.present.to_bytes();
        let write = || {
            self.file.sync_data()?;
            self.rests.sync()?;
            let new = self.bits.with_extension("new");
            fs::write(&new, bits)?;
            fs::rename(&new, &self.bits)
        };
        write().inspect_err(|_| self.is_dirty.store(true, Ordering::Release))
    }

    /// Returns how many bytes of the disk it takes.
    pub(super) fn resident(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.blocks() * 512)
    }
}

//! [`Data`]: the plain bytes of a layer's files in one sparse file, and which chunks of it are there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::fs::FallocateFlags;

use super::inflate::Unpacked;
use super::rests::Rests;
use super::sums::Sums;
use crate::tree::{Chunk, PAGE, Tree};

/// The plain bytes of a layer's files.
///
/// Bytes first, then fdatasync, then the bits: what they say is there was there. It is verified once more before it is read
/// for the first time, whatever the disk did meanwhile; and each page when it is read, whatever it does now.
#[derive(Debug)]
pub(super) struct Data {
    file: File,
    bits: PathBuf,
    present: Bits,
    checked: Bits,
    /// What the pages of the chunks that were are.
    sums: Sums,
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

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What was verified.
    Right,
    /// Not all of it is here.
    Missing,
    /// Something else than was verified; it is no longer here.
    Damaged {
        /// Of what.
        chunk: u32,
        /// Bytes that it had on the disk.
        freed: u64,
    },
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
        let data = Self {
            file,
            bits,
            present,
            checked: Bits::new(count),
            sums: Sums::default(),
            rests,
            unasked: Bits::new(count),
            used: Bits::new(count),
            lock: RwLock::default(),
            is_dirty: AtomicBool::new(false),
            writing: Mutex::default(),
        };
        if let Err(error) = data.trim(tree) {
            tracing::warn!(%error, folder = %folder.display(), "what was written and not noted stays on the disk");
        }
        Ok(data)
    }

    /// Gives back what a process that was killed had written and not yet noted.
    fn trim(&self, tree: &Tree) -> io::Result<()> {
        let chunks = || (0_u32..).zip(tree.chunks());
        let noted: u64 = chunks().filter(|(number, _)| self.present.has(*number)).map(|(_, chunk)| chunk.room()).sum();
        if self.resident() <= noted {
            return Ok(());
        }
        let mut from = 0;
        for (_, chunk) in chunks().filter(|(number, _)| self.present.has(*number)) {
            self.punch(from, chunk.at)?;
            from = chunk.at + u64::from(chunk.size);
        }
        self.punch(from, tree.data_size().next_multiple_of(PAGE))
    }

    /// Gives back the whole pages between two places.
    fn punch(&self, from: u64, to: u64) -> io::Result<()> {
        let (start, end) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
        if start >= end {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, start, end - start)?)
    }

    /// Tells whether a chunk is here and was verified by this process.
    pub(super) fn is_checked(&self, chunk: u32) -> bool {
        self.checked.has(chunk)
    }

    /// Tells whether a chunk should be here.
    pub(super) fn is_present(&self, chunk: u32) -> bool {
        self.present.has(chunk)
    }

    /// Reads what lies in `chunks`, and looks whether it is still what was verified.
    pub(super) fn read_checked(
        &self,
        tree: &Tree,
        chunks: Range<u32>,
        at: u64,
        buffer: &mut [u8],
    ) -> io::Result<Found> {
        let stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        if !chunks.clone().all(|chunk| self.checked.has(chunk)) {
            return Ok(Found::Missing);
        }
        chunks.clone().for_each(|chunk| {
            self.used.set(chunk, true);
            self.unasked.set(chunk, false);
        });
        match self.file.read_exact_at(buffer, at) {
            // Somebody cut it.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.file.set_len(tree.data_size())?;
                self.file.read_exact_at(buffer, at)?;
            }
            read => read?,
        }
        for number in chunks {
            let chunk = &tree.chunks()[number as usize];
            if !self.is_as_verified(number, chunk, at, buffer)? {
                drop(stays);
                let freed = self.drop_damaged(number, chunk)?;
                return Ok(freed.map_or(Found::Missing, |freed| Found::Damaged { chunk: number, freed }));
            }
        }
        Ok(Found::Right)
    }

    /// Tells whether what `buffer`, which was read from `at` on, has of a chunk is what was verified.
    fn is_as_verified(&self, number: u32, chunk: &Chunk, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let end = chunk.at + u64::from(chunk.size);
        let read = at.max(chunk.at)..(at + buffer.len() as u64).min(end);
        if read.is_empty() {
            return Ok(true);
        }
        let known = self.sums.known();
        // In pages from where the chunk begins.
        for start in (chunk.at + (read.start - chunk.at) / PAGE * PAGE..read.end).step_by(PAGE as usize) {
            let page = start..(start + PAGE).min(end);
            let agree = |bytes: &[u8]| known.agree(number, chunk.at, start, bytes);
            let is_right = if read.start <= page.start && page.end <= read.end {
                agree(&buffer[(page.start - at) as usize..(page.end - at) as usize])
            } else {
                self.copy_verified(page, &read, at, buffer, agree)?
            };
            if !is_right {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads `whole`, and if it is right copies what it has of `read` to its place in `buffer`, which begins at `at`.
    fn copy_verified(
        &self,
        whole: Range<u64>,
        read: &Range<u64>,
        at: u64,
        buffer: &mut [u8],
        is_right: impl FnOnce(&[u8]) -> bool,
    ) -> io::Result<bool> {
        let mut bytes = vec![0; (whole.end - whole.start) as usize];
        self.file.read_exact_at(&mut bytes, whole.start)?;
        if !is_right(&bytes) {
            return Ok(false);
        }
        let part = whole.start.max(read.start)..whole.end.min(read.end);
        let within = |origin: u64| (part.start - origin) as usize..(part.end - origin) as usize;
        buffer[within(at)].copy_from_slice(&bytes[within(whole.start)]);
        Ok(true)
    }

    /// Has a chunk that seems damaged no longer be here, and returns the bytes that it had; `None` if it is right after all, because
    /// it was fetched again meanwhile, or was not here any more.
    fn drop_damaged(&self, number: u32, chunk: &Chunk) -> io::Result<Option<u64>> {
        let _alone = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        if self.present.has(number) && self.verify(number, chunk)? {
            return Ok(None);
        }
        self.checked.set(number, false);
        let was_present = self.present.set(number, false);
        self.is_dirty.store(true, Ordering::Release);
        Ok(was_present.then(|| chunk.room()))
    }

    /// Tells whether a chunk on the disk is right; then it is known to be.
    fn verify(&self, number: u32, chunk: &Chunk) -> io::Result<bool> {
        let mut payload = vec![0; chunk.size as usize];
        let is_right = match self.file.read_exact_at(&mut payload, chunk.at) {
            Ok(()) => chunk.is(&payload),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        if is_right {
            self.sums.note(number, chunk.at, &payload);
            self.checked.set(number, true);
        }
        Ok(is_right)
    }

    /// Returns the bytes that a chunk has on the disk; `None` if it is not here. They are to be verified.
    pub(super) fn copy_of(&self, number: u32, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
        let _stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        if !self.present.has(number) {
            return Ok(None);
        }
        let mut payload = vec![0; chunk.size as usize];
        match self.file.read_exact_at(&mut payload, chunk.at) {
            Ok(()) => Ok(Some(payload)),
            // Somebody cut it.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes chunks away of about `wanted` bytes, only such as were not read since the last time if `spared` is set. Returns the
    /// bytes that are free now.
    pub(super) fn evict(&self, tree: &Tree, wanted: u64, spared: bool) -> u64 {
        let alone = self.lock.write().unwrap_or_else(PoisonError::into_inner);
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
            gone.push((number, chunk));
        }
        if gone.is_empty() {
            return 0;
        }
        self.used.clear();
        self.is_dirty.store(true, Ordering::Release);
        // Others read meanwhile.
        drop(alone);
        if let Err(error) = self.flush() {
            // What is evicted may make the room for it. Until it is written down, who believes in them finds out when they are read.
            tracing::debug!(%error, "what is evicted is not written down yet");
        }
        let _alone = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        for (number, chunk) in gone {
            // Chunks begin at pages, except where a stranger cut them: then the pages that a neighbour has a part of stay.
            let next = tree.chunks().get(number as usize + 1).map_or(u64::MAX, |next| next.at);
            // One that came back meanwhile stays.
            if !self.present.has(number)
                && let Err(error) = self.punch(chunk.at, next.min(chunk.at + chunk.room()))
            {
                tracing::error!(%error, chunk = number, "what is evicted stays on the disk until the next start");
            }
        }
        bytes
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
    pub(super) fn put(&self, number: u32, chunk: &Chunk, unpacked: &Unpacked, age: u64) -> io::Result<()> {
        if let Some(rest) = unpacked.rest.as_ref().filter(|_| !self.rests.has(number + 1)) {
            if !unpacked.before.is_empty() {
                self.rests.put_before(number, &unpacked.before, age)?;
            }
            self.rests.put(number + 1, rest, age)?;
        }
        let _stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(&unpacked.payload, chunk.at)?;
        self.sums.note(number, chunk.at, &unpacked.payload);
        self.present.set(number, true);
        self.used.set(number, true);
        self.checked.set(number, true);
        self.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Verifies a chunk that an earlier process kept. If it is not right, it is no longer here: then returns the bytes that it had.
    pub(super) fn check(&self, number: u32, chunk: &Chunk) -> io::Result<Option<u64>> {
        let stays = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        // What is being evicted is still on the disk, and will not be.
        if !self.present.has(number) || self.verify(number, chunk)? {
            return Ok(None);
        }
        drop(stays);
        self.drop_damaged(number, chunk)
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
            let mut file = File::create(&new)?;
            file.write_all(&bits)?;
            file.sync_data()?;
            fs::rename(&new, &self.bits)
        };
        write().inspect_err(|_| self.is_dirty.store(true, Ordering::Release))
    }

    /// Returns how many bytes of the disk it takes.
    pub(super) fn resident(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.blocks() * 512)
    }
}

#[cfg(test)]
mod tests {
    use api::Digest;

    use super::*;
    use crate::tree::Builder;

    const FILES: u8 = 3;

    fn payload(number: u8) -> Vec<u8> {
        vec![number + 1; 5000]
    }

    /// Three files of two pages each.
    fn tree() -> Tree {
        let entry = |number: u8| {
            let digest = Digest::of(&payload(number));
            format!(
                r#"{{"name":"{number}","type":"reg","size":5000,"offset":{},"digest":"{digest}","chunkDigest":"{digest}"}}"#,
                9 + 1000 * u32::from(number)
            )
        };
        let entries: Vec<String> = (0..FILES).map(entry).collect();
        let json = format!(r#"{{"version":1,"entries":[{}]}}"#, entries.join(","));
        let mut builder = Builder::new();
        estargz::Toc::read(json.as_bytes(), |entry| builder.add(&entry)).unwrap();
        builder.finish().unwrap()
    }

    fn put(data: &Data, tree: &Tree, number: u8) {
        let unpacked =
            Unpacked { before: Vec::new(), payload: payload(number), rest: None, is_broken: false, _turn: None };
        data.put(number.into(), &tree.chunks()[usize::from(number)], &unpacked, 0).unwrap();
    }

    fn read(data: &Data, tree: &Tree, number: u8, range: Range<u64>) -> (Found, Vec<u8>) {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        let (chunk, at) = (u32::from(number), tree.chunks()[usize::from(number)].at + range.start);
        (data.read_checked(tree, chunk..chunk + 1, at, &mut buffer).unwrap(), buffer)
    }

    fn present(data: &Data) -> Vec<bool> {
        (0..FILES).map(|number| data.is_present(number.into())).collect()
    }

    #[test]
    fn what_is_read_stays_longer_than_what_is_not() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree());
        let data = Data::open(folder.path(), &tree).unwrap();
        (0..FILES).for_each(|number| put(&data, &tree, number));
        assert_eq!(data.evict(&tree, 1, true), 0, "all are new");
        assert_eq!(data.evict(&tree, 1, false), 2 * PAGE);
        assert_eq!(present(&data), [false, true, true]);
        assert_eq!(read(&data, &tree, 1, 0..5000), (Found::Right, payload(1)));
        assert_eq!(data.evict(&tree, 1, true), 2 * PAGE);
        assert_eq!(present(&data), [false, true, false]);
        assert_eq!(data.resident(), 2 * PAGE);
        assert_eq!(read(&data, &tree, 0, 0..1).0, Found::Missing);
    }

    #[test]
    fn what_is_being_evicted_is_not_checked() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree());
        let data = Data::open(folder.path(), &tree).unwrap();
        put(&data, &tree, 0);
        assert_eq!(data.evict(&tree, 1, false), 2 * PAGE);
        // As it is on the disk until it is punched.
        data.file.write_all_at(&payload(0), tree.chunks()[0].at).unwrap();
        assert_eq!(data.check(0, &tree.chunks()[0]).unwrap(), None);
        assert!(!data.is_checked(0) && !data.is_present(0));
    }

    #[test]
    fn what_was_not_noted_when_a_process_died_is_given_back() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree());
        let data = Data::open(folder.path(), &tree).unwrap();
        put(&data, &tree, 1);
        data.flush().unwrap();
        put(&data, &tree, 0);
        put(&data, &tree, 2);
        drop(data);
        let data = Data::open(folder.path(), &tree).unwrap();
        assert_eq!((present(&data), data.resident()), (vec![false, true, false], 2 * PAGE));
        assert_eq!(read(&data, &tree, 1, 0..5000).0, Found::Missing, "not before it was verified");
        assert_eq!(data.check(1, &tree.chunks()[1]).unwrap(), None);
        assert_eq!(read(&data, &tree, 1, 0..5000), (Found::Right, payload(1)));
    }

    #[test]
    fn what_changes_on_the_disk_is_not_read() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree());
        let data = Data::open(folder.path(), &tree).unwrap();
        (0..FILES).for_each(|number| put(&data, &tree, number));
        let at = tree.chunks()[1].at;
        data.file.write_all_at(b"changed", at + 4500).unwrap();
        // Reads of parts of pages, too.
        assert_eq!(read(&data, &tree, 1, 100..200), (Found::Right, payload(1)[100..200].to_vec()));
        assert_eq!(read(&data, &tree, 1, 4100..4200).0, Found::Damaged { chunk: 1, freed: 2 * PAGE });
        assert_eq!(read(&data, &tree, 1, 0..5000).0, Found::Missing);
        data.file.set_len(at).unwrap();
        assert_eq!(read(&data, &tree, 2, 0..5000).0, Found::Damaged { chunk: 2, freed: 2 * PAGE });
        assert_eq!(read(&data, &tree, 0, 4999..5000), (Found::Right, vec![1]));
    }
}

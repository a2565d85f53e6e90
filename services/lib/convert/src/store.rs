//! [`Store`]: the entries and chunks of a tar, read back from their spills.

use std::collections::VecDeque;

use api::Digest;
use estargz::{EntryType, TocEntry};

use crate::ConvertError;
use crate::spill::{Records, Spill};

/// A chunk's record in its spill: the member's offset and the chunk's sha256.
const CHUNK_RECORD: usize = 8 + 32;
/// Chunks read at once.
const CHUNKS: u64 = 1024;

pub(crate) fn chunk_record(offset: u64, sha256: &[u8; 32]) -> [u8; CHUNK_RECORD] {
    let mut record = [0; CHUNK_RECORD];
    record[..8].copy_from_slice(&offset.to_le_bytes());
    record[8..].copy_from_slice(sha256);
    record
}

/// The entries and chunks of a tar.
#[derive(Debug)]
pub(crate) struct Store {
    entries: Records,
    /// Where each entry's record begins, and where the last one ends.
    positions: Vec<u64>,
    chunks: Option<Records>,
    chunk_size: u64,
    empty: Digest,
}

impl Store {
    pub(crate) fn new(
        entries: Spill,
        positions: Vec<u64>,
        chunks: Option<Spill>,
        chunk_size: u64,
    ) -> Result<Self, ConvertError> {
        let chunks = chunks.map(Spill::into_reader).transpose().map_err(ConvertError::Output)?;
        let entries = entries.into_reader().map_err(ConvertError::Output)?;
        Ok(Self { entries, positions, chunks, chunk_size, empty: Digest::of(b"") })
    }

    /// Returns an entry as it was put aside: for a file, `offset` is the number of its first chunk.
    pub(crate) fn entry(&mut self, number: u32) -> Result<TocEntry, ConvertError> {
        let (from, to) = (self.positions[number as usize], self.positions[number as usize + 1]);
        let record = self.entries.read(from, (to - from) as usize).map_err(ConvertError::Output)?;
        serde_json::from_slice(&record).map_err(|e| ConvertError::Output(e.into()))
    }

    /// Calls `emit` with the TOC entries of a file: itself and its further chunks.
    pub(crate) fn with_chunks(
        &mut self,
        mut file: TocEntry,
        mut emit: impl FnMut(&mut TocEntry) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        if file.kind != EntryType::Reg {
            return emit(&mut file);
        }
        if file.size == 0 {
            file.offset = 0;
            file.digest = Some(self.empty.clone());
            return emit(&mut file);
        }
        let first = file.offset;
        let count = file.size.div_ceil(self.chunk_size);
        let mut known = VecDeque::new();
        for i in 0..count {
            if known.is_empty() {
                known = self.chunks(first + i, (count - i).min(CHUNKS))?;
            }
            let Some((offset, digest)) = known.pop_front() else { break };
            let at = i * self.chunk_size;
            // The last chunk's size is left out: it reaches to the end.
            let size = if file.size - at > self.chunk_size { self.chunk_size } else { 0 };
            let name = file.name.clone();
            let entry = if i == 0 { &mut file } else { &mut TocEntry::new(name, EntryType::Chunk) };
            entry.offset = offset;
            entry.chunk_offset = at;
            entry.chunk_size = size;
            if count == 1 {
                entry.digest = Some(digest.clone());
            }
            entry.chunk_digest = Some(digest);
            emit(entry)?;
        }
        Ok(())
    }

    fn chunks(&mut self, first: u64, count: u64) -> Result<VecDeque<(u64, Digest)>, ConvertError> {
        let Some(chunks) = &mut self.chunks else { return Ok(VecDeque::new()) };
        let (at, size) = (first * CHUNK_RECORD as u64, count as usize * CHUNK_RECORD);
        let bytes = chunks.read(at, size).map_err(ConvertError::Output)?;
        let parse = |record: &[u8]| {
            let (offset, hash) = (record[..8].try_into().ok()?, record[8..].try_into().ok()?);
            Some((u64::from_le_bytes(offset), Digest::from_sha256(&hash)))
        };
        Ok(bytes.chunks_exact(CHUNK_RECORD).filter_map(parse).collect())
    }
}

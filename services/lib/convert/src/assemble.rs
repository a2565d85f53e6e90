//! [`Assembler`]: takes the tar's entries and bytes and plans members and TOC.

use std::fs::File;
use std::path::Path;

use api::{Algorithm, Hasher, TarTail};
use estargz::tar::{Meta, Sink};
use estargz::tree::{Plan, Tree};
use estargz::writer::{Batch, Planner, landmark_header, landmark_payload};
use estargz::{EntryType, TocEntry, listing};

use crate::members::Members;
use crate::plain_hash::PlainTar;
use crate::spill::Spill;
use crate::store::Store;
use crate::watch::Watch;
use crate::{Cancel, ConvertError, Limits, Pool, Profile};

/// The sink of a tar walk.
pub(crate) struct Assembler<'a> {
    members: Members<'a>,
    planner: Planner,
    tree: Tree,
    entries: Spill,
    max_spill: u64,
    /// Where each entry's record begins.
    positions: Vec<u64>,
    chunk_size: u64,
    chunk_count: u64,
    current: Option<TocEntry>,
    /// Bytes of the current file, and of its current chunk, still to come.
    file_left: u64,
    chunk_left: u64,
    /// Of a file of several chunks; one chunk has the file's digest.
    file_hash: Option<Hasher>,
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(
        twin: &'a mut File,
        scratch: &Path,
        profile: &Profile,
        limits: &Limits,
        pool: &'a Pool,
        cancel: &'a Cancel,
        progress: &'a dyn Fn(u64),
    ) -> Result<Self, ConvertError> {
        let spill = || Spill::new(scratch).map_err(ConvertError::Output);
        Ok(Self {
            members: Members::new(twin, spill()?, limits.twin_bytes, profile.clamped_level(), pool, cancel, progress),
            planner: Planner::default(),
            tree: Tree::new(limits.entries.saturating_add(1)),
            entries: spill()?,
            max_spill: limits.spill_bytes,
            positions: Vec::new(),
            chunk_size: profile.clamped_chunk_size(),
            chunk_count: 0,
            current: None,
            file_left: 0,
            chunk_left: 0,
            file_hash: None,
        })
    }

    /// Adds the landmark, as if it were the source's first entry: an entry of that name in the source replaces it.
    pub(crate) fn landmark(&mut self) -> Result<(), ConvertError> {
        self.raw(&landmark_header())?;
        self.begin(Meta {
            name: estargz::NO_PREFETCH_LANDMARK.to_owned(),
            kind: EntryType::Reg,
            size: 1,
            mode: 0,
            uid: 0,
            gid: 0,
            user_name: String::new(),
            group_name: String::new(),
            seconds: 0,
            nanos: 0,
            link_name: String::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        })?;
        let block = landmark_payload();
        self.payload(&block[..1])?;
        self.end()?;
        self.raw(&block[1..])
    }

    /// Ends the source's tar with `tail`, and returns what it was.
    pub(crate) fn end_source(&mut self, tail: &TarTail, watch: &Watch<'_>) -> Result<PlainTar, ConvertError> {
        let batch = self.planner.finish();
        self.members.submit(batch)?;
        self.members.end_source(tail, watch)
    }

    /// Ends the tar, after [`Self::end_source`]: everything is written, and the tree is planned.
    pub(crate) fn finish(mut self, watch: &Watch<'_>) -> Result<(Members<'a>, Plan, Store), ConvertError> {
        let chunks = self.members.take_chunks()?;
        self.positions.push(self.entries.len());
        let mut store = Store::new(self.entries, self.positions, chunks, self.chunk_size)?;
        let plan = self.tree.finish(|number| {
            watch.check()?;
            store.entry(number).map(|entry| entry.link_name)
        })?;
        Ok((self.members, plan, store))
    }

    fn submit(&mut self, batch: Option<Batch>) -> Result<(), ConvertError> {
        batch.map_or(Ok(()), |batch| self.members.submit(batch))
    }
}

impl Sink for Assembler<'_> {
    type Error = ConvertError;

    fn raw(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        let batch = self.planner.raw(bytes);
        self.submit(batch)
    }

    fn global(&mut self, name: &str) -> Result<(), ConvertError> {
        Ok(self.tree.add_global(name)?)
    }

    fn begin(&mut self, meta: Meta) -> Result<(), ConvertError> {
        self.tree.add(&meta.name, meta.kind, &meta.link_name)?;
        let mut entry = listing::entry(meta);
        if entry.kind == EntryType::Reg {
            // Until the TOC is written, the offset is the number of the file's first chunk.
            entry.offset = self.chunk_count;
            self.chunk_count += entry.size.div_ceil(self.chunk_size);
            self.file_hash = (entry.size > self.chunk_size).then(|| Hasher::new(Algorithm::Sha256));
        }
        (self.file_left, self.chunk_left) = (entry.size, 0);
        self.current = Some(entry);
        Ok(())
    }

    fn payload(&mut self, mut bytes: &[u8]) -> Result<(), ConvertError> {
        if let Some(hash) = &mut self.file_hash {
            hash.update(bytes);
        }
        while !bytes.is_empty() {
            if self.chunk_left == 0 {
                self.chunk_left = self.file_left.min(self.chunk_size);
                let batch = self.planner.begin_chunk();
                self.submit(batch)?;
            }
            let n = usize::try_from(self.chunk_left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(n);
            self.planner.payload(now);
            self.chunk_left -= n as u64;
            self.file_left -= n as u64;
            bytes = later;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ConvertError> {
        let Some(mut entry) = self.current.take() else { return Ok(()) };
        entry.digest = self.file_hash.take().map(Hasher::finish);
        let record = serde_json::to_vec(&entry).map_err(|e| ConvertError::Output(e.into()))?;
        let at = self.entries.append(&record).map_err(ConvertError::Output)?;
        self.positions.push(at);
        if self.entries.len() > self.max_spill {
            return Err(ConvertError::limit(format!("entries take more than {} bytes", self.max_spill)));
        }
        Ok(())
    }
}

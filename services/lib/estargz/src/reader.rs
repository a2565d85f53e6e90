//! [`Blob`]: an eStargz blob, opened.

use std::io::{self, BufReader, Read};

use api::Digest;

use crate::entry::EntryType;
use crate::footer::{self, FOOTER_SIZE};
use crate::members::Members;
use crate::read_at::{ReadAt, Section};
use crate::tar::{Limits, Meta, Sink, TarError, WalkError, walk};
use crate::toc::{Chunk, Toc, TocError};
use crate::{TOC_NAME, tar};

/// The longest chunk that is read, in bytes: a chunk is held in memory. Writers use 4 MiB and less.
pub const MAX_CHUNK: u64 = 64 << 20;

/// Why a blob does not open, or a chunk does not read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The blob cannot be read.
    #[error("error reading the blob")]
    Io(#[source] io::Error),
    /// There is no footer of 51 bytes at the end.
    #[error("blob of {0} bytes has no eStargz footer")]
    NoFooter(u64),
    /// The TOC's tar entry is broken.
    #[error("TOC entry at {offset} is malformed")]
    TocEntry {
        /// Where the footer says it begins.
        offset: u64,
        /// What is wrong.
        source: TarError,
    },
    /// The TOC is broken.
    #[error("TOC is not usable")]
    Toc(#[from] TocError),
    /// A chunk is shorter than the TOC says, or its member is broken.
    #[error("chunk at {offset} does not unpack to {size} bytes")]
    Chunk {
        /// Where the chunk's member begins.
        offset: u64,
        /// The size by the TOC.
        size: u64,
    },
    /// A chunk is longer than is read at once.
    #[error("chunk at {offset} has {size} bytes, more than {MAX_CHUNK}")]
    ChunkTooLong {
        /// Where the chunk's member begins.
        offset: u64,
        /// The size by the TOC.
        size: u64,
    },
    /// A chunk has no digest in the TOC.
    #[error("chunk at {0} has no digest")]
    NoDigest(u64),
    /// A chunk has other bytes than the TOC says.
    #[error("chunk at {offset} has digest {found} instead of {expected}")]
    Digest {
        /// Where the chunk's member begins.
        offset: u64,
        /// The digest by the TOC.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
}

impl OpenError {
    /// Tells whether another try may succeed, the store having failed and not the blob.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

/// An eStargz blob with its TOC.
#[derive(Debug)]
pub struct Blob<R> {
    inner: R,
    size: u64,
    toc_offset: u64,
    toc: Toc,
    toc_json: Vec<u8>,
    /// Where members with payload begin, sorted, and at the end the TOC's.
    offsets: Vec<u64>,
}

impl<R: ReadAt> Blob<R> {
    /// Opens a blob of `size` bytes whose TOC has at most `toc_bytes` bytes.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(inner: R, size: u64, toc_bytes: u64) -> Result<Self, OpenError> {
        let toc_offset = toc_offset(&inner, size)?;
        let toc_json = read_toc(&inner, toc_offset, size, toc_bytes)?;
        let toc = Toc::parse(&toc_json)?;
        let mut offsets: Vec<u64> = toc.entries.iter().filter(|e| e.has_payload()).map(|e| e.offset).collect();
        offsets.push(toc_offset);
        offsets.sort_unstable();
        offsets.dedup();
        Ok(Self { inner, size, toc_offset, toc, toc_json, offsets })
    }

    /// Returns the TOC.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Returns the TOC's JSON.
    pub fn toc_json(&self) -> &[u8] {
        &self.toc_json
    }

    /// Returns the digest of the TOC's JSON.
    pub fn toc_digest(&self) -> Digest {
        Digest::of(&self.toc_json)
    }

    /// Returns where the TOC's member begins.
    pub fn toc_offset(&self) -> u64 {
        self.toc_offset
    }

    /// Returns the blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes below.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Returns where the member at `offset` ends at the latest.
    pub fn member_end(&self, offset: u64) -> u64 {
        let next = self.offsets.partition_point(|&o| o <= offset);
        self.offsets.get(next).copied().unwrap_or(self.toc_offset)
    }

    /// Returns where members with payload begin, sorted, and at the end the TOC's.
    pub(crate) fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Reads a chunk and checks its digest.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn read_chunk(&self, chunk: &Chunk<'_>) -> Result<Vec<u8>, OpenError> {
        let expected = chunk.digest.ok_or(OpenError::NoDigest(chunk.offset))?;
        if chunk.size > MAX_CHUNK {
            return Err(OpenError::ChunkTooLong { offset: chunk.offset, size: chunk.size });
        }
        let section = Section::new(&self.inner, chunk.offset, self.member_end(chunk.offset));
        let mut plain = Members::new(BufReader::with_capacity(64 << 10, section));
        let broken = || OpenError::Chunk { offset: chunk.offset, size: chunk.size };
        let skipped = io::copy(&mut (&mut plain).take(chunk.inner_offset), &mut io::sink()).map_err(|_| broken())?;
        let mut bytes = Vec::new();
        plain.take(chunk.size).read_to_end(&mut bytes).map_err(|_| broken())?;
        if skipped != chunk.inner_offset || bytes.len() as u64 != chunk.size {
            return Err(broken());
        }
        match api::verify(expected, &bytes) {
            Ok(()) => Ok(bytes),
            Err(e) => Err(OpenError::Digest { offset: chunk.offset, expected: e.expected, found: e.found }),
        }
    }
}

/// Reads the footer of a blob of `size` bytes and returns where the TOC's member begins.
///
/// # Errors
/// [`OpenError::NoFooter`], [`OpenError::Io`].
pub fn toc_offset(inner: &impl ReadAt, size: u64) -> Result<u64, OpenError> {
    let mut footer = [0; FOOTER_SIZE];
    let at = size.checked_sub(FOOTER_SIZE as u64).ok_or(OpenError::NoFooter(size))?;
    inner.read_exact_at(&mut footer, at).map_err(OpenError::Io)?;
    footer::parse(&footer).filter(|&offset| offset < at).ok_or(OpenError::NoFooter(size))
}

fn read_toc(inner: &impl ReadAt, offset: u64, size: u64, limit: u64) -> Result<Vec<u8>, OpenError> {
    let section = Section::new(inner, offset, size - FOOTER_SIZE as u64);
    let plain = BufReader::new(Members::new(BufReader::with_capacity(64 << 10, section)));
    let mut sink = TocSink { limit, json: None };
    let malformed = |source| OpenError::TocEntry { offset, source };
    match walk(plain, &mut sink, &Limits::default()) {
        Ok(_) => sink.json.ok_or_else(|| malformed(TarError::corrupt("there is no entry"))),
        Err(WalkError::Tar(e)) => Err(malformed(e)),
        Err(WalkError::Sink(e)) => Err(e),
        Err(WalkError::Input(e)) => Err(malformed(TarError::corrupt(format!("error unpacking it: {e}")))),
    }
}

/// Takes the only entry, the TOC.
struct TocSink {
    limit: u64,
    json: Option<Vec<u8>>,
}

impl Sink for TocSink {
    type Error = OpenError;

    fn raw(&mut self, _bytes: &[u8]) -> Result<(), OpenError> {
        Ok(())
    }

    fn begin(&mut self, meta: Meta) -> Result<(), OpenError> {
        if meta.name != TOC_NAME || meta.kind != EntryType::Reg || self.json.is_some() {
            let source = tar::TarError::corrupt(format!("{:?} is there instead of {TOC_NAME}", meta.name));
            return Err(OpenError::TocEntry { offset: 0, source });
        }
        if meta.size > self.limit {
            return Err(TocError::TooLong { size: meta.size, limit: self.limit }.into());
        }
        self.json = Some(Vec::new());
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        self.json.get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), OpenError> {
        Ok(())
    }
}

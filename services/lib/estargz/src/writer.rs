//! What a writer of eStargz needs besides a compressor: the entries that frame the source's tar, and [`Planner`], which
//! cuts the plain tar into members at the right places.

use crate::tar::{BLOCK, padding};
use crate::{LANDMARK_CONTENTS, NO_PREFETCH_LANDMARK, TOC_NAME};

/// The size of the landmark's tar entry in bytes: header and one block of payload.
pub const LANDMARK_ENTRY_SIZE: u64 = 2 * BLOCK as u64;

/// Header blocks in a row that go into one member; a member that holds more is closed, so that a million empty files
/// need not be held at once.
const MAX_HEADERS: usize = 1 << 20;

/// Plain bytes that are handed to a compressor at once, so that small members do not cost a hand-over each.
const BATCH: usize = 1 << 20;

/// Returns the tar header of the landmark.
pub fn landmark_header() -> [u8; BLOCK] {
    header(NO_PREFETCH_LANDMARK, 1)
}

/// Returns the landmark's payload and its padding.
pub fn landmark_payload() -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[0] = LANDMARK_CONTENTS;
    block
}

/// Returns the tar header of a TOC of `size` bytes.
pub fn toc_header(size: u64) -> [u8; BLOCK] {
    header(TOC_NAME, size)
}

/// Returns the zero bytes that follow a TOC of `size` bytes: padding and the end of the archive.
pub fn toc_end(size: u64) -> Vec<u8> {
    vec![0; padding(size) + 2 * BLOCK]
}

/// Returns a header of a regular file with nothing but a name and a size. Sizes of 8 GiB and more do not fit in octal
/// digits; they are base-256, as GNU tar writes them.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    for field in [100..108, 108..116, 116..124, 329..337, 337..345] {
        let (last, zeros) = (field.end - 1, field.start);
        block[zeros..last].fill(b'0');
    }
    if size < 1 << 33 {
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
        block[257..265].copy_from_slice(b"ustar  \0");
    }
    block[136..147].fill(b'0');
    block[156] = b'0';
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Some members in a row, still plain.
#[derive(Debug, Default)]
pub struct Batch {
    /// The plain bytes of all members.
    pub plain: Vec<u8>,
    /// The members.
    pub members: Vec<Member>,
}

/// One member of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where it ends in the batch's plain bytes.
    pub end: usize,
    /// How many bytes of a chunk's payload it begins with; 0 if it holds headers only.
    pub payload: usize,
}

/// Cuts a plain tar into members.
#[derive(Debug, Default)]
pub struct Planner {
    batch: Batch,
    /// Where the open member begins in the batch.
    start: usize,
    payload: usize,
}

impl Planner {
    /// Adds header blocks, records or padding. Returns a batch that is full.
    pub fn raw(&mut self, bytes: &[u8]) -> Option<Batch> {
        self.batch.plain.extend_from_slice(bytes);
        (self.batch.plain.len() - self.start - self.payload > MAX_HEADERS).then(|| self.cut()).flatten()
    }

    /// Begins a member whose first bytes are a chunk's payload. Returns a batch that is full.
    pub fn begin_chunk(&mut self) -> Option<Batch> {
        self.cut()
    }

    /// Adds payload to the chunk begun last.
    pub fn payload(&mut self, bytes: &[u8]) {
        self.batch.plain.extend_from_slice(bytes);
        self.payload += bytes.len();
    }

    /// Ends the open member. Returns a batch that is full.
    pub fn cut(&mut self) -> Option<Batch> {
        let end = self.batch.plain.len();
        if end > self.start {
            self.batch.members.push(Member { end, payload: self.payload });
        }
        (self.start, self.payload) = (end, 0);
        (end >= BATCH).then(|| self.take())
    }

    /// Ends the open member and returns what there is.
    pub fn finish(&mut self) -> Batch {
        self.cut().unwrap_or_else(|| self.take())
    }

    fn take(&mut self) -> Batch {
        self.start = 0;
        let next = Batch { plain: Vec::with_capacity(BATCH + BATCH / 2), members: Vec::new() };
        std::mem::replace(&mut self.batch, next)
    }
}

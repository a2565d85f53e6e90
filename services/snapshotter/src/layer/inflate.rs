//! Unpacks chunks out of their gzip members.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Take};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flate2::bufread::MultiGzDecoder;

/// The most plain bytes behind a chunk that belong to no file: headers of half a million symlinks.
const LARGEST_REST: u64 = 256 << 20;

/// The most plain bytes of members that hold no chunk: of those before the first one, and of a TOC's.
const LARGEST_HEAD: u64 = 256 << 20;
const LARGEST_TOC: u64 = 1 << 30;

/// The tar of a TOC.
pub(super) type Toc = Take<MultiGzDecoder<BufReader<File>>>;

/// The most of that which is unpacked of many members at once. Who has more has the turn until it is kept.
const ORDINARY_REST: u64 = 16 << 20;
static LONG: Mutex<()> = Mutex::new(());

/// What is unpacked of a member.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The bytes before what was wanted.
    pub(super) before: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// The bytes behind it, if all of the member was there.
    pub(super) rest: Option<Vec<u8>>,
    /// All of the member was there, and does not unpack, or to more than any does.
    pub(super) is_broken: bool,
    /// The turn, if the rest is long.
    pub(super) _turn: Option<MutexGuard<'static, ()>>,
}

/// The plain bytes of a member, and of those behind it that hold no chunk.
pub(super) struct Plain<'a> {
    bytes: MultiGzDecoder<&'a [u8]>,
    /// How many of them were read.
    at: u64,
}

impl<'a> Plain<'a> {
    /// Unpacks what `packed` begins with.
    pub(super) fn new(packed: &'a [u8]) -> Self {
        Self { bytes: MultiGzDecoder::new(packed), at: 0 }
    }

    /// Returns the `size` bytes behind the first `inner`, and what follows them up to where another chunk begins in that member, or
    /// else to the end, if `is_whole` says that the next chunk begins there. Chunks come in their order: what was read before is passed.
    pub(super) fn chunk(&mut self, inner: u32, size: u32, next: Option<u32>, is_whole: bool) -> io::Result<Unpacked> {
        let skipped = u64::from(inner).checked_sub(self.at).ok_or(ErrorKind::InvalidData)?;
        let mut before = Vec::new();
        self.bytes.by_ref().take(skipped).read_to_end(&mut before)?;
        if before.len() as u64 != skipped {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut payload = vec![0; size as usize];
        self.bytes.read_exact(&mut payload)?;
        let most = match next {
            Some(next) => u64::from(next.checked_sub(inner + size).ok_or(ErrorKind::InvalidData)?),
            // One more than may be.
            None => LARGEST_REST + 1,
        };
        let (mut rest, mut turn) = (Vec::new(), None);
        let mut read = match next.is_some() || is_whole {
            true => self.bytes.by_ref().take(most.min(ORDINARY_REST)).read_to_end(&mut rest),
            false => Ok(0),
        };
        if rest.len() as u64 == ORDINARY_REST && most > ORDINARY_REST && read.is_ok() {
            turn = Some(LONG.lock().unwrap_or_else(PoisonError::into_inner));
            read = self.bytes.by_ref().take(most - ORDINARY_REST).read_to_end(&mut rest);
        }
        self.at = u64::from(inner) + u64::from(size) + rest.len() as u64;
        let is_long = next.is_none() && rest.len() as u64 > LARGEST_REST;
        let is_right = read.is_ok() && next.is_none_or(|_| rest.len() as u64 == most);
        let is_asked = next.is_some() || is_whole;
        let rest = (is_asked && is_right && !is_long).then_some(rest);
        Ok(Unpacked { before, payload, rest, is_broken: is_asked && (!is_right || is_long), _turn: turn })
    }
}

/// Returns a reader of the tar in members that hold a TOC. Longer ones than any it ends early: they make another tar.
pub(super) fn toc(packed: File) -> Toc {
    MultiGzDecoder::new(BufReader::new(packed)).take(LARGEST_TOC)
}

/// Returns the plain bytes of the members before the first one that holds a chunk.
pub(super) fn head(packed: File) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(BufReader::new(packed)).take(LARGEST_HEAD + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > LARGEST_HEAD {
        return Err(io::Error::other("members without chunks are too long"));
    }
    Ok(plain)
}

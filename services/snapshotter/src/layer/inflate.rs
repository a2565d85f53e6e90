//! Unpacks one chunk out of its gzip member.

use std::fs::File;
use std::io::{self, BufReader, Read, Take};

use flate2::bufread::MultiGzDecoder;

/// The most plain bytes behind a chunk that belong to no file.
const LARGEST_REST: u64 = 64 << 20;

/// The most plain bytes of members that hold no chunk: of those before the first one, and of a TOC's.
pub(super) const LARGEST_HEAD: u64 = 256 << 20;
const LARGEST_TOC: u64 = 1 << 30;

/// The tar of a TOC.
pub(super) type Toc = Take<MultiGzDecoder<BufReader<File>>>;

/// What is unpacked of a member.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The bytes before what was wanted.
    pub(super) before: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// The bytes behind it, if all of the member was there.
    pub(super) rest: Option<Vec<u8>>,
}

/// Returns `size` plain bytes of the member that `packed` begins with, those behind the first `inner`, and what follows them
/// up to where another chunk begins in that member, or else to the end of `packed`, further members and all, if `is_whole` says that
/// the next chunk begins there.
pub(super) fn chunk(packed: &[u8], inner: u32, size: u32, next: Option<u32>, is_whole: bool) -> io::Result<Unpacked> {
    let mut member = MultiGzDecoder::new(packed);
    let mut before = Vec::new();
    member.by_ref().take(u64::from(inner)).read_to_end(&mut before)?;
    let mut payload = vec![0; size as usize];
    if before.len() != inner as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    member.read_exact(&mut payload)?;
    let most = match next {
        Some(next) => u64::from(next.checked_sub(inner + size).ok_or(io::ErrorKind::InvalidData)?),
        // One more than may be.
        None => LARGEST_REST + 1,
    };
    let mut rest = Vec::new();
    let read = if next.is_some() || is_whole { member.take(most).read_to_end(&mut rest) } else { Ok(0) };
    let is_whole = match next {
        Some(_) => read.is_ok() && rest.len() as u64 == most,
        None => is_whole && read.is_ok() && rest.len() as u64 <= LARGEST_REST,
    };
    Ok(Unpacked { before, payload, rest: is_whole.then_some(rest) })
}

/// Returns a reader of the tar in members that hold a TOC. Longer ones than any it ends early: they make another tar.
pub(super) fn toc(packed: File) -> Toc {
    MultiGzDecoder::new(BufReader::new(packed)).take(LARGEST_TOC)
}

/// Returns the plain bytes of the members in `packed`, at most so many.
pub(super) fn members(packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    if packed.is_empty() {
        return Ok(plain);
    }
    MultiGzDecoder::new(packed).take(most + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > most {
        return Err(io::Error::other("members without chunks are too long"));
    }
    Ok(plain)
}

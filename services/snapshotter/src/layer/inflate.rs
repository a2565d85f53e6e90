//! Unpacks one chunk out of its gzip member.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

/// The most plain bytes behind a chunk that belong to no file.
const LARGEST_REST: u64 = 64 << 20;

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
/// up to the member's end or to where another chunk begins in it.
pub(super) fn chunk(packed: &[u8], inner: u32, size: u32, next: Option<u32>) -> io::Result<Unpacked> {
    let mut member = GzDecoder::new(packed);
    let mut before = Vec::new();
    member.by_ref().take(u64::from(inner)).read_to_end(&mut before)?;
    let mut payload = vec![0; size as usize];
    if before.len() != inner as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    member.read_exact(&mut payload)?;
    let most = match next {
        Some(next) => u64::from(next.checked_sub(inner + size).ok_or(io::ErrorKind::InvalidData)?),
        None => LARGEST_REST,
    };
    let mut rest = Vec::new();
    let read = member.take(most).read_to_end(&mut rest);
    let is_whole = read.is_ok() && next.is_none_or(|_| rest.len() as u64 == most);
    Ok(Unpacked { before, payload, rest: is_whole.then_some(rest) })
}

/// Returns the plain bytes of the members in `packed`.
pub(super) fn members(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::bufread::MultiGzDecoder::new(packed).take(LARGEST_REST).read_to_end(&mut plain)?;
    Ok(plain)
}

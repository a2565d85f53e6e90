//! Unpacks one chunk out of its gzip member.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

/// Returns `size` plain bytes of the member that `packed` begins with, those behind the first `inner`.
pub(super) fn chunk(packed: &[u8], inner: u32, size: u32) -> io::Result<Vec<u8>> {
    let mut member = GzDecoder::new(packed);
    let before = io::copy(&mut member.by_ref().take(u64::from(inner)), &mut io::sink())?;
    let mut payload = vec![0; size as usize];
    if before != u64::from(inner) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    member.read_exact(&mut payload)?;
    Ok(payload)
}

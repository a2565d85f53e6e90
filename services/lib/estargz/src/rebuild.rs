//! [`rebuild`]: the source's plain tar from its twin alone.

use std::io::{self, BufReader, Read, Write};

use api::{TarTail, Twin};

use crate::members::Members;
use crate::read_at::{ReadAt, Section};
use crate::reader::{OpenError, toc_offset};
use crate::writer::LANDMARK_ENTRY_SIZE;

/// Writes the source's plain tar to `out`, so that its digest can be compared with the source's diffID.
///
/// A twin that is its own source is unpacked as it is; otherwise the landmark and the TOC are left out and the
/// source's tail is added.
///
/// # Errors
/// [`OpenError::NoFooter`] if `blob` is no eStargz, [`OpenError::Io`] for the rest, errors of `out` included.
pub fn rebuild(blob: &impl ReadAt, twin: &Twin, out: &mut dyn Write) -> Result<(), OpenError> {
    let toc_offset = toc_offset(blob, twin.size)?;
    let is_own = twin.diff_id == twin.source_diff_id;
    let end = if is_own { twin.size } else { toc_offset };
    let mut plain = Members::new(BufReader::with_capacity(256 << 10, Section::new(blob, 0, end)));
    let skip = if is_own { 0 } else { LANDMARK_ENTRY_SIZE };
    io::copy(&mut (&mut plain).take(skip), &mut io::sink()).map_err(OpenError::Io)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match plain.read(&mut buffer).map_err(OpenError::Io)? {
            0 => break,
            n => out.write_all(&buffer[..n]).map_err(OpenError::Io)?,
        }
    }
    if !is_own {
        write_tail(&twin.tail, out).map_err(OpenError::Io)?;
    }
    out.flush().map_err(OpenError::Io)
}

/// Writes what a source's tar has after its last entry.
///
/// # Errors
/// Those of `out`; and for a tail that is no hex.
pub fn write_tail(tail: &TarTail, out: &mut dyn Write) -> io::Result<()> {
    match tail {
        TarTail::Zeros(count) => io::copy(&mut io::repeat(0).take(*count), out).map(|_| ()),
        TarTail::Bytes(text) => {
            let bytes = hex::decode(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            out.write_all(&bytes)
        }
    }
}

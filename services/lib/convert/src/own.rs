//! A source that is valid eStargz is its own twin.

use std::io::{BufReader, Read};

use api::{Algorithm, Digest, Hasher, TarTail, Twin};
use estargz::read_at::Section;
use estargz::verify::{VerifyError, verify_foreign};
use estargz::{Blob, OpenError};

use crate::plain_hash::PlainTar;
use crate::source::{At, Source};
use crate::watch::Watch;
use crate::{ConvertError, Limits};

/// The longest TOC that is taken as it is: the check holds it in memory. A layer with a longer one is converted.
const MAX_TOC: u64 = 16 << 20;

/// A source that is its own twin.
pub(crate) struct Own {
    pub(crate) twin: Twin,
    pub(crate) toc_json: Vec<u8>,
}

/// Checks a source that has arrived whole and was unpacked to `plain`. Returns `None` if it is no eStargz, or if its
/// TOC tells another story than its tar, or may tell one to some reader.
pub(crate) fn check(
    source: &dyn Source,
    limits: &Limits,
    plain: &PlainTar,
    watch: &Watch<'_>,
) -> Result<Option<Own>, ConvertError> {
    let blob = match Blob::open(At(source), source.size(), MAX_TOC.min(limits.toc_bytes)) {
        Ok(blob) => blob,
        Err(OpenError::Io(e)) => return Err(ConvertError::Source(e)),
        Err(_) => return Ok(None),
    };
    let verified = match verify_foreign(&blob, &limits.tar(), &|| watch.check().is_err()) {
        Ok(verified) => verified,
        Err(VerifyError::Stopped) => return watch.check().map(|()| None),
        Err(VerifyError::Open(OpenError::Io(e))) => return Err(ConvertError::Source(e)),
        Err(_) => return Ok(None),
    };
    let diff_id = &plain.digest;
    if verified.diff_id != *diff_id {
        return Ok(None);
    }
    let twin = Twin {
        digest: digest(source, watch)?,
        size: source.size(),
        diff_id: diff_id.clone(),
        plain_size: plain.size,
        toc_digest: verified.toc_digest,
        toc_size: blob.toc_json().len() as u64,
        source_diff_id: diff_id.clone(),
        source_plain_size: plain.size,
        tail: TarTail::Zeros(0),
        implied_dirs: verified.implied_dirs,
    };
    Ok(Some(Own { twin, toc_json: blob.toc_json().to_vec() }))
}

fn digest(source: &dyn Source, watch: &Watch<'_>) -> Result<Digest, ConvertError> {
    let mut reader = BufReader::new(Section::new(At(source), 0, source.size()));
    let (mut hash, mut buffer) = (Hasher::new(Algorithm::Sha256), vec![0; 256 << 10]);
    loop {
        watch.check()?;
        match reader.read(&mut buffer).map_err(ConvertError::Source)? {
            0 => return Ok(hash.finish()),
            n => hash.update(&buffer[..n]),
        }
    }
}

//! Fetches what is missing of a layer, and proves that its tar is the one that the image's digest commits to.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use api::{Algorithm, Digest, Hasher, TarTail};
use estargz::footer::{self, FOOTER_SIZE};
use serde::{Deserialize, Serialize};
use upstream::UpstreamError;

use super::{Layer, ReadError, Wanted, inflate};

/// Bytes of the blob that are fetched at once in the background.
const RUN: u64 = 4 << 20;
/// A tar's header and the unit it is padded to.
const BLOCK: u64 = 512;
/// The names of the tars that a layer was proven to be, and what it says when it is none of those it should be.
const PROVEN: &str = "proven";
const REFUSED: &str = "refused";

/// The tar that a layer must come out as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    /// Its digest.
    pub(crate) diff_id: Digest,
    /// What the source's tar has after its last entry; `None` where the twin itself is the image's layer.
    pub(crate) tail: Option<TarTail>,
}

/// What is known of a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proof {
    /// Not all of it is here.
    Pending,
    /// It is what the image's digest commits to.
    Proven,
    /// It is not. Nothing of it is shown any more.
    Refused,
}

impl Layer {
    /// Returns what is known of the layer's tar.
    pub(crate) fn proof(&self, expected: &Expected) -> Proof {
        if self.is_refused.load(Ordering::Acquire) {
            return Proof::Refused;
        }
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.contains(&expected.diff_id) { Proof::Proven } else { Proof::Pending }
    }

    /// Reads what was proven before.
    pub(super) fn recall(&self) -> io::Result<()> {
        let unless_missing = |name: &str| match fs::read_to_string(self.folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.is_refused.store(unless_missing(REFUSED)?.is_some(), Ordering::Release);
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let text = unless_missing(PROVEN)?.unwrap_or_default();
        proven.extend(text.lines().filter_map(|line| Digest::parse(line).ok()));
        Ok(())
    }

    /// Fetches what is missing, while nobody waits for anything else: `idle` returns when that is so, or an error when the
    /// work is to end.
    ///
    /// # Errors
    /// What went wrong, or the end that `idle` tells.
    pub(crate) async fn complete<F: Future<Output = Result<(), ReadError>>>(
        self: &Arc<Self>,
        idle: impl Fn() -> F,
    ) -> Result<(), ReadError> {
        let end = self.end().await?;
        if !self.data.rests.has(0) {
            idle().await?;
            let first = self.tree.chunks().first().map_or(end, |chunk| chunk.offset);
            let head = if first == 0 { Vec::new() } else { self.plain(0..first).await? };
            self.data.rests.put(0, &head)?;
        }
        let chunks = self.tree.chunks();
        let mut next = 0;
        while (next as usize) < chunks.len() {
            if self.data.is_whole(next) {
                next += 1;
                continue;
            }
            idle().await?;
            let mut last = next + 1;
            while (last as usize) < chunks.len()
                && !self.data.is_whole(last)
                && chunks[last as usize].offset.saturating_sub(chunks[next as usize].offset) < RUN
            {
                last += 1;
            }
            self.want(next..last, Wanted::Tar).await?;
            next = last;
        }
        Ok(())
    }

    /// Hashes the tar that all the bytes make, and remembers what came of it.
    ///
    /// # Errors
    /// The disk's, or that of what is fetched for it.
    pub(crate) async fn prove(self: &Arc<Self>, expected: &Expected) -> Result<Proof, ReadError> {
        let end_of_twin = match expected.tail {
            // The TOC is part of this tar, and its header is nowhere else.
            None => {
                let end = self.end().await?;
                self.plain(end..self.source.size - FOOTER_SIZE as u64).await?
            }
            Some(_) => Vec::new(),
        };
        let (layer, expected) = (Arc::clone(self), expected.clone());
        let prove = move || {
            let found = layer.hash(&expected, &end_of_twin)?;
            layer.remember(&expected, &found)
        };
        Ok(telemetry::blocking(prove).await?)
    }

    fn hash(&self, expected: &Expected, end_of_twin: &[u8]) -> io::Result<Digest> {
        let mut hash = Hasher::new(Algorithm::Sha256);
        // A source's tar has no landmark: header, one byte and padding.
        let mut skip = if expected.tail.is_some() { 2 * BLOCK } else { 0 };
        let mut update = |bytes: &[u8]| {
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            hash.update(&bytes[passed as usize..]);
        };
        let missing = || io::Error::other("a piece of the tar is missing");
        update(&self.data.rests.get(0)?.ok_or_else(missing)?);
        let mut payload = Vec::new();
        for (number, chunk) in (0_u32..).zip(self.tree.chunks()) {
            if !self.data.is_checked(number) && !self.data.check(number, chunk)? {
                self.room.release(chunk.room());
                return Err(missing());
            }
            update(&self.data.rests.before(number)?);
            payload.resize(chunk.size as usize, 0);
            // It may have been evicted meanwhile.
            self.data.read_checked(number..number + 1, chunk.at, &mut payload).ok_or_else(missing)??;
            update(&payload);
            update(&self.data.rests.get(number + 1)?.ok_or_else(missing)?);
        }
        match &expected.tail {
            None => update(end_of_twin),
            Some(TarTail::Bytes(hex)) => update(&unhex(hex)),
            Some(TarTail::Zeros(count)) => {
                let zeros = [0; 4096];
                let mut left = *count;
                while left > 0 {
                    let piece = left.min(zeros.len() as u64);
                    update(&zeros[..piece as usize]);
                    left -= piece;
                }
            }
        }
        Ok(hash.finish())
    }

    fn remember(&self, expected: &Expected, found: &Digest) -> io::Result<Proof> {
        if *found == expected.diff_id {
            let mut file = fs::File::options().create(true).append(true).open(self.folder.join(PROVEN))?;
            writeln!(file, "{found}")?;
            file.sync_data()?;
            self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(found.clone());
            return Ok(Proof::Proven);
        }
        // What lies between the files is verified by this alone: it is fetched once more.
        if !self.is_suspect.swap(true, Ordering::AcqRel) {
            tracing::warn!(blob.digest = %self.source.blob, %found, "a layer is not what it should be and is fetched again");
            self.data.rests.clear()?;
            return Ok(Proof::Pending);
        }
        let was = format!("the tar is {found} and not {}\n", expected.diff_id);
        tracing::error!(
            blob.digest = %self.source.blob, %found, expected = %expected.diff_id,
            "a layer is not what its image says: nothing of it is shown any more"
        );
        fs::write(self.folder.join(REFUSED), was)?;
        self.is_refused.store(true, Ordering::Release);
        Ok(Proof::Refused)
    }

    /// Returns where the TOC begins in the blob.
    async fn end(&self) -> Result<u64, ReadError> {
        if let Some(end) = self.end.get() {
            return Ok(*end);
        }
        let size = self.source.size;
        let wrong = || ReadError::Upstream(UpstreamError::Protocol { what: "the blob has no eStargz footer".into() });
        let start = size.checked_sub(FOOTER_SIZE as u64).ok_or_else(wrong)?;
        let footer = self.source.bytes(start..size).await?;
        let end = footer::parse(&footer).filter(|end| *end < start).ok_or_else(wrong)?;
        Ok(*self.end.get_or_init(|| end))
    }

    /// Fetches members that hold no chunk and unpacks them.
    async fn plain(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>, ReadError> {
        let packed = self.source.bytes(range).await?;
        let plain = telemetry::blocking(move || inflate::members(&packed)).await;
        plain.map_err(|_| ReadError::Upstream(UpstreamError::Protocol { what: "a gzip member is broken".into() }))
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or_default());
    digits.filter_map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

//! [`PlainHash`]: the hashes of the plain tars, and of the chunks in them.

use std::io::{self, Write};

use api::{Digest, TarTail};
use estargz::rebuild::write_tail;
use estargz::tar::BLOCK as TAR_BLOCK;
use estargz::writer::{Batch, Member, landmark_header, landmark_payload};

use crate::ConvertError;
use crate::sha256::{BLOCK, Stream, absorb};
use crate::watch::Watch;

/// Hashes what goes into a twin: as the twin's plain tar, as the source's, which has no landmark and another end, and
/// chunk by chunk.
pub(crate) struct PlainHash {
    twin: Stream,
    /// None any more once the source's tar has ended.
    source: Option<Stream>,
    /// Bytes of the landmark still to come; `twin` has them already.
    landmark: usize,
    /// What does not fill a block yet, the same in both.
    rest: Vec<u8>,
}

/// The source's plain tar.
pub(crate) struct PlainTar {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl PlainHash {
    pub(crate) fn new() -> Self {
        let mut twin = Stream::new();
        absorb([&mut twin], landmark_header().as_chunks().0);
        absorb([&mut twin], landmark_payload().as_chunks().0);
        Self { twin, source: Some(Stream::new()), landmark: 2 * TAR_BLOCK, rest: Vec::with_capacity(BLOCK) }
    }

    /// Appends the plain bytes of a batch, the very first of which are the landmark. Returns the sha256 of the chunk
    /// that each member begins with, if it does.
    pub(crate) fn batch(&mut self, batch: &Batch) -> Vec<Option<[u8; 32]>> {
        let mut start = 0;
        let digests = batch.members.iter().map(|member| {
            let plain = &batch.plain[start..member.end];
            start = member.end;
            self.member(plain, member)
        });
        digests.collect()
    }

    fn member(&mut self, plain: &[u8], member: &Member) -> Option<[u8; 32]> {
        let payload = &plain[..member.payload];
        if payload.is_empty() || self.landmark > 0 || !self.rest.is_empty() {
            // Not where a block begins (chunk sizes may be odd), so the chunk is hashed by itself.
            self.append(plain);
            return (!payload.is_empty()).then(|| Stream::new().finish(payload));
        }
        let (blocks, rest) = payload.as_chunks();
        let mut chunk = Stream::new();
        match &mut self.source {
            Some(source) => absorb([&mut chunk, source, &mut self.twin], blocks),
            None => absorb([&mut chunk, &mut self.twin], blocks),
        }
        self.append(&plain[payload.len() - rest.len()..]);
        Some(chunk.finish(rest))
    }

    /// Appends plain bytes.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) {
        let landmark = self.landmark.min(bytes.len());
        self.landmark -= landmark;
        bytes = &bytes[landmark..];
        if !self.rest.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == BLOCK {
                let block = std::mem::take(&mut self.rest);
                self.blocks(block.as_chunks().0);
            }
        }
        let (blocks, rest) = bytes.as_chunks();
        self.blocks(blocks);
        self.rest.extend_from_slice(rest);
    }

    fn blocks(&mut self, blocks: &[[u8; BLOCK]]) {
        match &mut self.source {
            Some(source) => absorb([source, &mut self.twin], blocks),
            None => absorb([&mut self.twin], blocks),
        }
    }

    /// Ends the source's tar with `tail`; what is appended later belongs to the twin alone. There is one end.
    pub(crate) fn end_source(&mut self, tail: &TarTail, watch: &Watch<'_>) -> Result<PlainTar, ConvertError> {
        let again = || ConvertError::Output(io::Error::other("the source's tar has ended before"));
        let mut end = End { stream: self.source.take().ok_or_else(again)?, rest: self.rest.clone(), watch };
        if let Err(error) = write_tail(tail, &mut end) {
            watch.check()?;
            return Err(ConvertError::Output(error));
        }
        let size = end.stream.len() + end.rest.len() as u64;
        Ok(PlainTar { digest: Digest::from_sha256(&end.stream.finish(&end.rest)), size })
    }

    /// Returns the digest of the twin's plain tar.
    pub(crate) fn finish(self) -> Digest {
        Digest::from_sha256(&self.twin.finish(&self.rest))
    }
}

/// Takes the end of the source's tar, which may be long.
struct End<'a> {
    stream: Stream,
    rest: Vec<u8>,
    watch: &'a Watch<'a>,
}

impl Write for End<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.watch.check().map_err(io::Error::other)?;
        self.rest.extend_from_slice(bytes);
        let blocks = self.rest.as_chunks().0;
        absorb([&mut self.stream], blocks);
        let done = blocks.as_flattened().len();
        self.rest.drain(..done);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::source::Meter;

    fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        Sha256::digest(parts.concat()).into()
    }

    /// Hashes `plain` in batches of members that begin with payloads of `payload` bytes and have `after` more.
    fn check(payload: usize, after: usize) {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i * 31 + i / 256) as u8).collect();
        let landmark = [landmark_header(), landmark_payload()].concat();
        let mut hash = PlainHash::new();
        let members = vec![Member { end: 512, payload: 0 }, Member { end: 1024, payload: 1 }];
        let first = hash.batch(&Batch { plain: landmark.clone(), members });
        assert_eq!(first, [None, Some(sha256(&[&landmark[512..513]]))]);
        for piece in bytes.chunks(payload + after) {
            let payload = payload.min(piece.len());
            let batch = Batch { plain: piece.to_vec(), members: vec![Member { end: piece.len(), payload }] };
            assert_eq!(hash.batch(&batch), [Some(sha256(&[&piece[..payload]]))]);
        }
        let (cancel, limits, meter) = (crate::Cancel::default(), crate::Limits::default(), Meter::default());
        let source = hash.end_source(&TarTail::Zeros(10_000), &Watch::new(&cancel, &limits, &meter)).unwrap();
        assert_eq!(source.digest, Digest::from_sha256(&sha256(&[&bytes, &[0; 10_000]])));
        assert_eq!(source.size, 60_000);
        hash.append(b"TOC");
        assert_eq!(hash.finish(), Digest::from_sha256(&sha256(&[&landmark, &bytes, b"TOC"])));
    }

    #[test]
    fn every_hash_is_that_of_its_own_bytes() {
        for (payload, after) in [(64, 0), (64, 64), (100, 412), (1000, 536), (999, 1), (1, 62), (63, 0), (65, 7)] {
            check(payload, after);
        }
    }
}

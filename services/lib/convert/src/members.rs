//! [`Members`]: has members compressed and writes them in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};

use api::{Digest, TarTail};
use crossbeam_channel::Receiver;
use estargz::writer::Batch;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::plain_hash::{PlainHash, PlainTar};
use crate::pool::Compressed;
use crate::spill::Spill;
use crate::store::chunk_record;
use crate::watch::Watch;
use crate::{Cancel, ConvertError, Pool};

/// The level of a member that is compressed as a stream: its text is all alike, and more would only take longer.
pub(crate) const STREAM_LEVEL: u32 = 4;
const STREAM_BUFFER: usize = 256 << 10;

/// A batch on its way.
struct Waiting {
    compressed: Receiver<Compressed>,
    /// The sha256 of the chunk that each member begins with, if it does.
    chunks: Vec<Option<[u8; 32]>>,
}

/// The members of a twin on their way to the file.
pub(crate) struct Members<'a> {
    pool: &'a Pool,
    level: u8,
    twin: &'a mut File,
    waiting: VecDeque<Waiting>,
    /// The records of chunks; none any more once the source's tar has ended.
    chunks: Option<Spill>,
    pub(crate) size: u64,
    max_size: u64,
    plain_size: u64,
    hash: Sha256,
    plain_hash: PlainHash,
    cancel: &'a Cancel,
    progress: &'a dyn Fn(u64),
}

impl<'a> Members<'a> {
    pub(crate) fn new(
        twin: &'a mut File,
        chunks: Spill,
        max_size: u64,
        level: u8,
        pool: &'a Pool,
        cancel: &'a Cancel,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        Self {
            pool,
            level,
            twin,
            waiting: VecDeque::new(),
            chunks: Some(chunks),
            size: 0,
            max_size,
            plain_size: 0,
            hash: Sha256::new(),
            plain_hash: PlainHash::new(),
            cancel,
            progress,
        }
    }

    /// Queues a batch; first writes what is finished if enough are on their way.
    pub(crate) fn submit(&mut self, batch: Batch) -> Result<(), ConvertError> {
        if batch.members.is_empty() {
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Err(ConvertError::Cancelled);
        }
        while self.waiting.len() >= self.pool.workers() + 2 {
            self.write_next()?;
        }
        self.plain_size += batch.plain.len() as u64;
        let chunks = self.plain_hash.batch(&batch);
        self.waiting.push_back(Waiting { compressed: self.pool.submit(batch, self.level), chunks });
        (self.progress)(self.plain_size);
        Ok(())
    }

    /// Writes all that is on its way.
    pub(crate) fn drain(&mut self) -> Result<(), ConvertError> {
        while !self.waiting.is_empty() {
            self.write_next()?;
        }
        Ok(())
    }

    /// Ends the source's tar with `tail`, after its last batch, and returns what it was.
    pub(crate) fn end_source(&mut self, tail: &TarTail, watch: &Watch<'_>) -> Result<PlainTar, ConvertError> {
        self.plain_hash.end_source(tail, watch)
    }

    /// Writes all that is on its way and returns the records of chunks.
    pub(crate) fn take_chunks(&mut self) -> Result<Option<Spill>, ConvertError> {
        self.drain()?;
        Ok(self.chunks.take())
    }

    fn write_next(&mut self) -> Result<(), ConvertError> {
        let Some(next) = self.waiting.pop_front() else { return Ok(()) };
        let gone = |_| ConvertError::Output(std::io::Error::other("compressor is gone"));
        let compressed = next.compressed.recv().map_err(gone)?;
        for (size, digest) in compressed.sizes.into_iter().zip(next.chunks) {
            if let (Some(digest), Some(chunks)) = (digest, &mut self.chunks) {
                chunks.append(&chunk_record(self.size, &digest)).map_err(ConvertError::Output)?;
            }
            self.size += size as u64;
        }
        self.write(&compressed.bytes)
    }

    /// Appends one member with all of `plain`, compressed on this thread. Output does not depend on the CPU here either,
    /// but on how the input is cut, hence the whole buffers.
    pub(crate) fn append_stream(&mut self, plain: &mut impl Read) -> Result<(), ConvertError> {
        self.drain()?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(STREAM_LEVEL));
        let mut buffer = Vec::with_capacity(STREAM_BUFFER);
        loop {
            buffer.clear();
            plain.take(STREAM_BUFFER as u64).read_to_end(&mut buffer).map_err(ConvertError::Output)?;
            if buffer.is_empty() {
                break;
            }
            if self.cancel.is_cancelled() {
                return Err(ConvertError::Cancelled);
            }
            self.plain_hash.append(&buffer);
            self.plain_size += buffer.len() as u64;
            encoder.write_all(&buffer).map_err(ConvertError::Output)?;
            let compressed = std::mem::take(encoder.get_mut());
            self.append(&compressed)?;
        }
        let compressed = encoder.finish().map_err(ConvertError::Output)?;
        self.append(&compressed)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.size += bytes.len() as u64;
        self.write(bytes)
    }

    /// Writes bytes that `size` counts already.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        if self.size > self.max_size {
            return Err(ConvertError::limit(format!("twin has more than {} bytes", self.max_size)));
        }
        self.hash.update(bytes);
        self.twin.write_all(bytes).map_err(ConvertError::Output)
    }

    /// Ends the blob with `footer` and returns its digest and that of its plain tar.
    pub(crate) fn finish(mut self, footer: &[u8]) -> Result<Finished, ConvertError> {
        self.drain()?;
        self.append(footer)?;
        Ok(Finished {
            digest: Digest::from_sha256(&self.hash.finalize().into()),
            size: self.size,
            diff_id: self.plain_hash.finish(),
            plain_size: self.plain_size,
        })
    }
}

/// A finished blob.
pub(crate) struct Finished {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) plain_size: u64,
}

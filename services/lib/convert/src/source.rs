//! [`Source`]: where a layer's bytes come from, while they still arrive.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A layer's compressed bytes, which may still be arriving.
pub trait Source: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Reads into `buf` from `offset` on and returns how many bytes were read. Blocks until there are some; returns 0
    /// at the end only.
    ///
    /// # Errors
    /// If the bytes will not come; the conversion ends with [`crate::ConvertError::Source`].
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |m| m.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        estargz::ReadAt::read_at(self, buf, offset)
    }
}

/// A [`Source`] for readers of the format.
pub(crate) struct At<'a>(pub(crate) &'a dyn Source);

impl estargz::ReadAt for At<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// What both threads of a conversion know of the reading so far.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes read.
    pub(crate) bytes: AtomicU64,
    /// Nanoseconds spent waiting for the source.
    waited: AtomicU64,
}

impl Meter {
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }
}

/// Reads a [`Source`] from front to end; remembers its error, since decoders wrap errors as they like.
pub(crate) struct SourceReader<'a> {
    source: &'a dyn Source,
    meter: &'a Meter,
    at: u64,
    pub(crate) failure: Option<io::Error>,
}

impl<'a> SourceReader<'a> {
    pub(crate) fn new(source: &'a dyn Source, meter: &'a Meter) -> Self {
        Self { source, meter, at: 0, failure: None }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), "source failed");
        self.failure.get_or_insert(error);
        copy
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let result = self.source.read_at(buf, self.at);
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.meter.waited.fetch_add(nanos, Ordering::Relaxed);
        match result {
            Ok(0) if !buf.is_empty() && self.at < self.source.size() => {
                let detail = format!("source ends at {} of {} bytes", self.at, self.source.size());
                Err(self.fail(io::Error::new(io::ErrorKind::UnexpectedEof, detail)))
            }
            Ok(n) => {
                self.at += n as u64;
                self.meter.bytes.fetch_add(n as u64, Ordering::Relaxed);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => Err(self.fail(e)),
        }
    }
}

//! The first thread of a conversion: reads the source and unpacks it by its magic bytes, not by its media type.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};
use estargz::members::Members;

use crate::source::{Meter, Source, SourceReader};
use crate::watch::Watch;
use crate::{ConvertError, Limits};

/// The size of the buffers that go from thread to thread.
pub(crate) const BUFFER: usize = 512 << 10;
/// How many of them may wait.
pub(crate) const QUEUE: usize = 8;
const INPUT: usize = 256 << 10;

/// The parts of a conversion that this thread shares.
pub(crate) struct Inflate<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) limits: &'a Limits,
    pub(crate) watch: &'a Watch<'a>,
    pub(crate) meter: &'a Meter,
}

enum Compression {
    Gzip,
    Zstd,
    None,
}

impl Compression {
    fn detect(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl Inflate<'_> {
    /// Sends the plain tar in buffers, taking used ones from `used`, until its end or until nobody listens.
    pub(crate) fn run(&self, plain: &Sender<Vec<u8>>, used: &Receiver<Vec<u8>>) -> Result<(), ConvertError> {
        let mut input = BufReader::with_capacity(INPUT, SourceReader::new(self.source, self.meter));
        let result = self.pump(&mut input, plain, used);
        // Decoders wrap the source's errors, or take them for the end.
        input.get_mut().failure.take().map_or(result, |e| Err(ConvertError::Source(e)))
    }

    fn pump(
        &self,
        input: &mut BufReader<SourceReader<'_>>,
        plain: &Sender<Vec<u8>>,
        used: &Receiver<Vec<u8>>,
    ) -> Result<(), ConvertError> {
        let mut magic = [0; 4];
        let len = read_full(input, &mut magic).map_err(ConvertError::Source)?;
        let magic = &magic[..len];
        let whole = magic.chain(input);
        match Compression::detect(magic) {
            Compression::Gzip => {
                let input = BufReader::with_capacity(INPUT, whole);
                self.copy(Members::new(input), "gzip", plain, used)
            }
            Compression::Zstd => {
                let input = BufReader::with_capacity(INPUT, whole);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(ConvertError::Output)?;
                // 128 MiB, the most that clients take too.
                decoder.window_log_max(27).map_err(ConvertError::Output)?;
                self.copy(decoder, "zstd", plain, used)
            }
            Compression::None => self.copy(whole, "plain", plain, used),
        }
    }

    fn copy(
        &self,
        mut reader: impl Read,
        format: &str,
        plain: &Sender<Vec<u8>>,
        used: &Receiver<Vec<u8>>,
    ) -> Result<(), ConvertError> {
        let mut size = 0u64;
        loop {
            let mut buffer = used.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let n = read_full(&mut reader, &mut buffer).map_err(|e| {
                let read = self.meter.bytes.load(Ordering::Relaxed);
                ConvertError::corrupt(format!("{format} data breaks after {size} plain bytes, near {read}: {e}"))
            })?;
            if n == 0 {
                return Ok(());
            }
            buffer.truncate(n);
            size += n as u64;
            self.check(size)?;
            if plain.send(buffer).is_err() {
                // The walker gave up and says why.
                return Err(ConvertError::Cancelled);
            }
        }
    }

    fn check(&self, size: u64) -> Result<(), ConvertError> {
        self.watch.check()?;
        let (limits, read) = (self.limits, self.meter.bytes.load(Ordering::Relaxed));
        if size > limits.plain_bytes {
            return Err(ConvertError::limit(format!("more than {} plain bytes", limits.plain_bytes)));
        }
        if size > limits.ratio_from && size > limits.ratio.saturating_mul(read) {
            return Err(ConvertError::limit(format!("{size} plain bytes from {read}, more than {}:1", limits.ratio)));
        }
        Ok(())
    }
}

/// Fills `buf` and returns how many bytes there were before the end.
fn read_full(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match reader.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The plain tar as the other thread reads it. Ends where the inflating thread ends, for whatever reason.
pub(crate) struct Plain {
    pub(crate) filled: Receiver<Vec<u8>>,
    pub(crate) used: Sender<Vec<u8>>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) at: usize,
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            let next = self.filled.recv().unwrap_or_default();
            let old = std::mem::replace(&mut self.buffer, next);
            self.at = 0;
            // Without room there it is dropped.
            let _ = self.used.try_send(old);
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

//! [`ReadAt`]: bytes that can be read at any offset.

use std::io;

/// Bytes that can be read at any offset.
pub trait ReadAt {
    /// Reads into `buf` from `offset` on and returns how many bytes were read; 0 at the end.
    ///
    /// # Errors
    /// Whatever the store says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the bytes end before.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }
}

/// A window of a [`ReadAt`] as a [`io::Read`].
#[derive(Debug)]
pub struct Section<R> {
    inner: R,
    at: u64,
    end: u64,
}

impl<R: ReadAt> Section<R> {
    /// Reads `inner` from `start` up to `end`.
    pub fn new(inner: R, start: u64, end: u64) -> Self {
        Self { inner, at: start, end }
    }

    /// Returns the offset in the whole of the next byte.
    pub fn position(&self) -> u64 {
        self.at
    }
}

impl<R: ReadAt> io::Read for Section<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buf.len());
        if room == 0 {
            return Ok(0);
        }
        let n = self.inner.read_at(&mut buf[..room], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

//! [`Spill`]: records put aside in a scratch file, so that a million entries need not be held in memory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const WINDOW: usize = 256 << 10;

/// A scratch file that is written front to back.
#[derive(Debug)]
pub(crate) struct Spill {
    writer: BufWriter<File>,
    len: u64,
}

impl Spill {
    /// Makes a scratch file without a name in `dir`.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let writer = BufWriter::with_capacity(WINDOW, tempfile::tempfile_in(dir)?);
        Ok(Self { writer, len: 0 })
    }

    /// Adds a record and returns where it begins.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<u64> {
        let at = self.len;
        self.writer.write_all(record)?;
        self.len += record.len() as u64;
        Ok(at)
    }

    /// Returns the size so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Ends the writing.
    pub(crate) fn into_reader(self) -> io::Result<Records> {
        let file = self.writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Records { file, window: Vec::new(), start: 0, len: self.len })
    }
}

/// Records read back: mostly front to back, for which there is a window, now and then from elsewhere.
#[derive(Debug)]
pub(crate) struct Records {
    file: File,
    window: Vec<u8>,
    start: u64,
    len: u64,
}

impl Records {
    /// Reads a record of `size` bytes that begins at `at`.
    pub(crate) fn read(&mut self, at: u64, size: usize) -> io::Result<Vec<u8>> {
        let end = self.start + self.window.len() as u64;
        let is_ahead = at + size as u64 > end && at >= self.start && at - self.start <= 2 * WINDOW as u64;
        if is_ahead && size <= WINDOW {
            let room = usize::try_from(self.len.saturating_sub(at)).unwrap_or(WINDOW).min(WINDOW);
            self.window.resize(room, 0);
            self.file.read_exact_at(&mut self.window, at)?;
            self.start = at;
        }
        let inside = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        if let Some(record) = inside.and_then(|from| self.window.get(from..from.checked_add(size)?)) {
            return Ok(record.to_vec());
        }
        let mut record = vec![0; size];
        self.file.read_exact_at(&mut record, at)?;
        Ok(record)
    }
}

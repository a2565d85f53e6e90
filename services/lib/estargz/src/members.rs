//! [`Members`]: a row of gzip members as one plain stream.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Reads gzip members one after the other to the end of the input. Zero bytes after a member end the row; anything
/// else that is no gzip header is an error, as in Go's reader.
#[derive(Debug)]
pub struct Members<R> {
    state: State<Counted<R>>,
    /// The compressed offset of a member at which to stop.
    stop: Option<u64>,
    plain: u64,
    starts: Option<Vec<(u64, u64)>>,
    /// The sorted offsets of the members to remember; `None` for all.
    only: Option<Vec<u64>>,
}

#[derive(Debug)]
enum State<R> {
    /// Between members.
    Between(R),
    /// In a member.
    Inside(Box<GzDecoder<R>>),
    /// Failed, or moved out for a moment.
    Gone,
}

impl<R: BufRead> Members<R> {
    /// Reads the members of `inner`.
    pub fn new(inner: R) -> Self {
        let inner = Counted { inner, consumed: 0 };
        Self { state: State::Between(inner), stop: None, plain: 0, starts: None, only: None }
    }

    /// Makes the reader remember where each member begins.
    #[must_use]
    pub fn recording(mut self) -> Self {
        self.starts = Some(Vec::new());
        self
    }

    /// Makes the reader remember where those members begin whose compressed offsets are in `offsets`, which is sorted.
    #[must_use]
    pub fn recording_at(mut self, offsets: Vec<u64>) -> Self {
        self.only = Some(offsets);
        self.recording()
    }

    /// Makes the reader end in front of the member that begins at `offset`; `None` makes it go on.
    pub fn stop_at(&mut self, offset: Option<u64>) {
        self.stop = offset;
    }

    /// Returns where each member so far begins: compressed offset, plain offset. Empty unless recording.
    pub fn starts(&self) -> &[(u64, u64)] {
        self.starts.as_deref().unwrap_or_default()
    }

    /// Opens the next member; returns false at the end.
    fn open(&mut self, mut inner: Counted<R>) -> io::Result<bool> {
        let at = inner.consumed;
        let is_first = at == 0;
        if self.stop == Some(at) {
            self.state = State::Between(inner);
            return Ok(false);
        }
        match inner.fill_buf()?.first() {
            None => {
                self.state = State::Between(inner);
                return Ok(false);
            }
            Some(0) if !is_first => {
                skip_zeros(&mut inner)?;
                self.state = State::Between(inner);
                return Ok(false);
            }
            Some(_) => {}
        }
        let wanted = self.only.as_ref().is_none_or(|only| only.binary_search(&at).is_ok());
        if let Some(starts) = self.starts.as_mut().filter(|_| wanted) {
            starts.push((at, self.plain));
        }
        self.state = State::Inside(Box::new(GzDecoder::new(inner)));
        Ok(true)
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Gone) {
                State::Between(inner) => {
                    if !self.open(inner)? {
                        return Ok(0);
                    }
                }
                State::Inside(mut decoder) => {
                    let n = decoder.read(buf)?;
                    self.plain += n as u64;
                    if n > 0 {
                        self.state = State::Inside(decoder);
                        return Ok(n);
                    }
                    self.state = State::Between(decoder.into_inner());
                }
                State::Gone => return Err(io::Error::other("read after an error")),
            }
        }
    }
}

fn skip_zeros(inner: &mut impl BufRead) -> io::Result<()> {
    loop {
        let available = inner.fill_buf()?;
        if available.is_empty() {
            return Ok(());
        }
        if available.iter().any(|&b| b != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "garbage after a gzip member"));
        }
        let n = available.len();
        inner.consume(n);
    }
}

/// Counts the bytes consumed.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    consumed: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.consumed += n as u64;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n as u64;
        self.inner.consume(n);
    }
}

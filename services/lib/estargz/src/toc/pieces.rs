//! [`Pieces`]: a JSON text that is read piece by piece: strings and objects whole, all else byte by byte.

use std::io::{ErrorKind, Read};

use memchr::memchr2;
use serde::de::Error as _;
use serde_json::Error;

/// How much is read at once.
const AT_ONCE: usize = 256 << 10;
/// The longest piece, in bytes: an entry with all the attributes that a file may have.
const LONGEST: usize = 8 << 20;

/// A JSON text that is read piece by piece.
pub(super) struct Pieces<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer is read and not taken.
    start: usize,
    end: usize,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: vec![0; AT_ONCE], start: 0, end: 0 }
    }

    /// Returns the next byte, which is not taken by that; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, Error> {
        if self.start == self.end && !self.more()? {
            return Ok(None);
        }
        Ok(Some(self.buffer[self.start]))
    }

    /// Takes the byte that was peeked at.
    pub(super) fn skip(&mut self) {
        self.start += 1;
    }

    /// Takes spaces, and returns what is next.
    pub(super) fn peek_on(&mut self) -> Result<Option<u8>, Error> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.skip(),
                next => return Ok(next),
            }
        }
    }

    /// Takes the string that begins with the next byte, with its quotes.
    pub(super) fn string(&mut self) -> Result<&[u8], Error> {
        self.take(|bytes| end_of_string(bytes, 0))
    }

    /// Takes the object that begins with the next byte.
    pub(super) fn object(&mut self) -> Result<&[u8], Error> {
        self.take(end_of_object)
    }

    fn take(&mut self, end_of: impl Fn(&[u8]) -> Option<usize>) -> Result<&[u8], Error> {
        loop {
            if let Some(length) = end_of(&self.buffer[self.start..self.end]) {
                let start = self.start;
                self.start += length;
                return Ok(&self.buffer[start..self.start]);
            }
            if !self.more()? {
                return Err(Error::custom("the text ends too early"));
            }
        }
    }

    /// Fills the buffer, which grows if it is full, and tells whether anything came.
    fn more(&mut self) -> Result<bool, Error> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            if self.end >= LONGEST {
                return Err(Error::custom(format_args!("an entry has more than {LONGEST} bytes")));
            }
            self.buffer.resize(self.end * 2, 0);
        }
        let before = self.end;
        while self.end < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(error)),
            }
        }
        Ok(self.end > before)
    }
}

/// Returns the offset behind the string whose first quote is at `at`; `None` where its end is not there.
fn end_of_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        // What is escaped ends nothing.
        at += 2;
    }
}

/// Returns the length of the object that `bytes` begin with; `None` where its end is not there. Only brackets are counted: who
/// parses it finds what else is wrong.
fn end_of_object(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = end_of_string(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

//! [`Growing`]: a file that is read while it is written.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How far a file is.
#[derive(Debug, Default)]
struct State {
    length: u64,
    /// Whether it is whole, or will never be.
    end: Option<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

/// Tells readers how far the file is. Dropped before its end, it ends them with an error.
#[derive(Debug)]
pub(super) struct Growth(Arc<Shared>);

impl Growth {
    /// Tells that there are so many bytes.
    pub(super) fn grew_to(&self, length: u64) {
        self.0.set(|state| state.length = length);
    }

    /// Tells that all of it is there, so many bytes.
    pub(super) fn end(self, length: u64) {
        self.0.set(|state| *state = State { length, end: Some(true) });
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.0.set(|state| {
            state.end.get_or_insert(false);
        });
    }
}

/// Reads a file as far as it is there, and waits for the rest.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    at: u64,
    shared: Arc<Shared>,
}

impl Growing {
    /// Returns a reader of `file` from its beginning, and what tells it how far that is.
    pub(super) fn new(file: File) -> (Self, Growth) {
        let shared = Arc::new(Shared::default());
        (Self { file, at: 0, shared: Arc::clone(&shared) }, Growth(shared))
    }
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waits = |state: &mut State| state.length == self.at && state.end.is_none();
        let state = self.shared.changed.wait_while(self.shared.state(), waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let (length, end) = (state.length, state.end);
        drop(state);
        if length == self.at && end == Some(false) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the rest of it does not come"));
        }
        let most = usize::try_from(length - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_reader_follows_its_writer_to_either_end() {
        for is_whole in [true, false] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let (mut growing, growth) = Growing::new(file.reopen().unwrap());
            let reader = std::thread::spawn(move || {
                let mut text = String::new();
                growing.read_to_string(&mut text).map(|_| text)
            });
            file.write_all(b"some").unwrap();
            growth.grew_to(4);
            file.write_all(b" bytes").unwrap();
            if is_whole {
                growth.end(10);
                assert_eq!(reader.join().unwrap().unwrap(), "some bytes");
            } else {
                drop(growth);
                assert_eq!(reader.join().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }
}

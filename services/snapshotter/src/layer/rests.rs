//! [`Rests`]: what of a layer's tar lies between its files' bytes: headers and padding. With them the whole tar can be hashed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Number and length before each rest in the file.
const HEAD: usize = 8;
/// Marks the number of a chunk, in the file, where the bytes lie before it in its member.
const BEFORE: u32 = 1 << 31;
/// Nothing is kept.
const NONE: (u64, u32) = (u64::MAX, 0);

/// What lies before the first chunk of a layer and behind each, in one file that only grows.
///
/// What is cut off at its end, because the machine stopped, is not there. None of it is verified before all of it is.
#[derive(Debug)]
pub(super) struct Rests {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where each rest lies and how long it is: that before the first chunk, then that behind each.
    places: Vec<(u64, u32)>,
    /// The same of what lies before a chunk in its own member, where anything does.
    befores: HashMap<u32, (u64, u32)>,
    end: u64,
    /// How often all were forgotten.
    age: u64,
}

impl State {
    fn set(&mut self, number: u32, place: (u64, u32)) -> bool {
        if number & BEFORE != 0 {
            self.befores.insert(number & !BEFORE, place);
            return true;
        }
        self.places.get_mut(number as usize).map(|known| *known = place).is_some()
    }
}

impl Rests {
    pub(super) fn open(folder: &Path, chunks: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(folder.join("rests"))?;
        let length = file.metadata()?.len();
        let mut state = State { places: vec![NONE; chunks + 1], befores: HashMap::new(), end: 0, age: 0 };
        let mut head = [0; HEAD];
        while state.end + HEAD as u64 <= length {
            file.read_exact_at(&mut head, state.end)?;
            let [number, size] =
                [&head[..4], &head[4..]].map(|part| u32::from_le_bytes(part.try_into().unwrap_or_default()));
            let at = state.end + HEAD as u64;
            if at + u64::from(size) > length || !state.set(number, (at, size)) {
                break;
            }
            state.end = at + u64::from(size);
        }
        Ok(Self { file, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether the rest of a number is here: 0 lies before the first chunk, `n + 1` behind chunk `n`.
    pub(super) fn has(&self, number: u32) -> bool {
        self.state().places.get(number as usize).is_some_and(|place| *place != NONE)
    }

    /// Returns how often all were forgotten.
    pub(super) fn age(&self) -> u64 {
        self.state().age
    }

    /// Keeps a rest, in place of what was there, if none was forgotten since `age`.
    pub(super) fn put(&self, number: u32, rest: &[u8], age: u64) -> io::Result<()> {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&number.to_le_bytes());
        head[4..].copy_from_slice(&(rest.len() as u32).to_le_bytes());
        let mut state = self.state();
        if state.age != age {
            return Ok(());
        }
        let at = state.end + HEAD as u64;
        // The head first: it tells how much has to follow.
        self.file.write_all_at(&head, state.end)?;
        self.file.write_all_at(rest, at)?;
        state.set(number, (at, rest.len() as u32));
        state.end = at + rest.len() as u64;
        Ok(())
    }

    /// Keeps what lies before a chunk in its member.
    pub(super) fn put_before(&self, chunk: u32, before: &[u8], age: u64) -> io::Result<()> {
        self.put(chunk | BEFORE, before, age)
    }

    /// Returns what lies before a chunk in its member.
    pub(super) fn before(&self, chunk: u32) -> io::Result<Vec<u8>> {
        match self.state().befores.get(&chunk).copied() {
            Some(place) => self.read(place),
            None => Ok(Vec::new()),
        }
    }

    /// Returns a rest; `None` where it is not here.
    pub(super) fn get(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        let place = self.state().places.get(number as usize).copied().unwrap_or(NONE);
        if place == NONE {
            return Ok(None);
        }
        self.read(place).map(Some)
    }

    fn read(&self, (at, length): (u64, u32)) -> io::Result<Vec<u8>> {
        let mut rest = vec![0; length as usize];
        self.file.read_exact_at(&mut rest, at)?;
        Ok(rest)
    }

    /// Forgets all of them: one of them is wrong, and nobody knows which.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut state = self.state();
        state.age += 1;
        self.file.set_len(0)?;
        state.end = 0;
        state.places.fill(NONE);
        state.befores.clear();
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Rests::open(folder.path(), 3).unwrap();
        let rests = open();
        rests.put(2, b"two", 0).unwrap();
        rests.put(0, b"", 0).unwrap();
        rests.put(2, b"again", 0).unwrap();
        rests.put(3, b"three", 0).unwrap();
        drop(rests);
        let rests = open();
        assert_eq!([0, 1, 2, 3].map(|number| rests.has(number)), [true, false, true, true]);
        assert_eq!(rests.get(2).unwrap().unwrap(), b"again");
        let length = rests.file.metadata().unwrap().len();
        rests.file.set_len(length - 1).unwrap();
        let rests = open();
        assert_eq!([0, 1, 2, 3].map(|number| rests.has(number)), [true, false, true, false]);
        rests.put(3, b"new", 0).unwrap();
        rests.put_before(1, b"before", 0).unwrap();
        assert_eq!(open().get(3).unwrap().unwrap(), b"new");
        assert_eq!([0, 1].map(|chunk| open().before(chunk).unwrap()), [b"".to_vec(), b"before".to_vec()]);
        open().clear().unwrap();
        assert!(!open().has(3));
    }
}

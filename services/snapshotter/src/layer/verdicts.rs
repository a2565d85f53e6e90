//! [`Verdicts`]: what is known of a layer against each tar that it was to be.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::proof::{Expected, Proof};
use super::source::Place;

/// What is known of a layer against one tar that it was to be.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    proof: AtomicU8,
    /// Who sent another tar.
    accused: Mutex<Vec<Place>>,
    /// Nobody was left to ask for it.
    has_nobody: AtomicBool,
}

impl Verdict {
    pub(crate) fn get(&self) -> Proof {
        match self.proof.load(Ordering::Acquire) {
            1 => Proof::Proven,
            2 => Proof::Refused,
            _ => Proof::Pending,
        }
    }

    /// Notes that what came from one place alone is another tar; tells whether that is news.
    pub(super) fn accuse(&self, place: &Place) -> bool {
        let mut accused = self.accused.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !accused.contains(place);
        if is_news {
            accused.push(place.clone());
        }
        is_news
    }

    /// Notes that nobody is left to ask; tells whether that was so before.
    pub(super) fn note_nobody(&self) -> bool {
        self.has_nobody.swap(true, Ordering::AcqRel)
    }

    /// Tells whether anybody is known to have sent another tar.
    pub(super) fn accuses_somebody(&self) -> bool {
        !self.accused.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn accuses(&self, place: &Place) -> bool {
        self.accused.lock().unwrap_or_else(PoisonError::into_inner).contains(place)
    }

    fn set(&self, proof: Proof) {
        let number = match proof {
            Proof::Pending => 0,
            Proof::Proven => 1,
            Proof::Refused => 2,
        };
        self.proof.store(number, Ordering::Release);
    }
}

/// What is known of a layer, by the tar that it was to be. Kept in a file of a line each: `<tar> <verdict>`.
#[derive(Debug)]
pub(super) struct Verdicts {
    path: PathBuf,
    known: Mutex<HashMap<String, Arc<Verdict>>>,
}

impl Verdicts {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("verdicts");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let known: HashMap<String, Arc<Verdict>> = HashMap::new();
        let verdicts = Self { path, known: Mutex::new(known) };
        // What a crash cut off is no verdict.
        for (tar, word) in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.split_once(' ')) {
            let proof = [Proof::Proven, Proof::Refused].into_iter().find(|proof| proof.as_str() == word);
            verdicts.entry(tar.to_owned()).set(proof.unwrap_or(Proof::Pending));
        }
        Ok(verdicts)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Verdict>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, tar: String) -> Arc<Verdict> {
        Arc::clone(self.known().entry(tar).or_default())
    }

    /// Returns what is known, and will be.
    pub(super) fn of(&self, expected: &Expected) -> Arc<Verdict> {
        self.entry(expected.key())
    }

    /// Remembers a verdict for good.
    pub(super) fn put(&self, expected: &Expected, proof: Proof) -> io::Result<()> {
        // A refusal holds even where it cannot be written down.
        if proof == Proof::Refused {
            self.of(expected).set(proof);
        }
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        // A line that was cut off before is ended first.
        file.write_all(format!("\n{} {}\n", expected.key(), proof.as_str()).as_bytes())?;
        file.sync_data()?;
        self.of(expected).set(proof);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use api::Digest;

    use super::*;

    #[test]
    fn verdicts_outlive_the_process_and_what_was_cut_off_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let tar = |text: &str| Expected::tar(Digest::of(text.as_bytes()), None);
        let verdicts = Verdicts::open(folder.path()).unwrap();
        let early = verdicts.of(&tar("a"));
        verdicts.put(&tar("a"), Proof::Proven).unwrap();
        assert_eq!(early.get(), Proof::Proven);
        let path = folder.path().join("verdicts");
        let cut = format!("{}{} refu", fs::read_to_string(&path).unwrap(), tar("b").key());
        fs::write(&path, cut).unwrap();
        let verdicts = Verdicts::open(folder.path()).unwrap();
        verdicts.put(&tar("c"), Proof::Refused).unwrap();
        let verdicts = Verdicts::open(folder.path()).unwrap();
        let found = ["a", "b", "c"].map(|text| verdicts.of(&tar(text)).get());
        assert_eq!(found, [Proof::Proven, Proof::Pending, Proof::Refused]);
    }
}

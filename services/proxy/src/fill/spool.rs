//! [`Spool`]: the sparse local file of one fill, and who knows what of it is there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use api::Digest;
use bytes::Bytes;
use tokio::sync::watch;

use super::FillError;
use super::intervals::Intervals;

/// The sparse local file of one fill.
///
/// Invariants: `have` is a subset of `claimed`; every byte in `have` has been written to the file;
/// a byte is claimed by one fetch at most, so no byte is asked of the upstream twice unless the
/// fetch that claimed it failed.
#[derive(Debug)]
pub(crate) struct Spool {
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: Arc<File>,
    state: Mutex<State>,
    /// Wakes blocking readers (the converter).
    grown: Condvar,
    /// Wakes asynchronous readers; the value counts changes.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    have: Intervals,
    claimed: Intervals,
    outcome: Option<Outcome>,
}

/// How a fill ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// All bytes are here and have the right digest.
    Verified,
    /// The fill was given up; nothing of it is kept.
    Failed(Arc<FillError>),
}

/// What a reader at some position finds.
#[derive(Debug)]
pub(crate) enum Available {
    /// Bytes up to this position are there.
    Until(u64),
    /// Somebody is fetching them.
    Claimed,
    /// Nobody has asked for them yet.
    Unclaimed,
}

impl Spool {
    /// Creates the file at `path` for a blob of `size` bytes of which `have` are already in it.
    pub(crate) fn create(digest: Digest, size: u64, path: &Path, have: Intervals) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size)?;
        Ok(Self {
            digest,
            size,
            path: path.to_owned(),
            file: Arc::new(file),
            state: Mutex::new(State { claimed: have.clone(), have, outcome: None }),
            grown: Condvar::new(),
            version: watch::Sender::new(0),
        })
    }

    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.grown.notify_all();
        self.version.send_modify(|v| *v = v.wrapping_add(1));
    }

    /// Claims the first unclaimed bytes at or after `from` and before `limit`, at most `most` of them.
    pub(crate) fn claim(&self, from: u64, limit: u64, most: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        let gap = state.claimed.first_gap(from, limit.min(self.size))?;
        let range = gap.start..gap.end.min(gap.start.saturating_add(most));
        state.claimed.insert(range.clone());
        Some(range)
    }

    /// Tells whether there are bytes that no fetch has asked for yet.
    pub(crate) fn has_unclaimed(&self) -> bool {
        self.state().claimed.first_gap(0, self.size).is_some()
    }

    /// Gives back what of a claimed `range` did not arrive, so that another fetch may claim it.
    pub(crate) fn release(&self, range: Range<u64>) {
        let mut state = self.state();
        let mut at = range.start;
        while let Some(gap) = state.have.first_gap(at, range.end) {
            at = gap.end;
            state.claimed.remove(gap);
        }
        drop(state);
        self.announce();
    }

    /// Writes `pieces` one after the other at `offset` and makes them readable. Blocks on the disk.
    ///
    /// Bytes that are already there are never written again: a reader, the hash or the converter may
    /// have seen them.
    pub(crate) fn write(&self, offset: u64, pieces: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for piece in pieces {
            self.write_missing(at, piece)?;
            at += piece.len() as u64;
        }
        let mut state = self.state();
        state.claimed.insert(offset..at);
        state.have.insert(offset..at);
        drop(state);
        self.announce();
        Ok(())
    }

    fn write_missing(&self, offset: u64, piece: &[u8]) -> io::Result<()> {
        let end = offset + piece.len() as u64;
        let mut at = offset;
        loop {
            let Some(gap) = self.state().have.first_gap(at, end) else { return Ok(()) };
            let within = |position: u64| usize::try_from(position - offset).map_err(io::Error::other);
            self.file.write_all_at(&piece[within(gap.start)?..within(gap.end)?], gap.start)?;
            at = gap.end;
        }
    }

    /// Ends the fill; readers see the outcome.
    pub(crate) fn finish(&self, outcome: Outcome) {
        self.state().outcome.get_or_insert(outcome);
        self.announce();
    }

    /// Returns how the fill ended, or `None` while it runs.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state().outcome.clone()
    }

    /// Returns the end of the gap-free front.
    pub(crate) fn front(&self) -> u64 {
        self.state().have.run_end(0).unwrap_or(0)
    }

    /// Tells whether every byte is in the file.
    pub(crate) fn is_complete(&self) -> bool {
        self.front() >= self.size
    }

    /// Returns a copy of the map of bytes that are in the file.
    pub(crate) fn have(&self) -> Intervals {
        self.state().have.clone()
    }

    /// Returns what a reader at `position` finds.
    pub(crate) fn at(&self, position: u64) -> Result<Available, Arc<FillError>> {
        let state = self.state();
        if let Some(Outcome::Failed(error)) = &state.outcome {
            return Err(Arc::clone(error));
        }
        Ok(match state.have.run_end(position) {
            Some(end) => Available::Until(end),
            None if state.claimed.run_end(position).is_some() => Available::Claimed,
            None => Available::Unclaimed,
        })
    }

    /// Returns a receiver that changes with every change of this spool. Subscribe before looking,
    /// or a change between the look and the wait is missed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until the bytes at `position` are there.
    ///
    /// # Errors
    /// The reason when the fill fails first.
    pub(crate) async fn wait_for(&self, position: u64) -> Result<u64, Arc<FillError>> {
        let mut changes = self.subscribe();
        loop {
            if let Available::Until(end) = self.at(position)? {
                return Ok(end);
            }
            self.changed(&mut changes).await;
        }
    }

    /// Waits for the fill to end.
    pub(crate) async fn wait_finished(&self) -> Outcome {
        let mut changes = self.subscribe();
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            self.changed(&mut changes).await;
        }
    }

    /// Waits for the next change. The sender lives in `self`, so it cannot be closed here.
    pub(crate) async fn changed(&self, changes: &mut watch::Receiver<u64>) {
        let _open = changes.changed().await;
    }

    /// Reads `range`, which must be there, off the asynchronous threads.
    pub(crate) async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        telemetry::blocking(move || {
            let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut buffer = vec![0; len];
            file.read_exact_at(&mut buffer, range.start)?;
            Ok(Bytes::from(buffer))
        })
        .await
    }

    /// Reads at `offset`, blocking until bytes are there. Returns 0 at the end of the blob, which is
    /// reached only when the digest is right.
    pub(crate) fn read_blocking(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let end = loop {
            match &state.outcome {
                Some(Outcome::Failed(error)) => return Err(io::Error::other(Arc::clone(error))),
                Some(Outcome::Verified) if offset >= self.size => return Ok(0),
                _ => {}
            }
            if let Some(end) = state.have.run_end(offset) {
                break end;
            }
            state = self.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let len = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut buffer[..len], offset)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_claimed_once_until_released() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(Digest::of(b"x"), 100, &folder.path().join("s"), Intervals::default()).unwrap();
        assert_eq!(spool.claim(0, 100, 30), Some(0..30));
        assert_eq!(spool.claim(10, 40, 100), Some(30..40));
        assert_eq!(spool.claim(0, 40, 100), None);
        assert!(spool.has_unclaimed());
        assert_eq!(spool.claim(0, 100, 60), Some(40..100));
        assert!(!spool.has_unclaimed(), "claimed is asked for, though nothing is here yet");
        spool.release(40..100);
        spool.write(0, &[Bytes::from_static(&[1; 10])]).unwrap();
        spool.release(0..30);
        assert_eq!(spool.claim(0, 100, 100), Some(10..30));
        assert!(matches!(spool.at(5), Ok(Available::Until(10))));
        assert!(matches!(spool.at(12), Ok(Available::Claimed)));
        assert!(matches!(spool.at(50), Ok(Available::Unclaimed)));
    }

    #[test]
    fn blocking_readers_follow_the_front_and_see_the_end_only_when_verified() {
        let folder = tempfile::tempdir().unwrap();
        let spool =
            Arc::new(Spool::create(Digest::of(b"x"), 4, &folder.path().join("s"), Intervals::default()).unwrap());
        let reader = Arc::clone(&spool);
        let thread = std::thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 3]);
            loop {
                match reader.read_blocking(&mut buffer, all.len() as u64) {
                    Ok(0) => return all,
                    Ok(n) => all.extend_from_slice(&buffer[..n]),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        spool.write(2, &[Bytes::from_static(b"cd")]).unwrap();
        spool.write(0, &[Bytes::from_static(b"ab")]).unwrap();
        spool.finish(Outcome::Verified);
        assert_eq!(thread.join().unwrap(), b"abcd");
    }
}

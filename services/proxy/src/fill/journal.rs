//! [`Journal`]: what a spool had when the process died, so that the next one goes on from there.

use std::io;
use std::path::{Path, PathBuf};

use api::Digest;
use serde::{Deserialize, Serialize};

use super::intervals::Intervals;

/// The note beside a spool that says which bytes of it are there.
///
/// It is a hint only: the whole file is hashed before anything of it counts, so a journal that
/// outlived the bytes it speaks of (an unclean boot) costs a second download and nothing else.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The size of the blob in bytes.
    pub(crate) size: u64,
    /// The ranges that are there, as `[start, end)`.
    pub(crate) have: Vec<(u64, u64)>,
}

/// Returns the path of the spool of `digest` in `folder`, as filled from `upstream`.
pub(crate) fn spool_path(folder: &Path, upstream: &str, digest: &Digest) -> PathBuf {
    let upstream = Digest::of(upstream.as_bytes());
    folder.join(format!("{}-{}-{}.spool", digest.algorithm().name(), digest.hex(), &upstream.hex()[..8]))
}

fn journal_path(spool: &Path) -> PathBuf {
    spool.with_extension("journal")
}

/// Tells whether the file at `path` is a spool, or belongs to one.
pub(super) fn is_spools(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "spool" || kind == "journal" || kind == "journal-new")
}

/// Returns where a journal is written before it takes the place of the one before.
fn fresh_path(spool: &Path) -> PathBuf {
    spool.with_extension("journal-new")
}

impl Journal {
    /// Returns what an earlier process left of the spool at `path`, if anything.
    pub(crate) fn load(path: &Path) -> Option<(u64, Intervals)> {
        let text = std::fs::read(journal_path(path)).ok()?;
        let journal: Self = serde_json::from_slice(&text).ok()?;
        if std::fs::metadata(path).ok()?.len() != journal.size {
            return None;
        }
        let mut have = Intervals::default();
        for (start, end) in journal.have {
            if start < end && end <= journal.size {
                have.insert(start..end);
            }
        }
        Some((journal.size, have))
    }

    /// Writes the note for the spool at `path`: whole or not at all.
    pub(crate) fn save(path: &Path, size: u64, have: &Intervals) -> io::Result<()> {
        let journal = Self { size, have: have.iter().map(|r| (r.start, r.end)).collect() };
        let target = journal_path(path);
        let fresh = fresh_path(path);
        std::fs::write(&fresh, serde_json::to_vec(&journal)?)?;
        std::fs::rename(fresh, target)
    }

    /// Removes the spool at `path`, if it is still there, and its note.
    pub(crate) fn remove(path: &Path) {
        for leftover in [path.to_owned(), journal_path(path), fresh_path(path)] {
            if let Err(error) = std::fs::remove_file(&leftover)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %leftover.display(), %error, "a spool file could not be removed");
            }
        }
    }
}

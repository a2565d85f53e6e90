//! [`StoreError`]: what can go wrong with stored bytes.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{BlobKey, MAX_META, MetaKey};

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is stored under the key.
    #[error("nothing is stored under {key}")]
    NotFound {
        /// The key asked for.
        key: BlobKey,
    },
    /// What lies under a meta object's key is too large to be one.
    #[error("{key} has more than the {MAX_META} bytes that a meta object may have: remove it, nothing here wrote it")]
    MetaTooLarge {
        /// The key asked for.
        key: MetaKey,
    },
    /// There is no room left, or none that this user may take.
    #[error("no room left to {action} {}", path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The bytes end before the size they had when they were opened: somebody cut the file.
    #[error("{} ends before its {size} bytes", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The size it had when it was opened, in bytes.
        size: u64,
    },
    /// The system refused an operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The object store did not answer in time, or said that it cannot do it now.
    #[error("cannot {action} {place} now")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// On which object, `s3://bucket/key`.
        place: String,
        /// What came in place of an answer.
        source: Cause,
    },
    /// The object store refused an operation, and will again until somebody changes something.
    #[error("cannot {action} {place}: {advice}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On which object, `s3://bucket/key`.
        place: String,
        /// What to do about it.
        advice: &'static str,
        /// The object store's answer.
        source: Cause,
    },
}

/// What an object store said, or what came in place of its answer: a code and a message on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    /// Returns the cause with this text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns `error` and what lies behind it, on one line.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut behind = error.source();
        while let Some(error) = behind {
            text = format!("{text}: {error}");
            behind = error.source();
        }
        Self(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

impl StoreError {
    /// Returns the error for `source`, met when trying to `action` the file at `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// Tells whether the same call may succeed a little later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::MetaTooLarge { .. }
            | Self::Full { .. }
            | Self::Truncated { .. }
            | Self::Refused { .. } => false,
            Self::Unavailable { .. } => true,
            Self::Io { source, .. } => {
                let out_of_files = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
                    .iter()
                    .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()));
                out_of_files
                    || matches!(
                        source.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    )
            }
        }
    }
    /// Returns the same error once more, for another caller that waited for the same work.
    pub(crate) fn again(&self) -> Self {
        let io = |source: &io::Error| match source.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(source.kind(), source.to_string()),
        };
        match self {
            Self::NotFound { key } => Self::NotFound { key: key.clone() },
            Self::MetaTooLarge { key } => Self::MetaTooLarge { key: key.clone() },
            Self::Full { action, path, source } => Self::Full { action, path: path.clone(), source: io(source) },
            Self::Truncated { path, size } => Self::Truncated { path: path.clone(), size: *size },
            Self::Io { action, path, source } => Self::Io { action, path: path.clone(), source: io(source) },
            Self::Unavailable { action, place, source } => {
                Self::Unavailable { action, place: place.clone(), source: source.clone() }
            }
            Self::Refused { action, place, advice, source } => {
                Self::Refused { action, place: place.clone(), advice, source: source.clone() }
            }
        }
    }
}

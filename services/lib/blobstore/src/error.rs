//! [`StoreError`]: what can go wrong with stored bytes.

use std::io;
use std::path::{Path, PathBuf};

use crate::BlobKey;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is stored under the key.
    #[error("nothing is stored under {key}")]
    NotFound {
        /// The key asked for.
        key: BlobKey,
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
}

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
            Self::NotFound { .. } | Self::Full { .. } | Self::Truncated { .. } => false,
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
}

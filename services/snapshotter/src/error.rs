//! [`SnapshotError`]: why a call of containerd's is refused.

use std::io;
use std::path::{Path, PathBuf};

use crate::layers::LayerError;
use crate::{FilterError, Kind, StoreError};

/// Why a call is refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("snapshot {name:?} does not exist")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// There is one of that name.
    #[error("snapshot {name:?} exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// A name was left out.
    #[error("a snapshot needs a name")]
    NoName,
    /// It is not what the call is for.
    #[error("snapshot {name:?} is {kind}: it cannot be {done}")]
    Kind {
        /// Its name.
        name: String,
        /// What it is.
        kind: Kind,
        /// What the call would have done with it.
        done: &'static str,
    },
    /// What is still written to cannot be stood on.
    #[error("parent {name:?} is {kind}, and only a committed snapshot can be a parent")]
    Parent {
        /// Its name.
        name: String,
        /// What it is.
        kind: Kind,
    },
    /// Others stand on it.
    #[error("cannot remove snapshot {name:?}: {child:?} stands on it")]
    HasChild {
        /// Its name.
        name: String,
        /// The first of them.
        child: String,
    },
    /// Only labels change.
    #[error("cannot change {field:?} of a snapshot: only its labels can be changed")]
    Fixed {
        /// The field's path.
        field: String,
    },
    /// It cannot be understood.
    #[error("cannot list snapshots")]
    Filter(#[from] FilterError),
    /// The database of snapshots failed.
    #[error("the snapshot database failed")]
    Store(#[from] StoreError),
    /// A lazy snapshot's layer cannot be used.
    #[error("the layer of snapshot {name:?} cannot be used")]
    Layer {
        /// The snapshot.
        name: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a caller makes of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// There is nothing of that name.
    NotFound,
    /// There is something of that name.
    Exists,
    /// The request makes no sense.
    Invalid,
    /// It makes sense, but not now.
    Precondition,
    /// This program or its machine is in trouble.
    Internal,
}

impl SnapshotError {
    pub(crate) fn layer(name: &str, source: LayerError) -> Self {
        Self::Layer { name: name.to_owned(), source: source.into() }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Returns what a caller makes of it.
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } => Class::NotFound,
            Self::Exists { .. } => Class::Exists,
            Self::NoName | Self::Parent { .. } | Self::Fixed { .. } | Self::Filter(_) => Class::Invalid,
            Self::Kind { .. } | Self::HasChild { .. } => Class::Precondition,
            Self::Store(_) | Self::Layer { .. } | Self::Io { .. } => Class::Internal,
        }
    }
}

/// Returns an error's text with those of its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

//! [`ConvertError`]: why there is no twin.

use std::io;

use api::UnconvertibleReason;
use estargz::tar::TarError;

/// Why a conversion gave no twin.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The layer cannot be converted, now and ever under this profile.
    #[error("layer is unconvertible ({reason}): {detail}")]
    Unconvertible {
        /// The kind of trouble.
        reason: UnconvertibleReason,
        /// What is wrong, with what entry, where.
        detail: String,
    },
    /// The source could not be read.
    #[error("error reading the source")]
    Source(#[source] io::Error),
    /// The twin, the TOC or a scratch file could not be written.
    #[error("error writing the twin")]
    Output(#[source] io::Error),
    /// The caller asked to stop.
    #[error("conversion cancelled")]
    Cancelled,
}

impl ConvertError {
    /// Tells whether another try may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unconvertible { .. } => false,
            Self::Source(_) | Self::Output(_) | Self::Cancelled => true,
        }
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Unconvertible { reason: UnconvertibleReason::Corrupt, detail: detail.into() }
    }

    pub(crate) fn limit(detail: impl Into<String>) -> Self {
        Self::Unconvertible { reason: UnconvertibleReason::Limit, detail: detail.into() }
    }
}

impl From<TarError> for ConvertError {
    fn from(error: TarError) -> Self {
        Self::Unconvertible { reason: error.reason, detail: error.detail }
    }
}

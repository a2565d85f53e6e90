//! [`Twin`]: what is known of the converted layer of one source layer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The converted layer of one source layer, as the conversion measured it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The digest of the twin's bytes.
    pub digest: Digest,
    /// The size of the twin in bytes.
    pub size: u64,
    /// The digest of the twin's plain tar.
    pub diff_id: Digest,
    /// The size of the twin's plain tar in bytes, TOC entry included.
    pub plain_size: u64,
    /// The digest of the TOC's JSON.
    pub toc_digest: Digest,
    /// The size of the TOC's JSON in bytes.
    pub toc_size: u64,
    /// The digest of the source's plain tar, as measured; never copied from a config.
    pub source_diff_id: Digest,
    /// The size of the source's plain tar in bytes.
    pub source_plain_size: u64,
    /// What the source's tar has after its last entry.
    pub tail: TarTail,
    /// The directories that the layer has entries in (the root as "") without having an entry for
    /// them: cleaned, without leading slash, sorted. They take their attributes from the layers below.
    pub implied_dirs: Vec<String>,
}

/// The bytes after a tar's last entry: end-of-archive blocks and whatever follows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TarTail {
    /// This many zero bytes.
    Zeros(u64),
    /// Other bytes, as lower-case hex; at most [`TarTail::MAX_BYTES`].
    Bytes(String),
}

impl TarTail {
    /// The longest tail kept as bytes. A layer with more after its end is not convertible.
    pub const MAX_BYTES: usize = 64 << 10;
}

/// Why a layer stays as it is. A closed set: it labels metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnconvertibleReason {
    /// A name, link target or extended attribute's name is not UTF-8.
    NotUtf8,
    /// An entry is a sparse file.
    Sparse,
    /// Hard links form a cycle.
    HardlinkCycle,
    /// A hard link names an entry that is not in the layer.
    HardlinkMissing,
    /// An entry lies below a non-directory or a symlink of the same layer.
    BelowNonDirectory,
    /// The compression or the tar is broken.
    Corrupt,
    /// The media type says encrypted.
    Encrypted,
    /// The layer is foreign (non-distributable).
    Foreign,
    /// A limit was passed (entries, plain bytes, ratio, path length, xattr bytes, wall clock).
    Limit,
    /// Its conversion never ended: every process that tried died of it.
    Poisoned,
}

impl UnconvertibleReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::NotUtf8,
        Self::Sparse,
        Self::HardlinkCycle,
        Self::HardlinkMissing,
        Self::BelowNonDirectory,
        Self::Corrupt,
        Self::Encrypted,
        Self::Foreign,
        Self::Limit,
        Self::Poisoned,
    ];

    /// Returns the name used in SQL, JSON, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::Sparse => "sparse",
            Self::HardlinkCycle => "hardlink_cycle",
            Self::HardlinkMissing => "hardlink_missing",
            Self::BelowNonDirectory => "below_non_directory",
            Self::Corrupt => "corrupt",
            Self::Encrypted => "encrypted",
            Self::Foreign => "foreign",
            Self::Limit => "limit",
            Self::Poisoned => "poisoned",
        }
    }
}

impl fmt::Display for UnconvertibleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UnconvertibleReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| format!("unknown reason {text}"))
    }
}

//! Tar, as Go's archive/tar reads it (all container tools that matter are written with it): what an entry is, and a
//! walk over a plain tar that hands out every byte as header, payload or padding.

mod header;
mod pax;
mod walk;

use api::UnconvertibleReason;

use crate::entry::EntryType;

pub use walk::{Sink, WalkError, walk};

/// The size of a tar block in bytes.
pub const BLOCK: usize = 512;

/// What a walk refuses to go beyond.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries, and half of all nodes of the tree they make up.
    pub entries: u32,
    /// Bytes of a name or a link target.
    pub path_len: usize,
    /// Bytes of the names and values of one entry's extended attributes.
    pub xattr_bytes: usize,
    /// Bytes of the names and values of all entries' extended attributes.
    pub all_xattr_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, path_len: 4096, xattr_bytes: 512 << 10, all_xattr_bytes: 256 << 20 }
    }
}

/// A tar that is broken, or that eStargz cannot express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TarError {
    /// The kind of trouble.
    pub reason: UnconvertibleReason,
    /// What is wrong, with what entry, where.
    pub detail: String,
}

impl TarError {
    /// Returns an error for `reason`.
    pub fn new(reason: UnconvertibleReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::new(UnconvertibleReason::Corrupt, detail)
    }
}

/// One entry's header, with its pax and GNU records applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The path, as in the tar.
    pub name: String,
    /// What it is; never a chunk.
    pub kind: EntryType,
    /// The payload's size in bytes; 0 unless a regular file.
    pub size: u64,
    /// The mode, as in the tar.
    pub mode: i64,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// The owner's name; empty if none.
    pub user_name: String,
    /// The group's name; empty if none.
    pub group_name: String,
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after `seconds`.
    pub nanos: u32,
    /// The target of a link.
    pub link_name: String,
    /// Device numbers.
    pub device: (i64, i64),
    /// Extended attributes, by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Returns the padding after a payload of `size` bytes.
pub const fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

#[cfg(test)]
mod tests;

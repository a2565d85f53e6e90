//! [`Limits`]: what a conversion refuses to go beyond.

use std::time::Duration;

/// What a conversion refuses to go beyond. Passing one makes the layer unconvertible.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries in the tar.
    pub entries: u32,
    /// Bytes of the plain tar.
    pub plain_bytes: u64,
    /// Plain bytes for each compressed byte, looked at once the plain tar is longer than `ratio_from`.
    pub ratio: u64,
    /// Bytes of the plain tar up to which any ratio is fine.
    pub ratio_from: u64,
    /// Bytes of a name or a link target.
    pub path_len: usize,
    /// Bytes of the names and values of one entry's extended attributes.
    pub xattr_bytes: usize,
    /// Bytes of the names and values of all entries' extended attributes.
    pub all_xattr_bytes: u64,
    /// Bytes of the scratch file that keeps the entries until the TOC is written.
    pub spill_bytes: u64,
    /// Bytes of the twin up to which it may be any number of times as long as its source.
    pub twin_bytes: u64,
    /// Bytes of a longer twin for each byte of the source.
    pub twin_ratio: u64,
    /// Bytes of the TOC's JSON.
    pub toc_bytes: u64,
    /// Time spent, waiting for the source not counted.
    pub wall_clock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            plain_bytes: 256 << 30,
            // Gzip cannot pass 1032; zstd can.
            ratio: 2000,
            ratio_from: 8 << 30,
            path_len: 4096,
            xattr_bytes: 512 << 10,
            all_xattr_bytes: 256 << 20,
            spill_bytes: 4 << 30,
            twin_bytes: 1 << 30,
            twin_ratio: 4,
            toc_bytes: 4 << 30,
            wall_clock: Duration::from_secs(2 * 3600),
        }
    }
}

impl Limits {
    pub(crate) fn tar(&self) -> estargz::tar::Limits {
        estargz::tar::Limits {
            entries: self.entries,
            path_len: self.path_len,
            xattr_bytes: self.xattr_bytes,
            all_xattr_bytes: self.all_xattr_bytes,
        }
    }

    /// Returns the limits for a source of `size` bytes: the twin's is absolute.
    pub(crate) fn for_source(&self, size: u64) -> Self {
        Self { twin_bytes: self.twin_bytes.max(self.twin_ratio.saturating_mul(size)), ..self.clone() }
    }
}

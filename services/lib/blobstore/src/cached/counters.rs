//! [`Counters`]: what the cache has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a cache has done since its start, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Reads that the disk alone answered.
    pub hits: u64,
    /// Reads that waited for the store.
    pub misses: u64,
    /// Bytes that reads got from the disk, but for those read straight from a local file.
    pub hit_bytes: u64,
    /// Requests made to the store for bytes.
    pub fetches: u64,
    /// Bytes that came for them; more than reads wanted, since blocks are fetched whole and ahead.
    pub fetched_bytes: u64,
    /// Bytes that were fetched or put and not kept, because the disk or the cap had no room.
    pub unkept_bytes: u64,
    /// Bytes that left to make room.
    pub evicted_bytes: u64,
    /// Bytes that are on the disk now, in whole 4 KiB for each block.
    pub held_bytes: u64,
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) hit_bytes: AtomicU64,
    pub(super) fetches: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
    pub(super) unkept_bytes: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn counts(&self, held_bytes: u64) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            hit_bytes: self.hit_bytes.load(Ordering::Relaxed),
            fetches: self.fetches.load(Ordering::Relaxed),
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
            unkept_bytes: self.unkept_bytes.load(Ordering::Relaxed),
            evicted_bytes: self.evicted_bytes.load(Ordering::Relaxed),
            held_bytes,
        }
    }
}

/// Adds `n` to a count.
pub(super) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

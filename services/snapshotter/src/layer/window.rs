//! [`Window`]: how much is fetched around a miss.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is fetched at once, in bytes of the blob: behind a miss this part of it within these bounds, and twice as much for each
/// run that goes on where the last one ended, up to the most.
const PART: u64 = 512;
const LEAST: u64 = 128 << 10;
const FIRST: u64 = 1 << 20;
pub(super) const MOST: u64 = 8 << 20;
/// How near in the blob two misses lie, at most, of which the second is met with a larger window.
const NEAR: u64 = 4 << 20;

/// How much is fetched around a miss: the more the nearer it lies to the one before.
#[derive(Debug)]
pub(super) struct Window {
    first: u64,
    size: AtomicU64,
    /// The chunk behind the last run, and where in the blob the last miss lay.
    next: AtomicU32,
    last_miss: AtomicU64,
}

/// Bytes of the blob that are fetched with a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) behind: u64,
    pub(super) before: u64,
}

impl Window {
    /// Returns the window of a blob of so many bytes.
    pub(super) fn new(blob: u64) -> Self {
        Self {
            first: (blob / PART).clamp(LEAST, FIRST),
            size: AtomicU64::new(LEAST),
            next: AtomicU32::new(u32::MAX),
            last_miss: AtomicU64::new(u64::MAX / 2),
        }
    }

    /// Returns what is fetched with a chunk that was missed, which lies at `offset` of the blob.
    pub(super) fn miss(&self, chunk: u32, offset: u64) -> Reach {
        let last = self.last_miss.swap(offset, Ordering::Relaxed);
        let is_next = self.next.load(Ordering::Relaxed) == chunk;
        let is_near = offset.abs_diff(last) <= NEAR;
        let doubled = self.size.load(Ordering::Relaxed) * 2;
        let size = match (is_next, is_near) {
            (true, _) => doubled.min(MOST),
            (false, true) => doubled.min(self.first * 2),
            (false, false) => self.first,
        };
        self.size.store(size, Ordering::Relaxed);
        Reach { behind: size, before: if is_near && !is_next { size / 2 } else { 0 } }
    }

    /// Notes the chunk behind what is being fetched.
    pub(super) fn ran_to(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_reach_further_and_runs_that_go_on_furthest() {
        let window = Window::new(100 << 20);
        let first = (100 << 20) / PART;
        assert_eq!(window.miss(10, 1 << 20), Reach { behind: first, before: 0 });
        window.ran_to(12);
        assert_eq!(window.miss(12, 2 << 20), Reach { behind: 2 * first, before: 0 });
        window.ran_to(20);
        assert_eq!(window.miss(20, 3 << 20), Reach { behind: 4 * first, before: 0 });
        assert_eq!(window.miss(5, 1 << 20), Reach { behind: 2 * first, before: first }, "near, and not next");
        assert_eq!(window.miss(90, 90 << 20), Reach { behind: first, before: 0 }, "far");
        let all = (0..20).map(|number| {
            window.ran_to(number);
            window.miss(number, 91 << 20).behind
        });
        assert_eq!(all.last(), Some(MOST));
    }
}

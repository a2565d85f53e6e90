//! [`Room`]: how many bytes of layers may be on the disk, and how many are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a fetch waits for room; after that it goes on without: no read fails for want of cache.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks, where it is not told.
const STEP: Duration = Duration::from_millis(100);

/// How many bytes of layers may be on the disk, and how many are or are about to be.
#[derive(Debug)]
pub(crate) struct Room {
    /// `None`: as many as there are.
    cap: Option<u64>,
    used: AtomicU64,
    /// Somebody waits for room, the greediest for this much.
    wanted: Notify,
    greediest: AtomicU64,
    /// Bytes that are to go because the disk is full.
    pressed: AtomicU64,
}

impl Room {
    pub(crate) fn new(cap: u64) -> Self {
        Self {
            cap: (cap > 0).then_some(cap),
            used: AtomicU64::new(0),
            wanted: Notify::new(),
            greediest: AtomicU64::new(0),
            pressed: AtomicU64::new(0),
        }
    }

    /// Counts bytes that are on the disk.
    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts bytes that are on the disk no more.
    pub(crate) fn release(&self, bytes: u64) {
        // It never goes below nothing, whatever was counted twice.
        let _before =
            self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| Some(used.saturating_sub(bytes)));
    }

    /// Counts bytes that are about to be on the disk, when there is room for them.
    pub(crate) async fn reserve(&self, bytes: u64) {
        let deadline = Instant::now() + PATIENCE;
        while !self.takes(bytes) {
            if Instant::now() >= deadline {
                tracing::warn!(bytes, "nothing can be evicted: the cache goes over its cap");
                self.add(bytes);
                return;
            }
            self.greediest.fetch_max(bytes, Ordering::AcqRel);
            self.wanted.notify_one();
            tokio::time::sleep(STEP).await;
        }
    }

    /// Counts bytes if there is room for them. Of many at once each sees those before it.
    fn takes(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            let used = used.saturating_add(bytes);
            self.cap.is_none_or(|cap| used <= cap).then_some(used)
        });
        taken.is_ok()
    }

    /// Has bytes evicted where that is possible, whatever the cap: the disk is full.
    pub(crate) fn ask_for(&self, bytes: u64) {
        self.pressed.fetch_max(bytes, Ordering::AcqRel);
        self.wanted.notify_one();
    }

    /// Tells whether so many bytes that nobody waits for may be fetched: a quarter is left for what is waited for.
    pub(crate) fn is_ample(&self, bytes: u64) -> bool {
        self.is_enough(self.used.load(Ordering::Acquire).saturating_add(bytes))
    }

    /// Tells whether so many bytes can ever be here that nobody waits for.
    pub(crate) fn is_enough(&self, bytes: u64) -> bool {
        self.cap.is_none_or(|cap| bytes <= cap / 4 * 3)
    }

    /// Waits until somebody waits for room, and returns how many bytes are to go.
    pub(crate) async fn wanted(&self) -> u64 {
        self.wanted.notified().await;
        let needed = self.used.load(Ordering::Acquire) + self.greediest.swap(0, Ordering::AcqRel);
        // A tenth more than the cap demands, so that it is not asked again at once.
        let over = self.cap.map_or(0, |cap| needed.saturating_sub(cap / 10 * 9));
        over.max(self.pressed.swap(0, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_needs_room_waits_for_it_but_not_for_ever() {
        let room = Room::new(100);
        room.reserve(80).await;
        assert!(!room.is_ample(0) && room.is_enough(75) && !room.is_enough(76));
        let start = Instant::now();
        let ((), ()) = tokio::join!(room.reserve(30), async {
            assert_eq!(room.wanted().await, 20, "80 and 30 of 90");
            room.release(20);
        });
        assert!(start.elapsed() < PATIENCE);
        room.reserve(50).await;
        assert!(start.elapsed() >= PATIENCE);
        room.release(1000);
        tokio::join!(room.reserve(60), room.reserve(60), async {
            assert_eq!(room.wanted().await, 30, "60 and 60 of 90: one has to wait");
            room.release(60);
        });
        room.release(1000);
        assert!(room.is_ample(75) && !room.is_ample(76));
        Room::new(0).reserve(u64::MAX).await;
    }
}

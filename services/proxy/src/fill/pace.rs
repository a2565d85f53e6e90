//! [`Pace`]: how much to ask the upstream for at a time.

use std::time::Duration;

use tokio::time::Instant;

/// The first segment, before anything is known of the link.
pub(crate) const FIRST_SEGMENT: u64 = 1 << 20;
/// The largest segment while nothing is known: on a slow link a range behind it waits for all of it.
const LARGEST_BLIND: u64 = 4 << 20;
/// The smallest segment; an unasked fill that yields asks for no more at a time.
pub(super) const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 64 << 20;
/// A reader inside a segment waits for the bytes in front of it; this bounds the wait.
const SEGMENT_TIME: Duration = Duration::from_millis(500);
/// The next segment is asked for this long before the running one ends, so that the link never idles.
const LEAD_TIME: Duration = Duration::from_millis(150);

/// Measures the link and sizes the segments by it.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    received: u64,
    /// Bytes per second over the last window; 0 while unknown.
    rate: u64,
    last_segment: u64,
}

impl Pace {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), received: 0, rate: 0, last_segment: FIRST_SEGMENT }
    }

    /// Counts bytes that arrived.
    pub(crate) fn received(&mut self, bytes: u64) {
        const WINDOW: Duration = Duration::from_millis(100);
        self.received += bytes;
        let elapsed = self.started.elapsed();
        if elapsed >= WINDOW {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
            self.rate = self.received.saturating_mul(1000) / millis;
            self.started = Instant::now();
            self.received = 0;
        }
    }

    /// Returns the number of bytes to ask for next.
    pub(crate) fn segment(&mut self) -> u64 {
        let wanted =
            if self.rate == 0 { (self.last_segment * 2).min(LARGEST_BLIND) } else { self.during(SEGMENT_TIME) };
        self.last_segment = wanted.clamp(SMALLEST, LARGEST).min(self.last_segment.saturating_mul(4));
        self.last_segment
    }

    /// Returns how many bytes before the end of a segment the next one is to be asked for.
    pub(crate) fn lead(&self) -> u64 {
        if self.rate == 0 { FIRST_SEGMENT } else { self.during(LEAD_TIME).max(256 << 10) }
    }

    fn during(&self, time: Duration) -> u64 {
        self.rate.saturating_mul(u64::try_from(time.as_millis()).unwrap_or(0)) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_links_get_small_segments_and_fast_ones_large() {
        let mut slow = Pace::start();
        tokio::time::advance(Duration::from_secs(1)).await;
        slow.received(1 << 20);
        assert_eq!(slow.segment(), SMALLEST);
        let mut fast = Pace::start();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            fast.received(1 << 30);
            fast.segment();
        }
        assert_eq!(fast.segment(), LARGEST);
    }
}

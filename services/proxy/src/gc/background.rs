//! Collecting beside serving: now and then, and soon after the cap was passed.

use std::sync::Arc;
use std::time::Duration;

use telemetry::Shutdown;
use tokio::time::{Instant, sleep_until};

use super::{Collected, Collector, Daily, GcError, Undeleted, Uses};

/// How often the store is looked at.
const EVERY: Duration = Duration::from_secs(60);
/// How often uses are recorded.
const RECORD_EVERY: Duration = Duration::from_secs(10);
/// How long after the last look the next one may follow, at the least; and in how many times the time that look took.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSES: u32 = 3;
/// How often a process asks whether it is time for the daily chores.
const ASK_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long a process leaves it to another one to bring the store below the cap, and to delete what is due.
const OTHERS_TURN: Duration = Duration::from_secs(2);
/// How long a process that stops tries to record the last uses.
const FAREWELL: Duration = Duration::from_secs(5);

/// What one process knows of the store between two looks.
#[derive(Debug)]
struct Routine<'a> {
    collector: &'a Collector,
    /// Bytes in the store at the last look, and how many this process had recorded by then.
    total: u64,
    recorded: u64,
    next_look: Instant,
    /// Before this moment a look would take too large a part of the time.
    not_before: Instant,
    ask_for_chores: Instant,
}

/// When the store is looked at next.
#[derive(Debug)]
struct Next {
    /// After this time, whatever happens, but not before the pause.
    at_latest: Duration,
    /// Not before this time, whatever is stored or to be deleted.
    pause: Duration,
}

/// Records uses and collects until `shutdown`.
pub(crate) async fn run(collector: Arc<Collector>, uses: Arc<Uses>, shutdown: Shutdown) {
    let now = Instant::now();
    let mut routine = Routine::begin(&collector, now);
    let mut next_record = now + RECORD_EVERY;
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            () = collector.catalog.recorded_more() => routine.grew(),
            () = sleep_until(next_record) => {
                record(&collector, &uses).await;
                next_record = Instant::now() + RECORD_EVERY;
            }
            () = sleep_until(routine.next_look) => {
                // What was used a moment ago must not look unused.
                record(&collector, &uses).await;
                tokio::select! {
                    () = shutdown.requested() => break,
                    () = routine.look() => {}
                }
            }
        }
    }
    let _left = tokio::time::timeout(FAREWELL, record(&collector, &uses)).await;
}

async fn record(collector: &Collector, uses: &Uses) {
    if let Err(error) = uses.record(&collector.catalog).await {
        tracing::warn!(%error, "what was used could not be recorded and will be tried again");
    }
}

impl<'a> Routine<'a> {
    fn begin(collector: &'a Collector, now: Instant) -> Self {
        Self { collector, total: 0, recorded: 0, next_look: now, not_before: now, ask_for_chores: now + ASK_EVERY }
    }

    /// Looks soon if what was stored since the last look passes the cap.
    fn grew(&mut self) {
        let max_size = self.collector.limits.max_size;
        let grown = self.collector.catalog.recorded_bytes().saturating_sub(self.recorded);
        if max_size > 0 && self.total.saturating_add(grown) > max_size {
            self.next_look = self.next_look.min(self.not_before);
        }
    }

    /// Collects, and decides when to do so again.
    async fn look(&mut self) {
        let begun = Instant::now();
        self.recorded = self.collector.catalog.recorded_bytes();
        let Next { at_latest: next, pause } = match self.collect().await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a collection failed and will be tried again"
                );
                Next { at_latest: EVERY, pause: PAUSE }
            }
        };
        let now = Instant::now();
        self.not_before = now + pause.max(begun.elapsed() * PAUSES);
        self.next_look = (now + next).max(self.not_before);
    }

    /// Collects unless another process does.
    async fn collect(&mut self) -> Result<Next, GcError> {
        let collector = self.collector;
        let daily = if Instant::now() < self.ask_for_chores { Daily::Never } else { Daily::WhenDue };
        let result = collector.collect(daily).await;
        if daily == Daily::WhenDue && !matches!(result, Err(GcError::Busy(_))) {
            self.ask_for_chores = Instant::now() + ASK_EVERY;
        }
        let pause = match result {
            Ok(collected) => {
                self.total = collected.usage.total();
                tell(&collected);
                PAUSE
            }
            Err(GcError::Busy(_)) => {
                let usage = collector.catalog.usage().await?;
                self.total = usage.total();
                collector.metrics.store_bytes(&usage);
                if collector.limits.max_size > 0 && self.total > collector.limits.max_size {
                    return Ok(Next { at_latest: OTHERS_TURN, pause: OTHERS_TURN });
                }
                OTHERS_TURN
            }
            Err(error) => return Err(error),
        };
        let next = collector.catalog.next_deletion().await?.map(Duration::from_millis);
        Ok(Next { at_latest: next.map_or(EVERY, |next| next.min(EVERY)), pause })
    }
}

fn tell(collected: &Collected) {
    for (reason, (units, bytes)) in &collected.sums {
        tracing::info!(reason = reason.label(), units, size_bytes = bytes, "evicted");
    }
    let (keys, bytes) = collected.deleted;
    if keys > 0 {
        tracing::info!(keys, size_bytes = bytes, "what was evicted is deleted");
    }
    let (named, number) = &collected.undeleted;
    for Undeleted { key, why } in named {
        tracing::error!(key, why, "bytes cannot be deleted; that is tried again later");
    }
    if *number > named.len() as u64 {
        tracing::error!(keys = number - named.len() as u64, "the bytes of further keys cannot be deleted");
    }
}

#[cfg(test)]
mod tests {
    use api::Digest;
    use blobstore::{BlobKey, Generation};
    use catalog::{BlobRow, Eviction, Scope};

    use super::super::tests::collector;
    use super::super::{CollectionLease, owner};
    use super::*;

    /// Bytes are to be deleted, and another process is at it: this one leaves it alone for a while.
    #[tokio::test]
    async fn who_finds_another_collecting_waits() {
        let folder = tempfile::tempdir().unwrap();
        let collector = collector(folder.path(), 0).await;
        let catalog = &collector.catalog;
        let digest = Digest::of(b"evicted");
        let key = BlobKey::blob(&digest, Generation::random()).to_string();
        catalog.add_blob(&BlobRow { digest, size: 7, key }, &[]).await.unwrap();
        let unit = &catalog.candidates(Scope::All, Duration::ZERO, None, 1).await.unwrap()[0];
        let evicted = catalog.evict(unit, Duration::ZERO).await.unwrap();
        assert!(matches!(evicted, Eviction::Evicted(_)), "{evicted:?}");

        let theirs = CollectionLease::claim(catalog, &owner("another")).await.unwrap();
        let mut routine = Routine::begin(&collector, Instant::now());
        routine.look().await;
        let wait = |routine: &Routine<'_>| routine.next_look.saturating_duration_since(routine.not_before);
        assert_eq!((routine.collect().await.unwrap().pause, wait(&routine)), (OTHERS_TURN, Duration::ZERO));
        theirs.end().await;
        let done = routine.collect().await.unwrap();
        assert_eq!((done.pause, done.at_latest), (PAUSE, EVERY));
    }
}

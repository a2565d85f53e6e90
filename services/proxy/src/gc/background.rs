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
/// How long a process leaves it to another one to bring the store below the cap.
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

/// Records uses and collects until `shutdown`.
pub(crate) async fn run(collector: Arc<Collector>, uses: Arc<Uses>, shutdown: Shutdown) {
    let now = Instant::now();
    let mut routine = Routine {
        collector: &collector,
        total: 0,
        recorded: 0,
        next_look: now,
        not_before: now,
        ask_for_chores: now + ASK_EVERY,
    };
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

impl Routine<'_> {
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
        let next = match self.collect().await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a collection failed and will be tried again"
                );
                EVERY
            }
        };
        let now = Instant::now();
        self.not_before = now + PAUSE.max(begun.elapsed() * PAUSES);
        self.next_look = (now + next).max(self.not_before);
    }

    /// Returns how long nothing need be done unless something is stored.
    async fn collect(&mut self) -> Result<Duration, GcError> {
        let collector = self.collector;
        let daily = if Instant::now() < self.ask_for_chores { Daily::Never } else { Daily::WhenDue };
        let result = collector.collect(daily).await;
        if daily == Daily::WhenDue && !matches!(result, Err(GcError::Busy(_))) {
            self.ask_for_chores = Instant::now() + ASK_EVERY;
        }
        match result {
            Ok(collected) => {
                self.total = collected.usage.total();
                tell(&collected);
            }
            Err(GcError::Busy(_)) => {
                let usage = collector.catalog.usage().await?;
                self.total = usage.total();
                collector.metrics.store_bytes(&usage);
                if collector.limits.max_size > 0 && self.total > collector.limits.max_size {
                    return Ok(OTHERS_TURN);
                }
            }
            Err(error) => return Err(error),
        }
        let next = collector.catalog.next_deletion().await?.map(Duration::from_millis);
        Ok(next.map_or(EVERY, |next| next.min(EVERY)))
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

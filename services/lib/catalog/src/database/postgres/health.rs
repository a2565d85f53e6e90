//! [`Health`]: which idle connections to trust.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};

/// A connection that was idle for so long is tested before it is used.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long the test may take.
const TEST_LIMIT: Duration = Duration::from_secs(2);

/// Which idle connections to trust without asking the server.
///
/// A test before every call would cost a round trip each. So connections are trusted for a second; but when one breaks,
/// all that were idle at that moment are tested, since what broke it (a restart, a failover) broke them too. Of
/// the calls that follow a restart, only those fail that were under way or began before the first one failed.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    born: Instant,
    /// When a connection last broke, in milliseconds since `born`; 0 for never.
    broke: Arc<AtomicU64>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), broke: Arc::default() }
    }

    /// Notes that a connection broke.
    pub(crate) fn lost(&self) {
        // One more, so that a connection given back within the same millisecond is tested too.
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        self.broke.fetch_max(now, Ordering::Relaxed);
    }

    /// Has the pool test the connections that are not to be trusted.
    pub(super) fn watch_over(&self, pool: PgPoolOptions) -> PgPoolOptions {
        let health = self.clone();
        pool.test_before_acquire(false).before_acquire(move |connection, meta| {
            let trusted = health.trusts(meta.idle_for);
            Box::pin(async move { if trusted { Ok(true) } else { test(connection).await } })
        })
    }

    fn trusts(&self, idle_for: Duration) -> bool {
        let broke = Duration::from_millis(self.broke.load(Ordering::Relaxed));
        let idle_since = self.born.elapsed().saturating_sub(idle_for);
        idle_for < TRUSTED && idle_since >= broke
    }
}

async fn test(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let answer = tokio::time::timeout(TEST_LIMIT, connection.ping()).await;
    answer.unwrap_or(Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_idle_when_a_connection_broke_is_not_trusted() {
        let health = Health { born: Instant::now() - Duration::from_secs(60), broke: Arc::default() };
        assert!(health.trusts(Duration::from_millis(500)));
        assert!(!health.trusts(TRUSTED));
        health.lost();
        assert!(!health.trusts(Duration::ZERO));
        health.broke.fetch_sub(100, Ordering::Relaxed);
        assert!(health.trusts(Duration::ZERO));
        assert!(!health.trusts(Duration::from_millis(500)));
    }
}

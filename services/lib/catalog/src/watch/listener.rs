//! [`Listener`]: the connection on which PostgreSQL tells what other processes did.

use std::time::Duration;

use api::Digest;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{CHANNEL, Note, Notes};

/// A connection that was silent for so long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(15);
/// How long opening the connection, and an answer on it, may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Pauses between attempts to listen again: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A task that listens until this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    task: AbortHandle,
}

impl Listener {
    /// Listens on a connection of `pool`, which nobody else uses, and passes on to `notes` what it hears.
    pub(crate) fn start(pool: PgPool, notes: Notes) -> Self {
        let task = tokio::spawn(async move {
            let mut pause = PAUSES.0;
            loop {
                let Err(error) = listen(&pool, &notes, &mut pause).await;
                tracing::warn!(%error, "lost the connection that tells of ended conversions, opening another");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        });
        Self { task: task.abort_handle() }
    }

    /// Stops listening.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens until the connection is lost, and returns why.
async fn listen(pool: &PgPool, notes: &Notes, pause: &mut Duration) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = answered(Box::pin(PgListener::connect_with(pool))).await?;
    // Reconnecting is done here, where a connection that only hangs is noticed too.
    listener.eager_reconnect(false);
    answered(Box::pin(listener.listen(CHANNEL))).await?;
    // What ended before this moment was told to nobody.
    notes.tell(Note::Missed);
    *pause = PAUSES.0;
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(note))) => match Digest::parse(note.payload()) {
                Ok(source) => notes.tell(Note::Ended(source)),
                // From a version that tells more than this one knows.
                Err(_) => notes.tell(Note::Missed),
            },
            Ok(Ok(None)) => return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
            Ok(Err(error)) => return Err(error),
            // `try_recv` loses nothing when it is dropped. What arrives during this is kept by `listener`.
            Err(_) => {
                answered(sqlx::query("SELECT 1").execute(&mut listener)).await?;
            }
        }
    }
}

async fn answered<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(ANSWER, call).await.unwrap_or(Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

//! [`Watch`]: who waits for a conversion is woken when it ends, in whatever process it ends.

mod listener;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};

use crate::Catalog;
pub(crate) use listener::Listener;

/// The channel by which PostgreSQL sends on which conversions ended; what is sent is the source's digest.
pub(crate) const CHANNEL: &str = "firstlight_conversions";

/// Notes kept for a watcher that does not look; one that missed some is told to look at everything.
const NOTES: usize = 256;

/// Tells when conversions end, from the moment it was made on: make it first, look at the row, then wait.
///
/// It is woken by all processes on the same PostgreSQL database, and by this one on SQLite.
#[derive(Debug)]
pub struct Watch {
    notes: broadcast::Receiver<Note>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    /// The conversion of this source ended.
    Ended(Digest),
    /// Notes may have been lost.
    Missed,
}

/// Where notes go in: all watches of one open catalog get them.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    sender: broadcast::Sender<Note>,
    growth: Arc<Growth>,
}

/// What this process recorded as stored.
#[derive(Debug, Default)]
struct Growth {
    bytes: AtomicU64,
    grown: Notify,
}

// === impl Watch ===

impl Watch {
    /// Waits until the conversion of `source` has ended, was postponed, or may have been (notes may get lost while the
    /// database is away): the caller looks at its row again. Does not end when nothing happens, so the caller sets a limit.
    pub async fn changed(&mut self, source: &Digest) {
        loop {
            match self.notes.recv().await {
                Ok(Note::Ended(ended)) if ended != *source => {}
                Ok(Note::Ended(_) | Note::Missed) | Err(RecvError::Lagged(_)) => return,
                // The catalog is gone, nothing can happen any more.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

// === impl Notes ===

impl Notes {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(NOTES), growth: Arc::default() }
    }

    pub(crate) fn ended(&self, source: Digest) {
        self.tell(Note::Ended(source));
    }

    fn tell(&self, note: Note) {
        // An error says that nobody watches.
        let _ = self.sender.send(note);
    }

    pub(crate) fn grew(&self, bytes: u64) {
        if bytes > 0 {
            self.growth.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.growth.grown.notify_one();
        }
    }

    fn watch(&self) -> Watch {
        Watch { notes: self.sender.subscribe() }
    }
}

// === impl Catalog ===

impl Catalog {
    /// Returns how many bytes of blobs this process has recorded as stored since it opened the catalog.
    pub fn recorded_bytes(&self) -> u64 {
        self.notes().growth.bytes.load(Ordering::Relaxed)
    }

    /// Waits until this process records more bytes, or did so since the last call ended. For one caller at a time.
    pub async fn recorded_more(&self) {
        self.notes().growth.grown.notified().await;
    }

    /// Returns what tells when conversions end. The first call on PostgreSQL opens the connection that hears of other
    /// processes; until it is open, and whenever it is lost, watchers are told once to look again.
    pub fn conversions(&self) -> Watch {
        // The watch first: nothing that the listener tells is missed.
        let watch = self.notes().watch();
        self.listen();
        watch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_woken(watch: &mut Watch, source: &Digest) -> bool {
        tokio::time::timeout(Duration::from_millis(20), watch.changed(source)).await.is_ok()
    }

    #[tokio::test]
    async fn watchers_are_woken_by_their_source_and_by_losses() {
        let notes = Notes::new();
        let (mine, other) = (Digest::of(b"mine"), Digest::of(b"other"));
        let mut watch = notes.watch();
        notes.ended(other.clone());
        assert!(!is_woken(&mut watch, &mine).await);
        notes.ended(mine.clone());
        assert!(is_woken(&mut watch, &mine).await);
        assert!(!is_woken(&mut watch, &mine).await);
        notes.tell(Note::Missed);
        assert!(is_woken(&mut watch, &mine).await);
        for _ in 0..=NOTES {
            notes.ended(other.clone());
        }
        assert!(is_woken(&mut watch, &mine).await, "a watcher that missed notes was not told");
        drop(notes);
        assert!(!is_woken(&mut watch, &mine).await);
    }
}

//! [`Shutdown`]: the one request to stop that all parts of a process hear.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A request to stop. Clones are the same request; once made it stays made.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requested: Arc<watch::Sender<bool>>,
}

impl Shutdown {
    /// Returns a request that nobody has made yet.
    pub fn new() -> Self {
        Self { requested: Arc::new(watch::Sender::new(false)) }
    }

    /// Makes the request. Later calls change nothing.
    pub fn trigger(&self) {
        self.requested.send_replace(true);
    }

    /// Tells whether the request was made.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Returns when the request is made; at once when it already was. Safe to drop at any time.
    pub async fn requested(&self) {
        // The only error is "all senders are gone", and `self` is one.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }

    /// Makes SIGTERM and SIGINT trigger this request, from now on; they no longer end the process by themselves.
    ///
    /// # Errors
    /// Those of installing a signal handler.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime with I/O enabled.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            shutdown.trigger();
        });
        Ok(())
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_request_early_and_late() {
        let shutdown = Shutdown::new();
        let early = tokio::spawn({
            let clone = shutdown.clone();
            async move { clone.requested().await }
        });
        assert!(!shutdown.is_requested());
        shutdown.clone().trigger();
        early.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}

//! [`Slot`]: the fill of one blob, from the first ask for it to its end; all who ask share it.

use std::sync::Arc;

use catalog::BlobRow;
use tokio::sync::watch;

use super::lane::Standing;
use super::{Fill, FillError, Joined};

/// What opening a fill led to.
pub(super) type Opened = Result<Arc<Fill>, NotOpened>;

/// Why no fill was started.
#[derive(Debug, Clone)]
pub(super) enum NotOpened {
    Stored(BlobRow),
    Failed(Arc<FillError>),
}

/// A fill that is being opened, or runs.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) standing: Arc<Standing>,
    opened: watch::Sender<Option<Opened>>,
}

impl Slot {
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing: Arc::new(standing), opened: watch::Sender::new(None) }
    }

    /// Tells everybody who waits what came of the opening.
    pub(super) fn open(&self, opened: Opened) {
        if opened.is_err() {
            self.standing.end();
        }
        self.opened.send_replace(Some(opened));
    }

    /// Returns the fill, once it is open.
    pub(super) fn fill(&self) -> Option<Arc<Fill>> {
        self.opened.borrow().as_ref()?.as_ref().ok().map(Arc::clone)
    }

    /// Waits until the fill is open, or will never be.
    pub(super) async fn joined(&self) -> Result<Joined, Arc<FillError>> {
        let mut opened = self.opened.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let outcome = opened.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Ok(fill)) => Ok(Joined::Running(fill)),
            Some(Err(NotOpened::Stored(row))) => Ok(Joined::Stored(row)),
            Some(Err(NotOpened::Failed(error))) => Err(error),
            None => Err(Arc::new(FillError::Broken)),
        }
    }
}

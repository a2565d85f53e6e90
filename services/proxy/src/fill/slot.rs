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

impl From<FillError> for NotOpened {
    fn from(error: FillError) -> Self {
        Self::Failed(Arc::new(error))
    }
}

/// Why a fill is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody here asks for the blob: where another process fills it, this one follows.
    Asked,
    /// A process left it: where another one fills it by now, nobody here needs it.
    TakeOver,
}

/// A fill that is being opened, or runs.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) standing: Arc<Standing>,
    pub(super) purpose: Purpose,
    opened: watch::Sender<Option<Opened>>,
}

impl Slot {
    pub(super) fn new(standing: Standing, purpose: Purpose) -> Self {
        Self { standing: Arc::new(standing), purpose, opened: watch::Sender::new(None) }
    }

    /// Tells whether the fill follows another process that does it: where somebody here asks for the blob by now.
    pub(super) fn follows(&self) -> bool {
        self.purpose == Purpose::Asked || self.standing.is_wanted()
    }

    /// Tells whether `error` says no more than that another process does the fill, which nobody asked for when this was
    /// opened.
    pub(super) fn is_left_to_another(&self, error: &FillError) -> bool {
        self.purpose == Purpose::TakeOver && matches!(error, FillError::HeldElsewhere)
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

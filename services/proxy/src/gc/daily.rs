//! [`Daily`]: what the fleet does once a day.

use std::time::Duration;

use super::{Collected, CollectionLease, Collector, GcError};
use crate::app::ABANDONED;

/// From this age on, bytes that no row names are nobody's: whoever put them would have written the row long ago.
pub(crate) const ORPHANED: Duration = Duration::from_secs(24 * 60 * 60);
/// How often each chore is done by the whole fleet.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// The chores' names.
const ORPHANS: &str = "orphans";
const UPLOADS: &str = "uploads";

/// Which of the daily chores a collection does: removing unfinished uploads, and bytes that no row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daily {
    /// None.
    Never,
    /// Those that nobody did for a day.
    WhenDue,
    /// All.
    Now {
        /// From which age on bytes that no row names are removed.
        orphaned: Duration,
    },
}

impl Collector {
    /// Does the chores that `daily` says, under the lease of collections. Each is recorded once it is done, so one that
    /// failed or broke off is still due.
    pub(super) async fn do_chores(
        &self,
        daily: Daily,
        lease: &CollectionLease,
        collected: &mut Collected,
    ) -> Result<(), GcError> {
        let orphaned = match daily {
            Daily::Never => return Ok(()),
            Daily::WhenDue => ORPHANED,
            Daily::Now { orphaned } => orphaned,
        };
        if self.is_due(UPLOADS, daily).await? && self.sweep_uploads().await {
            self.catalog.end_chore(UPLOADS).await?;
        }
        if self.is_due(ORPHANS, daily).await? {
            self.remove_orphans(orphaned, lease, collected).await?;
            self.catalog.end_chore(ORPHANS).await?;
        }
        Ok(())
    }

    async fn is_due(&self, chore: &str, daily: Daily) -> Result<bool, GcError> {
        Ok(matches!(daily, Daily::Now { .. }) || self.catalog.is_due(chore, EVERY).await?)
    }

    /// Removes the uploads that no process goes on with, and tells whether that went well. A bucket may allow everything
    /// else; so nothing else waits for it.
    async fn sweep_uploads(&self) -> bool {
        match self.store.sweep_uploads(ABANDONED).await {
            Ok(0) => true,
            Ok(uploads) => {
                tracing::info!(uploads, "unfinished uploads were removed from the store");
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "unfinished uploads stay in the store");
                false
            }
        }
    }
}

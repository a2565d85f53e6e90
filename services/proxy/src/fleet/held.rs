//! [`HeldLease`]: a lease of this process, renewed as long as it is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{Digest, Repository, Twin, UnconvertibleReason};
use catalog::{BlobRow, Catalog, CatalogError, Lease, TwinState};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

/// The right of this process to do some work; given back when dropped.
///
/// What is committed through it counts only while it lasts, whatever this process believes.
#[derive(Debug)]
pub(crate) struct HeldLease {
    catalog: Catalog,
    /// `None` where no other process could do the work.
    lease: Option<Lease>,
    lost: Arc<AtomicBool>,
    /// Whether a commit ended it, or it was given back.
    ended: AtomicBool,
    renewal: Option<AbortHandle>,
}

impl HeldLease {
    /// Returns the right to work where nobody else could.
    pub(super) fn unneeded(catalog: Catalog) -> Self {
        Self { catalog, lease: None, lost: Arc::default(), ended: AtomicBool::new(false), renewal: None }
    }

    /// Returns `lease`, which lasts `ttl` at a time and is renewed from now on.
    pub(super) fn renewed(catalog: Catalog, lease: Lease, ttl: Duration) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let renewal = tokio::spawn(renew(catalog.clone(), lease.clone(), ttl, Arc::clone(&lost))).abort_handle();
        Self { catalog, lease: Some(lease), lost, ended: AtomicBool::new(false), renewal: Some(renewal) }
    }

    /// Tells whether another process has or may have the work by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Does what [`Catalog::add_blob`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub(crate) async fn add_blob(&self, blob: &BlobRow, links: &[&Repository]) -> Result<BlobRow, CatalogError> {
        self.ending(match &self.lease {
            None => self.catalog.add_blob(blob, links).await,
            Some(lease) => self.catalog.holding(lease).add_blob(blob, links).await,
        })
    }

    /// Records that the fill of `digest` from `upstream`, which this is the right to, ended without a blob, and ends the
    /// lease. Nothing changes after a commit that ended both.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else those of the database.
    pub(crate) async fn end_fill(&self, digest: &Digest, upstream: &str) -> Result<(), CatalogError> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.ending(match &self.lease {
            None => self.catalog.end_fill(digest, upstream).await,
            Some(lease) => self.catalog.holding(lease).end_fill().await,
        })
    }

    /// Gives the lease back, unless it has ended: nothing more is committed through it, whoever still has this.
    pub(crate) async fn give_back(&self) {
        self.stop_renewing();
        if let Some(lease) = &self.lease
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            release(&self.catalog, lease).await;
        }
    }

    fn stop_renewing(&self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
    }

    /// Does what [`Catalog::finish_conversion`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub(crate) async fn finish_conversion(
        &self,
        source: &Digest,
        profile: &str,
        twin: &Twin,
        key: &str,
        toc_key: &str,
    ) -> Result<TwinState, CatalogError> {
        match &self.lease {
            None => self.catalog.finish_conversion(source, profile, twin, key, toc_key).await,
            Some(lease) => {
                let holding = self.catalog.holding(lease);
                self.ending(holding.finish_conversion(source, profile, twin, key, toc_key).await)
            }
        }
    }

    /// Does what [`Catalog::refuse_conversion`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub(crate) async fn refuse_conversion(
        &self,
        source: &Digest,
        profile: &str,
        reason: UnconvertibleReason,
        detail: &str,
    ) -> Result<TwinState, CatalogError> {
        match &self.lease {
            None => self.catalog.refuse_conversion(source, profile, reason, detail).await,
            Some(lease) => {
                let holding = self.catalog.holding(lease);
                self.ending(holding.refuse_conversion(source, profile, reason, detail).await)
            }
        }
    }

    /// Notes that a commit ended the lease, if it did.
    fn ending<T>(&self, committed: Result<T, CatalogError>) -> Result<T, CatalogError> {
        if committed.is_ok() {
            self.ended.store(true, Ordering::Relaxed);
        }
        committed
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.stop_renewing();
        if let Some(lease) = self.lease.take()
            && !self.ended.load(Ordering::Relaxed)
        {
            let catalog = self.catalog.clone();
            // Where the runtime is gone, so is the process, and the lease runs out.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { release(&catalog, &lease).await });
            }
        }
    }
}

async fn release(catalog: &Catalog, lease: &Lease) {
    if let Err(error) = catalog.release(lease).await {
        tracing::debug!(%error, work = %lease.work(), "a lease could not be given back and runs out");
    }
}

/// Renews `lease` until it is lost, or this is aborted.
async fn renew(catalog: Catalog, lease: Lease, ttl: Duration, lost: Arc<AtomicBool>) {
    let mut beat = tokio::time::interval(ttl / 4);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, and the claim was just now.
    beat.tick().await;
    loop {
        beat.tick().await;
        match catalog.heartbeat(&lease, ttl).await {
            Ok(()) => {}
            Err(CatalogError::LeaseLost { .. }) => {
                tracing::debug!(work = %lease.work(), "a lease was lost");
                lost.store(true, Ordering::Relaxed);
                return;
            }
            // While the catalog is away nobody can claim anything either.
            Err(error) => tracing::debug!(%error, work = %lease.work(), "a lease could not be renewed"),
        }
    }
}

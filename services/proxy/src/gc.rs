//! [`Collector`]: evicts what the limits leave no room for, deletes what was evicted, and removes what no row names.

mod background;
mod collected;
mod daily;
mod deleting;
mod lease;
mod orphans;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::Digest;
use blobstore::{BlobStore, StoreError};
use catalog::{Candidate, Catalog, CatalogError, Eviction, Mark, Owner, Scope, Unit};
use tokio::time::Instant;

use crate::config;
use crate::metrics::{Metrics, Reason};
pub(crate) use background::run;
pub(crate) use collected::{Collected, Gone, Undeleted};
pub(crate) use daily::{Daily, ORPHANED};
pub(crate) use lease::{CollectionLease, LeaseError, owner};
pub(crate) use uses::Uses;

/// Candidates looked at together.
const PAGE: usize = 200;

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The bytes in the store at most; 0: any number.
    max_size: u64,
    /// How long a blob may be unused; zero: for ever.
    max_age: Duration,
    /// How long the bytes of what was evicted stay.
    grace: Duration,
}

/// Evicts, deletes and removes, for one process.
#[derive(Debug)]
pub(crate) struct Collector {
    catalog: Catalog,
    store: Arc<dyn BlobStore>,
    limits: Limits,
    owner: Owner,
    metrics: Arc<Metrics>,
}

/// Why a collection did not come to its end. Whatever it did until then is done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GcError {
    /// The catalog failed.
    #[error("catalog failed")]
    Catalog(#[from] CatalogError),
    /// The store failed.
    #[error("blob store failed")]
    Store(#[from] StoreError),
    /// Another process collects now.
    #[error("no collection is begun")]
    Busy(#[source] LeaseError),
    /// Rows are missing, and with them all that says what must stay.
    #[error(
        "the catalog is being rebuilt: let `firstlight catalog rebuild` end first, or run it again if it broke off"
    )]
    Rebuilding,
    /// Much of the store is in no row.
    #[error(
        "the catalog does not know {orphans} of {seen} keys in the store, and nothing of them was deleted: was the database \
         lost or set back, or is this another catalog's store? `firstlight catalog rebuild --merge` makes them known; of \
         what may go, delete the objects yourself"
    )]
    Strange {
        /// Keys that no row names.
        orphans: usize,
        /// All keys that were looked at.
        seen: usize,
    },
}

/// Who takes units away, or only says what would be taken.
enum Hand<'a> {
    Real(&'a Collector),
    Dry {
        catalog: &'a Catalog,
        /// What was taken already: nothing of it is gone in truth.
        taken: HashSet<Digest>,
    },
}

// === impl Limits ===

impl Limits {
    /// Evicting goes on until this much is left: a cap that is reached is not reached again at the next blob.
    const fn low_water(&self) -> u64 {
        self.max_size - self.max_size / 20
    }

    /// Returns how long blobs must be unused to go under the cap. What was used this moment is not: an image's form is
    /// made of twins that were just made. Manifests and other small blobs bring little, so only old ones go.
    fn unused(&self, scope: Scope) -> Duration {
        match scope {
            Scope::Large => (self.grace * 3).min(Duration::from_secs(5)),
            Scope::All => (self.grace * 60).min(Duration::from_secs(60 * 60)),
        }
    }
}

impl From<&config::Cache> for Limits {
    fn from(config: &config::Cache) -> Self {
        Self { max_size: config.max_size.bytes(), max_age: config.max_age, grace: config.grace }
    }
}

// === impl Collector ===

impl Collector {
    pub(crate) fn new(catalog: Catalog, store: Arc<dyn BlobStore>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { catalog, store, limits, owner: owner("collector"), metrics }
    }

    /// Collects, with the chores that `daily` says.
    ///
    /// Safe beside everything else, and to be dropped or killed anywhere: rows lose their keys first, and exactly these
    /// keys are deleted after the grace.
    ///
    /// # Errors
    /// [`GcError::Busy`] when another process of the fleet collects now; else see there.
    pub(crate) async fn collect(&self, daily: Daily) -> Result<Collected, GcError> {
        let lease = match CollectionLease::claim(&self.catalog, &self.owner).await {
            Ok(lease) => lease,
            Err(LeaseError::Catalog(error)) => return Err(error.into()),
            Err(held @ LeaseError::Held { .. }) => {
                self.check_no_rebuild().await?;
                return Err(GcError::Busy(held));
            }
        };
        let started = Instant::now();
        let result = self.work(daily, &lease).await;
        self.metrics.collection_ended(if result.is_ok() { "done" } else { "failed" }, started.elapsed());
        lease.end().await;
        result
    }

    async fn check_no_rebuild(&self) -> Result<(), GcError> {
        if self.catalog.is_marked(Mark::Rebuilding).await? { Err(GcError::Rebuilding) } else { Ok(()) }
    }

    async fn work(&self, daily: Daily, lease: &CollectionLease) -> Result<Collected, GcError> {
        self.check_no_rebuild().await?;
        let mut collected = Collected::default();
        self.catalog.date_undated().await?;
        self.catalog.drop_expired_holds().await?;
        self.catalog.take_back_deletions().await?;
        self.evict(&mut Hand::Real(self), &mut collected).await?;
        self.delete_due(&mut collected).await?;
        self.do_chores(daily, lease, &mut collected).await?;
        collected.usage = self.catalog.usage().await?;
        self.metrics.store_bytes(&collected.usage);
        Ok(collected)
    }

    /// Returns what [`Self::collect`] would evict and remove, and changes nothing.
    ///
    /// # Errors
    /// See [`GcError`].
    pub(crate) async fn preview(&self, orphaned: Duration) -> Result<Collected, GcError> {
        let mut collected = Collected::default();
        let mut hand = Hand::Dry { catalog: &self.catalog, taken: HashSet::new() };
        self.evict(&mut hand, &mut collected).await?;
        for orphan in orphans::find(&self.catalog, &*self.store, orphaned).await? {
            collected.add_orphan(&orphan);
        }
        collected.usage = self.catalog.usage().await?;
        Ok(collected)
    }

    /// Evicts by age first, and then as much as the cap asks for.
    async fn evict(&self, hand: &mut Hand<'_>, collected: &mut Collected) -> Result<(), GcError> {
        let Limits { max_size, max_age, .. } = self.limits;
        if !max_age.is_zero() {
            walk(hand, (Scope::All, max_age, Reason::Age), u64::MAX, collected).await?;
        }
        if max_size == 0 {
            return Ok(());
        }
        let before = collected.evicted_bytes();
        let usage = self.catalog.usage().await?;
        if usage.total() <= max_size {
            return Ok(());
        }
        let stored = match hand {
            Hand::Real(_) => usage.stored_bytes,
            Hand::Dry { .. } => usage.stored_bytes.saturating_sub(before),
        };
        let mut excess = stored.saturating_sub(self.limits.low_water());
        for scope in [Scope::Large, Scope::All] {
            excess = walk(hand, (scope, self.limits.unused(scope), Reason::Cap), excess, collected).await?;
        }
        if excess > 0 {
            tracing::debug!(excess_bytes = excess, "the rest is pinned, held, worked on, or in use now");
        }
        Ok(())
    }
}

/// Takes units, the longest unused first, until `excess` bytes are gone or there are no more; returns what is left of it.
async fn walk(
    hand: &mut Hand<'_>,
    (scope, unused, reason): (Scope, Duration, Reason),
    mut excess: u64,
    collected: &mut Collected,
) -> Result<u64, GcError> {
    let mut last = None;
    while excess > 0 {
        let mut page = hand.catalog().candidates(scope, unused, last.as_ref(), PAGE).await?;
        for candidate in &page {
            if excess == 0 {
                break;
            }
            if let Some(unit) = hand.take(candidate, reason).await? {
                excess = excess.saturating_sub(unit.size());
                collected.add_unit(reason, unit);
            }
        }
        last = page.pop();
        if last.is_none() {
            break;
        }
    }
    Ok(excess)
}

// === impl Hand ===

impl Hand<'_> {
    fn catalog(&self) -> &Catalog {
        match self {
            Self::Real(collector) => &collector.catalog,
            Self::Dry { catalog, .. } => catalog,
        }
    }

    /// Takes the unit of `candidate`; `None` where it stays, or is gone.
    async fn take(&mut self, candidate: &Candidate, reason: Reason) -> Result<Option<Unit>, CatalogError> {
        match self {
            Self::Real(collector) => match collector.catalog.evict(candidate, collector.limits.grace).await? {
                Eviction::Evicted(unit) => {
                    collector.metrics.evicted(reason, unit.size());
                    Ok(Some(unit))
                }
                Eviction::Newer | Eviction::Kept(_) => Ok(None),
            },
            Self::Dry { catalog, taken } => {
                if taken.contains(&candidate.digest) {
                    return Ok(None);
                }
                match catalog.would_evict(candidate).await? {
                    Eviction::Evicted(unit) => {
                        taken.extend(unit.members.iter().map(|member| member.digest.clone()));
                        Ok(Some(unit))
                    }
                    Eviction::Newer | Eviction::Kept(_) => Ok(None),
                }
            }
        }
    }
}

//! Takes up the conversions that an earlier process left, or one of the fleet that died or has no place for them.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, Repository};
use catalog::CatalogError;

use super::{Conversions, plain_layer};
use crate::remotes::Target;

/// The conversions of others that are begun at once.
const AT_ONCE: usize = 16;
/// The rows looked at in one query.
const PAGE: u32 = 256;
/// The queries at once: more rows than these that nobody can convert here delay the others, and no more.
const PAGES: usize = 4;
/// The longest that a stop waits for the catalog.
const FAREWELL: Duration = Duration::from_secs(5);

impl Conversions {
    /// Takes up the conversions an earlier process left; `target_of` names each one's repository.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        target_of: impl Fn(&Repository) -> Option<Target>,
    ) -> Result<(), CatalogError> {
        let (mut after, mut most) = (None, usize::MAX);
        loop {
            after = self.begin_page(after.as_ref(), &mut most, &target_of).await?;
            if after.is_none() || self.jobs.are_full() {
                return Ok(());
            }
        }
    }

    /// Takes up some of the conversions that other processes left, as far as there is nothing else to do here. Every call
    /// goes on where the last one stopped, so that rows of which nothing can come here keep no others waiting.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        target_of: impl Fn(&Repository) -> Option<Target>,
    ) -> Result<(), CatalogError> {
        let mut most = self.leases.free().min(AT_ONCE);
        let mut after = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        for _ in 0..PAGES {
            if most == 0 || self.started().is_none() {
                break;
            }
            after = self.begin_page(after.as_ref(), &mut most, &target_of).await?;
            if after.is_none() {
                break;
            }
        }
        *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(())
    }

    /// Begins those of a page of abandoned conversions that can be converted here, up to `most`, which it lowers. Returns
    /// the last one that it looked at, or `None` at the end of all.
    async fn begin_page(
        self: &Arc<Self>,
        after: Option<&Digest>,
        most: &mut usize,
        target_of: &impl Fn(&Repository) -> Option<Target>,
    ) -> Result<Option<Digest>, CatalogError> {
        if !self.enabled {
            return Ok(None);
        }
        let idle = self.fleet.lease_time().unwrap_or_default();
        let page = self.catalog.abandoned_conversions(self.profile.id(), idle, after, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        let mut last = None;
        for (digest, repository) in page {
            if *most == 0 || self.jobs.are_full() {
                return Ok(last);
            }
            let is_busy = self.jobs.get(&digest).is_some() || self.failed_lately(&digest);
            if let Some(target) = target_of(&repository).filter(|_| !is_busy) {
                let layer = plain_layer(digest.clone(), self.min_layer_size);
                self.ensure_unasked(&target, &layer, &self.profile).await?;
                *most -= 1;
            }
            last = Some(digest);
        }
        Ok(last.filter(|_| !is_last))
    }

    pub(super) fn started(&self) -> MutexGuard<'_, Option<HashSet<(Digest, String)>>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back the attempts of what is being converted: the process ends, and the layers are not to blame. Nothing is
    /// taken over any more.
    pub(crate) async fn stop(&self) {
        let started = self.started().take();
        let forgive = async {
            for (source, profile) in started.into_iter().flatten() {
                if let Err(error) = self.catalog.forgive_attempt(&source, &profile).await {
                    tracing::warn!(blob.digest = %source, %error, "a conversion that was broken off counts as an attempt");
                }
            }
        };
        // A stop does not wait for a database that is away.
        let _left = tokio::time::timeout(FAREWELL, forgive).await;
    }
}

//! Deleting from the store: what can be is deleted, what cannot be is named and keeps nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use blobstore::BlobKey;
use catalog::Deletion;

use super::{Collected, CollectionLease, Collector, GcError, Undeleted, orphans};
use crate::error::chain;
use crate::metrics::Reason;

/// Keys deleted together: as many as S3 takes in one request.
const BATCH: usize = 1000;
/// After this time a key whose bytes could not be deleted is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

impl Collector {
    /// Deletes the bytes whose grace has passed. Deletions that are refused stay, to be tried again later.
    pub(super) async fn delete_due(&self, collected: &mut Collected) -> Result<(), GcError> {
        loop {
            let due = self.catalog.due_deletions(BATCH).await?;
            if due.is_empty() {
                return Ok(());
            }
            let (mut by_key, mut left) = (BTreeMap::new(), Vec::new());
            for deletion in due {
                match deletion.key.parse::<BlobKey>() {
                    Ok(key) => drop(by_key.insert(key, deletion)),
                    Err(error) => {
                        self.leave(&deletion.key, chain(&error), collected);
                        left.push(deletion);
                    }
                }
            }
            let keys: Vec<BlobKey> = by_key.keys().cloned().collect();
            for refusal in self.store.delete_many(&keys).await? {
                self.leave(&refusal.key.to_string(), chain(&refusal.error), collected);
                left.extend(by_key.remove(&refusal.key));
            }
            let gone: Vec<Deletion> = by_key.into_values().collect();
            self.catalog.end_deletions(&gone).await?;
            collected.add_deleted(gone.len(), gone.iter().map(|deletion| deletion.size).fold(0, u64::saturating_add));
            // Else they would be the first ones again.
            self.catalog.postpone_deletions(&left, RETRY_AFTER).await?;
        }
    }

    /// Removes keys of at least `age` that no row names.
    pub(super) async fn remove_orphans(
        &self,
        age: Duration,
        lease: &CollectionLease,
        collected: &mut Collected,
    ) -> Result<(), GcError> {
        let found = orphans::find(&self.catalog, &*self.store, age).await?;
        for batch in found.chunks(BATCH) {
            // Listing took its time, perhaps longer than the lease lasts, and a rebuild may have found them since, or be
            // about to.
            lease.confirm().await?;
            self.check_no_rebuild().await?;
            let batch = orphans::still_orphans(&self.catalog, batch.to_vec()).await?;
            let keys: Vec<BlobKey> = batch.iter().map(|orphan| orphan.key.clone()).collect();
            let refused = self.store.delete_many(&keys).await?;
            for refusal in &refused {
                self.leave(&refusal.key.to_string(), chain(&refusal.error), collected);
            }
            for orphan in batch.iter().filter(|orphan| !refused.iter().any(|refusal| refusal.key == orphan.key)) {
                self.metrics.evicted(Reason::Orphan, orphan.size);
                collected.add_orphan(orphan);
            }
        }
        Ok(())
    }

    /// Notes that the bytes of `key` stay, and why.
    fn leave(&self, key: &str, why: String, collected: &mut Collected) {
        self.metrics.undeleted();
        collected.add_undeleted(Undeleted { key: key.to_owned(), why });
    }
}

//! Ends a fill: the digest, its readers, the store, the row; or nothing of it.

use std::sync::Arc;
use std::time::Duration;

use blobstore::{BlobKey, Generation};
use catalog::{BlobRow, CatalogError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::journal::Journal;
use super::pauses::Pauses;
use super::registry::key;
use super::source::Source;
use super::{Fill, FillError, Fills, Outcome};
use crate::fleet::HeldLease;
use crate::metrics::FillEnd;
use crate::records::Records;

/// The pause between two tries to store a blob.
const PUBLISH_PAUSE: Duration = Duration::from_secs(2);
/// The fewest tries, however long each takes.
const FEWEST_TRIES: u32 = 4;
/// The longest time another process is given to put a blob into the store.
const LONGEST_UPLOAD: Duration = Duration::from_secs(6 * 60 * 60);

/// Whether a blob got into the store.
enum Published {
    Done,
    /// Another process does the fill.
    Not,
}

/// What this process put into the store and no row names yet: kept while the fill may still be its own, since the spool
/// may be gone.
#[derive(Debug, Default)]
struct Draft {
    key: Option<BlobKey>,
    /// Whether a commit may have counted whose answer got lost: then nothing is deleted.
    may_count: bool,
}

impl Fills {
    /// Runs a fill to its end, whatever end that is: the slot is always given up and readers are told.
    pub(super) async fn watch_over(
        self: Arc<Self>,
        fill: Arc<Fill>,
        first: Option<upstream::BlobAnswer>,
        place: OwnedSemaphorePermit,
    ) {
        let digest = fill.spool.digest().clone();
        let task = tokio::spawn(Arc::clone(&self).finish(Arc::clone(&fill), first));
        if let Err(error) = task.await {
            tracing::error!(blob.digest = %digest, %error, "a fill broke off");
            fill.spool.finish(Outcome::Failed(Arc::new(FillError::Broken)));
            fill.sources.give_back().await;
        }
        fill.standing.end();
        self.running().remove(&key(&fill.repository, &digest));
        fill.over.send_replace(true);
        drop(place);
    }

    /// Bytes, digest, readers, store, row, in this order. It belongs to no client, so it outlives all
    /// of them.
    async fn finish(self: Arc<Self>, fill: Arc<Fill>, first: Option<upstream::BlobAnswer>) {
        let digest = fill.spool.digest().clone();
        let result = match fill.run(first).await {
            Ok(()) => {
                fill.spool.finish(Outcome::Verified);
                let mut draft = Draft::default();
                let settled = self.settle(&fill, &mut draft).await;
                self.discard(draft).await;
                settled
            }
            Err(error) => Err(error),
        };
        self.metrics.fill_ended(*result.as_ref().unwrap_or(&FillEnd::Failed));
        if let Err(error) = result {
            tracing::error!(
                blob.digest = %digest, repo.name = %fill.repository,
                error = &error as &dyn std::error::Error, "fill failed, nothing of it is kept"
            );
            fill.spool.finish(Outcome::Failed(Arc::new(error)));
        }
        let path = fill.spool.path().to_owned();
        telemetry::blocking(move || Journal::remove(&path)).await;
        // Readers, the slowest of them, hold the fill and not the work.
        fill.sources.end().await;
    }

    /// Sees to it that the bytes, which are all here and right, get into the store: by this process, or by the one that
    /// does the fill. Returns who did it.
    async fn settle(&self, fill: &Fill, draft: &mut Draft) -> Result<FillEnd, FillError> {
        let begun = Instant::now();
        let (mut tries, mut pauses) = (0, Pauses::new());
        loop {
            let source = fill.sources.current(Some(fill.size())).await?;
            let result = match &*source {
                Source::Upstream(lease) => self.publish(fill, lease, draft).await,
                Source::Stored(..) => return Ok(FillEnd::Followed),
                Source::Peer(_) if begun.elapsed() >= self.patience_with_another(fill) => {
                    return Err(FillError::NotStored);
                }
                Source::Peer(_) => {
                    pauses.wait().await;
                    fill.sources.look_again(Some(fill.size())).await.map(|()| Published::Not)
                }
            };
            match result {
                Ok(Published::Done) => return Ok(FillEnd::Stored),
                // Another process does the fill now.
                Ok(Published::Not) if source.is_upstream() => fill.sources.leave(&source, Some(fill.size())).await?,
                Ok(Published::Not) => {}
                Err(error) if error.is_passing() && (tries < FEWEST_TRIES || begun.elapsed() < self.store_patience) => {
                    tries += 1;
                    tracing::warn!(
                        blob.digest = %fill.spool.digest(), error = &error as &dyn std::error::Error,
                        "a blob could not be stored yet"
                    );
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns how long another process may take to store what it fills: far less than a draft may lie in the store.
    fn patience_with_another(&self, fill: &Fill) -> Duration {
        self.store_patience + Duration::from_secs(fill.size() >> 20).min(LONGEST_UPLOAD)
    }

    async fn publish(&self, fill: &Fill, lease: &HeldLease, draft: &mut Draft) -> Result<Published, FillError> {
        let digest = fill.spool.digest();
        let key = match &draft.key {
            Some(key) => key.to_string(),
            None => {
                let key = BlobKey::blob(digest, Generation::random());
                self.store.put_file(&key, fill.spool.path()).await?;
                draft.key.insert(key).to_string()
            }
        };
        let row = BlobRow { digest: digest.clone(), size: fill.size(), key };
        Records::new(&self.catalog, &self.store).note_links(digest, &[&fill.repository]).await?;
        match lease.add_blob(&row, &[&fill.repository]).await {
            // The row that stands has another key: this one counts for nobody.
            Ok(kept) if kept.key != row.key => draft.may_count = false,
            Ok(_) => draft.key = None,
            // It is kept: nobody may have claimed the fill, and then it counts under the next lease.
            Err(CatalogError::LeaseLost { .. }) => return Ok(Published::Not),
            Err(error) => {
                draft.may_count = true;
                return Err(error.into());
            }
        }
        Ok(Published::Done)
    }

    /// Deletes what was put into the store and does not count.
    async fn discard(&self, draft: Draft) {
        if let Some(key) = draft.key
            && !draft.may_count
            && let Err(error) = self.store.delete(&key).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%key, error, "bytes that do not count stay in the store until a collection finds them");
        }
    }
}

//! Ends a conversion: bytes into the store, then the row. What the converter made stays on disk and is tried again while
//! the catalog or the store is out of reach.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Twin, UnconvertibleReason};
use blobstore::{BlobKey, Generation};
use catalog::{CatalogError, TwinOutcome, TwinState};
use convert::Converted;
use tokio::time::Instant;

use super::Conversions;
use super::job::{Drafts, Job, JobError};
use super::turn::Turn;
use crate::fill::Fill;
use crate::records::Records;

/// How long what was made here waits for a catalog or a store that is out of reach; a blob waits as long.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(2);
/// The fewest tries, however long each takes.
const FEWEST_TRIES: u32 = 4;

/// A twin that the converter made, and how much of it is in the store already.
#[derive(Debug)]
pub(super) struct Made {
    twin: Twin,
    /// Whether the source is its own twin: then its bytes are the source's.
    is_own: bool,
    fill: Option<Arc<Fill>>,
    drafts: Arc<Drafts>,
    /// Whether a process that died may have left an unfinished upload.
    to_sweep: bool,
    key: Option<BlobKey>,
    toc_key: Option<BlobKey>,
    /// Whether a commit may have counted whose answer got lost: then nothing is deleted.
    may_count: bool,
}

impl Made {
    /// Returns what the converter made into `drafts`; `fill` brings the source, where that was not stored.
    pub(super) fn new(made: Converted, fill: Option<Arc<Fill>>, drafts: Arc<Drafts>, broke_off: bool) -> Self {
        let (twin, is_own) = match made {
            Converted::Twin(twin) => (twin, false),
            Converted::OwnTwin(twin) => (twin, true),
        };
        let to_sweep = broke_off && !is_own;
        Self { twin, is_own, fill, drafts, to_sweep, key: None, toc_key: None, may_count: false }
    }
}

impl Conversions {
    /// Stores and records what was made, and returns how long it waited for what was out of reach. Of what does not
    /// count nothing stays.
    pub(super) async fn settle(&self, job: &Job, turn: &Turn, mut made: Made) -> Result<Duration, JobError> {
        let mut patience = Patience::begin();
        loop {
            let settled = match self.store_files(job, &mut made).await {
                Ok(key) => self.commit(job, turn, &mut made, &key).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(()) => return Ok(patience.waited),
                Err(error) if patience.is_for(&error) => patience.wait(job, &error).await,
                Err(error) => {
                    if !made.may_count {
                        self.discard(&mut made).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Puts into the store what is not there yet, and returns the key of the twin's bytes.
    async fn store_files(&self, job: &Job, made: &mut Made) -> Result<BlobKey, JobError> {
        if made.to_sweep {
            // What a process before was putting into the store nobody will finish. Not worth the twin: a bucket may allow
            // everything but this.
            made.to_sweep = false;
            if let Err(error) = self.store.sweep_uploads_of(&made.twin.digest).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(blob.digest = %made.twin.digest, error, "an earlier upload stays until the next sweep");
            }
        }
        let key = match (&made.key, made.is_own) {
            (Some(key), _) => key.clone(),
            (None, true) => self.key_of_source(job, made).await?,
            (None, false) => {
                let key = BlobKey::blob(&made.twin.digest, Generation::random());
                self.store.put_file(&key, &made.drafts.twin).await?;
                made.key = Some(key.clone());
                key
            }
        };
        if made.toc_key.is_none() {
            let toc_key = BlobKey::toc(&made.twin.toc_digest, Generation::random());
            self.store.put_file(&toc_key, &made.drafts.toc).await?;
            made.toc_key = Some(toc_key);
        }
        Ok(key)
    }

    async fn key_of_source(&self, job: &Job, made: &Made) -> Result<BlobKey, JobError> {
        if let Some(fill) = &made.fill {
            fill.wait_stored().await;
        }
        let row = self.catalog.blob(&job.layer().digest).await?.ok_or(JobError::SourceNotStored)?;
        Ok(row.key.parse()?)
    }

    /// Makes bytes count that are stored by now.
    async fn commit(&self, job: &Job, turn: &Turn, made: &mut Made, key: &BlobKey) -> Result<(), JobError> {
        let (source, profile, twin) = (&job.layer().digest, job.profile().id(), &made.twin);
        self.check_rows([&twin.digest, &twin.toc_digest]).await?;
        let records = Records::new(&self.catalog, &self.store);
        records.note_outcome(source, &profile, TwinOutcome::Twin(twin.clone())).await?;
        let toc_key = made.toc_key.as_ref().map(BlobKey::to_string).unwrap_or_default();
        let state = turn.lease.finish_conversion(source, &profile, twin, &key.to_string(), &toc_key).await;
        let state = match state {
            // It ends with the commit: perhaps with one of this process whose answer got lost.
            Err(CatalogError::LeaseLost { .. }) if made.may_count && self.has_ended(job).await? => return Ok(()),
            Err(error) => {
                made.may_count |= !matches!(error, CatalogError::LeaseLost { .. });
                return Err(error.into());
            }
            Ok(state) => state,
        };
        let TwinState::Ready { key: kept, toc_key: kept_toc, .. } = state else {
            let is_gone = made.is_own && self.catalog.blob(source).await?.is_none_or(|row| row.key != key.to_string());
            return Err(if is_gone {
                JobError::SourceNotStored
            } else {
                JobError::AnotherTwin { digest: twin.digest.clone() }
            });
        };
        // What counts is not deleted, whatever comes after this.
        made.key.take_if(|key| key.to_string() == kept);
        made.toc_key.take_if(|key| key.to_string() == kept_toc);
        self.discard(made).await;
        Ok(())
    }

    /// Opens the bytes of rows that would stand in the way of new ones: a row without bytes is dropped.
    async fn check_rows(&self, digests: [&Digest; 2]) -> Result<(), JobError> {
        for digest in digests {
            if let Some(row) = self.catalog.blob(digest).await? {
                self.stock.open(&row).await?;
            }
        }
        Ok(())
    }

    async fn has_ended(&self, job: &Job) -> Result<bool, JobError> {
        let row = self.catalog.twin(&job.layer().digest, &job.profile().id()).await?;
        Ok(row.is_some_and(|row| matches!(row.state, TwinState::Ready { .. })))
    }

    /// Deletes what was stored and does not count. What cannot be deleted now, the collection finds.
    async fn discard(&self, made: &mut Made) {
        for key in [made.key.take(), made.toc_key.take()].into_iter().flatten() {
            if let Err(error) = self.store.delete(&key).await {
                tracing::warn!(%key, error = &error as &dyn std::error::Error, "bytes that do not count stay for now");
            }
        }
    }

    /// Records that a layer stays as it is, and returns the state that stands.
    pub(super) async fn refuse(
        &self,
        job: &Job,
        turn: &Turn,
        reason: UnconvertibleReason,
        detail: &str,
    ) -> Result<TwinState, JobError> {
        let (source, profile) = (&job.layer().digest, job.profile().id());
        let mut patience = Patience::begin();
        loop {
            let refused = async {
                let refusal = TwinOutcome::Unconvertible { reason, detail: detail.to_owned() };
                Records::new(&self.catalog, &self.store).note_outcome(source, &profile, refusal).await?;
                Ok(turn.lease.refuse_conversion(source, &profile, reason, detail).await?)
            };
            match refused.await {
                Err(error) if patience.is_for(&error) => patience.wait(job, &error).await,
                refused => return refused,
            }
        }
    }
}

/// How long what was made is tried again.
#[derive(Debug)]
struct Patience {
    begun: Instant,
    waited: Duration,
    tries: u32,
}

impl Patience {
    fn begin() -> Self {
        Self { begun: Instant::now(), waited: Duration::ZERO, tries: 0 }
    }

    /// Tells whether what failed may succeed in a moment, and that moment is worth waiting for.
    fn is_for(&self, error: &JobError) -> bool {
        error.is_passing() && (self.tries < FEWEST_TRIES || self.begun.elapsed() < PATIENCE)
    }

    async fn wait(&mut self, job: &Job, error: &JobError) {
        tracing::warn!(
            blob.digest = %job.layer().digest, error = error as &dyn std::error::Error,
            "a converted layer could not be stored yet"
        );
        tokio::time::sleep(PAUSE).await;
        self.tries += 1;
        self.waited = self.begun.elapsed();
    }
}

//! [`Job`]: the conversion of one layer, from its first byte to its row.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Descriptor, Digest, UnconvertibleReason};
use blobstore::{BlobKey, Generation};
use convert::{Cancel, ConvertError, Converted, Limits, Outputs};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::queue::Place;
use super::source::LayerSource;
use super::{Conversions, NICE};
use crate::fill::{Fill, FillError, Joined};
use crate::remotes::Target;
use crate::stock::StockError;

/// The conversion of one layer.
#[derive(Debug)]
pub(crate) struct Job {
    layer: Descriptor,
    profile: convert::Profile,
    ended: watch::Sender<bool>,
}

impl Job {
    pub(super) fn new(layer: Descriptor, profile: convert::Profile) -> Self {
        Self { layer, profile, ended: watch::Sender::new(false) }
    }

    /// Returns the size of the source in bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.layer.size
    }

    /// Waits until the conversion has ended, well or not.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ended = ended.wait_for(|ended| *ended).await;
    }
}

/// How a job ends without a twin.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("cannot read the layer")]
    Fill(#[from] Arc<FillError>),
    #[error("cannot convert the layer")]
    Convert(#[from] ConvertError),
    #[error("catalog failed")]
    Catalog(#[from] catalog::CatalogError),
    #[error("blob store failed")]
    Store(#[from] blobstore::StoreError),
    #[error("catalog row of a blob is damaged")]
    Key(#[from] blobstore::KeyError),
    #[error("cannot use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the converting thread ended without a result")]
    Thread,
    #[error(
        "the result is {digest}, another twin than the recorded one: the store's or the profile's records are damaged"
    )]
    AnotherTwin { digest: Digest },
    #[error("a stored layer cannot be opened")]
    Stock(#[from] StockError),
    #[error("the source was not stored")]
    SourceNotStored,
    #[error("the source did not arrive whole and right")]
    Unverified(#[source] Arc<FillError>),
}

/// The unfinished files of a job; removed when dropped, unless the store has taken them.
#[derive(Debug)]
struct Drafts {
    twin: PathBuf,
    toc: PathBuf,
}

impl Drafts {
    fn new(folder: &Path, digest: &Digest) -> Self {
        let path = |kind: &str| folder.join(format!("{kind}-{}.draft", digest.hex()));
        Self { twin: path("twin"), toc: path("toc") }
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for path in [&self.twin, &self.toc] {
            // Usually the store has taken them.
            let _gone = std::fs::remove_file(path);
        }
    }
}

impl Conversions {
    /// Converts the layer of `job` and records the result. What fails for a passing reason leaves the
    /// row as it is, so that the next one who asks starts over.
    pub(super) async fn run(self: Arc<Self>, target: Target, job: Arc<Job>) {
        let digest = job.layer.digest.clone();
        let task = tokio::spawn(Arc::clone(&self).work(target, Arc::clone(&job)));
        if let Err(error) = task.await {
            tracing::error!(blob.digest = %digest, %error, "a conversion broke off");
        }
        self.jobs.leave(&digest);
        job.ended.send_replace(true);
    }

    async fn work(self: Arc<Self>, target: Target, job: Arc<Job>) {
        let digest = job.layer.digest.clone();
        self.metrics.conversion_started();
        let started = Instant::now();
        let result = self.convert(&target, &job).await;
        let outcome = self.record(&job, result, started.elapsed()).await;
        if outcome == Err(None) {
            self.failed.insert(digest, ()).await;
        }
        self.metrics.conversion_ended(outcome, started.elapsed());
    }

    async fn record(
        &self,
        job: &Job,
        result: Result<u64, JobError>,
        took: Duration,
    ) -> Result<(), Option<UnconvertibleReason>> {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let digest = &job.layer.digest;
        match result {
            Ok(size_bytes) => {
                tracing::info!(blob.digest = %digest, size_bytes, duration_ms, "layer converted");
                Ok(())
            }
            Err(JobError::Convert(ConvertError::Unconvertible { reason, detail })) => {
                tracing::warn!(blob.digest = %digest, %reason, detail, duration_ms, "layer stays as it is");
                match self.catalog.refuse_conversion(digest, &job.profile.id(), reason, &detail).await {
                    // What had a twin once has it again, or nothing.
                    Ok(catalog::TwinState::Converting { .. }) => Err(None),
                    Ok(_) => Err(Some(reason)),
                    Err(error) => {
                        tracing::error!(blob.digest = %digest, %error, "the refusal could not be recorded");
                        Err(None)
                    }
                }
            }
            Err(JobError::Fill(error)) if matches!(*error, FillError::NoRoom) => {
                tracing::debug!(blob.digest = %digest, "layer is not converted: the disk has no room");
                Err(None)
            }
            Err(error) => {
                tracing::error!(
                    blob.digest = %digest, error = &error as &dyn std::error::Error, duration_ms,
                    "conversion failed and will be tried again when the layer is next asked for"
                );
                Err(None)
            }
        }
    }

    async fn convert(&self, target: &Target, job: &Job) -> Result<u64, JobError> {
        let digest = &job.layer.digest;
        let (source, fill) = self.source(target, digest).await?;
        let _place = self.place(&source, fill.as_deref()).await;
        let begun = Instant::now();
        let size = convert::Source::size(&source);
        self.fills.check_room(size, false).await.map_err(Arc::new)?;
        let drafts = Arc::new(Drafts::new(&self.folder, digest));
        // Here and not earlier: only what the converter does can be the layer's fault.
        self.catalog.attempt_conversion(digest, &job.profile.id()).await?;
        let result = self.on_thread(source, &drafts, job.profile).await;
        if let Some(fill) = &fill {
            // Whatever the converter thinks of the bytes counts only if they are the right ones.
            fill.wait_verified().await.map_err(JobError::Unverified)?;
        }
        match result? {
            Converted::Twin(twin) => {
                let key = BlobKey::blob(&twin.digest, Generation::random());
                let toc_key = BlobKey::toc(&twin.toc_digest, Generation::random());
                self.store.put_file(&key, &drafts.twin).await?;
                self.store.put_file(&toc_key, &drafts.toc).await?;
                let kept = self.finish(job, &twin, &key, &toc_key).await?;
                if kept.as_ref() != Some(&key.to_string()) {
                    self.store.delete(&key).await?;
                }
                kept.ok_or(JobError::AnotherTwin { digest: twin.digest })?;
            }
            Converted::OwnTwin(twin) => {
                if let Some(fill) = &fill {
                    fill.wait_stored().await;
                }
                let row = self.catalog.blob(digest).await?.ok_or(JobError::SourceNotStored)?;
                let toc_key = BlobKey::toc(&twin.toc_digest, Generation::random());
                self.store.put_file(&toc_key, &drafts.toc).await?;
                let kept = self.finish(job, &twin, &row.key.parse()?, &toc_key).await?;
                kept.ok_or(JobError::AnotherTwin { digest: twin.digest })?;
            }
        }
        // Without the wait for a place, which says nothing of the converter's speed.
        self.measured(size, begun.elapsed());
        Ok(size)
    }

    /// Bytes are stored by now; this makes them count, and returns the key of the twin that does, or `None` where none
    /// may. A TOC that does not count is removed.
    async fn finish(
        &self,
        job: &Job,
        twin: &api::Twin,
        key: &BlobKey,
        toc_key: &BlobKey,
    ) -> Result<Option<String>, JobError> {
        for digest in [&twin.digest, &twin.toc_digest] {
            // A row that stands in the way of the new bytes must have some itself.
            if let Some(row) = self.catalog.blob(digest).await? {
                self.stock.open(&row).await?;
            }
        }
        let (profile, key, toc) = (job.profile.id(), key.to_string(), toc_key.to_string());
        let state = self.catalog.finish_conversion(&job.layer.digest, &profile, twin, &key, &toc).await?;
        let (kept, kept_toc) = match state {
            catalog::TwinState::Ready { key, toc_key, .. } => (Some(key), Some(toc_key)),
            catalog::TwinState::Converting { .. } | catalog::TwinState::Unconvertible { .. } => (None, None),
        };
        if kept_toc != Some(toc) {
            self.store.delete(toc_key).await?;
        }
        Ok(kept)
    }

    /// Waits for a place. Layers that still arrive have places of their own, so that slow upstreams
    /// keep nobody from converting what is here.
    async fn place(&self, source: &LayerSource, fill: Option<&Fill>) -> Place {
        let size = convert::Source::size(source);
        let Some(fill) = fill else { return self.stored_queue.place(size).await };
        tokio::select! {
            place = self.filling_queue.place(size) => place,
            () = fill.wait_stored() => self.stored_queue.place(size).await,
        }
    }

    async fn source(&self, target: &Target, digest: &Digest) -> Result<(LayerSource, Option<Arc<Fill>>), JobError> {
        if let Some(row) = self.catalog.blob(digest).await?
            && let Some(blob) = self.stock.open(&row).await?
        {
            return Ok((LayerSource::Stored(blob), None));
        }
        match self.fills.join(&target.remote.client, &target.repository, digest).await? {
            Joined::Running(fill) => Ok((LayerSource::Filling(Arc::clone(&fill)), Some(fill))),
            Joined::Stored(row) => {
                let blob = self.stock.open(&row).await?.ok_or(JobError::SourceNotStored)?;
                Ok((LayerSource::Stored(blob), None))
            }
        }
    }

    /// Runs the conversion on a thread of its own, niced below serving.
    async fn on_thread(
        &self,
        source: LayerSource,
        drafts: &Arc<Drafts>,
        profile: convert::Profile,
    ) -> Result<Converted, JobError> {
        let (done, result) = oneshot::channel();
        let (pool, folder) = (Arc::clone(&self.pool), self.folder.clone());
        let drafts = Arc::clone(drafts);
        let spawned = std::thread::Builder::new().name("convert".into()).spawn(move || {
            nice();
            // The receiver is gone only when the process stops.
            let _unheard = done.send(convert_files(&source, &drafts, &folder, &profile, &pool));
        });
        spawned.map_err(|source| JobError::File { path: self.folder.clone(), source })?;
        result.await.map_err(|_| JobError::Thread)?
    }
}

fn convert_files(
    source: &LayerSource,
    drafts: &Drafts,
    scratch: &Path,
    profile: &convert::Profile,
    pool: &convert::Pool,
) -> Result<Converted, JobError> {
    let open = |path: &Path| {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|source| JobError::File { path: path.to_owned(), source })
    };
    let (mut twin, mut toc) = (open(&drafts.twin)?, open(&drafts.toc)?);
    let outputs = Outputs { twin: &mut twin, toc: &mut toc, scratch };
    Ok(convert::convert(source, outputs, profile, &Limits::default(), pool, &Cancel::default(), &|_| {})?)
}

/// Lowers the priority of the calling thread; on Linux a process id may be a thread's.
fn nice() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the converting thread could not be niced");
    }
}

//! [`Job`]: the conversion of one layer, from its first byte to its row.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{Descriptor, Digest};
use catalog::{CatalogError, TwinState};
use convert::{Cancel, ConvertError, Converted, Limits, Outputs};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::queue::Place;
use super::settling::Made;
use super::source::LayerSource;
use super::turn::Turn;
use super::{Conversions, NICE};
use crate::fill::{Fill, FillError, Joined};
use crate::metrics::ConversionEnd;
use crate::remotes::Target;
use crate::stock::StockError;

/// How long a conversion holds its lease while its fill is not open, or yields to those that clients wait for.
const YIELD_PATIENCE: Duration = Duration::from_secs(2);

/// The conversion of one layer.
#[derive(Debug)]
pub(crate) struct Job {
    layer: Descriptor,
    profile: convert::Profile,
    /// Whether somebody asked for it, and it was not only found unfinished.
    pub(super) asked: Arc<AtomicBool>,
    ended: watch::Sender<bool>,
}

impl Job {
    pub(super) fn new(layer: Descriptor, profile: convert::Profile) -> Self {
        Self { layer, profile, asked: Arc::default(), ended: watch::Sender::new(false) }
    }

    /// Says that somebody asked for it: it goes before those that nobody asked for.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Returns the layer; of one that was begun before, the size may be too small.
    pub(super) const fn layer(&self) -> &Descriptor {
        &self.layer
    }

    /// Returns what its twin is made under.
    pub(super) const fn profile(&self) -> &convert::Profile {
        &self.profile
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
pub(super) enum JobError {
    #[error("cannot read the layer")]
    Fill(#[from] Arc<FillError>),
    #[error("cannot convert the layer")]
    Convert(#[from] ConvertError),
    #[error("catalog failed")]
    Catalog(#[from] CatalogError),
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

impl JobError {
    /// Tells whether nothing was committed because another process has the work.
    pub(super) fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Catalog(CatalogError::LeaseLost { .. }))
    }

    /// Tells whether the catalog or the store was out of reach for a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Catalog(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            Self::Stock(error) => error.is_transient(),
            _ => false,
        }
    }
}

/// Where the bytes of a layer are.
enum Found {
    /// Here, or on their way.
    Bytes(LayerSource, Option<Arc<Fill>>),
    /// To come from a fill that yields to others, or that is not open yet.
    Yielding,
}

/// The unfinished files of a job; removed when dropped, unless the store has taken them.
#[derive(Debug)]
pub(super) struct Drafts {
    pub(super) twin: PathBuf,
    pub(super) toc: PathBuf,
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
        let digest = &job.layer.digest;
        let mut cleared = Ok(());
        loop {
            let mut turn = match self.turn(&job).await {
                Ok(Some(turn)) => turn,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(
                        blob.digest = %digest, error = &error as &dyn std::error::Error,
                        "a conversion could not be claimed"
                    );
                    self.failed.insert(digest.clone(), ()).await;
                    return;
                }
            };
            self.metrics.conversion_started();
            let started = Instant::now();
            let source = match std::mem::replace(&mut cleared, Ok(())) {
                Ok(()) => self.source(&target, digest, &turn).await,
                Err(error) => Err(JobError::Fill(error)),
            };
            let result = match source {
                Ok(Found::Bytes(source, fill)) => self.convert(source, fill, &job, &mut turn).await,
                Ok(Found::Yielding) => {
                    self.metrics.conversion_yielded();
                    cleared = self.give_way(&target, &job, turn).await;
                    continue;
                }
                Err(error) => Err(error),
            };
            let ended = self.record(&job, &turn, result, started.elapsed()).await;
            self.attempt_is_over(&job);
            self.metrics.conversion_ended(ended, started.elapsed());
            match ended {
                ConversionEnd::Overtaken => self.forgive(&job).await,
                ConversionEnd::Failed => return self.postpone(&job).await,
                ConversionEnd::Ready | ConversionEnd::Unconvertible(_) => return,
            }
        }
    }

    /// Takes back the attempt of a conversion that another process took over.
    async fn forgive(&self, job: &Job) {
        let digest = &job.layer.digest;
        if let Err(error) = self.catalog.forgive_attempt(digest, &job.profile.id()).await {
            tracing::warn!(blob.digest = %digest, %error, "a conversion that was overtaken counts as an attempt");
        }
    }

    /// Leaves a layer alone for a while, here and in the other processes.
    async fn postpone(&self, job: &Job) {
        let digest = &job.layer.digest;
        self.failed.insert(digest.clone(), ()).await;
        if let Err(error) = self.catalog.postpone_conversion(digest, &job.profile.id()).await {
            tracing::warn!(blob.digest = %digest, %error, "a failed conversion could not be postponed");
        }
    }

    /// Keeps other processes from taking a layer over that only waits for its bytes: they would wait for them too.
    async fn defer(&self, job: &Job) {
        let digest = &job.layer.digest;
        let pause = self.fleet.lease_time().unwrap_or_default();
        if let Err(error) = self.catalog.defer_conversion(digest, &job.profile.id(), pause).await {
            tracing::debug!(blob.digest = %digest, %error, "a conversion that gives way may be taken over at once");
        }
    }

    async fn record(&self, job: &Job, turn: &Turn, result: Result<u64, JobError>, took: Duration) -> ConversionEnd {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let digest = &job.layer.digest;
        match result {
            Ok(size_bytes) => {
                tracing::info!(blob.digest = %digest, size_bytes, duration_ms, "layer converted");
                ConversionEnd::Ready
            }
            Err(JobError::Convert(ConvertError::Unconvertible { reason, detail })) => {
                tracing::warn!(blob.digest = %digest, %reason, detail, duration_ms, "layer stays as it is");
                match self.refuse(job, turn, reason, &detail).await {
                    // What had a twin once has it again, or nothing.
                    Ok(TwinState::Converting { .. }) => ConversionEnd::Failed,
                    Ok(_) => ConversionEnd::Unconvertible(reason),
                    Err(error) if error.is_lease_lost() => ConversionEnd::Overtaken,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(blob.digest = %digest, error, "the refusal could not be recorded");
                        ConversionEnd::Failed
                    }
                }
            }
            Err(JobError::Fill(error)) if matches!(*error, FillError::NoRoom) => {
                tracing::debug!(blob.digest = %digest, "layer is not converted: the disk has no room");
                ConversionEnd::Failed
            }
            Err(error) if error.is_lease_lost() => {
                tracing::warn!(blob.digest = %digest, duration_ms, "another process converts the layer by now");
                ConversionEnd::Overtaken
            }
            Err(error) => {
                tracing::error!(
                    blob.digest = %digest, error = &error as &dyn std::error::Error, duration_ms,
                    "conversion failed and will be tried again when the layer is next asked for"
                );
                ConversionEnd::Failed
            }
        }
    }

    async fn convert(
        &self,
        source: LayerSource,
        fill: Option<Arc<Fill>>,
        job: &Job,
        turn: &mut Turn,
    ) -> Result<u64, JobError> {
        let _place = self.place(job, &source, fill.as_deref()).await;
        // From here on places of those who convert keep the leases few.
        turn.place = None;
        let begun = Instant::now();
        let size = convert::Source::size(&source);
        self.fills.check_room(size, false).await.map_err(Arc::new)?;
        let drafts = Arc::new(Drafts::new(&self.folder, &job.layer.digest));
        // Here and not earlier: only what the converter does can be the layer's fault.
        let broke_off = self.attempt(job).await?;
        let result = self.on_thread(source, &drafts, job.profile).await;
        if let Some(fill) = &fill {
            // Whatever the converter thinks of the bytes counts only if they are the right ones.
            fill.wait_verified().await.map_err(JobError::Unverified)?;
        }
        let made = Made::new(result?, fill, drafts, broke_off);
        let waited = self.settle(job, turn, made).await?;
        // Without the waits, which say nothing of the converter's speed.
        self.measured(size, begun.elapsed().saturating_sub(waited));
        Ok(size)
    }

    /// Waits for a place. Layers that still arrive have places of their own, so that slow upstreams
    /// keep nobody from converting what is here.
    async fn place(&self, job: &Job, source: &LayerSource, fill: Option<&Fill>) -> Place {
        let size = convert::Source::size(source);
        let Some(fill) = fill else { return self.stored_queue.place(size, &job.asked).await };
        tokio::select! {
            place = self.filling_queue.place(size, &job.asked) => place,
            () = fill.wait_stored() => self.stored_queue.place(size, &job.asked).await,
        }
    }

    /// Returns the layer's bytes. Where others wait for what this turn holds, it is not kept for a fill that yields.
    async fn source(&self, target: &Target, digest: &Digest, turn: &Turn) -> Result<Found, JobError> {
        if let Some(row) = self.catalog.blob(digest).await?
            && let Some(blob) = self.stock.open(&row).await?
        {
            return Ok(Found::Bytes(LayerSource::Stored(blob), None));
        }
        let joined = self.fills.join(&target.remote.client, &target.repository, digest);
        let joined = match turn.place {
            None => joined.await,
            Some(_) => match tokio::time::timeout(YIELD_PATIENCE, joined).await {
                Ok(joined) => joined,
                Err(_elapsed) => return Ok(Found::Yielding),
            },
        };
        match joined? {
            Joined::Running(fill) => Ok(Found::Bytes(LayerSource::Filling(Arc::clone(&fill)), Some(fill))),
            Joined::Stored(row) => {
                let blob = self.stock.open(&row).await?.ok_or(JobError::SourceNotStored)?;
                Ok(Found::Bytes(LayerSource::Stored(blob), None))
            }
        }
    }

    /// Leaves a layer to whoever has its bytes, until its fill goes on here or another process has ended its conversion.
    ///
    /// # Errors
    /// The fill's, which fails the conversion when its turn comes again.
    async fn give_way(&self, target: &Target, job: &Job, turn: Turn) -> Result<(), Arc<FillError>> {
        let digest = &job.layer.digest;
        tracing::debug!(blob.digest = %digest, "a conversion waits for a fill that yields");
        // The watch first: no end is missed.
        let mut watch = self.catalog.conversions();
        self.defer(job).await;
        drop(turn);
        tokio::select! {
            joined = self.fills.join(&target.remote.client, &target.repository, digest) => joined.map(|_joined| ()),
            () = watch.changed(digest) => Ok(()),
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

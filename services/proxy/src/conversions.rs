//! [`Conversions`]: every layer that is turned into its twin here, each once, niced below serving.

mod job;
mod jobs;
mod layers;
mod profile;
mod queue;
mod settling;
mod source;
mod taking_over;
mod turn;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Descriptor, Digest, Twin, UnconvertibleReason};
use blobstore::BlobStore;
use catalog::{Catalog, CatalogError, TwinState};
use moka::future::Cache;

use crate::config;
use crate::fill::Fills;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::remotes::Target;
use crate::stock::{Stock, StockError};
use jobs::{Entered, Jobs};
use queue::Queue;

pub(crate) use job::Job;
pub(crate) use profile::{KnownProfile, profile};

/// How far below serving the conversions run.
pub(crate) const NICE: i32 = 10;
/// The rate assumed before the first conversion was measured: source bytes a second.
const FIRST_RATE: u64 = 30 << 20;
/// How long a conversion that failed for a passing reason is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How long a layer that needs no conversion is taken for one. Its twin may be lost or evicted meanwhile, and is made
/// again when somebody asks for that.
const SETTLED: Duration = Duration::from_secs(60);
/// The layers that are converted or wait for it at the same time; for further ones the original is served.
const MAX_JOBS: usize = 4096;
/// The layers with a lease that may wait for each compressing thread.
const LEASES_PER_WORKER: usize = 4;
/// Layers remembered from the manifests that were seen.
const KNOWN_LAYERS: u64 = 200_000;

/// What is known of a layer's twin.
#[derive(Debug, Clone)]
pub(crate) enum LayerState {
    /// There is a twin.
    Ready(Box<Twin>),
    /// There never will be one under this profile.
    Unconvertible {
        /// The kind of trouble.
        reason: UnconvertibleReason,
        /// What is wrong and where.
        detail: String,
    },
    /// It is left as it is: conversion is off, or it is smaller than `convert.min_layer_size`.
    LeftAlone,
    /// It is being made.
    Converting(Arc<Job>),
    /// It is not begun: too many others are being made, or this program cannot make it. The next one who asks for the
    /// layer later may begin it.
    Postponed,
}

/// The conversions of one process.
#[derive(Debug)]
pub(crate) struct Conversions {
    catalog: Catalog,
    store: Arc<dyn BlobStore>,
    stock: Stock,
    fleet: Arc<Fleet>,
    fills: Arc<Fills>,
    metrics: Arc<Metrics>,
    enabled: bool,
    min_layer_size: u64,
    profile: KnownProfile,
    pool: Arc<convert::Pool>,
    /// Where twins are written before they are verified and stored.
    folder: PathBuf,
    /// Places for layers that are here, and for those that still arrive.
    stored_queue: Queue,
    filling_queue: Queue,
    /// Places for layers that this process has the lease for and that have none of the places above yet; what is more is
    /// left to others of the fleet.
    leases: Queue,
    jobs: Jobs,
    /// What the converter works on now, with its profile; `None` from when the process is told to stop.
    started: Mutex<Option<HashSet<(Digest, String)>>>,
    layers: Cache<Digest, Descriptor>,
    /// Digests of which the catalog was asked a moment ago whether they are layers.
    looked_up: Cache<Digest, ()>,
    /// The abandoned conversion that was looked at last; the next look begins behind it.
    looked_at: Mutex<Option<Digest>>,
    /// Layers whose conversion failed a moment ago for a passing reason.
    failed: Cache<Digest, ()>,
    /// Layers that had a twin, or the verdict that there is none, a moment ago: a read need not ask the catalog.
    settled: Cache<Digest, ()>,
    /// Source bytes a second, smoothed.
    rate: AtomicU64,
}

impl Conversions {
    /// Returns the conversions of a process that writes its unfinished twins to `folder`.
    ///
    /// # Errors
    /// The system's, when the compressing threads cannot be started.
    pub(crate) fn new(
        config: &config::Convert,
        stock: Stock,
        fleet: Arc<Fleet>,
        fills: Arc<Fills>,
        metrics: Arc<Metrics>,
        folder: PathBuf,
    ) -> std::io::Result<Self> {
        let workers = config.worker_count();
        Ok(Self {
            catalog: stock.catalog.clone(),
            store: Arc::clone(&stock.store),
            stock,
            fleet,
            fills,
            metrics,
            enabled: config.enabled,
            min_layer_size: config.min_layer_size.bytes(),
            profile: KnownProfile::of(profile(config)),
            pool: Arc::new(convert::Pool::new(workers, NICE)?),
            folder,
            stored_queue: Queue::new(workers + 1),
            filling_queue: Queue::new(workers + 2),
            leases: Queue::new(LEASES_PER_WORKER * workers),
            jobs: Jobs::new(MAX_JOBS),
            started: Mutex::new(Some(HashSet::new())),
            layers: Cache::new(KNOWN_LAYERS),
            looked_up: Cache::builder().max_capacity(KNOWN_LAYERS).time_to_live(SETTLED).build(),
            looked_at: Mutex::default(),
            failed: Cache::builder().max_capacity(KNOWN_LAYERS).time_to_live(RETRY_AFTER).build(),
            settled: Cache::builder().max_capacity(KNOWN_LAYERS).time_to_live(SETTLED).build(),
            rate: AtomicU64::new(FIRST_RATE),
        })
    }

    /// Returns the profile that twins are made under now.
    pub(crate) const fn profile(&self) -> &KnownProfile {
        &self.profile
    }

    /// Tells whether layers are converted at all.
    pub(crate) const fn enabled(&self) -> bool {
        self.enabled
    }

    /// Returns what is known of a layer's twin under `profile` without starting anything; `None` where nothing is.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn look(
        &self,
        layer: &Descriptor,
        profile: &KnownProfile,
    ) -> Result<Option<LayerState>, CatalogError> {
        if let Some(state) = self.by_descriptor(layer) {
            return Ok(Some(state));
        }
        if let Some(job) = self.jobs.get(&layer.digest) {
            return Ok(Some(LayerState::Converting(job)));
        }
        let row = self.catalog.twin(&layer.digest, profile.id()).await?;
        Ok(row.and_then(|row| ended(row.state)))
    }

    /// What the descriptor alone decides.
    fn by_descriptor(&self, layer: &Descriptor) -> Option<LayerState> {
        if self.enabled { by_descriptor(layer, self.min_layer_size) } else { Some(LayerState::LeftAlone) }
    }

    /// Returns what is known of a layer's twin under `profile`; starts the conversion where nothing is. Somebody asks for
    /// it: it goes before those that nobody did.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        target: &Target,
        layer: &Descriptor,
        profile: &KnownProfile,
    ) -> Result<LayerState, CatalogError> {
        let state = self.ensure_unasked(target, layer, profile).await?;
        if let LayerState::Converting(job) = &state {
            job.ask();
        }
        Ok(state)
    }

    async fn ensure_unasked(
        self: &Arc<Self>,
        target: &Target,
        layer: &Descriptor,
        profile: &KnownProfile,
    ) -> Result<LayerState, CatalogError> {
        if let Some(state) = self.look(layer, profile).await? {
            return Ok(state);
        }
        if self.jobs.are_full() {
            self.metrics.conversion_postponed();
            return Ok(LayerState::Postponed);
        }
        let state = self.catalog.begin_conversion(&layer.digest, profile.id(), &target.repository).await?;
        match ended(state) {
            Some(state) => Ok(state),
            None => Ok(self.begin(target, layer, profile).await),
        }
    }

    /// Begins the job of a layer whose row says that it is converting, unless it has one.
    async fn begin(self: &Arc<Self>, target: &Target, layer: &Descriptor, profile: &KnownProfile) -> LayerState {
        let Some(settings) = profile.settings() else {
            tracing::error!(
                blob.digest = %layer.digest, profile = profile.id(),
                "a lost twin was made under a profile that this program cannot make: use one that can"
            );
            self.failed.insert(layer.digest.clone(), ()).await;
            return LayerState::Postponed;
        };
        match self.jobs.enter(layer, settings) {
            Entered::Known(job) => LayerState::Converting(job),
            Entered::New(job) => {
                tokio::spawn(Arc::clone(self).run(target.clone(), Arc::clone(&job)));
                LayerState::Converting(job)
            }
            Entered::Full => {
                self.metrics.conversion_postponed();
                LayerState::Postponed
            }
        }
    }

    /// Makes `digest` again if it is a twin or TOC of which bytes were lost, under the profile it was made under, and
    /// tells whether it is one. A source that is its own twin is none: the upstream has it.
    ///
    /// # Errors
    /// The catalog's or the store's.
    pub(crate) async fn remake(self: &Arc<Self>, target: &Target, digest: &Digest) -> Result<bool, StockError> {
        let Some((source, id)) = self.catalog.lost_twin(digest, &target.repository).await? else { return Ok(false) };
        if source == *digest {
            return Ok(false);
        }
        if !self.failed_lately(&source) {
            let profile = self.known_profile(id).await?;
            if let LayerState::Converting(job) =
                self.begin(target, &plain_layer(source, self.min_layer_size), &profile).await
            {
                job.ask();
            }
        }
        Ok(true)
    }

    /// Returns how long the conversion of `bytes` of sources will take, by what was measured.
    pub(crate) fn estimate(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_mul(1000) / self.rate.load(Ordering::Relaxed).max(1))
    }

    fn measured(&self, bytes: u64, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        // Small layers measure overhead, not speed.
        if bytes >= 1 << 20 {
            let old = self.rate.load(Ordering::Relaxed);
            self.rate.store((old * 3 + bytes.saturating_mul(1000) / millis) / 4, Ordering::Relaxed);
        }
    }

    /// Tells whether the conversion of a layer failed a moment ago for a passing reason.
    pub(crate) fn failed_lately(&self, digest: &Digest) -> bool {
        self.failed.contains_key(digest)
    }
}

/// Returns a descriptor of a layer that was begun before. Its true size is not known before the fill is open; what
/// depends on it was decided then, so that any `size` that is not too small will do.
pub(crate) fn plain_layer(digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: api::MediaType::OciLayerGzip,
        digest,
        size,
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        platform: None,
        artifact_type: None,
    }
}

/// Returns what the descriptor of a layer decides alone, or `None` where the layer is to be converted.
pub(crate) fn by_descriptor(layer: &Descriptor, min_layer_size: u64) -> Option<LayerState> {
    if layer.size < min_layer_size {
        return Some(LayerState::LeftAlone);
    }
    if layer.media_type.is_convertible_layer() && layer.urls.is_empty() {
        return None;
    }
    let name = layer.media_type.as_str();
    let reason =
        if name.ends_with("+encrypted") { UnconvertibleReason::Encrypted } else { UnconvertibleReason::Foreign };
    Some(LayerState::Unconvertible { reason, detail: format!("a layer of type {name}") })
}

/// Returns the state of a conversion that has ended.
fn ended(state: TwinState) -> Option<LayerState> {
    match state {
        TwinState::Ready { twin, .. } => Some(LayerState::Ready(Box::new(twin))),
        TwinState::Unconvertible { reason, detail } => Some(LayerState::Unconvertible { reason, detail }),
        TwinState::Converting { .. } => None,
    }
}

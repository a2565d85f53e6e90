//! [`Conversions`]: every layer that is turned into its twin here, each once, niced below serving.

mod job;
mod jobs;
mod profile;
mod queue;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{Descriptor, Digest, Twin, UnconvertibleReason};
use blobstore::BlobStore;
use catalog::{Catalog, CatalogError, TwinState};
use moka::future::Cache;

use crate::config;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::remotes::Target;
use crate::stock::Stock;
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
/// How long a read of a layer waits until its conversion is noted.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// The layers that are converted or wait for it at the same time; for further ones the original is served.
const MAX_JOBS: usize = 4096;
/// How often a conversion that was under way when its process died is taken up by itself.
const MAX_TAKE_UPS: u32 = 5;
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
    jobs: Jobs,
    layers: Cache<Digest, Descriptor>,
    /// Layers whose conversion failed a moment ago for a passing reason.
    failed: Cache<Digest, ()>,
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
        fills: Arc<Fills>,
        metrics: Arc<Metrics>,
        folder: PathBuf,
    ) -> std::io::Result<Self> {
        let workers = config.worker_count();
        Ok(Self {
            catalog: stock.catalog.clone(),
            store: Arc::clone(&stock.store),
            stock,
            fills,
            metrics,
            enabled: config.enabled,
            min_layer_size: config.min_layer_size.bytes(),
            profile: KnownProfile::of(profile(config)),
            pool: Arc::new(convert::Pool::new(workers, NICE)?),
            folder,
            stored_queue: Queue::new(workers + 1),
            filling_queue: Queue::new(workers + 2),
            jobs: Jobs::new(MAX_JOBS),
            layers: Cache::new(KNOWN_LAYERS),
            failed: Cache::builder().max_capacity(KNOWN_LAYERS).time_to_live(RETRY_AFTER).build(),
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

    /// Remembers that `layers` are layers, so that a later read of one starts its conversion.
    pub(crate) async fn remember(&self, layers: &[Descriptor]) {
        for layer in layers.iter().filter(|layer| layer.media_type.is_convertible_layer()) {
            self.layers.insert(layer.digest.clone(), layer.clone()).await;
        }
    }

    /// Starts the conversion of a blob that was read, if it is known to be a layer.
    pub(crate) async fn layer_was_read(self: &Arc<Self>, target: &Target, digest: &Digest) {
        let Some(layer) = self.layers.get(digest).await else { return };
        if self.failed_lately(digest) {
            return;
        }
        // The read does not wait for a catalog that is away: whoever reads next starts it.
        match tokio::time::timeout(START_PATIENCE, self.ensure(target, &layer, &self.profile)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(blob.digest = %digest, error, "a conversion could not be started");
            }
            Err(_elapsed) => tracing::warn!(blob.digest = %digest, "a conversion could not be started in time"),
        }
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

    /// Returns what is known of a layer's twin under `profile`; starts the conversion where nothing is.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn ensure(
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
    /// The catalog's.
    pub(crate) async fn remake(self: &Arc<Self>, target: &Target, digest: &Digest) -> Result<bool, CatalogError> {
        let Some((source, id)) = self.catalog.lost_twin(digest, &target.repository).await? else { return Ok(false) };
        if source == *digest {
            return Ok(false);
        }
        if !self.failed_lately(&source) {
            let profile = self.known_profile(id).await?;
            self.begin(target, &plain_layer(source, self.min_layer_size), &profile).await;
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

    /// Tells whether the converter was started so often, by processes that died, that the layer is not taken up
    /// again by itself. It is still tried when somebody asks for the layer.
    async fn is_poisoned(&self, digest: &Digest) -> Result<bool, CatalogError> {
        match self.catalog.twin(digest, self.profile.id()).await?.map(|row| row.state) {
            Some(TwinState::Converting { attempts }) if attempts > MAX_TAKE_UPS => {
                tracing::error!(blob.digest = %digest, attempts, "a layer's conversion never ended and is left alone");
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Tells whether the conversion of a layer failed a moment ago for a passing reason.
    pub(crate) fn failed_lately(&self, digest: &Digest) -> bool {
        self.failed.contains_key(digest)
    }

    /// Takes up the conversions an earlier process left; `target_of` names each one's repository.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        target_of: impl Fn(&api::Repository) -> Option<Target>,
    ) -> Result<(), CatalogError> {
        if !self.enabled {
            return Ok(());
        }
        for (digest, repository) in self.catalog.unfinished_conversions(self.profile.id()).await? {
            let Some(target) = target_of(&repository) else { continue };
            if self.is_poisoned(&digest).await? {
                continue;
            }
            self.ensure(&target, &plain_layer(digest, self.min_layer_size), &self.profile).await?;
        }
        Ok(())
    }
}

/// Returns a descriptor of a layer that was begun before. Its true size is not known before the fill is open; what
/// depends on it was decided then, so that any `size` that is not too small will do.
fn plain_layer(digest: Digest, size: u64) -> Descriptor {
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

//! [`Conversions`]: every layer that is turned into its twin here, each once, niced below serving.

mod job;
mod jobs;
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

/// How far below serving the conversions run.
pub(crate) const NICE: i32 = 10;
/// The rate assumed before the first conversion was measured: source bytes a second.
const FIRST_RATE: u64 = 30 << 20;
/// How long a conversion that failed for a passing reason is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
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
    /// Too many others are being made; it is begun when the layer is asked for later.
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
    profile: convert::Profile,
    profile_id: String,
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
        let profile = profile(config);
        let workers = config.worker_count();
        Ok(Self {
            catalog: stock.catalog.clone(),
            store: Arc::clone(&stock.store),
            stock,
            fills,
            metrics,
            enabled: config.enabled,
            min_layer_size: config.min_layer_size.bytes(),
            profile_id: profile.id(),
            profile,
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

    /// Returns the id of the profile that twins are made under.
    pub(crate) fn profile_id(&self) -> &str {
        &self.profile_id
    }

    /// Returns the profile with all its constants, as JSON.
    pub(crate) fn describe_profile(&self) -> String {
        serde_json::to_string(&self.profile.describe()).unwrap_or_default()
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
        if let Err(error) = self.ensure(target, &layer).await {
            tracing::warn!(blob.digest = %digest, %error, "a conversion could not be started");
        }
    }

    /// Returns what is known of a layer's twin without starting anything; `None` where nothing is.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn look(&self, layer: &Descriptor) -> Result<Option<LayerState>, CatalogError> {
        self.look_under(layer, &self.profile_id).await
    }

    /// Returns the same under another profile than the one that twins are made under now.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn look_under(
        &self,
        layer: &Descriptor,
        profile: &str,
    ) -> Result<Option<LayerState>, CatalogError> {
        if let Some(state) = self.by_descriptor(layer) {
            return Ok(Some(state));
        }
        if let Some(job) = self.jobs.get(&layer.digest) {
            return Ok(Some(LayerState::Converting(job)));
        }
        let row = self.catalog.twin(&layer.digest, profile).await?;
        Ok(row.and_then(|row| ended(row.state)))
    }

    /// What the descriptor alone decides.
    fn by_descriptor(&self, layer: &Descriptor) -> Option<LayerState> {
        if self.enabled { by_descriptor(layer, self.min_layer_size) } else { Some(LayerState::LeftAlone) }
    }

    /// Returns what is known of a layer's twin; starts the conversion where nothing is.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        target: &Target,
        layer: &Descriptor,
    ) -> Result<LayerState, CatalogError> {
        if let Some(state) = self.look(layer).await? {
            return Ok(state);
        }
        if self.jobs.are_full() {
            self.metrics.conversion_postponed();
            return Ok(LayerState::Postponed);
        }
        let state = self.catalog.begin_conversion(&layer.digest, &self.profile_id, &target.repository).await?;
        Ok(ended(state).unwrap_or_else(|| self.begin(target, layer, self.profile)))
    }

    /// Begins the job of a layer whose row says that it is converting, unless it has one.
    fn begin(self: &Arc<Self>, target: &Target, layer: &Descriptor, profile: convert::Profile) -> LayerState {
        match self.jobs.enter(layer, profile) {
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
        let linked = self.catalog.link_of(&target.repository, digest).await?.decided_by;
        let Some((source, id)) = self.catalog.lost_twin(digest, &linked).await? else { return Ok(false) };
        if source == *digest {
            return Ok(false);
        }
        if !self.failed_lately(&source) {
            match self.recorded_profile(&id).await? {
                Some(profile) => drop(self.begin(target, &plain_layer(source, self.min_layer_size), profile)),
                None => tracing::error!(
                    blob.digest = %digest, profile = id,
                    "a lost twin was made under a profile that this program cannot make: use one that can"
                ),
            }
        }
        Ok(true)
    }

    /// Returns the recorded profile `id`, or `None` where this program would make other bytes under it.
    async fn recorded_profile(&self, id: &str) -> Result<Option<convert::Profile>, CatalogError> {
        #[derive(serde::Deserialize)]
        struct Recorded {
            level: u8,
            chunk_size: u32,
        }
        let text = self.catalog.profile(id).await?.unwrap_or_default();
        let recorded: Option<Recorded> = serde_json::from_str(&text).ok();
        let profile = recorded.map(|Recorded { level, chunk_size }| convert::Profile { level, chunk_size });
        Ok(profile.filter(|profile| profile.id() == id))
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

    /// Tells whether a conversion was begun so often, by processes that died, that it is not taken up
    /// again by itself. It is still tried when somebody asks for the layer.
    async fn is_poisoned(&self, digest: &Digest) -> Result<bool, CatalogError> {
        match self.catalog.retry_conversion(digest, &self.profile_id).await? {
            TwinState::Converting { attempts } if attempts > MAX_TAKE_UPS => {
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
        for (digest, repository) in self.catalog.unfinished_conversions(&self.profile_id).await? {
            let Some(target) = target_of(&repository) else { continue };
            if self.is_poisoned(&digest).await? {
                continue;
            }
            self.ensure(&target, &plain_layer(digest, self.min_layer_size)).await?;
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

/// Returns the profile that `config` asks for.
pub(crate) fn profile(config: &config::Convert) -> convert::Profile {
    let chunk_size = u32::try_from(config.chunk_size.bytes()).unwrap_or(u32::MAX);
    convert::Profile { level: config.level, chunk_size }
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

//! [`Views`]: which manifest a tag shows in the estargz view, and when it begins to.

mod publish;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, Platform, Tag};
use blobstore::BlobStore;
use catalog::Catalog;
use moka::future::Cache;
use tokio::time::Instant;

use crate::blobs::Blobs;
use crate::clock::now_ms;
use crate::conversions::{Conversions, Job, LayerState};
use crate::error::RegistryError;
use crate::image::Image;
use crate::pull::{Pull, PullError, ResolvedTag, StoredManifest};
use crate::remotes::Target;
use crate::stock::Stock;

/// A tag that was answered with the original keeps that answer this long: clients ask by HEAD first
/// and by GET later, and both must agree.
pub(crate) const HOLD: Duration = Duration::from_secs(60);
/// The longest that answers in a row can keep a tag from showing its converted form.
const LONGEST_HOLD: Duration = Duration::from_secs(600);
/// Original answers are recorded at most this often.
const RECORD_EVERY: Duration = Duration::from_secs(2);
/// How long a source is remembered as one that is being converted, or that has no converted form.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Which manifest a tag shows in the estargz view.
#[derive(Debug)]
pub(crate) struct Views {
    parts: Arc<Parts>,
}

/// What the views need; shared with the tasks they start.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) catalog: Catalog,
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) stock: Stock,
    pub(crate) pull: Arc<Pull>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) conversions: Arc<Conversions>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) wait: Duration,
    /// Sources that are being converted, with the moment until which requests wait for them.
    deadlines: Cache<Digest, Instant>,
    /// Sources without a converted form: no images, or images without a twin.
    plain: Cache<Digest, ()>,
    /// When a source's converted form was first seen, for [`LONGEST_HOLD`].
    ready_since: Cache<Digest, Instant>,
    /// One building of a converted form at a time for each source.
    building: Cache<Digest, Built>,
    /// Sources whose conversion a task follows now.
    active: Mutex<HashSet<Digest>>,
}

/// How far the conversions of an image are.
enum Progress {
    /// These run.
    Running(Vec<Arc<Job>>),
    /// Every layer has a twin or will never have one.
    Ended,
    /// One failed for a passing reason, or was not begun.
    GivenUp,
}

/// What came of building a converted form.
#[derive(Debug, Clone)]
enum Built {
    /// It is this.
    Converted(Digest),
    /// There is none, and there never will be.
    Plain,
    /// A layer is not known after all.
    NotYet,
}

impl Views {
    pub(crate) fn new(
        stock: Stock,
        pull: Arc<Pull>,
        blobs: Arc<Blobs>,
        conversions: Arc<Conversions>,
        config: &crate::config::Convert,
    ) -> Self {
        Self {
            parts: Arc::new(Parts {
                catalog: stock.catalog.clone(),
                store: Arc::clone(&stock.store),
                stock,
                pull,
                blobs,
                conversions,
                platforms: config.platforms.clone(),
                wait: config.wait,
                deadlines: remembered(),
                plain: remembered(),
                ready_since: remembered(),
                building: Cache::builder().max_capacity(1000).time_to_live(Duration::from_secs(1)).build(),
                active: Mutex::default(),
            }),
        }
    }

    /// Starts the conversion of what `manifest` names and returns at once. The converted form is
    /// built as soon as all twins are there.
    pub(crate) fn start(&self, target: &Target, manifest: &Arc<StoredManifest>) {
        let parts = Arc::clone(&self.parts);
        if !parts.conversions.enabled() || parts.plain.contains_key(&manifest.digest) {
            return;
        }
        if !parts.active().insert(manifest.digest.clone()) {
            return;
        }
        let (target, manifest) = (target.clone(), Arc::clone(manifest));
        tokio::spawn(async move {
            let _active = Active { parts: &parts, source: &manifest.digest };
            if let Err(error) = parts.convert(&target, &manifest).await {
                warn_not_converted(&target, &manifest.digest, &error);
            }
        });
    }

    /// Starts the conversion of `source` for a GET, and waits for it unless the tag is held.
    async fn converted(
        &self,
        target: &Target,
        source: &Digest,
        get: bool,
        held: bool,
    ) -> Result<Option<Digest>, RegistryError> {
        let manifest = self.parts.pull.by_digest(target, source).await?;
        if get {
            self.start(target, &manifest);
        }
        if held { Ok(None) } else { self.parts.wait_for(target, &manifest, get).await }
    }

    /// Returns the converted digest that `tag` shows now, or `None` where it shows the original.
    ///
    /// A GET starts the conversion and waits for it, up to `convert.wait` after the first such
    /// request and only while the rest may fit; a HEAD waits only for one that runs already.
    ///
    /// # Errors
    /// The catalog's, or the upstream's where a child of an index must be fetched.
    pub(crate) async fn choose(
        &self,
        target: &Target,
        tag: &Tag,
        resolved: &ResolvedTag,
        get: bool,
    ) -> Result<Option<Digest>, RegistryError> {
        let parts = &self.parts;
        let source = &resolved.digest;
        if !parts.conversions.enabled() || parts.plain.contains_key(source) {
            return Ok(None);
        }
        let converted = parts.catalog.converted(source).await?;
        if let Some(converted) = converted
            && !parts.is_held(source, resolved).await
        {
            return Ok(Some(converted));
        }
        let held = resolved.original_answered_at.is_some_and(is_recent);
        let begun = parts.deadlines.contains_key(source);
        if get || (begun && !held) {
            match self.converted(target, source, get, held).await {
                Ok(Some(converted)) => return Ok(Some(converted)),
                Ok(None) => {}
                // Whatever hinders the conversion must not hinder the pull.
                Err(error) => warn_not_converted(target, source, &error),
            }
        }
        if parts.plain.contains_key(source) {
            return Ok(None);
        }
        if let Err(error) = parts.record_original(target, tag, resolved).await {
            warn_not_converted(target, source, &error);
        }
        Ok(None)
    }
}

/// Returns an empty cache of sources.
fn remembered<V: Clone + Send + Sync + 'static>() -> Cache<Digest, V> {
    Cache::builder().max_capacity(10_000).time_to_live(REMEMBERED).build()
}

fn warn_not_converted(target: &Target, source: &Digest, error: &RegistryError) {
    tracing::warn!(
        manifest.digest = %source, repo.name = %target.repository,
        message = error.message, detail = error.detail, "image could not be converted, the original is served"
    );
}

fn is_recent(at: i64) -> bool {
    // An answer is recorded up to RECORD_EVERY late.
    now_ms() - at < i64::try_from((HOLD + RECORD_EVERY).as_millis()).unwrap_or(i64::MAX)
}

/// A source whose conversion a task follows; no longer once this is dropped, however the task ends.
struct Active<'a> {
    parts: &'a Parts,
    source: &'a Digest,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.parts.active().remove(self.source);
    }
}

impl Parts {
    fn active(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a tag must still show the original although the converted form is there.
    async fn is_held(&self, source: &Digest, resolved: &ResolvedTag) -> bool {
        if !resolved.original_answered_at.is_some_and(is_recent) {
            return false;
        }
        let since = self.ready_since.get_with(source.clone(), async { Instant::now() }).await;
        since.elapsed() < LONGEST_HOLD
    }

    async fn record_original(&self, target: &Target, tag: &Tag, resolved: &ResolvedTag) -> Result<(), RegistryError> {
        let now = now_ms();
        let every = i64::try_from(RECORD_EVERY.as_millis()).unwrap_or(i64::MAX);
        if resolved.original_answered_at.is_none_or(|at| now - at >= every) {
            self.catalog.tag_answered_original(&target.repository, tag, now).await?;
        }
        Ok(())
    }

    /// Waits for the converted form of `manifest`, within bounds.
    async fn wait_for(
        &self,
        target: &Target,
        manifest: &Arc<StoredManifest>,
        start: bool,
    ) -> Result<Option<Digest>, RegistryError> {
        let source = &manifest.digest;
        let deadline = self.deadlines.get_with(source.clone(), async { Instant::now() + self.wait }).await;
        let work = async {
            let Some(image) = self.image(target, manifest).await? else { return Ok(None) };
            let mut progress =
                if start { self.start_all(target, &image).await? } else { self.progress(&image).await? };
            loop {
                let jobs = match progress {
                    Progress::Running(jobs) => jobs,
                    Progress::Ended => return self.converted_form(target, &image).await,
                    Progress::GivenUp => return Ok(None),
                };
                let rest = self.conversions.estimate(jobs.iter().map(|job| job.size()).fold(0, u64::saturating_add));
                if Instant::now() + rest > deadline {
                    return Ok(None);
                }
                if let Some(longest) = jobs.iter().max_by_key(|job| job.size()) {
                    longest.ended().await;
                }
                progress = self.progress(&image).await?;
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_elapsed) => Ok(None),
        }
    }

    /// Converts everything `manifest` names and builds its converted form; takes as long as it takes.
    async fn convert(&self, target: &Target, manifest: &Arc<StoredManifest>) -> Result<(), RegistryError> {
        if self.whole_form(&manifest.digest).await?.is_some() {
            return Ok(());
        }
        self.deadlines.get_with(manifest.digest.clone(), async { Instant::now() + self.wait }).await;
        let Some(image) = self.image(target, manifest).await? else { return Ok(()) };
        let mut progress = self.start_all(target, &image).await?;
        while let Progress::Running(jobs) = progress {
            for job in jobs {
                job.ended().await;
            }
            progress = self.progress(&image).await?;
        }
        if matches!(progress, Progress::Ended) {
            self.converted_form(target, &image).await?;
        }
        Ok(())
    }

    async fn image(&self, target: &Target, manifest: &Arc<StoredManifest>) -> Result<Option<Image>, RegistryError> {
        let image = Image::load(&self.pull, target, manifest, &self.platforms).await?;
        if image.is_none() {
            self.plain.insert(manifest.digest.clone(), ()).await;
        }
        Ok(image)
    }

    /// Starts the conversion of every layer that is not known, the longest first.
    async fn start_all(&self, target: &Target, image: &Image) -> Result<Progress, RegistryError> {
        let mut layers: Vec<_> = image.layers().collect();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let (mut jobs, mut postponed) = (Vec::new(), false);
        if layers.iter().any(|layer| self.conversions.failed_lately(&layer.digest)) {
            return Ok(Progress::GivenUp);
        }
        for layer in layers {
            if !target.remote.is_public() {
                // A manifest may name what its repository does not hold.
                self.blobs.check_link(target, &layer.digest).await?;
            }
            match self.conversions.ensure(target, layer).await? {
                LayerState::Converting(job) => jobs.push(job),
                LayerState::Postponed => postponed = true,
                LayerState::Ready(_) | LayerState::Unconvertible { .. } | LayerState::LeftAlone => {}
            }
        }
        Ok(match (jobs.is_empty(), postponed) {
            (false, _) => Progress::Running(jobs),
            (true, true) => Progress::GivenUp,
            (true, false) => Progress::Ended,
        })
    }

    /// Returns how far the conversions of an image are, starting none: one that failed for a passing
    /// reason is tried again when the image is next asked for, not in a circle.
    async fn progress(&self, image: &Image) -> Result<Progress, RegistryError> {
        let mut jobs = Vec::new();
        for layer in image.layers() {
            match self.conversions.look(layer).await? {
                None | Some(LayerState::Postponed) => return Ok(Progress::GivenUp),
                Some(LayerState::Converting(job)) => jobs.push(job),
                Some(LayerState::Ready(_) | LayerState::Unconvertible { .. } | LayerState::LeftAlone) => {}
            }
        }
        Ok(if jobs.is_empty() { Progress::Ended } else { Progress::Running(jobs) })
    }

    /// Returns the digest of the one converted form of `image`, building it if need be. All its
    /// layers must be known.
    async fn converted_form(&self, target: &Target, image: &Image) -> Result<Option<Digest>, RegistryError> {
        let source = image.digest().clone();
        let built = self.building.try_get_with(source.clone(), self.build(target, image)).await;
        match built {
            Ok(Built::Converted(converted)) => {
                self.ready_since.get_with(source, async { Instant::now() }).await;
                Ok(Some(converted))
            }
            Ok(Built::Plain) => {
                self.plain.insert(source, ()).await;
                Ok(None)
            }
            Ok(Built::NotYet) => Ok(None),
            Err(error) => Err((*error).clone()),
        }
    }
}

impl From<PullError> for RegistryError {
    fn from(error: PullError) -> Self {
        Self::pull(&Arc::new(error))
    }
}

//! [`Views`]: which manifest a tag shows in the estargz view, and when it begins to.

mod progress;
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
use crate::conversions::{Conversions, KnownProfile};
use crate::error::RegistryError;
use crate::image::Image;
use crate::pull::{Pull, PullError, ResolvedTag, StoredManifest};
use crate::remotes::Target;
use crate::stock::Stock;
use progress::Progress;

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
    /// Sources whose lost converted form comes out as another one now, so that building it again is of no use.
    unmakeable: Cache<Digest, ()>,
    /// One building of a converted form at a time for each source.
    building: Cache<Digest, Built>,
    /// Sources whose conversion a task follows now.
    active: Mutex<HashSet<Digest>>,
}

/// What came of building a converted form.
#[derive(Debug, Clone)]
enum Built {
    /// It is this.
    Converted(Digest),
    /// There is none, and there never will be.
    Plain,
    /// A layer is not known after all, or a lost form cannot be made again.
    NotYet,
}

/// What there is of a source's converted form.
#[derive(Debug)]
enum Form {
    /// None was committed.
    None,
    /// One was, and bytes of it were lost.
    Lost,
    /// It is this, and its own bytes are here.
    Whole(Digest),
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
                unmakeable: remembered(),
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

    /// Returns the profile that the twins of the image `source` are made under: for ever that of its converted form, if it
    /// has one.
    ///
    /// # Errors
    /// The catalog's or the store's.
    pub(crate) async fn profile_of(&self, source: &Digest) -> Result<KnownProfile, RegistryError> {
        self.parts.profile_of(source).await
    }

    /// Returns the platform that is meant where none is named.
    pub(crate) fn first_platform(&self) -> Platform {
        self.parts.platforms.first().cloned().unwrap_or_else(|| Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        })
    }

    /// Starts the conversion of `source`, or waits for it, or both.
    async fn converted(
        &self,
        target: &Target,
        source: &Digest,
        start: bool,
        wait: bool,
    ) -> Result<Option<Digest>, RegistryError> {
        let manifest = self.parts.pull.by_digest(target, source).await?;
        if start {
            self.start(target, &manifest);
        }
        if wait { self.parts.wait_for(target, &manifest, start).await } else { Ok(None) }
    }

    /// Returns the converted digest that `tag` shows now, or `None` where it shows the original.
    ///
    /// A GET starts the conversion and waits for it, up to `convert.wait` after the first such
    /// request and only while the rest may fit; a HEAD waits only for one that runs already. A converted
    /// form whose bytes were lost is none until it is built again.
    pub(crate) async fn choose(&self, target: &Target, tag: &Tag, resolved: &ResolvedTag, get: bool) -> Option<Digest> {
        let parts = &self.parts;
        let source = &resolved.digest;
        if !parts.conversions.enabled() || parts.plain.contains_key(source) {
            return None;
        }
        // Whatever hinders the conversion must not hinder the pull.
        let hindered = |error| warn_not_converted(target, source, &error);
        let form = parts.form(source).await.map_err(hindered).unwrap_or(Form::None);
        let lost = matches!(form, Form::Lost);
        if let Form::Whole(converted) = form
            && !parts.is_held(source, resolved).await
        {
            return Some(converted);
        }
        if lost {
            // From now on the original is answered, and its hold counts from when the form is whole again.
            parts.ready_since.invalidate(source).await;
        }
        let held = resolved.original_answered_at.is_some_and(is_recent);
        let begun = parts.deadlines.contains_key(source);
        let (start, wait) = (get || lost, (get || begun) && !held);
        if (start || wait)
            && let Some(converted) =
                Box::pin(self.converted(target, source, start, wait)).await.map_err(hindered).ok().flatten()
        {
            return Some(converted);
        }
        if !parts.plain.contains_key(source)
            && let Err(error) = parts.record_original(target, tag, resolved).await
        {
            warn_not_converted(target, source, &error);
        }
        None
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
            let needed = self.needed(&image).await?;
            let mut progress =
                if start { self.start_all(target, &needed).await? } else { self.progress(&needed).await? };
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
                progress = self.progress(&needed).await?;
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_elapsed) => Ok(None),
        }
    }

    /// Converts everything `manifest` names and builds its converted form; takes as long as it takes.
    async fn convert(&self, target: &Target, manifest: &Arc<StoredManifest>) -> Result<(), RegistryError> {
        if matches!(self.form(&manifest.digest).await?, Form::Whole(_)) {
            return Ok(());
        }
        self.deadlines.get_with(manifest.digest.clone(), async { Instant::now() + self.wait }).await;
        let Some(image) = self.image(target, manifest).await? else { return Ok(()) };
        let needed = self.needed(&image).await?;
        let mut progress = self.start_all(target, &needed).await?;
        while let Progress::Running(jobs) = progress {
            for job in jobs {
                job.ended().await;
            }
            progress = self.progress(&needed).await?;
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

//! What the lazy API tells of an image's layers. To ask is to want them: what has no twin is converted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::lazy::{LEFT_ALONE, Toc};
use api::{Descriptor, Digest, LazyIndex, LazyLayer, LazyState, LazyTwin, MediaType, Parsed, Platform, Twin};
use catalog::TwinState;
use http::StatusCode;
use tokio::time::Instant;

use super::App;
use crate::conversions::{Job, KnownProfile, LayerState, plain_layer};
use crate::error::{RegistryError, Subject};
use crate::image;
use crate::pull::StoredManifest;
use crate::remotes::Target;

/// How long a hold lasts unless it is renewed.
const HOLD: Duration = Duration::from_secs(3600);

/// A layer that is asked about: how far it is, and what its conversion can be waited for with.
type Known = (LazyState, Option<Arc<Job>>);

impl App {
    /// Returns the layers of the image `digest`, of an index those of the child for `platform`, waiting up to `wait` until
    /// each has a twin or never will have one.
    ///
    /// # Errors
    /// 404 where `digest` is no image, or has none for the platform; the upstream's outage.
    pub(crate) async fn lazy_index(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        platform: &Platform,
        wait: Duration,
    ) -> Result<LazyIndex, RegistryError> {
        let manifest = self.image_of(target, digest, platform).await?;
        let profile = self.views.profile_of(&manifest.digest).await?;
        let layers = self.follow(target, image::layers(&manifest), &profile, wait).await?;
        Ok(LazyIndex { manifest: Some(manifest.digest.clone()), layers })
    }

    /// Returns what is known of the layers `digests`, waiting as [`Self::lazy_index`] does.
    ///
    /// # Errors
    /// The upstream's outage. A layer that it does not have is unknown.
    pub(crate) async fn lazy_layers(
        self: &Arc<Self>,
        target: &Target,
        digests: &[Digest],
        wait: Duration,
    ) -> Result<LazyIndex, RegistryError> {
        let mut layers = Vec::with_capacity(digests.len());
        for digest in digests {
            let checked = match self.blobs.check_link(target, digest).await {
                Ok(_) if self.catalog.ready_twin(digest).await?.is_some() => Ok(0),
                Ok(_) => self.blobs.size(target, digest).await,
                Err(error) => Err(error),
            };
            layers.push(match checked {
                Ok(size) => Ok(plain_layer(digest.clone(), size)),
                Err(error) if error.status == StatusCode::NOT_FOUND => Err(digest),
                Err(error) => return Err(error),
            });
        }
        let known: Vec<Descriptor> = layers.iter().filter_map(|layer| layer.as_ref().ok().cloned()).collect();
        let mut answers = self.follow(target, &known, self.conversions.profile(), wait).await?.into_iter();
        let unknown = |digest: &Digest| LazyLayer { source: digest.clone(), state: LazyState::Unknown };
        let layers =
            layers.iter().filter_map(|layer| layer.as_ref().map_or_else(|&d| Some(unknown(d)), |_| answers.next()));
        Ok(LazyIndex { manifest: None, layers: layers.collect() })
    }

    /// Keeps twins from being evicted for an hour: `holder` reads parts of them.
    ///
    /// # Errors
    /// 404 where the repository does not hold one of them; the catalog's.
    pub(crate) async fn hold(&self, target: &Target, digests: &[Digest], holder: &str) -> Result<(), RegistryError> {
        for digest in digests {
            self.blobs.check_link(target, digest).await?;
        }
        Ok(self.catalog.hold(digests, holder, HOLD).await?)
    }

    async fn image_of(
        &self,
        target: &Target,
        digest: &Digest,
        platform: &Platform,
    ) -> Result<Arc<StoredManifest>, RegistryError> {
        let manifest = self.pull.by_digest(target, digest).await?;
        let manifest = match &manifest.parsed {
            Parsed::Index(index) => {
                let child = image::wanted(index, std::slice::from_ref(platform)).next();
                let none = || RegistryError::unknown(Subject::Manifest, "the index has no image for the platform");
                self.pull.by_digest(target, &child.ok_or_else(none)?.digest).await?
            }
            Parsed::Manifest(_) | Parsed::Opaque(_) => manifest,
        };
        match &manifest.parsed {
            Parsed::Manifest(image) if image.is_image() => Ok(manifest),
            _ => Err(RegistryError::unknown(Subject::Manifest, "it is no image: only images have layers to mount")),
        }
    }

    /// Begins what conversions `layers` need and waits for them, up to `wait`.
    async fn follow(
        self: &Arc<Self>,
        target: &Target,
        layers: &[Descriptor],
        profile: &KnownProfile,
        wait: Duration,
    ) -> Result<Vec<LazyLayer>, RegistryError> {
        let deadline = Instant::now() + wait;
        loop {
            let (mut answers, mut jobs) = (Vec::with_capacity(layers.len()), Vec::new());
            for layer in layers {
                let (state, job) = self.lazy_state(target, layer, profile).await?;
                jobs.extend(job);
                answers.push(LazyLayer { source: layer.digest.clone(), state });
            }
            if jobs.is_empty() || Instant::now() >= deadline {
                return Ok(answers);
            }
            let all = futures_util::future::join_all(jobs.iter().map(|job| job.ended()));
            let _late = tokio::time::timeout_at(deadline, all).await;
        }
    }

    async fn lazy_state(
        self: &Arc<Self>,
        target: &Target,
        layer: &Descriptor,
        profile: &KnownProfile,
    ) -> Result<Known, RegistryError> {
        if !target.remote.is_public() {
            // A manifest may name what its repository does not hold.
            self.blobs.check_link(target, &layer.digest).await?;
        }
        if let Some(row) = self.catalog.ready_twin(&layer.digest).await?
            && let TwinState::Ready { twin, .. } = row.state
        {
            self.uses.note(&twin.digest);
            return Ok((LazyState::Ready(Box::new(lazy_twin(&twin, &layer.digest))), None));
        }
        if self.conversions.failed_lately(&layer.digest) {
            return Ok((LazyState::Unknown, None));
        }
        Ok(match self.conversions.ensure(target, layer, profile).await? {
            LayerState::Ready(twin) => (LazyState::Ready(Box::new(lazy_twin(&twin, &layer.digest))), None),
            LayerState::Unconvertible { reason, detail } => {
                (LazyState::Unconvertible { reason: reason.to_string(), detail }, None)
            }
            LayerState::LeftAlone => {
                (LazyState::Unconvertible { reason: LEFT_ALONE.to_owned(), detail: String::new() }, None)
            }
            LayerState::Postponed => (LazyState::Unknown, None),
            LayerState::Converting(job) => match self.blobs.fills().find(&target.repository, &layer.digest) {
                Some(_) => (LazyState::Filling, Some(job)),
                None => (LazyState::Converting, Some(job)),
            },
        })
    }
}

/// Returns what a mount of `layer` needs to know of its twin; `layer` may be the twin itself.
fn lazy_twin(twin: &Twin, layer: &Digest) -> LazyTwin {
    let is_itself = twin.digest == *layer;
    let annotations = BTreeMap::from([
        (estargz::TOC_DIGEST_ANNOTATION.to_owned(), twin.toc_digest.to_string()),
        (estargz::UNCOMPRESSED_SIZE_ANNOTATION.to_owned(), twin.plain_size.to_string()),
    ]);
    LazyTwin {
        diff_id: if is_itself { twin.diff_id.clone() } else { twin.source_diff_id.clone() },
        twin: Descriptor {
            media_type: MediaType::OciLayerGzip,
            digest: twin.digest.clone(),
            size: twin.size,
            urls: Vec::new(),
            annotations,
            platform: None,
            artifact_type: None,
        },
        twin_diff_id: twin.diff_id.clone(),
        toc: Toc { digest: twin.toc_digest.clone(), size: twin.toc_size },
        tail: (!is_itself).then(|| twin.tail.clone()),
    }
}

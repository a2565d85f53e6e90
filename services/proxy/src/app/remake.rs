//! What was made here and evicted or lost is made again for whoever asks.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Parsed};
use catalog::LinkState;
use tokio::time::Instant;

use super::App;
use crate::error::RegistryError;
use crate::pull::StoredManifest;
use crate::remotes::Target;

/// How long a request waits for a twin that is made again: shorter than clients wait for the head of an answer.
const REMAKE_WAIT: Duration = Duration::from_secs(20);
/// How often it looks, where it is not told.
const REMAKE_STEP: Duration = Duration::from_secs(1);
/// How often the layers of a converted image are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

impl App {
    /// Begins to make `digest` again if it was made here (a twin, a TOC, a converted manifest or its config) and its bytes
    /// were lost, where the upstream cannot give it. Returns whether it is to come from here.
    ///
    /// # Errors
    /// Those of the catalog, or of the source manifest.
    pub(crate) async fn remake(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.remake_twin(target, digest).await?.is_some() || self.remake_form(target, digest).await?)
    }

    /// Does what [`Self::remake`] does and waits for a twin or TOC, up to [`REMAKE_WAIT`], whichever process of the fleet
    /// makes it. Returns whether `digest` is still to come from here and not from the upstream.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn wait_for_remake(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        let deadline = Instant::now() + REMAKE_WAIT;
        // The watch first: no end is missed.
        let mut ends = self.catalog.conversions();
        let Some(home) = self.remake_twin(target, digest).await? else {
            return Ok(self.remake_form(target, digest).await? && self.catalog.blob(digest).await?.is_none());
        };
        let source = self.catalog.lost_twin(digest, &home.repository).await?.map(|(source, _)| source);
        while self.catalog.blob(digest).await?.is_none() {
            let Some(source) = source.as_ref().filter(|source| !self.conversions.failed_lately(source)) else {
                return Ok(true);
            };
            let step = deadline.min(Instant::now() + REMAKE_STEP);
            if tokio::time::timeout_at(step, ends.changed(source)).await.is_err() && Instant::now() >= deadline {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins to make a twin or TOC again of which bytes were lost, and returns where its source comes from: the repository
    /// that asks, if it holds the source. One that holds only `digest` gets it from its upstream like any blob, and where that
    /// has it no more, it is made of a source of a repository that had the layer converted. `None` when nothing is made.
    async fn remake_twin(&self, target: &Target, digest: &Digest) -> Result<Option<Target>, RegistryError> {
        let Some((source, _)) = self.catalog.lost_twin(digest, &target.repository).await? else { return Ok(None) };
        if source == *digest {
            return Ok(None);
        }
        let home = match self.catalog.is_linked(&target.repository, &source).await? {
            LinkState::Named | LinkState::Linked => target.clone(),
            LinkState::None => {
                if target.remote.client.blob_size(target.repository.name(), digest).await.is_ok() {
                    return Ok(None);
                }
                let homes = self.catalog.homes_of_lost_twin(digest).await?;
                let Some(home) = homes.iter().find_map(|home| self.remotes.target(home)) else { return Ok(None) };
                home
            }
        };
        Ok(self.conversions.remake(&home, digest).await?.then_some(home))
    }

    /// Begins to build a converted manifest or its config again, and tells whether `digest` is one.
    async fn remake_form(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        let Some(source) = self.catalog.source_of_converted(digest).await? else { return Ok(false) };
        // A config may have several sources: the one that counts is the one this repository may read.
        let linked = self.catalog.link_of(&target.repository, digest).await?.decided_by;
        let source = self.pull.by_digest(target, if linked == *digest { &source } else { &linked }).await?;
        self.views.start(target, &source);
        Ok(true)
    }

    /// Begins to make the twins of a converted image again that are not stored any more: its client asks for them next.
    pub(crate) async fn remake_layers(self: &Arc<Self>, target: &Target, manifest: &Arc<StoredManifest>) {
        let is_image = matches!(manifest.parsed, Parsed::Manifest(_));
        if !is_image || !self.looked_at.entry(manifest.digest.clone()).or_insert(()).await.is_fresh() {
            return;
        }
        let (app, target, manifest) = (Arc::clone(self), target.clone(), Arc::clone(manifest));
        // The answer does not wait for it.
        tokio::spawn(async move {
            let layers: Vec<Digest> =
                manifest.parsed.children().into_iter().map(|child| child.digest.clone()).collect();
            let begun = async {
                for layer in app.catalog.lost_of(&layers).await? {
                    app.remake_twin(&target, &layer).await?;
                }
                Ok::<(), RegistryError>(())
            };
            if let Err(error) = begun.await {
                let message = error.message;
                tracing::warn!(manifest.digest = %manifest.digest, message, "evicted layers are made again later");
            }
        });
    }
}

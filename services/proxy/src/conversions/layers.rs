//! Which blobs are layers: a read of one starts its conversion.

use std::sync::Arc;
use std::time::Duration;

use api::{Descriptor, Digest};
use moka::future::Cache;

use super::{Conversions, LayerState};
use crate::remotes::Target;

/// How long a read of a layer waits until its conversion is noted.
const START_PATIENCE: Duration = Duration::from_secs(1);

impl Conversions {
    /// Remembers that `layers` are layers, so that a later read of one starts its conversion.
    pub(crate) async fn remember(&self, layers: &[Descriptor]) {
        for layer in layers.iter().filter(|layer| layer.media_type.is_convertible_layer()) {
            self.layers.insert(layer.digest.clone(), layer.clone()).await;
        }
    }

    /// Tells whether nothing says whether `digest` is a layer: then the caller has the manifests asked that name it. Each
    /// digest is asked for once in a while, whatever comes of it.
    pub(crate) async fn is_unknown(&self, digest: &Digest) -> bool {
        let is_known = |known: &Cache<Digest, ()>| known.contains_key(digest);
        if !self.enabled || is_known(&self.settled) || is_known(&self.looked_up) || self.layers.contains_key(digest) {
            return false;
        }
        self.looked_up.entry(digest.clone()).or_insert(()).await.is_fresh()
    }

    /// Tells whether `digest` is known to be a layer.
    pub(crate) fn is_layer(&self, digest: &Digest) -> bool {
        self.layers.contains_key(digest)
    }

    /// Starts the conversion of a blob that was read, if it is known to be a layer.
    pub(crate) async fn layer_was_read(self: &Arc<Self>, target: &Target, digest: &Digest) {
        let Some(layer) = self.layers.get(digest).await else { return };
        if self.failed_lately(digest) || self.settled.contains_key(digest) {
            return;
        }
        // The read does not wait for a catalog that is away: whoever reads next starts it.
        match tokio::time::timeout(START_PATIENCE, self.ensure(target, &layer, &self.profile)).await {
            Ok(Ok(LayerState::Converting(_) | LayerState::Postponed)) => {}
            Ok(Ok(_)) => self.settled.insert(digest.clone(), ()).await,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(blob.digest = %digest, error, "a conversion could not be started");
            }
            Err(_elapsed) => tracing::warn!(blob.digest = %digest, "a conversion could not be started in time"),
        }
    }
}

//! Which blobs are layers: a read of one starts its conversion.

use std::sync::Arc;

use api::{Descriptor, Digest};

use super::{Conversions, LayerState};
use crate::remotes::Target;

impl Conversions {
    /// Remembers that `layers` are layers, so that a later read of one starts its conversion.
    pub(crate) async fn remember(&self, layers: &[Descriptor]) {
        for layer in layers.iter().filter(|layer| layer.media_type.is_convertible_layer()) {
            self.layers.insert(layer.digest.clone(), layer.clone()).await;
        }
    }

    /// Tells whether a read of `digest` may have to start something: it is a layer that has no twin yet and did not fail a
    /// moment ago, or nobody has looked lately what it is.
    pub(crate) fn is_news(&self, digest: &Digest) -> bool {
        if !self.enabled || self.settled.contains_key(digest) || self.failed_lately(digest) {
            return false;
        }
        self.layers.contains_key(digest) || !self.looked_up.contains_key(digest)
    }

    /// Tells whether nothing says whether `digest` is a layer: then the caller has the manifests asked that name it. Each
    /// digest is asked for once in a while, whatever comes of it.
    pub(crate) async fn is_unknown(&self, digest: &Digest) -> bool {
        if self.layers.contains_key(digest) {
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
        match self.ensure(target, &layer, &self.profile).await {
            Ok(LayerState::Converting(_) | LayerState::Postponed) => {}
            Ok(_) => self.settled.insert(digest.clone(), ()).await,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(blob.digest = %digest, error, "a conversion could not be started");
            }
        }
    }
}

//! Learns which blobs are layers, from the manifests that were served here or by any other process.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Parsed};

use super::App;
use crate::error::RegistryError;
use crate::pull::StoredManifest;
use crate::remotes::Target;

/// The manifests read to learn what one blob is.
const NAMING: u32 = 4;
/// How long a read of a blob waits until it is known what it is.
const PATIENCE: Duration = Duration::from_secs(1);

impl App {
    /// Remembers which blobs of an image are layers: a read of one starts its conversion.
    pub(crate) async fn remember_layers(&self, manifest: &StoredManifest) {
        if let Parsed::Manifest(image) = &manifest.parsed
            && image.is_image()
        {
            self.conversions.remember(&image.layers).await;
        }
    }

    /// Starts the conversion of a blob that was read, if it is a layer, whichever process served its manifest.
    pub(crate) async fn layer_was_read(self: &Arc<Self>, target: &Target, digest: &Digest) {
        if self.conversions.is_unknown(digest).await {
            // The read does not wait for a catalog that is away: whoever reads it in a while starts it.
            match tokio::time::timeout(PATIENCE, self.learn(digest)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let message = error.message;
                    tracing::warn!(blob.digest = %digest, message, "it could not be learned whether a blob is a layer");
                }
                Err(_elapsed) => {
                    tracing::warn!(blob.digest = %digest, "it could not be learned in time whether a blob is a layer");
                }
            }
        }
        self.conversions.layer_was_read(target, digest).await;
    }

    /// Has the manifests say what `digest` is that name it.
    async fn learn(&self, digest: &Digest) -> Result<(), RegistryError> {
        for manifest in self.catalog.manifests_naming(digest, NAMING).await? {
            if let Some(manifest) = self.pull.stored(&manifest).await? {
                self.remember_layers(&manifest).await;
            }
            if self.conversions.is_layer(digest) {
                break;
            }
        }
        Ok(())
    }
}

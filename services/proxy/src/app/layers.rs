//! Learns which blobs are layers, from the manifests that were served here or by any other process.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api::{Digest, Parsed};

use super::App;
use crate::error::RegistryError;
use crate::pull::StoredManifest;
use crate::remotes::Target;

/// The manifests read to learn what one blob is.
const NAMING: u32 = 4;
/// How long a read of a blob waits until it is known what it is, and its conversion is begun.
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

    /// Starts the conversion of a blob that was read, if it is a layer, whichever process served its manifest. Where the
    /// catalog takes its time, that goes on when this has returned.
    pub(crate) async fn layer_was_read(self: &Arc<Self>, target: &Target, digest: &Digest) {
        if !self.conversions.is_news(digest) {
            return;
        }
        // One task a blob, however many read it.
        let Some(beginning) = Beginning::begin(self, digest) else { return };
        let target = target.clone();
        let begun = tokio::spawn(async move { beginning.run(&target).await });
        // Whoever has read it may count on its conversion, but does not wait for a catalog that is away.
        let _late = tokio::time::timeout(PATIENCE, begun).await;
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

/// A blob that was read and whose conversion is being begun; no other task does so as long as this lives.
struct Beginning {
    app: Arc<App>,
    digest: Digest,
}

impl Beginning {
    fn begin(app: &Arc<App>, digest: &Digest) -> Option<Self> {
        let is_first = app.beginning.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone());
        is_first.then(|| Self { app: Arc::clone(app), digest: digest.clone() })
    }

    async fn run(self, target: &Target) {
        let (app, digest) = (&self.app, &self.digest);
        if app.conversions.is_unknown(digest).await
            && let Err(error) = app.learn(digest).await
        {
            let message = error.message;
            tracing::warn!(blob.digest = %digest, message, "it could not be learned whether a blob is a layer");
        }
        app.conversions.layer_was_read(target, digest).await;
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.app.beginning.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

//! [`Image`]: the manifests behind one tag or digest that a conversion is about.

use std::sync::Arc;

use api::{Descriptor, Digest, Index, Parsed, Platform};

use crate::pull::{Pull, PullError, StoredManifest};
use crate::remotes::Target;

/// The images of one index that are converted at most; an index with more stays as it is.
const MAX_CHILDREN: usize = 64;

/// What a source manifest is, for a conversion.
#[derive(Debug, Clone)]
pub(crate) enum Image {
    /// One image.
    Single(Arc<StoredManifest>),
    /// An index, with those of its children that are converted.
    Index {
        /// The index.
        index: Arc<StoredManifest>,
        /// The images of the wanted platforms, in the index's order, each once.
        children: Vec<Arc<StoredManifest>>,
    },
}

impl Image {
    /// Reads what `manifest` is, fetching the children of an index that are for one of `platforms`.
    /// Returns `None` for artifacts, unknown documents and indexes without a wanted child.
    ///
    /// # Errors
    /// When a child cannot be fetched.
    pub(crate) async fn load(
        pull: &Pull,
        target: &Target,
        manifest: &Arc<StoredManifest>,
        platforms: &[Platform],
    ) -> Result<Option<Self>, Arc<PullError>> {
        match &manifest.parsed {
            Parsed::Manifest(image) if image.is_image() => Ok(Some(Self::Single(Arc::clone(manifest)))),
            Parsed::Manifest(_) | Parsed::Opaque(_) => Ok(None),
            Parsed::Index(index) => {
                let mut children: Vec<Arc<StoredManifest>> = Vec::new();
                for child in wanted(index, platforms) {
                    if children.iter().any(|c| c.digest == child.digest) {
                        continue;
                    }
                    if children.len() == MAX_CHILDREN {
                        tracing::warn!(manifest.digest = %manifest.digest, "index has too many images of the wanted platforms");
                        return Ok(None);
                    }
                    let manifest = pull.by_digest(target, &child.digest).await?;
                    if matches!(&manifest.parsed, Parsed::Manifest(image) if image.is_image()) {
                        children.push(manifest);
                    }
                }
                let index = Arc::clone(manifest);
                Ok((!children.is_empty()).then_some(Self::Index { index, children }))
            }
        }
    }

    /// Returns the digest of the source manifest or index.
    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Self::Single(manifest) | Self::Index { index: manifest, .. } => &manifest.digest,
        }
    }

    /// Returns the images.
    pub(crate) fn images(&self) -> &[Arc<StoredManifest>] {
        match self {
            Self::Single(manifest) => std::slice::from_ref(manifest),
            Self::Index { children, .. } => children,
        }
    }

    /// Returns the layers of all images.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.images().iter().flat_map(|image| layers(image))
    }
}

/// Returns the layers of an image.
pub(crate) fn layers(image: &StoredManifest) -> &[Descriptor] {
    match &image.parsed {
        Parsed::Manifest(manifest) => &manifest.layers,
        Parsed::Index(_) | Parsed::Opaque(_) => &[],
    }
}

/// Returns the children of `index` that are manifests for one of `platforms`.
pub(crate) fn wanted<'i>(index: &'i Index, platforms: &[Platform]) -> impl Iterator<Item = &'i Descriptor> {
    index.manifests.iter().filter(|child| {
        let named = child.platform.as_ref().is_some_and(|p| platforms.iter().any(|w| p.matches(w)));
        named && child.media_type.is_manifest()
    })
}

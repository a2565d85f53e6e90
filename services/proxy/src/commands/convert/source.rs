//! [`Source`]: where the image comes from. Everything read is verified.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use api::{Descriptor, Parsed, Platform, Reference};
use bytes::{Bytes, BytesMut};
use indicatif::ProgressBar;
use upstream::{ManifestAnswer, UpstreamError};

use super::download::Download;
use crate::commands::blob_file::{self, BlobFile};
use crate::commands::layout::{Layout, LayoutError};
use crate::commands::location::Location;
use crate::commands::registry::Registry;
use crate::config::Config;
use crate::image::{self, Image};
use crate::pull::{self, StoredManifest};

/// Where the image comes from.
#[derive(Debug)]
pub(super) enum Source {
    Layout { layout: Layout, tag: Option<String> },
    Registry { registry: Registry, reference: Reference },
}

/// A layer that is being read.
#[derive(Debug)]
pub(super) enum Input {
    File(Box<BlobFile>),
    Download(Arc<Download>),
}

impl Source {
    pub(super) fn open(config: &Config, from: &Location, plain_http: bool) -> anyhow::Result<Self> {
        Ok(match from {
            Location::Layout { dir, tag } => Self::Layout { layout: Layout::open(dir)?, tag: tag.clone() },
            Location::Registry(image) => Self::Registry {
                registry: Registry::open(config, image, plain_http)?,
                reference: image.reference.clone(),
            },
        })
    }

    /// Returns the manifest or index that is converted.
    pub(super) async fn root(&self) -> anyhow::Result<Arc<StoredManifest>> {
        match self {
            Self::Layout { layout, tag } => Ok(layout.manifest(&layout.resolve(tag.as_deref())?)?),
            Self::Registry { registry, reference } => fetch(registry, reference)
                .await?
                .with_context(|| format!("{}:{reference} is not found at {}", registry.name, registry.client.name())),
        }
    }

    /// Returns a manifest that an index names, or `None` where it is not here: an index may be copied in part.
    pub(super) async fn manifest(&self, entry: &Descriptor) -> anyhow::Result<Option<Arc<StoredManifest>>> {
        match self {
            Self::Layout { layout, .. } => match layout.manifest(entry) {
                Ok(manifest) => Ok(Some(manifest)),
                Err(LayoutError::Missing { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Registry { registry, .. } => fetch(registry, &Reference::Digest(entry.digest.clone())).await,
        }
    }

    /// Returns what is converted of `root`, by the same rules as for the estargz view, and those of its children
    /// that should be and are not here.
    pub(super) async fn image(
        &self,
        root: &Arc<StoredManifest>,
        platforms: &[Platform],
    ) -> anyhow::Result<(Option<Image>, Vec<Descriptor>)> {
        let is_image = |manifest: &StoredManifest| matches!(&manifest.parsed, Parsed::Manifest(m) if m.is_image());
        let Parsed::Index(index) = &root.parsed else {
            return Ok((is_image(root).then(|| Image::Single(Arc::clone(root))), Vec::new()));
        };
        let (mut children, mut absent) = (Vec::<Arc<StoredManifest>>::new(), Vec::new());
        for child in image::wanted(index, platforms) {
            if children.iter().any(|known| known.digest == child.digest) {
                continue;
            }
            match self.manifest(child).await? {
                Some(manifest) if is_image(&manifest) => children.push(manifest),
                Some(_) => {}
                None => absent.push(child.clone()),
            }
        }
        let index = Arc::clone(root);
        Ok(((!children.is_empty()).then_some(Image::Index { index, children }), absent))
    }

    /// Returns a small blob.
    pub(super) async fn bytes(&self, blob: &Descriptor, limit: u64) -> anyhow::Result<Bytes> {
        let registry = match self {
            Self::Layout { layout, .. } => return Ok(layout.bytes(&blob.digest, limit)?),
            Self::Registry { registry, .. } => registry,
        };
        let wanted = || format!("blob {}", blob.digest);
        let mut answer = registry.client.blob(&registry.name, &blob.digest, None).await.with_context(wanted)?;
        anyhow::ensure!(answer.total <= limit, "blob {} has more than the {limit} bytes allowed", blob.digest);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = answer.body.chunk().await.with_context(wanted)? {
            bytes.extend_from_slice(&chunk);
        }
        api::verify(&blob.digest, &bytes)?;
        Ok(bytes.freeze())
    }

    /// Copies a blob to the new file `to`.
    pub(super) async fn copy(&self, blob: &Descriptor, to: &Path) -> anyhow::Result<()> {
        match self {
            Self::Layout { layout, .. } => {
                let (from, to, blob) = (layout.existing(&blob.digest)?, to.to_owned(), blob.clone());
                telemetry::blocking(move || blob_file::copy(&from, &to, &blob.digest, blob.size)).await?;
            }
            Self::Registry { registry, .. } => {
                let download = Download::create(to, &blob.digest, blob.size, ProgressBar::hidden())?;
                Arc::new(download).fetch(registry).await?;
            }
        }
        Ok(())
    }

    /// Opens a layer; what must be fetched first goes to the new file `to`, while it is read.
    pub(super) fn layer(&self, blob: &Descriptor, to: &Path, bar: ProgressBar) -> anyhow::Result<Input> {
        Ok(match self {
            Self::Layout { layout, .. } => {
                Input::File(Box::new(BlobFile::open(&layout.existing(&blob.digest)?, &blob.digest, blob.size, bar)?))
            }
            Self::Registry { .. } => Input::Download(Arc::new(Download::create(to, &blob.digest, blob.size, bar)?)),
        })
    }
}

async fn fetch(registry: &Registry, reference: &Reference) -> anyhow::Result<Option<Arc<StoredManifest>>> {
    let answer = match registry.client.manifest(&registry.name, reference).await {
        Ok(answer) => answer,
        Err(UpstreamError::NotFound) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("manifest {}:{reference}", registry.name)),
    };
    let digest = pull::digest_of(&answer, reference)?;
    let ManifestAnswer { bytes, media_type, .. } = answer;
    let parsed = Parsed::parse(&bytes, &media_type).with_context(|| format!("manifest {digest}"))?;
    Ok(Some(Arc::new(StoredManifest { digest, media_type, bytes, parsed })))
}

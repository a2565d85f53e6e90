//! [`Destination`]: where the converted image goes.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use api::{Digest, MediaType, Reference};
use bytes::Bytes;
use tempfile::TempDir;
use upstream::UpstreamError;

use crate::commands::blob_file;
use crate::commands::layout::LayoutWriter;
use crate::commands::location::Location;
use crate::commands::registry::Registry;
use crate::config::Config;

/// Where the converted image goes. Blobs first, then manifests, the image itself last. Files are written, synced and
/// moved off the async threads.
#[derive(Debug)]
pub(super) enum Destination {
    Layout(Arc<LayoutWriter>),
    /// The folder for unfinished files is a temporary one.
    Registry {
        registry: Registry,
        reference: Reference,
        staging: TempDir,
    },
}

/// A manifest or index that is written.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) digest: Digest,
    pub(super) media_type: MediaType,
    pub(super) bytes: Bytes,
}

impl Destination {
    pub(super) fn open(config: &Config, to: &Location, plain_http: bool) -> anyhow::Result<Self> {
        match to {
            Location::Layout { dir, tag } => Ok(Self::Layout(Arc::new(LayoutWriter::open(dir, tag.clone())?))),
            Location::Registry(image) => {
                anyhow::ensure!(
                    matches!(image.reference, Reference::Tag(_)),
                    "the digest of a converted image cannot be chosen: name a tag"
                );
                let registry = Registry::open(config, image, plain_http)?;
                let staging = tempfile::Builder::new().prefix("firstlight-").tempdir();
                let staging = staging.context("cannot make a temporary folder (TMPDIR says where)")?;
                Ok(Self::Registry { registry, reference: image.reference.clone(), staging })
            }
        }
    }

    /// Returns the folder for unfinished files.
    pub(super) fn staging(&self) -> &Path {
        match self {
            Self::Layout(layout) => layout.staging(),
            Self::Registry { staging, .. } => staging.path(),
        }
    }

    /// Tells whether the blob is there; in a layout, whether it is whole.
    pub(super) async fn has(&self, digest: &Digest, size: u64) -> anyhow::Result<bool> {
        match self {
            Self::Layout(layout) => {
                let (path, digest) = (layout.path(digest), digest.clone());
                Ok(telemetry::blocking(move || blob_file::is_whole(&path, &digest, size)).await?)
            }
            Self::Registry { registry, .. } => match registry.client.blob_size(&registry.name, digest).await {
                Ok(_) => Ok(true),
                Err(UpstreamError::NotFound | UpstreamError::Denied { .. }) => Ok(false),
                Err(error) => Err(error).with_context(|| format!("blob {digest}")),
            },
        }
    }

    /// Takes over `file`, in the folder for unfinished files, as the blob `digest`.
    pub(super) async fn put(&self, digest: &Digest, file: &Path) -> anyhow::Result<()> {
        match self {
            Self::Layout(layout) => {
                let (layout, digest, file) = (Arc::clone(layout), digest.clone(), file.to_owned());
                Ok(telemetry::blocking(move || layout.put(&digest, &file)).await?)
            }
            Self::Registry { registry, .. } => {
                let pushed = registry.client.push_blob(&registry.name, digest, file).await;
                pushed.with_context(|| format!("cannot push blob {digest}"))?;
                let removed = tokio::fs::remove_file(file).await;
                removed.with_context(|| format!("cannot remove {}", file.display()))
            }
        }
    }

    /// Writes a manifest that another one names. What it names is there.
    pub(super) async fn put_manifest(&self, document: &Document) -> anyhow::Result<()> {
        match self {
            Self::Layout(layout) => {
                let draft = layout.staging().join(format!("manifest-{}", document.digest.hex()));
                let written = tokio::fs::write(&draft, &document.bytes).await;
                written.with_context(|| format!("cannot write {}", draft.display()))?;
                self.put(&document.digest, &draft).await
            }
            Self::Registry { registry, .. } => {
                push(registry, &Reference::Digest(document.digest.clone()), document).await
            }
        }
    }

    /// Writes the image's own manifest or index, and so names the image.
    pub(super) async fn finish(&self, root: &Document) -> anyhow::Result<()> {
        match self {
            Self::Layout(layout) => {
                self.put_manifest(root).await?;
                let (layout, root) = (Arc::clone(layout), root.clone());
                let finish = move || layout.finish(&root.digest, &root.media_type, root.bytes.len() as u64);
                Ok(telemetry::blocking(finish).await?)
            }
            Self::Registry { registry, reference, .. } => push(registry, reference, root).await,
        }
    }
}

async fn push(registry: &Registry, reference: &Reference, document: &Document) -> anyhow::Result<()> {
    let pushed = registry.client.push_manifest(&registry.name, reference, &document.media_type, &document.bytes).await;
    pushed.with_context(|| format!("cannot push manifest {}:{reference}", registry.name))
}

//! [`Plan`]: everything the converted image consists of, collected first and written then, in the order in which one
//! names the other.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use api::manifest::MAX_MANIFEST_SIZE;
use api::{Descriptor, Digest, MediaType, Parsed};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::destination::{Destination, Document};
use super::layers::{Layers, Made};
use super::report::{self, ConvertReport};
use super::source::Source;
use crate::choices;
use crate::image::Image;
use crate::pull::StoredManifest;
use crate::rewrite::{self, Choice, SourceDocument};

/// Blobs written at the same time.
const WRITES: usize = 4;
/// How deep an index may lie in indexes.
const MAX_DEPTH: usize = 4;

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
enum Bytewise {
    /// At the source.
    Source(Descriptor),
    /// In a file among the unfinished ones.
    Draft(PathBuf),
    /// Here.
    Memory(Bytes),
}

#[derive(Debug, Clone)]
struct Blob {
    digest: Digest,
    size: u64,
    bytes: Bytewise,
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    source: &'a Source,
    layers: &'a Layers,
    profile: String,
    blobs: Vec<Blob>,
    /// Each after those it names; the image's own is the last.
    documents: Vec<Document>,
    known: HashSet<Digest>,
    /// The choices for each converted image.
    choices: HashMap<Digest, Vec<Choice>>,
    notes: Vec<String>,
    source_digest: Option<Digest>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(source: &'a Source, layers: &'a Layers, profile: String) -> Self {
        Self {
            source,
            layers,
            profile,
            blobs: Vec::new(),
            documents: Vec::new(),
            known: HashSet::new(),
            choices: HashMap::new(),
            notes: Vec::new(),
            source_digest: None,
        }
    }

    /// Says which images should have been converted and are not at the source.
    pub(super) fn note_absent(&mut self, absent: &[Descriptor]) {
        for child in absent {
            self.notes.push(format!("{} is not at the source and left out", child.digest));
        }
    }

    /// Adds `root` and all it names; `image` is what of it is converted.
    pub(super) async fn add_root(&mut self, root: &Arc<StoredManifest>, image: Option<&Image>) -> anyhow::Result<()> {
        self.source_digest = Some(root.digest.clone());
        match image {
            Some(Image::Single(manifest)) => {
                if self.add_converted(manifest).await?.is_none() {
                    self.add_as_it_is(root, 0).await?;
                }
            }
            Some(Image::Index { index, children }) => self.add_index(index, children).await?,
            None => {
                self.notes.push("no image of convert.platforms: copied as it is".into());
                self.add_as_it_is(root, 0).await?;
            }
        }
        Ok(())
    }

    async fn add_index(&mut self, root: &StoredManifest, images: &[Arc<StoredManifest>]) -> anyhow::Result<()> {
        let mut converted = Vec::new();
        for image in images {
            if let Some(made) = self.add_converted(image).await? {
                converted.push((image.digest.clone(), made.digest, made.bytes.len()));
            }
        }
        let Parsed::Index(index) = &root.parsed else { anyhow::bail!("{} is no index", root.digest) };
        for child in &index.manifests {
            if !converted.iter().any(|(source, ..)| *source == child.digest) {
                self.add_child(child, 1).await?;
            }
        }
        match rewrite::index(&document(root), &converted, &self.profile) {
            Ok(bytes) => self.add_document(made(bytes.into(), MediaType::OciIndex)),
            Err(error) => {
                self.notes.push(format!("{} is copied as it is: {error}", root.digest));
                self.add_document(copied(root));
            }
        }
        Ok(())
    }

    /// Adds the converted form of an image, or returns `None` where it has none.
    async fn add_converted(&mut self, source: &StoredManifest) -> anyhow::Result<Option<Document>> {
        let Parsed::Manifest(manifest) = &source.parsed else { return Ok(None) };
        let twins: Vec<_> = manifest
            .layers
            .iter()
            .map(|layer| self.layers.get(&layer.digest).and_then(super::layers::Layer::twin))
            .collect();
        let choices = choices::choose(self.layers, &twins).await?;
        let config = self.source.bytes(&manifest.config, MAX_MANIFEST_SIZE).await.context("config")?;
        let image = match rewrite::image(&document(source), &config, &choices, &self.profile) {
            Ok(image) => image,
            Err(error) => {
                self.notes.push(format!("{} is copied as it is: {error}", source.digest));
                return Ok(None);
            }
        };
        for (layer, choice) in manifest.layers.iter().zip(&choices) {
            self.add_layer(layer, choice);
        }
        let config = Bytes::from(image.config);
        let (digest, size) = (Digest::of(&config), config.len() as u64);
        self.add_blob(Blob { digest, size, bytes: Bytewise::Memory(config) });
        let made = made(image.manifest.into(), MediaType::OciManifest);
        self.add_document(made.clone());
        self.choices.insert(source.digest.clone(), choices);
        Ok(Some(made))
    }

    fn add_layer(&mut self, source: &Descriptor, choice: &Choice) {
        let layer = self.layers.get(&source.digest);
        match (choice, layer.map(|layer| (&layer.made, &layer.twin_file))) {
            (Choice::Twin(twin), Some((Made::Twin(_), file))) => {
                let (digest, size) = (twin.digest.clone(), twin.size);
                self.add_blob(Blob { digest, size, bytes: Bytewise::Draft(file.clone()) });
            }
            (Choice::Twin(_) | Choice::Keep, _) => self.add_source_blob(source),
        }
    }

    /// Adds a manifest that an index names, and all it names, unchanged.
    async fn add_child(&mut self, child: &Descriptor, depth: usize) -> anyhow::Result<()> {
        if !child.media_type.is_index() && !child.media_type.is_manifest() {
            self.add_source_blob(child);
            return Ok(());
        }
        match self.source.manifest(child).await? {
            Some(manifest) => self.add_as_it_is(&manifest, depth).await,
            None => {
                self.notes.push(format!("{} is not at the source and left out", child.digest));
                Ok(())
            }
        }
    }

    async fn add_as_it_is(&mut self, manifest: &StoredManifest, depth: usize) -> anyhow::Result<()> {
        anyhow::ensure!(depth <= MAX_DEPTH, "{} lies more than {MAX_DEPTH} indexes deep", manifest.digest);
        match &manifest.parsed {
            Parsed::Manifest(image) => {
                std::iter::once(&image.config).chain(&image.layers).for_each(|blob| self.add_source_blob(blob));
            }
            Parsed::Index(index) => {
                for child in &index.manifests {
                    Box::pin(self.add_child(child, depth + 1)).await?;
                }
            }
            Parsed::Opaque(_) => {}
        }
        self.add_document(copied(manifest));
        Ok(())
    }

    fn add_source_blob(&mut self, blob: &Descriptor) {
        if !blob.urls.is_empty() {
            self.notes.push(format!("{} lies outside the source and is not copied", blob.digest));
            return;
        }
        let bytes = match self.layers.get(&blob.digest).and_then(|layer| layer.local.clone()) {
            Some(local) => Bytewise::Draft(local),
            None => Bytewise::Source(blob.clone()),
        };
        self.add_blob(Blob { digest: blob.digest.clone(), size: blob.size, bytes });
    }

    fn add_blob(&mut self, blob: Blob) {
        if self.known.insert(blob.digest.clone()) {
            self.blobs.push(blob);
        }
    }

    /// The last one added is the image's own; one that was added before moves there.
    fn add_document(&mut self, document: Document) {
        self.documents.retain(|known| known.digest != document.digest);
        self.documents.push(document);
    }

    /// Writes it all.
    pub(super) async fn publish(&self, destination: &Destination) -> anyhow::Result<()> {
        let writes = self.blobs.iter().map(|blob| self.write(blob, destination));
        stream::iter(writes).buffer_unordered(WRITES).try_collect::<Vec<()>>().await?;
        let Some((root, others)) = self.documents.split_last() else { anyhow::bail!("there is nothing to write") };
        for document in others {
            destination.put_manifest(document).await?;
        }
        destination.finish(root).await
    }

    async fn write(&self, blob: &Blob, destination: &Destination) -> anyhow::Result<()> {
        if destination.has(&blob.digest, blob.size).await? {
            return Ok(());
        }
        let draft = destination.staging().join(format!("blob-{}", blob.digest.hex()));
        match &blob.bytes {
            Bytewise::Draft(file) => return destination.put(&blob.digest, file).await,
            Bytewise::Source(source) => self.source.copy(source, &draft).await?,
            Bytewise::Memory(bytes) => {
                std::fs::write(&draft, bytes).with_context(|| format!("cannot write {}", draft.display()))?;
            }
        }
        destination.put(&blob.digest, &draft).await
    }

    /// Says what was done; `image` is what was to be converted.
    pub(super) fn into_report(self, image: Option<&Image>) -> ConvertReport {
        let images = image.map(Image::images).unwrap_or_default();
        let layers = images.iter().flat_map(|image| {
            let choices = self.choices.get(&image.digest);
            let sources = match &image.parsed {
                Parsed::Manifest(manifest) => manifest.layers.as_slice(),
                Parsed::Index(_) | Parsed::Opaque(_) => &[],
            };
            sources.iter().enumerate().filter_map(move |(i, source)| {
                let shown = choices.and_then(|choices| choices.get(i));
                Some(report::layer(self.layers.get(&source.digest)?, &image.digest, shown))
            })
        });
        let layers: Vec<_> = layers.collect();
        let (digest, media_type) =
            self.documents.last().map(|root| (root.digest.clone(), root.media_type.clone())).unzip();
        ConvertReport::new(self.source_digest, digest, media_type, self.profile, self.notes, layers)
    }
}

fn document(source: &StoredManifest) -> SourceDocument<'_> {
    SourceDocument { bytes: &source.bytes, digest: &source.digest, media_type: &source.media_type }
}

fn made(bytes: Bytes, media_type: MediaType) -> Document {
    Document { digest: Digest::of(&bytes), media_type, bytes }
}

fn copied(source: &StoredManifest) -> Document {
    Document { digest: source.digest.clone(), media_type: source.media_type.clone(), bytes: source.bytes.clone() }
}

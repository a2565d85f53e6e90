//! [`Known`]: what the catalog and the store know of an image. Nothing here contacts an upstream or changes anything, so
//! it may run while `serve` uses the same folder.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;
use api::{Descriptor, Digest, MediaType, Parsed, Reference, Repository, Twin};
use blobstore::{BlobStore, FsStore};
use catalog::{Catalog, FillRow, LinkState, TagRow, TwinRow, TwinState};
use serde::Serialize;

use super::table::{Side, Table, factor, factor_text, short, size};
use crate::choices::{self, StoredTocs};
use crate::config::{CatalogUrl, Config, Convert};
use crate::conversions::{self, LayerState};
use crate::image;
use crate::metrics::Metrics;
use crate::pull::{Pull, StoredManifest};
use crate::rewrite::Choice;

/// The catalog and the store, open.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) catalog: Catalog,
    pub(super) store: Arc<dyn BlobStore>,
    pull: Pull,
    convert: Convert,
    profile: String,
    fills: HashMap<Digest, FillRow>,
}

/// What is known of an image.
#[derive(Debug, Default, Serialize)]
pub struct Knowledge {
    /// The digest of its manifest or index.
    pub digest: Option<Digest>,
    /// Its media type, if it is stored.
    pub media_type: Option<MediaType>,
    /// Whether the manifest or index is stored.
    pub cached: bool,
    /// How far the repository is linked to it: `none`, `named` or `linked`.
    pub link: Option<&'static str>,
    /// The digest of its estargz view, once there is one.
    pub estargz: Option<Digest>,
    /// Whether the digest asked for is that of the estargz view.
    pub asked_for_view: bool,
    /// The images, those of an index that are converted.
    pub images: Vec<KnownImage>,
    /// The children of an index that are not converted.
    pub others: usize,
}

/// What is known of one image.
#[derive(Debug, Serialize)]
pub struct KnownImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The platform by the index.
    pub platform: Option<String>,
    /// Whether the manifest is stored; if not, its layers are not known.
    pub cached: bool,
    /// The digest of its estargz view, once there is one.
    pub estargz: Option<Digest>,
    /// The layers, lowest first.
    pub layers: Vec<KnownLayer>,
}

/// What is known of a layer.
#[derive(Debug, Serialize)]
pub struct KnownLayer {
    /// The source layer.
    pub source: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub blob: BlobState,
    /// How far its twin is.
    pub state: TwinStateName,
    /// Why there is no twin, or why the layer stays original in the estargz view.
    pub reason: Option<String>,
    /// What is wrong and where.
    pub detail: Option<String>,
    /// The twin.
    pub twin: Option<Digest>,
    /// The twin's size in bytes.
    pub twin_size: Option<u64>,
    /// The twin's size as a part of the source's.
    pub factor: Option<f64>,
    #[serde(skip)]
    pub(super) toc: Option<Digest>,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// Not here.
    Absent,
    /// On their way, or to be fetched on by the next `serve`.
    Filling,
    /// In the store.
    Cached,
}

/// How far a twin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TwinStateName {
    /// Nothing was begun.
    Unknown,
    /// Begun, not ended.
    Converting,
    /// There is a twin.
    Ready,
    /// There never will be one under this profile.
    Unconvertible,
    /// It is left as it is, by the configuration.
    LeftAlone,
}

impl TwinStateName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Converting => "converting",
            Self::Ready => "ready",
            Self::Unconvertible => "unconvertible",
            Self::LeftAlone => "left alone",
        }
    }
}

impl Known {
    /// Opens what is there, or returns `None` where nothing was ever stored.
    ///
    /// # Errors
    /// When the catalog or the store cannot be opened.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let CatalogUrl::Sqlite(path) = &config.catalog.url;
        if !path.try_exists().with_context(|| format!("cannot look for the catalog {}", path.display()))? {
            return Ok(None);
        }
        let url = format!("sqlite:{}", path.display());
        let catalog = Catalog::open(&url).await.with_context(|| format!("cannot open the catalog {url}"))?;
        let store = FsStore::open(&config.storage.path).context("cannot open the blob store")?;
        let store: Arc<dyn BlobStore> = Arc::new(store);
        let fills = catalog.unfinished_fills().await?.into_iter().map(|fill| (fill.digest.clone(), fill)).collect();
        Ok(Some(Self {
            pull: Pull::new(catalog.clone(), Arc::clone(&store), Arc::new(Metrics::new()), config.cache.max_stale),
            profile: conversions::profile(&config.convert).id(),
            convert: config.convert.clone(),
            catalog,
            store,
            fills,
        }))
    }

    /// Returns what a tag meant when the upstream was last asked; `None` for a digest, too.
    pub(super) async fn tag(&self, repository: &Repository, reference: &Reference) -> anyhow::Result<Option<TagRow>> {
        match reference {
            Reference::Tag(tag) => Ok(self.catalog.tag(repository, tag).await?),
            Reference::Digest(_) => Ok(None),
        }
    }

    /// Returns what is known of the image `digest` as `repository` has it.
    pub(super) async fn image(&self, repository: &Repository, digest: &Digest) -> anyhow::Result<Knowledge> {
        let link = match self.catalog.is_linked(repository, digest).await? {
            LinkState::None => "none",
            LinkState::Named => "named",
            LinkState::Linked => "linked",
        };
        let source = self.catalog.source_of_converted(digest).await?;
        let asked_for_view = source.is_some();
        let source = source.unwrap_or_else(|| digest.clone());
        let manifest = self.pull.stored(&source).await?;
        let mut knowledge = Knowledge {
            estargz: self.catalog.converted(&source).await?,
            digest: Some(source),
            media_type: manifest.as_ref().map(|manifest| manifest.media_type.clone()),
            cached: manifest.is_some(),
            link: Some(link),
            asked_for_view,
            images: Vec::new(),
            others: 0,
        };
        let Some(manifest) = manifest else { return Ok(knowledge) };
        match &manifest.parsed {
            Parsed::Manifest(image) if image.is_image() => {
                knowledge.images.push(self.known_image(&manifest.digest, None, Some(&manifest)).await?);
            }
            Parsed::Manifest(_) | Parsed::Opaque(_) => {}
            Parsed::Index(index) => {
                for child in image::wanted(index, &self.convert.platforms) {
                    let manifest = self.pull.stored(&child.digest).await?;
                    let platform = child.platform.as_ref().map(ToString::to_string);
                    knowledge.images.push(self.known_image(&child.digest, platform, manifest.as_deref()).await?);
                }
                knowledge.others = index.manifests.len() - knowledge.images.len();
            }
        }
        Ok(knowledge)
    }

    async fn known_image(
        &self,
        digest: &Digest,
        platform: Option<String>,
        manifest: Option<&StoredManifest>,
    ) -> anyhow::Result<KnownImage> {
        let sources = match manifest.map(|manifest| &manifest.parsed) {
            Some(Parsed::Manifest(image)) => image.layers.as_slice(),
            Some(Parsed::Index(_) | Parsed::Opaque(_)) | None => &[],
        };
        let digests: Vec<Digest> = sources.iter().map(|layer| layer.digest.clone()).collect();
        let rows = self.catalog.twins(&digests, &self.profile).await?;
        let rows: HashMap<_, _> = rows.into_iter().map(|TwinRow { source, state, .. }| (source, state)).collect();
        let mut layers = Vec::with_capacity(sources.len());
        for source in sources {
            layers.push(self.known_layer(source, rows.get(&source.digest)).await?);
        }
        let twins = sources.iter().map(|source| match rows.get(&source.digest) {
            Some(TwinState::Ready { twin, .. }) => Some(twin),
            Some(TwinState::Converting { .. } | TwinState::Unconvertible { .. }) | None => None,
        });
        self.mark_kept(&mut layers, &twins.collect::<Vec<_>>()).await?;
        Ok(KnownImage {
            digest: digest.clone(),
            platform,
            cached: manifest.is_some(),
            estargz: self.catalog.converted(digest).await?,
            layers,
        })
    }

    /// Says which layers stay original in the view although they have a twin. Known once all are known.
    async fn mark_kept(&self, layers: &mut [KnownLayer], twins: &[Option<&Twin>]) -> anyhow::Result<()> {
        let is_open = |layer: &KnownLayer| matches!(layer.state, TwinStateName::Unknown | TwinStateName::Converting);
        if layers.iter().any(is_open) {
            return Ok(());
        }
        let tocs = StoredTocs { catalog: &self.catalog, store: &self.store };
        let choices = choices::choose(&tocs, twins).await.map_err(|error| anyhow::anyhow!(error.message))?;
        for (layer, choice) in layers.iter_mut().zip(choices) {
            if layer.state == TwinStateName::Ready && matches!(choice, Choice::Keep) {
                layer.reason = Some("implied_dirs".into());
                let detail = "stays original in the view: it implies directories that are otherwise below, or may be";
                layer.detail = Some(detail.into());
            }
        }
        Ok(())
    }

    async fn known_layer(&self, source: &Descriptor, row: Option<&TwinState>) -> anyhow::Result<KnownLayer> {
        let blob = match self.catalog.blob(&source.digest).await? {
            Some(_) => BlobState::Cached,
            None if self.fills.contains_key(&source.digest) => BlobState::Filling,
            None => BlobState::Absent,
        };
        let mut layer = KnownLayer {
            source: source.digest.clone(),
            size: source.size,
            blob,
            state: TwinStateName::Unknown,
            reason: None,
            detail: None,
            twin: None,
            twin_size: None,
            factor: None,
            toc: None,
        };
        let by_descriptor = conversions::by_descriptor(source, self.convert.min_layer_size.bytes());
        match (by_descriptor, row) {
            (Some(LayerState::Unconvertible { reason, detail }), _) => layer.refuse(&reason.to_string(), &detail),
            (Some(LayerState::LeftAlone | LayerState::Ready(_) | LayerState::Converting(_)), _) => {
                layer.state = TwinStateName::LeftAlone;
                layer.reason = Some("min_layer_size".into());
            }
            (None, Some(TwinState::Unconvertible { reason, detail })) => layer.refuse(&reason.to_string(), detail),
            (None, Some(TwinState::Converting { attempts })) => {
                layer.state = TwinStateName::Converting;
                layer.detail = (*attempts > 1).then(|| format!("begun {attempts} times"));
            }
            (None, Some(TwinState::Ready { twin, .. })) => layer.ready(twin),
            (None, None) if !self.convert.enabled => {
                layer.state = TwinStateName::LeftAlone;
                layer.reason = Some("convert.enabled".into());
            }
            (None, None) => {}
        }
        Ok(layer)
    }
}

impl KnownLayer {
    fn refuse(&mut self, reason: &str, detail: &str) {
        self.state = TwinStateName::Unconvertible;
        self.reason = Some(reason.into());
        self.detail = Some(detail.into());
    }

    /// Returns the layer's size in the estargz view, or `None` where it is not known yet.
    const fn shown_size(&self) -> Option<u64> {
        match self.state {
            TwinStateName::Unknown | TwinStateName::Converting => None,
            // With a reason it stays original.
            TwinStateName::Ready if self.reason.is_none() => self.twin_size,
            TwinStateName::Ready | TwinStateName::Unconvertible | TwinStateName::LeftAlone => Some(self.size),
        }
    }

    fn ready(&mut self, twin: &Twin) {
        self.state = TwinStateName::Ready;
        self.twin = Some(twin.digest.clone());
        self.twin_size = Some(twin.size);
        self.factor = factor(twin.size, self.size);
        self.toc = Some(twin.toc_digest.clone());
    }
}

impl Knowledge {
    /// Returns how many layers there are, and how many of them have ended in one way or another.
    pub(super) fn layers_done(&self) -> (usize, usize) {
        let layers = || self.images.iter().flat_map(|image| &image.layers);
        let is_open = |layer: &&KnownLayer| matches!(layer.state, TwinStateName::Unknown | TwinStateName::Converting);
        let all = layers().count();
        (all, all - layers().filter(is_open).count())
    }

    /// Writes the images with their layers.
    pub(super) fn write_images(&self, out: &mut dyn Write) -> io::Result<()> {
        for image in &self.images {
            let platform = image.platform.as_deref().map(|platform| format!("{platform} ")).unwrap_or_default();
            let view = image.estargz.as_ref().map(|view| format!(", estargz view {view}")).unwrap_or_default();
            let absent = if image.cached { "" } else { ", not cached: its layers are not known" };
            writeln!(out, "\nimage {platform}{}{view}{absent}", image.digest)?;
            image.table().write(out)?;
            if let Some(sum) = image.sum() {
                writeln!(out, "{sum}")?;
            }
        }
        if self.others > 0 {
            writeln!(out, "\n{} further children of the index are not in convert.platforms", self.others)?;
        }
        Ok(())
    }
}

impl KnownImage {
    fn table(&self) -> Table {
        let columns = [
            ("LAYER", Side::Left),
            ("SIZE", Side::Right),
            ("BLOB", Side::Left),
            ("STATE", Side::Left),
            ("TWIN", Side::Left),
            ("SIZE", Side::Right),
            ("FACTOR", Side::Right),
            ("WHY", Side::Left),
        ];
        let mut table = Table::new(&columns);
        for layer in &self.layers {
            let blob = match layer.blob {
                BlobState::Absent => "absent",
                BlobState::Filling => "filling",
                BlobState::Cached => "cached",
            };
            let why = [&layer.reason, &layer.detail].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
            table.row(vec![
                short(&layer.source),
                size(layer.size),
                blob.into(),
                layer.state.as_str().into(),
                layer.twin.as_ref().map(short).unwrap_or_default(),
                layer.twin_size.map(size).unwrap_or_default(),
                factor_text(layer.factor),
                why,
            ]);
        }
        table
    }

    /// The image's size in both views, once all its layers are known.
    fn sum(&self) -> Option<String> {
        let before: u64 = self.layers.iter().map(|layer| layer.size).sum();
        let after: u64 = self.layers.iter().map(KnownLayer::shown_size).sum::<Option<u64>>()?;
        let factor = factor_text(Some(factor(after, before)?));
        Some(format!("estargz view {} of {} ({factor})", size(after), size(before)))
    }
}

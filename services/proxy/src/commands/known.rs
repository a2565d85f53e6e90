//! [`Known`]: what the catalog and the store know of an image. Nothing here contacts an upstream or changes anything, so
//! it may run while `serve` uses the same folder.

mod knowledge;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use api::{Descriptor, Digest, Parsed, Reference, Repository, Twin};
use blobstore::BlobStore;
use catalog::{Catalog, FillRow, LinkState, TagRow, TwinRow, TwinState};

use crate::app::open_store;
use crate::choices::{self, StoredTocs};
use crate::config::{CatalogUrl, Config, Convert};
use crate::conversions::{self, LayerState};
use crate::image;
use crate::metrics::Metrics;
use crate::pull::{Pull, StoredManifest};
use crate::rewrite::Choice;
use crate::stock::Stock;

pub use knowledge::{BlobState, Knowledge, KnownImage, KnownLayer, TwinStateName};

/// The catalog and the store, open.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) catalog: Catalog,
    pub(super) store: Arc<dyn BlobStore>,
    stock: Stock,
    pull: Pull,
    convert: Convert,
    profile: String,
    fills: HashMap<Digest, FillRow>,
}

impl Known {
    /// Opens what is there, or returns `None` where nothing was ever stored.
    ///
    /// # Errors
    /// When the catalog or the store cannot be opened.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let url = &config.catalog.url;
        if let CatalogUrl::Sqlite(path) = url
            && !path.try_exists().with_context(|| format!("cannot look for the catalog {}", path.display()))?
        {
            return Ok(None);
        }
        let catalog = Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))?;
        let store = open_store(config).await.context("cannot open the blob store")?;
        let stock = Stock::looked_at(catalog.clone(), Arc::clone(&store));
        let fills = catalog.unfinished_fills().await?.into_iter().map(|fill| (fill.digest.clone(), fill)).collect();
        Ok(Some(Self {
            pull: Pull::new(stock.clone(), Arc::new(Metrics::new()), config.cache.max_stale),
            profile: conversions::profile(&config.convert).id(),
            convert: config.convert.clone(),
            catalog,
            store,
            stock,
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
        let choices =
            choices::choose(&StoredTocs(&self.stock), twins).await.map_err(|error| anyhow::anyhow!(error.message))?;
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
        let mut layer = KnownLayer::new(source, blob);
        let by_descriptor = conversions::by_descriptor(source, self.convert.min_layer_size.bytes());
        match (by_descriptor, row) {
            (Some(LayerState::Unconvertible { reason, detail }), _) => layer.refuse(&reason.to_string(), &detail),
            (Some(_), _) => {
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

//! [`App`]: the wired parts of a running proxy.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::{Digest, Parsed};
use blobstore::{BlobStore, CachedStore, FsStore, S3Store, StoreError};
use catalog::Catalog;

use crate::blobs::Blobs;
use crate::config::Config;
use crate::conversions::Conversions;
use crate::error::RegistryError;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::pull::{Pull, StoredManifest};
use crate::remotes::{Remotes, Target};
use crate::room::Room;
use crate::stock::Stock;
use crate::views::Views;

/// The age from which an unfinished upload is nobody's any more. The longest upload is that of one blob.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The wired parts of a running proxy.
#[derive(Debug)]
pub(crate) struct App {
    store: Arc<dyn BlobStore>,
    pub(crate) remotes: Remotes,
    pub(crate) catalog: Catalog,
    pub(crate) pull: Arc<Pull>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) conversions: Arc<Conversions>,
    pub(crate) views: Views,
    pub(crate) metrics: Arc<Metrics>,
}

impl App {
    /// Opens the storage and wires the parts; starts nothing.
    ///
    /// # Errors
    /// Says which part could not be opened.
    pub(crate) async fn open(config: Config) -> anyhow::Result<Arc<Self>> {
        let root = config.storage.path.clone();
        let spool = root.join("spool");
        std::fs::create_dir_all(&spool).with_context(|| format!("cannot create {}", spool.display()))?;
        let store = open_cached(&config).await.context("cannot open the blob store")?;
        let url = &config.catalog.url;
        let catalog = Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))?;
        let remotes = Remotes::build(&config)?;
        let metrics = Arc::new(Metrics::new());
        let room = Room::new(root, config.storage.min_free);
        let fills =
            Arc::new(Fills::new(spool.clone(), room, Arc::clone(&store), catalog.clone(), Arc::clone(&metrics)));
        let stock = Stock::new(catalog.clone(), Arc::clone(&store));
        let pull = Arc::new(Pull::new(stock.clone(), Arc::clone(&metrics), config.cache.max_stale));
        let blobs = Arc::new(Blobs::new(stock.clone(), Arc::clone(&fills), Arc::clone(&metrics)));
        let conversions = Conversions::new(&config.convert, stock.clone(), fills, Arc::clone(&metrics), spool);
        let conversions = Arc::new(conversions.context("cannot start the compressing threads")?);
        catalog
            .record_profile(conversions.profile().id(), &conversions.profile().describe())
            .await
            .context("cannot record the conversion profile")?;
        let views = Views::new(stock, Arc::clone(&pull), Arc::clone(&blobs), Arc::clone(&conversions), &config.convert);
        Ok(Arc::new(Self { store, remotes, catalog, pull, blobs, conversions, views, metrics }))
    }

    /// Remembers which blobs of an image are layers: a read of one starts its conversion.
    pub(crate) async fn remember_layers(&self, manifest: &StoredManifest) {
        if let Parsed::Manifest(image) = &manifest.parsed
            && image.is_image()
        {
            self.conversions.remember(&image.layers).await;
        }
    }

    /// Begins to make `digest` again if it was made here (a twin, a converted manifest or its config) and its bytes were
    /// lost; the upstream cannot give it. Returns whether it is one of these.
    ///
    /// # Errors
    /// Those of the catalog, or of the source manifest.
    pub(crate) async fn remake(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        if self.conversions.remake(target, digest).await? {
            return Ok(true);
        }
        let Some(source) = self.catalog.source_of_converted(digest).await? else { return Ok(false) };
        // A config may have several sources: the one that counts is the one this repository may read.
        let linked = self.catalog.link_of(&target.repository, digest).await?.decided_by;
        let source = self.pull.by_digest(target, if linked == *digest { &source } else { &linked }).await?;
        self.views.start(target, &source);
        Ok(true)
    }

    /// Takes up the work an earlier process left, and removes its unfinished uploads.
    ///
    /// # Errors
    /// Says what of the catalog could not be read.
    pub(crate) async fn take_up(self: &Arc<Self>) -> anyhow::Result<()> {
        tokio::spawn(sweep_uploads(Arc::clone(&self.store)));
        self.blobs
            .fills()
            .take_up(|repository| self.remotes.of(repository).map(|remote| remote.client.clone()))
            .await
            .context("cannot take up earlier fills")?;
        self.conversions
            .take_up(|repository| self.remotes.target(repository))
            .await
            .context("cannot take up earlier conversions")
    }
}

/// Removes the uploads that no process goes on with.
async fn sweep_uploads(store: Arc<dyn BlobStore>) {
    match store.sweep_uploads(ABANDONED).await {
        Ok(0) => {}
        Ok(uploads) => tracing::info!(uploads, "unfinished uploads were removed from the store"),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "unfinished uploads stay in the store"),
    }
}

/// Opens the store that is configured, without a cache: that belongs to the process that serves.
pub(crate) async fn open_store(config: &Config) -> Result<Arc<dyn BlobStore>, StoreError> {
    match config.storage.s3() {
        None => Ok(Arc::new(FsStore::open(&config.storage.path)?)),
        Some(s3) => Ok(Arc::new(S3Store::open(&s3).await?)),
    }
}

/// Opens the store that is configured, with the disk cache in front of a bucket where there is one.
async fn open_cached(config: &Config) -> Result<Arc<dyn BlobStore>, StoreError> {
    let store = open_store(config).await?;
    match config.cache.disk_cache_size.bytes() {
        cap if cap > 0 && config.storage.s3().is_some() => {
            Ok(Arc::new(CachedStore::open(store, &config.storage.path.join("disk-cache"), cap)?))
        }
        _ => Ok(store),
    }
}

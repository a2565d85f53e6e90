//! [`App`]: the wired parts of a running proxy.

mod layers;
mod lazy;
mod remake;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use api::{Digest, Repository};
use blobstore::{BlobStore, CachedStore, FsStore, LONGEST_PUT, S3Store, StoreError};
use catalog::{Catalog, Mark};
use moka::future::Cache;
use tokio::time::MissedTickBehavior;

use crate::blobs::Blobs;
use crate::config::Config;
use crate::conversions::Conversions;
use crate::error::{RegistryError, Subject};
use crate::fill::Fills;
use crate::fleet::Fleet;
use crate::gc::{Collector, Limits, Uses};
use crate::metrics::Metrics;
use crate::pull::Pull;
use crate::records::{self, Records};
use crate::remotes::Remotes;
use crate::room::Room;
use crate::stock::Stock;
use crate::tie;
use crate::views::Views;

/// The age from which an unfinished upload is nobody's any more, although clocks differ: no living one gets as old.
pub(crate) const ABANDONED: Duration = LONGEST_PUT.saturating_mul(2);

/// How often a process of a fleet looks for work that nobody does.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(2);

/// The wired parts of a running proxy.
#[derive(Debug)]
pub(crate) struct App {
    store: Arc<dyn BlobStore>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) remotes: Remotes,
    pub(crate) catalog: Catalog,
    pub(crate) pull: Arc<Pull>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) conversions: Arc<Conversions>,
    pub(crate) views: Views,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) uses: Arc<Uses>,
    pub(crate) collector: Arc<Collector>,
    /// Converted manifests whose layers were looked at a moment ago.
    looked_at: Cache<Digest, ()>,
    /// Blobs whose conversion is being begun because they were read.
    beginning: Mutex<HashSet<Digest>>,
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
        let metrics = Arc::new(Metrics::new());
        let store = open_cached(&config, &metrics).await.context("cannot open the blob store")?;
        let url = &config.catalog.url;
        let catalog = Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))?;
        if catalog.is_marked(Mark::Rebuilding).await? {
            bail!("the rebuild of the catalog {url} was not finished: run `firstlight catalog rebuild` again");
        }
        tie::check(&catalog, &store).await.context("catalog and store do not belong together")?;
        let remotes = Remotes::build(&config)?;
        let room = Room::new(root, config.storage.min_free);
        let fleet = Fleet::open(&config, catalog.clone())?;
        let stock = Stock::new(catalog.clone(), Arc::clone(&store));
        let fills = Arc::new(Fills::new(spool.clone(), room, Arc::clone(&fleet), stock.clone(), Arc::clone(&metrics)));
        let pull = Arc::new(Pull::new(stock.clone(), Arc::clone(&metrics), config.cache.max_stale));
        let keep_open = config.cache.grace / 2;
        let blobs = Arc::new(Blobs::new(stock.clone(), Arc::clone(&fills), Arc::clone(&metrics), keep_open));
        let limits = Limits::from(&config.cache);
        let collector = Collector::new(catalog.clone(), Arc::clone(&store), limits, Arc::clone(&metrics));
        let conversions =
            Conversions::new(&config.convert, stock.clone(), Arc::clone(&fleet), fills, Arc::clone(&metrics), spool);
        let conversions = Arc::new(conversions.context("cannot start the compressing threads")?);
        Records::new(&catalog, &store)
            .profile(conversions.profile().id(), &conversions.profile().describe())
            .await
            .context("cannot record the conversion profile")?;
        check_profiles(&catalog, &conversions).await?;
        let views = Views::new(stock, Arc::clone(&pull), Arc::clone(&blobs), Arc::clone(&conversions), &config.convert);
        Ok(Arc::new(Self {
            store,
            fleet,
            remotes,
            catalog,
            pull,
            blobs,
            conversions,
            views,
            metrics,
            uses: Arc::default(),
            collector: Arc::new(collector),
            looked_at: Cache::builder().max_capacity(10_000).time_to_live(remake::LOOK_EVERY).build(),
            beginning: Mutex::default(),
        }))
    }

    /// Takes up the work an earlier process left, removes its unfinished uploads, and from then on takes over what other
    /// processes leave.
    ///
    /// # Errors
    /// Says what of the catalog could not be read.
    pub(crate) async fn take_up(self: &Arc<Self>) -> anyhow::Result<()> {
        tokio::spawn(sweep_uploads(Arc::clone(&self.store)));
        tokio::spawn(note_arrears(self.catalog.clone(), Arc::clone(&self.store)));
        // Leases of this name are those of the process before: the data folder is this one's.
        self.fleet.leave().await;
        self.blobs
            .fills()
            .take_up(|repository| self.client_of(repository))
            .await
            .context("cannot take up earlier fills")?;
        self.conversions
            .take_up(|repository| self.remotes.target(repository))
            .await
            .context("cannot take up earlier conversions")?;
        if let Some(lease_time) = self.fleet.lease_time() {
            tokio::spawn(take_over(Arc::downgrade(self), lease_time));
        }
        Ok(())
    }

    fn client_of(&self, repository: &Repository) -> Option<upstream::Client> {
        self.remotes.of(repository).map(|remote| remote.client.clone())
    }

    /// Takes over some of the work that processes of the fleet left.
    async fn take_over(&self, lease_time: Duration) -> Result<(), RegistryError> {
        let taken = self.blobs.fills().take_over(|repository| self.client_of(repository)).await;
        taken.map_err(|error| RegistryError::fill(&error, Subject::Blob))?;
        self.conversions.take_over(|repository| self.remotes.target(repository)).await?;
        self.catalog.sweep_leases(lease_time * 10).await?;
        Ok(())
    }
}

/// Takes over what processes leave, as long as the application lives.
async fn take_over(app: Weak<App>, lease_time: Duration) {
    let mut tick = tokio::time::interval(TAKE_OVER_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(app) = app.upgrade() else { return };
        if let Err(error) = app.take_over(lease_time).await {
            tracing::warn!(message = error.message, "abandoned work could not be looked for");
        }
    }
}

/// Checks that every twin can be made again if its bytes are lost or evicted: its digest was answered, and lasts.
async fn check_profiles(catalog: &Catalog, conversions: &Conversions) -> anyhow::Result<()> {
    for id in catalog.needed_profiles().await.context("cannot list the conversion profiles")? {
        if conversions.known_profile(id.clone()).await?.settings().is_none() {
            bail!(
                "the catalog has twins made under profile {id}, which this version cannot make again; \
                 use the version that made them"
            );
        }
    }
    Ok(())
}

/// Removes the uploads that no process goes on with.
async fn sweep_uploads(store: Arc<dyn BlobStore>) {
    match store.sweep_uploads(ABANDONED).await {
        Ok(0) => {}
        Ok(uploads) => tracing::info!(uploads, "unfinished uploads were removed from the store"),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "unfinished uploads stay in the store"),
    }
}

/// Writes what a rebuild would miss of the time before there were meta objects.
async fn note_arrears(catalog: Catalog, store: Arc<dyn BlobStore>) {
    if let Err(error) = records::catch_up(&catalog, &store).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "meta objects are missing for what was recorded earlier; the next start tries again");
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
async fn open_cached(config: &Config, metrics: &Metrics) -> Result<Arc<dyn BlobStore>, StoreError> {
    let store = open_store(config).await?;
    match config.cache.disk_cache_size.bytes() {
        cap if cap > 0 && config.storage.s3().is_some() => {
            let cached = Arc::new(CachedStore::open(store, &config.storage.path.join("disk-cache"), cap)?);
            metrics.disk_cache(Arc::clone(&cached));
            Ok(cached)
        }
        _ => Ok(store),
    }
}

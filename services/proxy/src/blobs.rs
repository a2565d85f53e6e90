//! [`Blobs`]: who may read a blob, and where its bytes are.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Repository};
use blobstore::OpenBlob;
use catalog::{BlobRow, Catalog, LinkState};
use moka::future::Cache;
use upstream::UpstreamError;

use crate::body::{BlobBody, Passing};
use crate::error::{RegistryError, Subject};
use crate::fill::{Fill, FillError, Fills, Joined};
use crate::metrics::Metrics;
use crate::pull::NEGATIVE_TTL;
use crate::records::Records;
use crate::remotes::Target;
use crate::stock::Stock;

/// Blobs through the cache.
#[derive(Debug)]
pub(crate) struct Blobs {
    catalog: Catalog,
    stock: Stock,
    fills: Arc<Fills>,
    metrics: Arc<Metrics>,
    /// Repositories known to hold a digest; links are never taken away while a process runs.
    linked: Cache<(Repository, Digest), ()>,
    /// What an upstream did not have a moment ago.
    missing: Cache<(Repository, Digest), ()>,
    opened: Cache<Digest, Arc<dyn OpenBlob>>,
}

/// Where a blob's bytes are.
pub(crate) enum Found {
    /// In the store.
    Stored(Arc<dyn OpenBlob>),
    /// On their way.
    Filling(Arc<Fill>),
    /// Only at the upstream, and there they stay.
    Elsewhere,
}

impl Blobs {
    /// Returns blobs that stay open for up to `keep_open`: shorter than the bytes of an evicted one stay in the store.
    pub(crate) fn new(stock: Stock, fills: Arc<Fills>, metrics: Arc<Metrics>, keep_open: Duration) -> Self {
        Self {
            catalog: stock.catalog.clone(),
            stock,
            fills,
            metrics,
            linked: Cache::new(100_000),
            missing: Cache::builder().max_capacity(10_000).time_to_live(NEGATIVE_TTL).build(),
            opened: Cache::builder().max_capacity(256).time_to_live(keep_open).build(),
        }
    }

    fn records(&self) -> Records<'_> {
        Records::new(&self.catalog, &self.stock.store)
    }

    pub(crate) const fn fills(&self) -> &Arc<Fills> {
        &self.fills
    }

    /// Checks that `target` holds `digest`, asking its upstream where no link says so, and returns true. Returns false for
    /// a digest that a manifest names and of which nothing is here: its bytes will come from that upstream, or not at all.
    ///
    /// # Errors
    /// 404 when the upstream does not have it there; its outage otherwise.
    pub(crate) async fn check_link(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        self.check(target, digest, false).await
    }

    /// Checks as [`Self::check_link`] does, of bytes that are here: whoever they came from, a name alone opens nothing.
    async fn check(&self, target: &Target, digest: &Digest, is_here: bool) -> Result<bool, RegistryError> {
        let key = (target.repository.clone(), digest.clone());
        if self.linked.contains_key(&key) {
            return Ok(true);
        }
        let link = self.catalog.link_of(&target.repository, digest).await?;
        let decided_by = &link.decided_by;
        match link.state {
            LinkState::Linked => {}
            LinkState::Named if target.remote.is_public() && self.is_of(target, decided_by).await? => {
                self.records().link(&target.repository, digest).await?;
            }
            // No link yet: absence proves nothing, and what comes from elsewhere meanwhile is not this repository's.
            LinkState::Named if target.remote.is_public() && !is_here && self.is_cold(digest, decided_by).await? => {
                return Ok(false);
            }
            LinkState::Named | LinkState::None => self.ask_upstream(target, decided_by).await?,
        }
        self.linked.insert(key, ()).await;
        Ok(true)
    }

    /// Tells whether nothing of `digest` is stored, which is what decides about itself (and no source of it).
    async fn is_cold(&self, digest: &Digest, decided_by: &Digest) -> Result<bool, RegistryError> {
        Ok(digest == decided_by && self.catalog.blob(digest).await?.is_none())
    }

    /// Tells whether the upstream of `target` has given `digest` to any of its repositories. A manifest may name any
    /// digest, so of another upstream's content the name alone is no proof.
    async fn is_of(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.catalog.is_linked_in_upstream(target.repository.upstream(), digest).await?)
    }

    /// Asks the upstream whether the repository holds `digest`, and records that it does.
    async fn ask_upstream(&self, target: &Target, digest: &Digest) -> Result<(), RegistryError> {
        let key = (target.repository.clone(), digest.clone());
        if self.missing.contains_key(&key) {
            return Err(RegistryError::upstream(&UpstreamError::NotFound, Subject::Blob));
        }
        let answer = target.remote.client.blob_size(target.repository.name(), digest).await;
        if let Err(error) = answer {
            if matches!(error, UpstreamError::NotFound) {
                self.missing.insert(key, ()).await;
            }
            return Err(RegistryError::upstream(&error, Subject::Blob));
        }
        self.records().link(&target.repository, digest).await?;
        Ok(())
    }

    /// Returns the bytes of `digest`, starting a fill where they are not here. After [`Self::check_link`].
    ///
    /// # Errors
    /// The upstream's refusal or outage.
    pub(crate) async fn find(&self, target: &Target, digest: &Digest) -> Result<Found, RegistryError> {
        if let Some(blob) = self.stored(digest).await? {
            self.check(target, digest, true).await?;
            return Ok(Found::Stored(blob));
        }
        match self.fills.join_wanted(&target.remote.client, &target.repository, digest).await {
            Ok(Joined::Running(fill)) => Ok(Found::Filling(fill)),
            Ok(Joined::Stored(row)) => {
                self.check(target, digest, true).await?;
                self.open(&row).await?.map(Found::Stored).ok_or_else(RegistryError::lost)
            }
            Err(error) => match &*error {
                FillError::NoRoom | FillError::HeldElsewhere => Ok(Found::Elsewhere),
                FillError::Spool { .. } => {
                    tracing::error!(
                        blob.digest = %digest, error = &*error as &dyn std::error::Error,
                        "the spool cannot be used, the blob is streamed through"
                    );
                    Ok(Found::Elsewhere)
                }
                other => Err(RegistryError::fill(other, Subject::Blob)),
            },
        }
    }

    /// Returns a stored blob, or `None` where it is not stored, or no longer.
    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Arc<dyn OpenBlob>>, RegistryError> {
        if let Some(blob) = self.opened.get(digest).await {
            return Ok(Some(blob));
        }
        match self.catalog.blob(digest).await? {
            Some(row) => self.open(&row).await,
            None => Ok(None),
        }
    }

    /// Tells whether nothing of `digest` is stored or on its way to `target`.
    ///
    /// # Errors
    /// The catalog's or the store's.
    pub(crate) async fn is_absent(&self, target: &Target, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.stored(digest).await?.is_none() && self.fills.find(&target.repository, digest).is_none())
    }

    async fn open(&self, row: &BlobRow) -> Result<Option<Arc<dyn OpenBlob>>, RegistryError> {
        let blob = self.stock.open(row).await?;
        if let Some(blob) = &blob {
            self.opened.insert(row.digest.clone(), Arc::clone(blob)).await;
        }
        Ok(blob)
    }

    /// Returns the whole body of a blob that is not to be stored.
    ///
    /// # Errors
    /// The upstream's refusal or outage.
    pub(crate) async fn pass(&self, target: &Target, digest: &Digest) -> Result<BlobBody, RegistryError> {
        let answer = target.remote.client.blob(target.repository.name(), digest, None).await;
        let answer = answer.map_err(|error| RegistryError::upstream(&error, Subject::Blob))?;
        let passing = Passing::new(answer.body, digest, true, Arc::clone(&self.metrics));
        Ok(BlobBody::Passing(Box::new(passing)))
    }

    /// Returns the size of `digest` without fetching it.
    ///
    /// # Errors
    /// The upstream's refusal or outage.
    pub(crate) async fn size(&self, target: &Target, digest: &Digest) -> Result<u64, RegistryError> {
        if let Some(blob) = self.stored(digest).await? {
            self.check(target, digest, true).await?;
            return Ok(blob.size());
        }
        if let Some(fill) = self.fills.find(&target.repository, digest) {
            return Ok(fill.size());
        }
        let client = &target.remote.client;
        let size = client.blob_size(target.repository.name(), digest).await;
        size.map_err(|error| RegistryError::upstream(&error, Subject::Blob))
    }
}

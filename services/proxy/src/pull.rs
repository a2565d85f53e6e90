//! [`Pull`]: manifests and tags through the cache. Bytes first, then the row, then the answer.

mod tags;

use std::sync::Arc;
use std::time::Duration;

use api::{Algorithm, Digest, Hasher, ManifestError, MediaType, Parsed, Reference, Repository};
use blobstore::{BlobKey, BlobStore, Generation};
use bytes::Bytes;
use catalog::{Catalog, Link, LinkState, ManifestRow};
use moka::future::Cache;
use upstream::{ManifestAnswer, UpstreamError};

use crate::metrics::Metrics;
use crate::records::Records;
use crate::remotes::Target;
use crate::stock::{Stock, StockError};

/// Bytes of manifests kept in memory.
const CACHED_BYTES: u64 = 64 << 20;
/// How long an upstream's "not found" is believed.
pub(crate) const NEGATIVE_TTL: Duration = Duration::from_secs(3);
const NEGATIVE_ENTRIES: u64 = 10_000;

/// A manifest, index or other document by digest, in the store.
#[derive(Debug)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    pub(crate) parsed: Parsed,
}

/// What a tag means now.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedTag {
    pub(crate) digest: Digest,
    /// Whether the upstream could not be asked and an old answer is given.
    pub(crate) stale: bool,
    /// When the tag was last answered in the original view although the estargz view applies.
    pub(crate) original_answered_at: Option<i64>,
    /// What the upstream just said of the manifest, where it was asked: enough for a HEAD.
    pub(crate) head: Option<ManifestFacts>,
}

/// What a HEAD tells of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct ManifestFacts {
    pub(crate) media_type: MediaType,
    pub(crate) size: u64,
}

/// Why a manifest cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// The upstream did not give it.
    #[error("upstream did not give the manifest")]
    Upstream(#[from] UpstreamError),
    /// It is not a manifest we serve.
    #[error("manifest from the upstream is not valid")]
    Manifest(#[from] ManifestError),
    /// It is another one than its digest says.
    #[error("manifest from the upstream has another digest")]
    WrongDigest(#[from] api::VerifyError),
    /// The catalog failed.
    #[error("catalog failed")]
    Catalog(#[from] catalog::CatalogError),
    /// The tag has moved to a manifest that cannot be had.
    #[error("the tag's new manifest cannot be had")]
    NewTarget(#[source] Arc<PullError>),
    /// The store failed.
    #[error("blob store failed")]
    Store(#[from] blobstore::StoreError),
    /// A stored manifest cannot be opened.
    #[error("stored manifest cannot be opened")]
    Stock(#[from] StockError),
    /// A converted manifest is gone from the store; it can be made again.
    #[error("converted manifest is gone from the store")]
    Lost,
}

/// Manifests and tags through the cache.
#[derive(Debug)]
pub(crate) struct Pull {
    catalog: Catalog,
    store: Arc<dyn BlobStore>,
    stock: Stock,
    metrics: Arc<Metrics>,
    max_stale: Duration,
    manifests: Cache<Digest, Arc<StoredManifest>>,
    fetches: Cache<(Repository, String), Arc<StoredManifest>>,
    checks: Cache<(Repository, String), ResolvedTag>,
    missing: Cache<(Repository, String), UpstreamError>,
    /// Where HEADs saw tags move to, and when (milliseconds since 1970); the catalog keeps what was pulled.
    seen: Cache<(Repository, String), (i64, ResolvedTag)>,
}

impl Pull {
    pub(crate) fn new(stock: Stock, metrics: Arc<Metrics>, max_stale: Duration) -> Self {
        let weigh = |_: &Digest, m: &Arc<StoredManifest>| u32::try_from(m.bytes.len() * 4).unwrap_or(u32::MAX);
        Self {
            catalog: stock.catalog.clone(),
            store: Arc::clone(&stock.store),
            stock,
            metrics,
            max_stale,
            manifests: Cache::builder().max_capacity(CACHED_BYTES).weigher(weigh).build(),
            fetches: Cache::builder().max_capacity(1000).time_to_live(Duration::from_secs(1)).build(),
            checks: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(1)).build(),
            seen: Cache::new(NEGATIVE_ENTRIES),
            missing: Cache::builder().max_capacity(NEGATIVE_ENTRIES).time_to_live(NEGATIVE_TTL).build(),
        }
    }

    fn records(&self) -> Records<'_> {
        Records::new(&self.catalog, &self.store)
    }

    /// Returns the manifest `digest` as `target` may see it.
    ///
    /// A cached manifest that the repository is linked to never contacts the upstream.
    ///
    /// # Errors
    /// See [`PullError`]; concurrent callers share one.
    pub(crate) async fn by_digest(
        &self,
        target: &Target,
        digest: &Digest,
    ) -> Result<Arc<StoredManifest>, Arc<PullError>> {
        let Link { state: link, decided_by } =
            self.catalog.link_of(&target.repository, digest).await.map_err(shared)?;
        let linked = match link {
            LinkState::Linked => true,
            // A manifest may name any digest: of another upstream's content the name alone is no proof.
            LinkState::Named => {
                target.remote.is_public()
                    && self
                        .catalog
                        .is_linked_in_upstream(target.repository.upstream(), &decided_by)
                        .await
                        .map_err(shared)?
            }
            LinkState::None => false,
        };
        if linked && let Some(manifest) = self.stored(digest).await? {
            if link == LinkState::Named {
                self.records().link(&target.repository, digest).await.map_err(|error| Arc::new(error.into()))?;
            }
            return Ok(manifest);
        }
        // The upstream does not know a converted manifest, but its source: who may read that may read this.
        let (source, otherwise) = match self.catalog.source_of_converted(digest).await.map_err(shared)? {
            // Nothing is left to prove, and no answer brings the bytes back.
            Some(_) if linked => return Err(Arc::new(PullError::Lost)),
            Some(source) => (source, PullError::Lost),
            None if decided_by != *digest => (decided_by, UpstreamError::NotFound.into()),
            None => return self.fetch(target, &Reference::Digest(digest.clone())).await,
        };
        self.fetch(target, &Reference::Digest(source)).await?;
        self.stored(digest).await?.ok_or_else(|| Arc::new(otherwise))
    }

    /// Returns a manifest that is in the store, without asking whose it is; `None` where it is not there, or no
    /// longer.
    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Arc<PullError>> {
        if let Some(manifest) = self.manifests.get(digest).await {
            return Ok(Some(manifest));
        }
        let Some(row) = self.catalog.manifest(digest).await.map_err(shared)? else { return Ok(None) };
        let Some(manifest) = self.load(&row).await.map_err(Arc::new)? else { return Ok(None) };
        let manifest = Arc::new(manifest);
        self.manifests.insert(digest.clone(), Arc::clone(&manifest)).await;
        Ok(Some(manifest))
    }

    async fn load(&self, row: &ManifestRow) -> Result<Option<StoredManifest>, PullError> {
        let Some(blob) = self.stock.open(&row.blob()).await? else { return Ok(None) };
        let bytes = blob.read(0, usize::try_from(blob.size()).unwrap_or(usize::MAX)).await?;
        api::verify(&row.digest, &bytes)?;
        let parsed = Parsed::parse(&bytes, &row.media_type)?;
        Ok(Some(StoredManifest { digest: row.digest.clone(), media_type: row.media_type.clone(), bytes, parsed }))
    }

    /// Fetches a manifest from the upstream, stores it and links it. Concurrent calls share one fetch.
    async fn fetch(&self, target: &Target, reference: &Reference) -> Result<Arc<StoredManifest>, Arc<PullError>> {
        let key = (target.repository.clone(), reference.to_string());
        if let Some(error) = self.missing.get(&key).await {
            return Err(Arc::new(error.into()));
        }
        // Boxed, because it is large and seldom needed.
        let fetched = self.fetches.try_get_with(key.clone(), Box::pin(self.fetch_now(target, reference))).await;
        self.fetches.invalidate(&key).await;
        if let Err(error) = &fetched {
            self.remember_missing(key, error).await;
        }
        fetched
    }

    async fn remember_missing(&self, key: (Repository, String), error: &PullError) {
        if let PullError::Upstream(error @ UpstreamError::NotFound) = error {
            self.missing.insert(key, error.clone()).await;
        }
    }

    async fn fetch_now(&self, target: &Target, reference: &Reference) -> Result<Arc<StoredManifest>, PullError> {
        let client = &target.remote.client;
        let answer = client.manifest(target.repository.name(), reference).await?;
        self.note_quota(target);
        let digest = digest_of(&answer, reference)?;
        let parsed = Parsed::parse(&answer.bytes, &answer.media_type)?;
        let children: Vec<Digest> = parsed.children().into_iter().map(|child| child.digest.clone()).collect();
        if let Some(row) = self.catalog.manifest(&digest).await? {
            self.records().link(&target.repository, &digest).await?;
            return self.read_again(&row, answer.bytes).await;
        }
        let key = BlobKey::blob(&digest, Generation::random());
        self.store.put_bytes(&key, answer.bytes.clone()).await?;
        let size = answer.bytes.len() as u64;
        let row = ManifestRow { digest, media_type: answer.media_type, size, key: key.to_string() };
        let kept = self.records().manifest(&row, &target.repository, &children, parsed.subject()).await?;
        if kept.key != row.key {
            self.store.delete(&key).await?;
        }
        self.read_again(&kept, answer.bytes).await
    }

    /// Returns the manifest of `row`, whose bytes are at hand. The type is the row's: the same bytes
    /// served elsewhere with another type must not change what this digest is.
    async fn read_again(&self, row: &ManifestRow, bytes: Bytes) -> Result<Arc<StoredManifest>, PullError> {
        let parsed = Parsed::parse(&bytes, &row.media_type)?;
        let (digest, media_type) = (row.digest.clone(), row.media_type.clone());
        let manifest = Arc::new(StoredManifest { digest, media_type, bytes, parsed });
        self.manifests.insert(manifest.digest.clone(), Arc::clone(&manifest)).await;
        Ok(manifest)
    }

    fn note_quota(&self, target: &Target) {
        if let Some(quota) = target.remote.client.quota() {
            self.metrics.quota(&target.remote.config.name, quota.remaining);
        }
    }
}

/// Returns the digest of a fetched manifest: the one asked for, or the upstream's own word where it
/// is right, or else its SHA-256.
pub(crate) fn digest_of(answer: &ManifestAnswer, reference: &Reference) -> Result<Digest, PullError> {
    let claimed = match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => answer.digest.as_ref(),
    };
    let algorithm = claimed.map_or(Algorithm::Sha256, Digest::algorithm);
    let mut hasher = Hasher::new(algorithm);
    hasher.update(&answer.bytes);
    let found = hasher.finish();
    match claimed {
        Some(expected) if *expected != found => Err(api::VerifyError { expected: expected.clone(), found }.into()),
        _ => Ok(found),
    }
}

fn shared(error: catalog::CatalogError) -> Arc<PullError> {
    Arc::new(error.into())
}

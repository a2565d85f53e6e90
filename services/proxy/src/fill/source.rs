//! [`Source`]: where a fill's bytes come from, which changes when the process that does the fill does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Digest, Repository};
use blobstore::OpenBlob;
use catalog::{BlobRow, CatalogError, Owner, Work};
use tokio::time::Instant;

use super::FillError;
use super::pauses::Pauses;
use crate::fleet::{Claimed, Fleet, HeldLease, Peer};
use crate::metrics::Metrics;
use crate::stock::Stock;

/// How long beyond three leases a fill looks for somebody who has the bytes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a fill's bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The upstream: this process does the fill.
    Upstream(HeldLease),
    /// The spool of the process that does it.
    Peer(Peer),
    /// The store: it is done.
    Stored(BlobRow, Arc<dyn OpenBlob>),
}

impl Source {
    pub(super) const fn is_upstream(&self) -> bool {
        matches!(self, Self::Upstream(_))
    }

    const fn is_peer(&self) -> bool {
        matches!(self, Self::Peer(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(_) => f.write_str("the upstream"),
            Self::Peer(peer) => write!(f, "the replica at {}", peer.owner().address),
            Self::Stored(..) => f.write_str("the store"),
        }
    }
}

/// The source of one fill, now and when it changes.
#[derive(Debug)]
pub(super) struct Sources {
    fleet: Arc<Fleet>,
    stock: Stock,
    metrics: Arc<Metrics>,
    repository: Repository,
    digest: Digest,
    now: Mutex<Arc<Source>>,
    /// Held by the one who looks for another source; `None` since one delivered.
    search: tokio::sync::Mutex<Option<Search>>,
}

/// The search for a source that delivers.
#[derive(Debug)]
struct Search {
    begun: Instant,
    pauses: Pauses,
}

impl Sources {
    /// Claims the fill of `digest`, or learns who does it.
    ///
    /// # Errors
    /// [`FillError::HeldElsewhere`] where another process does it that cannot be asked for its bytes, or is not to be
    /// (`follows`).
    pub(super) async fn find(
        fleet: &Arc<Fleet>,
        stock: &Stock,
        metrics: &Arc<Metrics>,
        repository: &Repository,
        digest: &Digest,
        follows: bool,
    ) -> Result<Self, FillError> {
        let found = claim(fleet, stock, repository, digest).await?;
        if matches!(found, Source::Peer(_)) && !follows {
            return Err(FillError::HeldElsewhere);
        }
        Ok(Self {
            fleet: Arc::clone(fleet),
            stock: stock.clone(),
            metrics: Arc::clone(metrics),
            repository: repository.clone(),
            digest: digest.clone(),
            now: Mutex::new(Arc::new(found)),
            search: tokio::sync::Mutex::default(),
        })
    }

    /// Records that this process does the fill, of `size` bytes. What a process before it was putting into the store is
    /// taken away: nobody will finish it.
    ///
    /// # Errors
    /// The catalog's.
    pub(super) async fn begin(&self, size: u64) -> Result<(), FillError> {
        if self.stock.catalog.begin_fill(&self.digest, &self.repository, size).await?
            && let Err(error) = self.stock.store.sweep_uploads_of(&self.digest).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(blob.digest = %self.digest, error, "an earlier upload stays until the next sweep");
        }
        Ok(())
    }

    /// Ends the fill where this process does it: its row goes and its lease is given back, whoever still reads from it.
    pub(super) async fn end(&self) {
        if let Source::Upstream(lease) = &*self.now() {
            match lease.end_fill(&self.digest, self.repository.upstream()).await {
                Ok(()) | Err(CatalogError::LeaseLost { .. }) => {}
                Err(error) => {
                    tracing::warn!(blob.digest = %self.digest, %error, "the end of a fill could not be recorded");
                }
            }
            lease.give_back().await;
        }
    }

    /// Gives the lease back, where this process has it: somebody else may go on with the fill.
    pub(super) async fn give_back(&self) {
        if let Source::Upstream(lease) = &*self.now() {
            lease.give_back().await;
        }
    }

    /// Returns the source of now.
    pub(super) fn now(&self) -> Arc<Source> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the source to ask: not the upstream where another process may do the fill by now. The `size` is the
    /// blob's, where it is known.
    ///
    /// # Errors
    /// As for [`Sources::leave`].
    pub(super) async fn current(&self, size: Option<u64>) -> Result<Arc<Source>, FillError> {
        loop {
            let now = self.now();
            match &*now {
                Source::Upstream(lease) if lease.is_lost() => self.leave(&now, size).await?,
                Source::Upstream(_) | Source::Peer(_) | Source::Stored(..) => return Ok(now),
            }
        }
    }

    /// Says that the source of now delivered bytes.
    pub(super) async fn delivered(&self) {
        *self.search.lock().await = None;
    }

    /// Looks for another source than `left`, which did not deliver, or finds that it is still the one, after a pause that
    /// is the longer the longer nobody delivers. Of many who leave the same source one looks.
    ///
    /// # Errors
    /// [`FillError::HeldElsewhere`] when nobody delivered anything for long; the catalog's, when it is away for as long.
    pub(super) async fn leave(&self, left: &Arc<Source>, size: Option<u64>) -> Result<(), FillError> {
        let mut search = self.search.lock().await;
        if !Arc::ptr_eq(left, &self.now()) {
            return Ok(());
        }
        let Search { begun, pauses } =
            search.get_or_insert_with(|| Search { begun: Instant::now(), pauses: Pauses::new() });
        loop {
            pauses.wait().await;
            let is_over = begun.elapsed() >= self.patience();
            match self.look_again(size).await {
                Ok(()) if self.now().is_upstream() => {
                    *search = None;
                    return Ok(());
                }
                Ok(()) if is_over && self.now().is_peer() => return Err(FillError::HeldElsewhere),
                Ok(()) => return Ok(()),
                // What failed may have been the claim or its record: both are done again.
                Err(error) if error.is_passing() && !is_over => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks again who does the fill, and claims it where nobody does.
    ///
    /// # Errors
    /// The catalog's or the store's; then the source is still the one of before.
    pub(super) async fn look_again(&self, size: Option<u64>) -> Result<(), FillError> {
        let found = self.look().await?;
        self.take(found, size).await
    }

    fn patience(&self) -> Duration {
        self.fleet.lease_time().unwrap_or_default() * 3 + PATIENCE
    }

    /// Makes `found` the source. A fill whose `size` is not known yet is begun by who opens it.
    async fn take(&self, found: Source, size: Option<u64>) -> Result<(), FillError> {
        if found.is_upstream() {
            if let Some(size) = size {
                self.begin(size).await?;
            }
            tracing::info!(blob.digest = %self.digest, repo.name = %self.repository, "fill taken over");
            self.metrics.taken_over("fill");
        }
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    /// Asks without a claim first: claims of all processes pass one row of the catalog.
    async fn look(&self) -> Result<Source, FillError> {
        if let Some(stored) = stored(&self.stock, &self.digest).await? {
            return Ok(stored);
        }
        match self.fleet.holder(&work(&self.repository, &self.digest)).await? {
            Some(owner) => peer(&self.fleet, &owner, &self.repository).await,
            None => claim(&self.fleet, &self.stock, &self.repository, &self.digest).await,
        }
    }
}

/// Says that `source` did not deliver.
pub(super) fn log_leaving(digest: &Digest, source: &Source, error: &FillError) {
    let error = error as &dyn std::error::Error;
    tracing::debug!(blob.digest = %digest, %source, error, "a fill looks for another source");
}

pub(super) fn work(repository: &Repository, digest: &Digest) -> Work {
    Work::Fill { digest: digest.clone(), upstream: repository.upstream().to_owned() }
}

async fn claim(fleet: &Fleet, stock: &Stock, repository: &Repository, digest: &Digest) -> Result<Source, FillError> {
    match fleet.claim(&work(repository, digest)).await? {
        // The process that did it before may have ended it since the caller looked.
        Claimed::Mine(lease) => Ok(stored(stock, digest).await?.unwrap_or(Source::Upstream(lease))),
        Claimed::Theirs(owner) => peer(fleet, &owner, repository).await,
    }
}

async fn peer(fleet: &Fleet, owner: &Owner, repository: &Repository) -> Result<Source, FillError> {
    let peer = fleet.peer(owner, repository.upstream()).await;
    peer.map(Source::Peer).ok_or(FillError::HeldElsewhere)
}

async fn stored(stock: &Stock, digest: &Digest) -> Result<Option<Source>, FillError> {
    let Some(row) = stock.catalog.blob(digest).await? else { return Ok(None) };
    Ok(stock.open(&row).await?.map(|blob| Source::Stored(row, blob)))
}

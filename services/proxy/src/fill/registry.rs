//! [`Fills`]: every fill that runs here, one per blob.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, Repository};
use blobstore::BlobStore;
use catalog::{BlobRow, Catalog};
use tokio::sync::Semaphore;

use super::lane::Lanes;
use super::slot::{NotOpened, Purpose, Slot};
use super::{Fill, FillError, Outcome};
use crate::fleet::{Ask, Fleet};
use crate::metrics::Metrics;
use crate::room::Room;
use crate::stock::Stock;

/// The wanted fills that may run at the same time; further ones wait for a place. Unasked ones have
/// places of their own ([`super::lane::Standing::unasked_place`]).
const MAX_FILLS: usize = 128;
/// How long a blob that is here waits for the store or its row: at least as long as a catalog or a store may be out of
/// reach, and a second for each MiB where another process puts it there.
const STORE_PATIENCE: Duration = Duration::from_secs(180);

/// A fill is known by its upstream too: bytes that one upstream is still sending must not reach the
/// clients of another before they are verified.
pub(super) type Key = (String, Digest);

/// Every running fill, by the digest of its blob.
#[derive(Debug)]
pub(crate) struct Fills {
    running: Mutex<HashMap<Key, Arc<Slot>>>,
    lanes: Lanes,
    pub(super) places: Arc<Semaphore>,
    pub(super) store_patience: Duration,
    pub(super) folder: PathBuf,
    pub(super) room: Room,
    pub(super) fleet: Arc<Fleet>,
    pub(super) stock: Stock,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) catalog: Catalog,
    pub(super) metrics: Arc<Metrics>,
}

/// What asking for a blob led to.
#[derive(Debug)]
pub(crate) enum Joined {
    /// A fill that runs; started by this call or an earlier one.
    Running(Arc<Fill>),
    /// The blob is in the store.
    Stored(BlobRow),
}

impl Fills {
    /// Returns an empty registry whose spools are in `folder`, which must exist.
    pub(crate) fn new(folder: PathBuf, room: Room, fleet: Arc<Fleet>, stock: Stock, metrics: Arc<Metrics>) -> Self {
        Self {
            running: Mutex::default(),
            lanes: Lanes::new(Arc::clone(&metrics)),
            places: Arc::new(Semaphore::new(MAX_FILLS)),
            store_patience: STORE_PATIENCE,
            folder,
            room,
            fleet,
            store: Arc::clone(&stock.store),
            catalog: stock.catalog.clone(),
            stock,
            metrics,
        }
    }

    pub(super) fn running(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the running fill of `digest` from the upstream of `repository`, if there is one.
    pub(crate) fn find(&self, repository: &Repository, digest: &Digest) -> Option<Arc<Fill>> {
        self.running().get(&key(repository, digest))?.fill()
    }

    /// Returns the running fill of `digest` from `upstream` for another process, which asks for its bytes.
    ///
    /// # Errors
    /// The upstream's refusal, where the fill is being opened and will not be.
    pub(crate) async fn shared(
        &self,
        upstream: &str,
        digest: &Digest,
        ask: Ask,
    ) -> Result<Option<Joined>, Arc<FillError>> {
        let slot = self.running().get(&(upstream.to_owned(), digest.clone())).map(Arc::clone);
        let Some(slot) = slot else { return Ok(None) };
        if ask != Ask::Unasked {
            slot.standing.want();
        }
        slot.joined().await.map(Some)
    }

    /// Joins the fill of `digest` for a client, or starts it with `client`: from now on it is wanted.
    /// Opening it belongs to no caller: it goes on when all of them leave, and all of them share its
    /// failure.
    ///
    /// The caller must have checked that `repository` may read the blob.
    ///
    /// # Errors
    /// The upstream's refusal, or [`FillError::NoRoom`] when the blob is to be streamed through.
    pub(crate) async fn join_wanted(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Joined, Arc<FillError>> {
        Ok(self.asked(client, repository, digest, true).await?.1)
    }

    /// Joins the fill of `digest`, or starts it, where no client waits: as long as it is unasked it
    /// yields to those that are wanted. This returns when it may go on, so that nobody takes a place to
    /// read from a fill that stands still.
    ///
    /// # Errors
    /// As for [`Fills::join_wanted`].
    pub(crate) async fn join(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Joined, Arc<FillError>> {
        let (slot, joined) = self.asked(client, repository, digest, false).await?;
        slot.standing.cleared().await;
        Ok(joined)
    }

    async fn asked(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        is_wanted: bool,
    ) -> Result<(Arc<Slot>, Joined), Arc<FillError>> {
        let mut may_repeat = true;
        loop {
            let slot = self.slot(client, repository, digest, Purpose::Asked).await;
            if is_wanted {
                slot.standing.want();
            }
            match slot.joined().await {
                // It was to be taken over, and another process was faster. Who asks follows that one.
                Err(error) if may_repeat && slot.is_left_to_another(&error) => may_repeat = false,
                joined => return joined.map(|joined| (slot, joined)),
            }
        }
    }

    /// Takes over the fill of `digest`, which another process left, or joins it where it runs here.
    ///
    /// # Errors
    /// [`FillError::HeldElsewhere`] where another process does it; else as for [`Fills::join_wanted`].
    pub(super) async fn join_left(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Joined, Arc<FillError>> {
        self.slot(client, repository, digest, Purpose::TakeOver).await.joined().await
    }

    /// Returns the slot of a blob: one that is being opened, or a fill that may still succeed. A fill
    /// that has failed is waited out, so that who comes after it is not cut off for its sake.
    async fn slot(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        purpose: Purpose,
    ) -> Arc<Slot> {
        loop {
            let slot = {
                let mut running = self.running();
                match running.get(&key(repository, digest)) {
                    Some(slot) => Arc::clone(slot),
                    None => {
                        let slot = Arc::new(Slot::new(self.lanes.enter(repository.upstream()), purpose));
                        running.insert(key(repository, digest), Arc::clone(&slot));
                        self.fill_slot(&slot, client, repository, digest);
                        return slot;
                    }
                }
            };
            match slot.fill() {
                Some(fill) if matches!(fill.spool.outcome(), Some(Outcome::Failed(_))) => fill.wait_stored().await,
                _ => {
                    self.metrics.coalesced();
                    return slot;
                }
            }
        }
    }

    /// Opens the fill of a new slot, in a task that belongs to no caller.
    fn fill_slot(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
    ) {
        let key = key(repository, digest);
        let (fills, client, repository, slot) =
            (Arc::clone(self), client.clone(), repository.clone(), Arc::clone(slot));
        tokio::spawn(async move {
            let task = {
                let (fills, digest, slot) = (Arc::clone(&fills), key.1.clone(), Arc::clone(&slot));
                tokio::spawn(async move { fills.open(&client, &repository, &digest, &slot).await })
            };
            let opened = task.await.unwrap_or(Err(NotOpened::Failed(Arc::new(FillError::Broken))));
            if opened.is_err() {
                fills.running().remove(&key);
            }
            slot.open(opened);
        });
    }

    async fn open(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        slot: &Slot,
    ) -> Result<Arc<Fill>, NotOpened> {
        // The fill may have ended between the caller's look into the catalog and this one.
        match self.stored(digest).await? {
            Some(row) => Err(NotOpened::Stored(row)),
            None => self.start(client, repository, digest, slot).await,
        }
    }

    /// Returns the row of a blob whose bytes are in the store. A row that outlived its bytes loses them here, so that they
    /// are fetched again.
    async fn stored(&self, digest: &Digest) -> Result<Option<BlobRow>, FillError> {
        let Some(row) = self.catalog.blob(digest).await? else { return Ok(None) };
        Ok(self.stock.open(&row).await?.map(|_blob| row))
    }

    /// Checks that the disk has room for `size` more bytes beside what the running fills will take. What a client waits
    /// for does not stand back behind fills that none waits for: they may take hours.
    ///
    /// # Errors
    /// [`FillError::NoRoom`] when it has not.
    pub(crate) async fn check_room(&self, size: u64, is_wanted: bool) -> Result<(), FillError> {
        let promised: u64 = self
            .running()
            .values()
            .filter_map(|slot| slot.fill())
            .filter(|fill| !is_wanted || fill.standing.is_wanted())
            .map(|fill| fill.size().saturating_sub(fill.spool.have().total()))
            .fold(0, u64::saturating_add);
        self.room.check(size.saturating_add(promised)).await
    }
}

pub(super) fn key(repository: &Repository, digest: &Digest) -> Key {
    (repository.upstream().to_owned(), digest.clone())
}

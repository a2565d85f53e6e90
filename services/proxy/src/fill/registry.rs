//! [`Fills`]: every fill that runs, one per blob; what they end in; what an earlier process left.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, Repository};
use blobstore::{BlobKey, BlobStore, Generation};
use catalog::{BlobRow, Catalog, FillRow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::intervals::Intervals;
use super::journal::{Journal, spool_path};
use super::lane::{Lanes, Standing};
use super::pace::FIRST_SEGMENT;
use super::slot::{NotOpened, Slot};
use super::spool::Spool;
use super::{COLD_BLOCKS, Fill, FillError, Outcome};
use crate::metrics::Metrics;
use crate::room::Room;

/// The wanted fills that may run at the same time; further ones wait for a place. Unasked ones have
/// places of their own ([`Standing::unasked_place`]).
const MAX_FILLS: usize = 128;

/// How long a wanted fill waits for a place before its blob is streamed through instead.
const PLACE_PATIENCE: Duration = Duration::from_secs(10);

/// A fill is known by its upstream too: bytes that one upstream is still sending must not reach the
/// clients of another before they are verified.
type Key = (String, Digest);

/// Every running fill, by the digest of its blob.
#[derive(Debug)]
pub(crate) struct Fills {
    running: Mutex<HashMap<Key, Arc<Slot>>>,
    lanes: Lanes,
    places: Arc<Semaphore>,
    folder: PathBuf,
    room: Room,
    store: Arc<dyn BlobStore>,
    catalog: Catalog,
    metrics: Arc<Metrics>,
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
    pub(crate) fn new(
        folder: PathBuf,
        room: Room,
        store: Arc<dyn BlobStore>,
        catalog: Catalog,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            running: Mutex::default(),
            lanes: Lanes::new(Arc::clone(&metrics)),
            places: Arc::new(Semaphore::new(MAX_FILLS)),
            folder,
            room,
            store,
            catalog,
            metrics,
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the running fill of `digest` from the upstream of `repository`, if there is one.
    pub(crate) fn find(&self, repository: &Repository, digest: &Digest) -> Option<Arc<Fill>> {
        self.running().get(&key(repository, digest))?.fill()
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
        let slot = self.slot(client, repository, digest).await;
        slot.standing.want();
        slot.joined().await
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
        let slot = self.slot(client, repository, digest).await;
        let joined = slot.joined().await?;
        slot.standing.cleared().await;
        Ok(joined)
    }

    /// Returns the slot of a blob: one that is being opened, or a fill that may still succeed. A fill
    /// that has failed is waited out, so that who comes after it is not cut off for its sake.
    async fn slot(self: &Arc<Self>, client: &upstream::Client, repository: &Repository, digest: &Digest) -> Arc<Slot> {
        loop {
            let slot = {
                let mut running = self.running();
                match running.get(&key(repository, digest)) {
                    Some(slot) => Arc::clone(slot),
                    None => return self.new_slot(&mut running, client, repository, digest),
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

    fn new_slot(
        self: &Arc<Self>,
        running: &mut HashMap<Key, Arc<Slot>>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Arc<Slot> {
        let key = key(repository, digest);
        let slot = Arc::new(Slot::new(self.lanes.enter(repository.upstream())));
        running.insert(key.clone(), Arc::clone(&slot));
        let (fills, client, repository, opening) =
            (Arc::clone(self), client.clone(), repository.clone(), Arc::clone(&slot));
        tokio::spawn(async move {
            let task = {
                let (fills, digest, standing) = (Arc::clone(&fills), key.1.clone(), Arc::clone(&opening.standing));
                tokio::spawn(async move { fills.open(&client, &repository, &digest, standing).await })
            };
            let opened = task.await.unwrap_or(Err(NotOpened::Failed(Arc::new(FillError::Broken))));
            if opened.is_err() {
                fills.running().remove(&key);
            }
            opening.open(opened);
        });
        slot
    }

    async fn open(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        standing: Arc<Standing>,
    ) -> Result<Arc<Fill>, NotOpened> {
        let failed = |error| NotOpened::Failed(Arc::new(error));
        // The fill may have ended between the caller's look into the catalog and this one.
        match self.catalog.blob(digest).await {
            Ok(Some(row)) => Err(NotOpened::Stored(row)),
            Ok(None) => self.start(client, repository, digest, standing).await.map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }

    async fn start(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        standing: Arc<Standing>,
    ) -> Result<Arc<Fill>, FillError> {
        let place = self.place(&standing).await?;
        // Where there is no room for anything, the upstream need not be asked twice.
        self.room.check(0).await?;
        let path = spool_path(&self.folder, repository, digest);
        let failed = |source| FillError::Spool { digest: digest.clone(), source };
        let left = Journal::load(&path);
        let gap = match &left {
            Some((size, have)) => have.first_gap(0, *size),
            None => Some(0..FIRST_SEGMENT),
        };
        let first = match gap {
            Some(gap) => {
                // The first segment is a smallest one, so it is asked for however little is granted.
                let _share = standing.share().await;
                let range = gap.start..gap.end.min(gap.start + FIRST_SEGMENT);
                Some(open_blob(client, repository, digest, range).await?)
            }
            None => None,
        };
        let size = match (&first, &left) {
            (Some(answer), _) => answer.total,
            (None, Some((size, _))) => *size,
            (None, None) => 0,
        };
        self.check_room(size, standing.is_wanted()).await?;
        self.catalog.begin_fill(digest, repository, size).await?;
        let have = left.filter(|(was, _)| *was == size).map_or_else(Intervals::default, |(_, have)| have);
        let ranges = first.as_ref().is_none_or(|answer| answer.range.is_some());
        let spool = Spool::create(digest.clone(), size, &path, have).map_err(failed)?;
        if let Some(answer) = &first {
            // Before anybody can know this fill, or a reader would ask for bytes that are on their way.
            let asked = answer.range.clone().unwrap_or(0..answer.total);
            while spool.claim(asked.start, asked.end, u64::MAX).is_some() {}
        }
        let fill = Arc::new(Fill {
            spool,
            client: client.clone(),
            repository: repository.clone(),
            ranges: AtomicBool::new(ranges),
            cold_blocks: Arc::new(Semaphore::new(COLD_BLOCKS)),
            standing,
            over: watch::Sender::new(false),
            metrics: Arc::clone(&self.metrics),
        });
        self.metrics.fill_started();
        tokio::spawn(Arc::clone(self).watch_over(Arc::clone(&fill), first, place));
        Ok(fill)
    }

    /// Waits for a place to run in.
    async fn place(&self, standing: &Standing) -> Result<OwnedSemaphorePermit, FillError> {
        if let Some(place) = standing.unasked_place().await {
            return Ok(place);
        }
        let place = tokio::time::timeout(PLACE_PATIENCE, Arc::clone(&self.places).acquire_owned());
        place.await.ok().and_then(Result::ok).ok_or(FillError::NoRoom)
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

    /// Runs a fill to its end, whatever end that is: the slot is always given up and readers are told.
    async fn watch_over(
        self: Arc<Self>,
        fill: Arc<Fill>,
        first: Option<upstream::BlobAnswer>,
        place: OwnedSemaphorePermit,
    ) {
        let digest = fill.spool.digest().clone();
        let task = tokio::spawn(Arc::clone(&self).finish(Arc::clone(&fill), first));
        if let Err(error) = task.await {
            tracing::error!(blob.digest = %digest, %error, "a fill broke off");
            fill.spool.finish(Outcome::Failed(Arc::new(FillError::Broken)));
        }
        fill.standing.end();
        self.running().remove(&key(&fill.repository, &digest));
        fill.over.send_replace(true);
        drop(place);
    }

    /// Bytes, digest, readers, store, row, in this order. It belongs to no client, so it outlives all
    /// of them.
    async fn finish(self: Arc<Self>, fill: Arc<Fill>, first: Option<upstream::BlobAnswer>) {
        let digest = fill.spool.digest().clone();
        let result = match fill.run(first).await {
            Ok(()) => {
                fill.spool.finish(Outcome::Verified);
                self.publish(&fill).await
            }
            Err(error) => Err(error),
        };
        self.metrics.fill_ended(result.is_ok());
        if let Err(error) = result {
            tracing::error!(
                blob.digest = %digest, repo.name = %fill.repository,
                error = &error as &dyn std::error::Error, "fill failed, nothing of it is kept"
            );
            fill.spool.finish(Outcome::Failed(Arc::new(error)));
        }
        let path = fill.spool.path().to_owned();
        telemetry::blocking(move || Journal::remove(&path)).await;
        if let Err(error) = self.catalog.end_fill(&digest).await {
            tracing::warn!(blob.digest = %digest, %error, "the end of a fill could not be recorded");
        }
    }

    async fn publish(&self, fill: &Fill) -> Result<(), FillError> {
        let digest = fill.spool.digest();
        let key = BlobKey::blob(digest, Generation::random());
        self.store.put_file(&key, fill.spool.path()).await?;
        let row = BlobRow { digest: digest.clone(), size: fill.size(), key: key.to_string() };
        let kept = self.catalog.add_blob(&row, &[&fill.repository]).await?;
        if kept.key != row.key {
            self.store.delete(&key).await?;
        }
        Ok(())
    }

    /// Takes up the fills an earlier process left, with `client_of` naming each one's upstream, and
    /// removes every spool file that belongs to none of them.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        client_of: impl Fn(&Repository) -> Option<upstream::Client>,
    ) -> Result<(), FillError> {
        let mut wanted = Vec::new();
        for row in self.catalog.unfinished_fills().await? {
            match client_of(&row.repository) {
                Some(client) => wanted.push((row, client)),
                None => self.catalog.end_fill(&row.digest).await?,
            }
        }
        let path = |row: &FillRow| spool_path(&self.folder, &row.repository, &row.digest);
        let keep: Vec<PathBuf> = wanted.iter().map(|(row, _)| path(row)).collect();
        let folder = self.folder.clone();
        telemetry::blocking(move || sweep(&folder, &keep)).await;
        for (row, client) in wanted {
            let fills = Arc::clone(self);
            tokio::spawn(async move {
                match fills.join(&client, &row.repository, &row.digest).await {
                    Ok(Joined::Running(_)) => {}
                    Ok(Joined::Stored(_)) => fills.drop_leftover(&row).await,
                    Err(error) => {
                        tracing::warn!(
                            blob.digest = %row.digest, repo.name = %row.repository,
                            error = &error as &dyn std::error::Error, "an earlier fill could not be taken up"
                        );
                        fills.drop_leftover(&row).await;
                    }
                }
            });
        }
        Ok(())
    }

    async fn drop_leftover(&self, row: &FillRow) {
        if self.running().contains_key(&key(&row.repository, &row.digest)) {
            return;
        }
        let path = spool_path(&self.folder, &row.repository, &row.digest);
        telemetry::blocking(move || Journal::remove(&path)).await;
        if let Err(error) = self.catalog.end_fill(&row.digest).await {
            tracing::warn!(blob.digest = %row.digest, %error, "the end of a fill could not be recorded");
        }
    }
}

fn key(repository: &Repository, digest: &Digest) -> Key {
    (repository.upstream().to_owned(), digest.clone())
}

/// Opens a blob at `range`; an empty blob has no ranges and is asked for whole.
async fn open_blob(
    client: &upstream::Client,
    repository: &Repository,
    digest: &Digest,
    range: std::ops::Range<u64>,
) -> Result<upstream::BlobAnswer, FillError> {
    match client.blob(repository.name(), digest, Some(range)).await {
        Err(upstream::UpstreamError::RangeNotSatisfiable { .. }) => {
            Ok(client.blob(repository.name(), digest, None).await?)
        }
        other => Ok(other?),
    }
}

/// Removes every file in the spool folder but the spools in `keep` and their journals.
fn sweep(folder: &std::path::Path, keep: &[PathBuf]) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(path = %folder.display(), %error, "the spool folder could not be read");
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_file() && !keep.contains(&path.with_extension("spool")) {
            Journal::remove(&path);
        }
    }
}

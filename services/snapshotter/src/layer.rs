//! [`Layer`]: the files of one twin, of which the bytes come when they are read.

mod data;
mod error;
mod inflate;
mod kin;
mod proof;
mod replay;
mod rests;
mod run;
mod source;
mod sums;
mod verdicts;
mod waiting;
mod window;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use api::Digest;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::memory::{Memory, Share};
use crate::room::Room;
use crate::tree::{ByDigest, Tree};
use data::{Data, Found};
use run::Run;
use source::Sources;
use verdicts::Verdicts;
use waiting::Waiting;
use window::{Reach, Window};

pub(crate) use error::{OpenError, ReadError};
pub(crate) use kin::Kin;
pub(crate) use proof::{Commitment, Expected, Proof};
pub(crate) use source::{Place, Source, patience};
pub(crate) use verdicts::Verdict;

/// How long a read is tried again while somebody says when to come back: a twin that was evicted is made again.
const COMING: Duration = Duration::from_secs(600);
/// The pause before the second try, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long what nobody waits for yields to a read that fails again and again: its server may be away for long.
const YIELDED: Duration = Duration::from_secs(5);
/// The largest program that is fetched whole once its first bytes were read, in bytes of the blob.
const MOST_AHEAD: u64 = 16 << 20;
/// The most that is fetched early because the layer's author says so, in bytes of the blob.
const MOST_PREFETCHED: u64 = 64 << 20;
/// Of both, what one request brings.
const MOST_WAITED: u64 = 4 << 20;
/// How often a chunk is fetched that comes out as another one.
const CORRUPT_TRIES: u32 = 2;

/// The files of one twin.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) tree: Tree,
    /// Made when it is first wanted.
    by_digest: OnceLock<ByDigest>,
    /// Whether somebody makes it.
    is_ordering: AtomicBool,
    /// What that takes of the memory.
    _share: Share,
    data: Data,
    blob: Digest,
    size: u64,
    sources: Sources,
    /// The proxy that made it.
    maker: Option<String>,
    /// Who fetches which chunk.
    running: Mutex<HashMap<u32, Arc<Run>>>,
    window: Window,
    folder: PathBuf,
    /// Where the TOC begins in the blob, once that was asked.
    end: Mutex<Option<u64>>,
    verdicts: Verdicts,
    /// Who brings all of it and proves it has this.
    pub(crate) proving: AsyncMutex<()>,
    /// Reads that wait for bytes, and those of them that others yield to.
    waiting: AtomicUsize,
    yielded_to: AtomicUsize,
    /// When somebody last read of it.
    last_read: AtomicU64,
    common: Common,
}

/// What all layers have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) room: Arc<Room>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) kin: Arc<Kin>,
    /// How long a read that cannot be served is tried again.
    pub(crate) patience: Duration,
}

/// What readers of all layers cost.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) demand_bytes: AtomicU64,
    pub(crate) background_bytes: AtomicU64,
    pub(crate) copied_bytes: AtomicU64,
    pub(crate) stalled: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What of a chunk is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its bytes, by somebody who waits.
    Bytes,
    /// Its bytes, by somebody who is about to.
    Ahead,
    /// What lies behind it, too.
    Tar,
}

impl Layer {
    /// Opens the layer in `folder`, whose files are `tree`, which takes `share` of the memory. Its bytes come from `sources`, of which
    /// there is at least one. May take its time.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(
        folder: &Path,
        (blob, size): (&Digest, u64),
        (tree, mut share): (Tree, Share),
        sources: Vec<Source>,
        common: Common,
    ) -> Result<Self, OpenError> {
        share.resize(tree.bytes())?;
        let data = Data::open(folder, &tree).map_err(|source| OpenError::Io { path: folder.to_owned(), source })?;
        let window = Window::new(size);
        let maker = sources.first().and_then(Source::maker);
        let layer = Self {
            tree,
            by_digest: OnceLock::new(),
            is_ordering: AtomicBool::new(false),
            _share: share,
            data,
            blob: blob.clone(),
            size,
            sources: Sources::new(sources),
            maker,
            running: Mutex::default(),
            window,
            folder: folder.to_owned(),
            end: Mutex::default(),
            verdicts: Verdicts::open(folder).map_err(|source| OpenError::Io { path: folder.to_owned(), source })?,
            proving: AsyncMutex::default(),
            waiting: AtomicUsize::new(0),
            yielded_to: AtomicUsize::new(0),
            last_read: AtomicU64::new(now()),
            common,
        };
        layer.common.room.add(layer.here());
        Ok(layer)
    }

    fn source_for(&self, wanted: Wanted) -> Source {
        match wanted {
            Wanted::Bytes | Wanted::Ahead => self.sources.first(),
            Wanted::Tar => self.sources.for_tar(),
        }
    }

    /// Adds a place that its bytes come from, too, if it is not known: it is asked when others fail.
    pub(crate) fn add_source(&self, source: Source) {
        self.sources.add(source);
    }

    /// Returns how many bytes its data takes of the disk.
    pub(crate) fn resident(&self) -> u64 {
        self.data.resident()
    }

    /// Writes down which chunks are on the disk.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.data.flush()
    }

    /// Tells whether the bytes of all its files are here.
    pub(crate) fn is_complete(&self) -> bool {
        (0..self.tree.chunks().len() as u32).all(|chunk| self.data.is_present(chunk))
    }

    /// Returns the bytes of the chunks that are here.
    fn here(&self) -> u64 {
        let chunks = (0_u32..).zip(self.tree.chunks()).filter(|(number, _)| self.data.is_present(*number));
        chunks.map(|(_, chunk)| chunk.room()).sum()
    }

    /// Returns when somebody last read of it, in milliseconds since the process began.
    pub(crate) fn last_read(&self) -> u64 {
        self.last_read.load(Ordering::Relaxed)
    }

    /// Takes chunks away; see [`Data::evict`].
    pub(crate) fn evict(&self, wanted: u64, spared: bool) -> u64 {
        let freed = self.data.evict(&self.tree, wanted, spared);
        self.common.room.release(freed);
        freed
    }

    /// Returns how many reads wait for bytes.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Tells whether a read waits that what nobody waits for yields to.
    pub(crate) fn is_urgent(&self) -> bool {
        self.yielded_to.load(Ordering::Acquire) > 0
    }

    /// Returns the plain bytes that came along with others and were not read.
    pub(crate) fn unread(&self) -> u64 {
        let unread = (0_u32..).zip(self.tree.chunks()).filter(|(number, _)| self.data.is_unread(*number));
        unread.map(|(_, chunk)| u64::from(chunk.size)).sum()
    }

    fn known_end(&self) -> Option<u64> {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where the TOC begins, for what lies before it. Nobody waits for what is behind the last chunk; who does wait is not to
    /// depend on it: it is somebody's word.
    fn end_for(&self, wanted: Wanted) -> Option<u64> {
        self.known_end().filter(|_| wanted == Wanted::Tar)
    }

    /// Tells whether the span of a chunk ends where the next one begins, or the TOC.
    fn knows_end_of(&self, chunk: u32, wanted: Wanted) -> bool {
        self.tree.knows_end_of(chunk, self.end_for(wanted))
    }

    fn span(&self, chunks: Range<u32>, wanted: Wanted) -> Range<u64> {
        let span = self.tree.span(chunks, self.end_for(wanted));
        span.start..span.end.min(self.size)
    }

    /// Returns the first chunk of the member that a chunk is in: several small files may be.
    fn first_of_member(&self, chunk: u32) -> u32 {
        self.tree.chunk_at(self.tree.chunks()[chunk as usize].offset)
    }

    /// Returns how many bytes of some chunks are still to come on the disk.
    fn room_of(&self, chunks: Range<u32>) -> u64 {
        let missing = chunks.filter(|&chunk| !self.data.is_present(chunk));
        missing.map(|chunk| self.tree.chunks()[chunk as usize].room()).sum()
    }

    /// Reads data that is known to be here: `None` where some of the chunks are not.
    pub(crate) fn read_now(&self, chunks: Range<u32>, at: u64, buffer: &mut [u8]) -> Option<io::Result<()>> {
        self.last_read.store(now(), Ordering::Relaxed);
        match self.data.read_checked(&self.tree, chunks, at, buffer) {
            Ok(Found::Right) => Some(Ok(())),
            Ok(Found::Missing) => None,
            Ok(Found::Damaged { chunk, freed }) => {
                self.tell_damaged(chunk, freed);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Notes that a read failed whose bytes were here.
    pub(crate) fn tell_failed(&self, error: &io::Error) {
        self.common.counts.failed.fetch_add(1, Ordering::Relaxed);
        let error = error as &dyn std::error::Error;
        tracing::error!(blob.digest = %self.blob, error, "a read from the cache failed");
    }

    fn tell_damaged(&self, chunk: u32, freed: u64) {
        self.common.room.release(freed);
        tracing::warn!(blob.digest = %self.blob, chunk, "a damaged chunk is fetched again");
    }

    /// Waits until `chunks` are here and verified, fetching what is not. What fails is tried again for a while.
    ///
    /// # Errors
    /// The last one.
    pub(crate) async fn want(self: &Arc<Self>, chunks: Range<u32>, wanted: Wanted) -> Result<(), ReadError> {
        let mut waiting = (wanted == Wanted::Bytes).then(|| {
            self.common.counts.stalled.fetch_add(1, Ordering::Relaxed);
            Waiting::begin(self)
        });
        let begun = Instant::now();
        let (mut pause, mut corrupt) = (FIRST_PAUSE, 0);
        loop {
            let asked = self.source_for(wanted);
            let error = match self.try_all(chunks.clone(), wanted).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            corrupt += u32::from(matches!(error, ReadError::Corrupt { .. }));
            if matches!(error, ReadError::Upstream(_) | ReadError::Corrupt { .. }) {
                self.sources.turn_from(&asked);
            }
            let is_late = |patience| begun.elapsed() + pause > patience;
            let is_final = match &error {
                ReadError::Upstream(error) if error.retry_after().is_some() => {
                    is_late(COMING.max(self.common.patience))
                }
                ReadError::Upstream(_) => is_late(self.common.patience),
                ReadError::Corrupt { .. } => corrupt >= CORRUPT_TRIES.max(self.sources.count()),
                // Something else may be evicted.
                ReadError::Disk(full) if is_full(full) && wanted == Wanted::Bytes => {
                    self.common.room.ask_for(window::MOST);
                    is_late(self.common.patience)
                }
                ReadError::Disk(_) | ReadError::NoRoom | ReadError::Over => true,
            };
            if wanted != Wanted::Bytes && matches!(&error, ReadError::Disk(full) if is_full(full)) {
                return Err(ReadError::NoRoom);
            }
            self.tell(&error, is_final, wanted);
            if is_final {
                return Err(error);
            }
            if begun.elapsed() >= YIELDED {
                waiting.iter_mut().for_each(Waiting::hold_nobody_up);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn tell(&self, error: &ReadError, is_final: bool, wanted: Wanted) {
        let (blob, error) = (&self.blob, error as &dyn std::error::Error);
        match is_final {
            true if wanted == Wanted::Bytes => {
                self.common.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(blob.digest = %blob, error, "a read of a layer failed");
            }
            true => tracing::error!(blob.digest = %blob, error, "a read of a layer failed"),
            false => tracing::warn!(blob.digest = %blob, error, "a read of a layer is tried again"),
        }
    }

    async fn try_all(self: &Arc<Self>, chunks: Range<u32>, wanted: Wanted) -> Result<(), ReadError> {
        self.check_present(chunks.clone()).await?;
        // All are begun before any is waited for.
        let runs: Vec<(u32, Arc<Run>)> =
            chunks.clone().filter_map(|chunk| Some((chunk, self.run_for(chunk, chunks.end, wanted)?))).collect();
        for (chunk, run) in runs {
            run.arrived(chunk).await?;
        }
        Ok(())
    }

    /// Verifies what an earlier process left on the disk, where it was not read since.
    async fn check_present(self: &Arc<Self>, chunks: Range<u32>) -> Result<(), ReadError> {
        let unchecked = |&chunk: &u32| self.data.is_present(chunk) && !self.data.is_checked(chunk);
        let unchecked: Vec<u32> = chunks.filter(unchecked).collect();
        if unchecked.is_empty() {
            return Ok(());
        }
        let layer = Arc::clone(self);
        let check = move || unchecked.into_iter().try_for_each(|number| layer.check(number).map(drop));
        Ok(telemetry::blocking(check).await?)
    }

    /// Verifies a chunk that an earlier process left, and tells whether it is right; if not, it is no longer here.
    fn check(&self, number: u32) -> io::Result<bool> {
        let chunk = &self.tree.chunks()[number as usize];
        let Some(freed) = self.data.check(number, chunk)? else { return Ok(true) };
        self.tell_damaged(number, freed);
        Ok(false)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u32, Arc<Run>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns who fetches `chunk`, beginning a run where nobody does; `None` if it is here. A run goes on to `end`, and as
    /// far behind it as the window reaches: what is read next often lies there, and one request brings it all.
    fn run_for(self: &Arc<Self>, chunk: u32, end: u32, wanted: Wanted) -> Option<Arc<Run>> {
        let is_here = |chunk| match wanted {
            Wanted::Bytes => self.data.is_checked(chunk),
            Wanted::Ahead => self.data.is_present(chunk),
            Wanted::Tar => self.data.is_whole(chunk),
        };
        let mut running = self.running();
        // Under the lock: a run that ends marks its chunks before it is taken out.
        if is_here(chunk) {
            return None;
        }
        if let Some(run) = running.get(&chunk) {
            return Some(Arc::clone(run));
        }
        let chunks = self.tree.chunks();
        let offset = chunks[chunk as usize].offset;
        let (reach, end) = match wanted {
            Wanted::Bytes => (self.window.miss(chunk, offset), end),
            // Not in one request: who reads its end first is not to wait for all.
            Wanted::Ahead => (Reach::default(), end.min(self.tree.chunk_at(offset + MOST_WAITED).max(chunk + 1))),
            Wanted::Tar => (Reach::default(), end),
        };
        let mut last = chunk + 1;
        while (last as usize) < chunks.len()
            && !is_here(last)
            && (last < end || !self.data.is_present(last))
            && !running.contains_key(&last)
            && (last < end || chunks[last as usize].offset - offset < reach.behind)
        {
            last += 1;
        }
        if wanted == Wanted::Bytes {
            self.window.ran_to(last);
        }
        let asked = if wanted == Wanted::Ahead { chunk } else { end };
        let run = Arc::new(Run::new(chunk..last, asked, wanted));
        running.extend((chunk..last).map(|chunk| (chunk, Arc::clone(&run))));
        drop(running);
        tokio::spawn(Arc::clone(&run).fetch(Arc::clone(self)));
        let first = self.tree.chunk_at(offset.saturating_sub(reach.before));
        (first..chunk).for_each(|before| drop(self.run_for(before, chunk, Wanted::Ahead)));
        Some(run)
    }

    /// Begins to fetch what the layer's author says that is read first.
    pub(crate) fn prefetch(self: &Arc<Self>) {
        let end = self.tree.prefetched().min(self.tree.chunk_at(MOST_PREFETCHED));
        let layer = Arc::clone(self);
        let fetch = async move {
            let mut next = 0;
            while next < end {
                let last = layer.tree.chunk_at(layer.tree.chunks()[next as usize].offset + MOST_WAITED);
                let last = last.clamp(next + 1, end);
                if !layer.common.room.is_ample(layer.room_of(next..last)) {
                    return;
                }
                // What went wrong is in the log.
                if layer.want(next..last, Wanted::Ahead).await.is_err() {
                    return;
                }
                next = last;
            }
        };
        if end > 0 {
            tracing::debug!(blob.digest = %self.blob, chunks = end, "what is read first is fetched");
            tokio::spawn(fetch);
        }
    }

    /// Begins to fetch what is missing of a file that is read in no order, as programs are; nobody waits for it yet.
    pub(crate) fn read_ahead(self: &Arc<Self>, file: Range<u32>) {
        let span = self.span(file.clone(), Wanted::Ahead);
        if span.end.saturating_sub(span.start) <= MOST_AHEAD {
            file.clone().for_each(|chunk| drop(self.run_for(chunk, file.end, Wanted::Ahead)));
        }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.common.room.release(self.here());
    }
}

/// Tells whether there is no room on the disk, or none left for us.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Returns the milliseconds since this was first asked.
fn now() -> u64 {
    static BEGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

//! Drives a fill: segment after segment, each in the fill's turn, retries, the hash that follows the
//! front.

use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Hasher;
use blobstore::OpenBlob;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use upstream::{BlobAnswer, BlobBody, UpstreamError};

use super::journal::Journal;
use super::lane::Share;
use super::pace::Pace;
use super::source::{Source, log_leaving};
use super::spool::Spool;
use super::{Fill, FillError};
use crate::fleet::{Ask, Peer};
use crate::metrics::Fetched;

/// The most bytes written to the spool in one step.
const WRITE_BATCH: usize = 256 << 10;
/// Failures in a row, without a byte between them, after which a fill is given up.
const MAX_FAILURES: u32 = 8;
const JOURNAL_EVERY: Duration = Duration::from_secs(1);
/// The bytes read from the store in one step.
const STORED_STEP: usize = 1 << 20;
/// The bytes hashed in one step off the asynchronous threads.
const HASH_STEP: u64 = 4 << 20;

/// Claimed bytes that are being fetched. What has not arrived when this is dropped is released.
#[derive(Debug)]
pub(super) struct Claim {
    fill: Arc<Fill>,
    rest: Range<u64>,
}

impl Claim {
    pub(super) fn new(fill: &Arc<Fill>, range: Range<u64>) -> Self {
        Self { fill: Arc::clone(fill), rest: range }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            self.fill.spool.release(self.rest.clone());
        }
    }
}

/// What the driver and its running segments share.
#[derive(Debug)]
struct Flow {
    pace: Mutex<Pace>,
    /// Bytes the newest segment still has to bring.
    remaining: AtomicU64,
    nearly_done: Notify,
}

impl Flow {
    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, bytes: u64, rest: u64) {
        let lead = {
            let mut pace = self.pace();
            pace.received(bytes);
            pace.lead()
        };
        self.remaining.store(rest, Ordering::Relaxed);
        if rest <= lead {
            self.nearly_done.notify_one();
        }
    }

    fn may_start(&self, running: usize) -> bool {
        running == 0 || (running == 1 && self.remaining.load(Ordering::Relaxed) <= self.pace().lead())
    }
}

impl Fill {
    /// Fetches every byte and checks the digest. `first` is the answer that opened the fill.
    pub(super) async fn run(self: &Arc<Self>, first: Option<BlobAnswer>) -> Result<(), FillError> {
        let (_, found) = tokio::try_join!(self.fetch_all(first), self.hash_front())?;
        let expected = self.spool.digest();
        if found == *expected { Ok(()) } else { Err(FillError::WrongDigest { expected: expected.clone(), found }) }
    }

    /// Hashes the bytes in order as the front grows.
    async fn hash_front(self: &Arc<Self>) -> Result<api::Digest, FillError> {
        let mut hasher = Hasher::new(self.spool.digest().algorithm());
        let mut at = 0;
        while at < self.size() {
            let front = match self.spool.wait_for(at).await {
                Ok(front) => front,
                // The other half of the fill failed and says why.
                Err(_) => std::future::pending().await,
            };
            let end = front.min(at + HASH_STEP);
            let fill = Arc::clone(self);
            hasher = telemetry::blocking(move || fill.hash_range(hasher, at..end)).await?;
            at = end;
        }
        Ok(hasher.finish())
    }

    fn hash_range(&self, mut hasher: Hasher, range: Range<u64>) -> Result<Hasher, FillError> {
        let mut buffer = vec![0; 256 << 10];
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.spool.read_blocking(&mut buffer[..want], at).map_err(|e| self.spool_error(e))?;
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(hasher)
    }

    async fn fetch_all(self: &Arc<Self>, first: Option<BlobAnswer>) -> Result<(), FillError> {
        let flow = Arc::new(Flow {
            pace: Mutex::new(Pace::start()),
            remaining: AtomicU64::new(0),
            nearly_done: Notify::new(),
        });
        let mut running = JoinSet::new();
        if let Some(answer) = first {
            self.start_first(&mut running, &flow, answer);
        }
        let mut failures = 0;
        let mut last_total = self.spool.have().total();
        let mut journal = tokio::time::interval(JOURNAL_EVERY);
        let mut changes = self.spool.subscribe();
        let mut share = pin!(self.standing.turn());
        let mut yielding = None;
        while !self.spool.is_complete() || !running.is_empty() {
            let may_start = flow.may_start(running.len()) && self.spool.has_unclaimed();
            if !may_start {
                // Who has nothing to ask for does not yield: patience begins when it has.
                share.set(self.standing.turn());
            }
            // A fill of which something still arrives does not stand still yet.
            if !may_start || !running.is_empty() {
                yielding = None;
            } else if yielding.is_none() {
                yielding = self.standing.yielding();
            }
            tokio::select! {
                granted = &mut share, if may_start => {
                    self.start_next(&mut running, &flow, granted);
                    share.set(self.standing.turn());
                }
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    if let Err(error) = ended.unwrap_or_else(|e| Err(self.spool_error(std::io::Error::other(e)))) {
                        let total = self.spool.have().total();
                        failures = if total > last_total { 1 } else { failures + 1 };
                        last_total = total;
                        self.back_off(failures, error).await?;
                    }
                }
                () = flow.nearly_done.notified() => {}
                () = self.spool.changed(&mut changes), if running.is_empty() => {}
                _ = journal.tick() => self.save_journal().await,
            }
        }
        // What is left to do, hash and store, needs nothing of the link.
        self.standing.end();
        self.save_journal().await;
        Ok(())
    }

    /// Waits before the next try, or gives up with `error`.
    async fn back_off(&self, failures: u32, error: FillError) -> Result<(), FillError> {
        let transient = matches!(&error, FillError::Upstream(e) if e.is_transient());
        if !transient || failures > MAX_FAILURES {
            return Err(error);
        }
        tracing::warn!(
            blob.digest = %self.spool.digest(), repo.name = %self.repository, failures,
            error = &error as &dyn std::error::Error, "fill was cut, going on from its front"
        );
        tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(failures.min(6) - 1)).await;
        Ok(())
    }

    async fn save_journal(self: &Arc<Self>) {
        let fill = Arc::clone(self);
        telemetry::blocking(move || {
            if let Err(error) = Journal::save(fill.spool.path(), fill.size(), &fill.spool.have()) {
                tracing::warn!(blob.digest = %fill.spool.digest(), %error, "spool journal could not be written");
            }
        })
        .await;
    }

    fn start_first(
        self: &Arc<Self>,
        running: &mut JoinSet<Result<(), FillError>>,
        flow: &Arc<Flow>,
        answer: BlobAnswer,
    ) {
        let (fill, flow) = (Arc::clone(self), Arc::clone(flow));
        let range = answer.range.clone().unwrap_or(0..answer.total);
        flow.remaining.store(range.end - range.start, Ordering::Relaxed);
        let kind = if self.sources.now().is_upstream() { Fetched::Fill } else { Fetched::Replica };
        running.spawn(async move {
            let mut claim = Claim::new(&fill, range);
            fill.pump(answer.body, &mut claim, kind, Some(&flow)).await
        });
    }

    /// Starts the next segment, if there still is one to start.
    fn start_next(self: &Arc<Self>, running: &mut JoinSet<Result<(), FillError>>, flow: &Arc<Flow>, share: Share) {
        let most = if self.answers_ranges() { share.of(flow.pace().segment()) } else { u64::MAX };
        let Some(range) = self.spool.claim(0, self.size(), most) else { return };
        let (fill, flow) = (Arc::clone(self), Arc::clone(flow));
        flow.remaining.store(range.end - range.start, Ordering::Relaxed);
        running.spawn(async move {
            let mut claim = Claim::new(&fill, range);
            fill.fetch(&mut claim, Fetched::Fill, Some(&flow)).await
        });
    }

    /// Fetches a block for a cold range.
    pub(super) async fn fetch_cold(self: Arc<Self>, range: Range<u64>) -> Result<(), FillError> {
        let mut claim = Claim::new(&self, range);
        let _permit = self.cold_blocks.acquire().await.map_err(|e| self.spool_error(std::io::Error::other(e)))?;
        self.fetch(&mut claim, Fetched::ColdRange, None).await
    }

    /// Fetches what is claimed from where it is to be had now, and goes on elsewhere where another process does not
    /// deliver.
    async fn fetch(&self, claim: &mut Claim, kind: Fetched, flow: Option<&Flow>) -> Result<(), FillError> {
        loop {
            let source = self.sources.current(Some(self.size())).await?;
            let rest = claim.rest.start;
            let fetched = match &*source {
                Source::Upstream(_) => return self.fetch_upstream(claim, kind, flow).await,
                Source::Peer(peer) => self.fetch_peer(peer, claim, kind, flow).await,
                Source::Stored(_, blob) => self.fetch_stored(&**blob, claim, flow).await,
            };
            if claim.rest.start > rest {
                self.sources.delivered().await;
            }
            let Err(error) = fetched else { return Ok(()) };
            if matches!(error, FillError::Spool { .. }) {
                return Err(error);
            }
            log_leaving(self.spool.digest(), &source, &error);
            self.sources.leave(&source, Some(self.size())).await?;
        }
    }

    /// Fetches from the spool of the process that does the fill.
    async fn fetch_peer(
        &self,
        peer: &Peer,
        claim: &mut Claim,
        kind: Fetched,
        flow: Option<&Flow>,
    ) -> Result<(), FillError> {
        let answer = peer.blob(self.ask(kind), self.spool.digest(), Some(claim.rest.clone())).await?;
        if answer.total != self.size() || answer.range.as_ref() != Some(&claim.rest) {
            return Err(UpstreamError::Protocol { what: "another range or size than asked for".into() }.into());
        }
        self.pump(answer.body, claim, Fetched::Replica, flow).await
    }

    /// Returns how another process is asked for bytes that are fetched for `kind`.
    pub(super) fn ask(&self, kind: Fetched) -> Ask {
        match kind {
            Fetched::ColdRange => Ask::Now,
            _ if self.standing.is_wanted() => Ask::Wanted,
            _ => Ask::Unasked,
        }
    }

    /// Fetches from the store, where another process has put the blob meanwhile.
    async fn fetch_stored(&self, blob: &dyn OpenBlob, claim: &mut Claim, flow: Option<&Flow>) -> Result<(), FillError> {
        while !claim.rest.is_empty() {
            let want = usize::try_from(claim.rest.end - claim.rest.start).unwrap_or(usize::MAX).min(STORED_STEP);
            let piece = blob.read(claim.rest.start, want).await?;
            let len = piece.len();
            if len == 0 {
                return Err(
                    UpstreamError::Protocol { what: "the stored blob is shorter than its row says".into() }.into()
                );
            }
            self.metrics.fetched(Fetched::Replica, len);
            self.store(claim, vec![piece]).await?;
            if let Some(flow) = flow {
                flow.received(len as u64, claim.rest.end - claim.rest.start);
            }
        }
        Ok(())
    }

    async fn fetch_upstream(&self, claim: &mut Claim, kind: Fetched, flow: Option<&Flow>) -> Result<(), FillError> {
        let answer = self.client.blob(self.repository.name(), self.spool.digest(), Some(claim.rest.clone())).await?;
        if answer.total != self.size() {
            return Err(UpstreamError::Protocol { what: "the size of the blob changed".into() }.into());
        }
        match answer.range {
            Some(range) if range == claim.rest => self.pump(answer.body, claim, kind, flow).await,
            Some(_) => Err(UpstreamError::Protocol { what: "another range than asked for".into() }.into()),
            None => {
                // From now on no block is asked for alone: each would bring the whole blob again.
                self.ranges.store(false, Ordering::Relaxed);
                self.pump_whole(answer.body, claim, kind).await
            }
        }
    }

    /// Takes the claimed bytes out of a whole answer of an upstream that ignores ranges.
    async fn pump_whole(&self, mut body: BlobBody, claim: &mut Claim, kind: Fetched) -> Result<(), FillError> {
        let mut skip = claim.rest.start;
        while let Some(mut chunk) = body.chunk().await? {
            self.metrics.fetched(kind, chunk.len());
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let _dropped = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
            chunk.truncate(usize::try_from(claim.rest.end - claim.rest.start).unwrap_or(usize::MAX));
            if claim.rest.is_empty() {
                return Ok(());
            }
            self.store(claim, vec![chunk]).await?;
        }
        Ok(())
    }

    /// Writes a body into the spool as it arrives, in batches of what is there already.
    async fn pump(
        &self,
        mut body: BlobBody,
        claim: &mut Claim,
        kind: Fetched,
        flow: Option<&Flow>,
    ) -> Result<(), FillError> {
        while !claim.rest.is_empty() {
            let Some(chunk) = body.chunk().await? else {
                return Err(UpstreamError::Protocol { what: "the body is shorter than announced".into() }.into());
            };
            let mut len = chunk.len();
            let mut batch = vec![chunk];
            let mut failure = None;
            while len < WRITE_BATCH {
                match body.chunk().now_or_never() {
                    Some(Ok(Some(more))) => {
                        len += more.len();
                        batch.push(more);
                    }
                    Some(Err(error)) => {
                        failure = Some(error);
                        break;
                    }
                    Some(Ok(None)) | None => break,
                }
            }
            self.metrics.fetched(kind, len);
            self.store(claim, batch).await?;
            if let Some(flow) = flow {
                flow.received(len as u64, claim.rest.end - claim.rest.start);
            }
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Writes `batch` at the start of what is left of the claim.
    async fn store(&self, claim: &mut Claim, batch: Vec<Bytes>) -> Result<(), FillError> {
        let len: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let at = claim.rest.start;
        if len > claim.rest.end - at {
            return Err(UpstreamError::Protocol { what: "the body is longer than announced".into() }.into());
        }
        let fill = Arc::clone(&claim.fill);
        telemetry::blocking(move || Spool::write(&fill.spool, at, &batch)).await.map_err(|e| self.spool_error(e))?;
        claim.rest.start = at + len;
        Ok(())
    }
}

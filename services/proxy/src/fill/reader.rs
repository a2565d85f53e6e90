//! [`FillReader`]: one client's way through a running fill.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::spool::Available;
use super::{BLOCK, Fill, FillError};

/// The bytes handed to a client in one piece.
const PIECE: u64 = 128 << 10;
/// The bytes at the end of a whole answer that wait for the digest.
const HELD_BACK: u64 = 64 << 10;
/// Failed fetches after which a range is given up.
const MAX_FAILURES: u32 = 4;

/// How a reader waits for what is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The answer is the whole blob: its bytes come with the fill, and its end waits for the digest.
    Whole,
    /// The answer is a range: what nobody fetches yet is fetched for it.
    Range,
    /// Another process fills its own spool: the bytes come with the fill, and who reads checks the digest.
    Following,
}

/// Reads a range of a fill while it runs, at the client's own speed.
#[derive(Debug)]
pub(crate) struct FillReader {
    fill: Arc<Fill>,
    rest: Range<u64>,
    manner: Manner,
    fetching: Option<JoinHandle<Result<(), FillError>>>,
    failures: u32,
}

impl FillReader {
    /// Returns a reader of `range`, which must lie within the blob.
    pub(crate) fn new(fill: Arc<Fill>, range: Range<u64>) -> Self {
        let manner = if range == (0..fill.size()) { Manner::Whole } else { Manner::Range };
        Self { fill, rest: range, manner, fetching: None, failures: 0 }
    }

    /// Returns a reader of `range`, which must lie within the blob, for another process's spool: at once, or as the
    /// fill comes to it.
    pub(crate) fn for_peer(fill: Arc<Fill>, range: Range<u64>, at_once: bool) -> Self {
        let manner = if at_once { Manner::Range } else { Manner::Following };
        Self { fill, rest: range, manner, fetching: None, failures: 0 }
    }

    /// Returns the next piece, or `None` at the end of the range.
    ///
    /// # Errors
    /// The reason when the fill fails. The end of a whole blob is given out only once its digest is
    /// known to be right, so an error always comes before a clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Arc<FillError>> {
        let whole = self.manner == Manner::Whole;
        if whole && self.rest.start == self.fill.size() {
            // Reached at once by an empty blob only; all others waited below.
            return self.fill.wait_verified().await.map(|()| None);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let held = self.fill.size().saturating_sub(HELD_BACK);
        if whole && self.rest.start >= held {
            self.fill.wait_verified().await?;
        }
        let available = match self.manner {
            Manner::Whole | Manner::Following => self.fill.spool.wait_for(self.rest.start).await?,
            Manner::Range => self.bring(self.rest.start).await?,
        };
        let mut end = available.min(self.rest.end).min(self.rest.start + PIECE);
        if whole && self.rest.start < held {
            end = end.min(held);
        }
        let piece = self.fill.spool.read(self.rest.start..end).await.map_err(|e| Arc::new(self.fill.spool_error(e)))?;
        self.rest.start = end;
        Ok(Some(piece))
    }

    /// Waits until the bytes at `position` are there, and fetches them where nobody else does.
    async fn bring(&mut self, position: u64) -> Result<u64, Arc<FillError>> {
        let fill = Arc::clone(&self.fill);
        let mut changes = fill.spool.subscribe();
        loop {
            match fill.spool.at(position)? {
                Available::Until(end) => return Ok(end),
                Available::Unclaimed if fill.answers_ranges() && self.fetching.is_none() => {
                    let block_end = (position / BLOCK + 1) * BLOCK;
                    if let Some(range) = fill.spool.claim(position, block_end, BLOCK) {
                        self.fetching = Some(tokio::spawn(Arc::clone(&fill).fetch_cold(range)));
                    }
                }
                Available::Unclaimed | Available::Claimed => {}
            }
            match &mut self.fetching {
                None => fill.spool.changed(&mut changes).await,
                Some(fetching) => tokio::select! {
                    () = fill.spool.changed(&mut changes) => {}
                    ended = fetching => {
                        self.fetching = None;
                        self.check(ended)?;
                    }
                },
            }
        }
    }

    fn check(&mut self, ended: Result<Result<(), FillError>, tokio::task::JoinError>) -> Result<(), Arc<FillError>> {
        let error = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(error) => self.fill.spool_error(std::io::Error::other(error)),
        };
        self.failures += 1;
        let transient = matches!(&error, FillError::Upstream(e) if e.is_transient());
        if transient && self.failures < MAX_FAILURES { Ok(()) } else { Err(Arc::new(error)) }
    }
}

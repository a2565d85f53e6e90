//! Fetches what is missing of a layer, and proves that its tar is the one that the image's digest commits to.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api::{Digest, TarTail};
use futures_util::{TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use upstream::UpstreamError;

use super::replay::Replayed;
use super::source::{Left, Source, Suspicion};
use super::verdicts::Verdict;
use super::{Layer, ReadError, Wanted, inflate};
use crate::error::with_causes;
use crate::wanted::chain_id;

/// Bytes of the blob that are fetched at once in the background.
const RUN: u64 = 4 << 20;

/// How long a run may take to be over, once its last chunk is here.
const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// Heads of layers that are unpacked at once: one may be large.
static HEADS: Semaphore = Semaphore::const_new(1);
/// Tars that are replayed at once: each makes a tree of its own.
static REPLAYS: Semaphore = Semaphore::const_new(2);

/// The most zeros that a tar ends with, where somebody else says so.
const MOST_ZEROS: u64 = 1 << 30;

/// The tar that a layer must come out as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    pub(crate) commitment: Commitment,
    /// What the source's tar has after its last entry; `None` where the twin itself is the image's layer.
    pub(crate) tail: Option<TarTail>,
}

/// What an image's digest says of a layer's tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Commitment {
    /// Its digest.
    DiffId(Digest),
    /// The chain id that its digest makes with what is below.
    Chain {
        /// The chain id of what is below; `None` of the first layer.
        below: Option<Digest>,
        /// The chain id.
        chain: Digest,
    },
}

impl Commitment {
    fn is_met_by(&self, tar: &Digest) -> bool {
        match self {
            Self::DiffId(diff_id) => diff_id == tar,
            Self::Chain { below, chain } => chain_id(below.as_ref(), tar) == *chain,
        }
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiffId(diff_id) => write!(f, "the tar {diff_id}"),
            Self::Chain { chain, .. } => write!(f, "the uppermost layer of chain {chain}"),
        }
    }
}

impl Expected {
    /// Returns the expectation of a tar of this digest.
    pub(crate) const fn tar(diff_id: Digest, tail: Option<TarTail>) -> Self {
        Self { commitment: Commitment::DiffId(diff_id), tail }
    }

    /// Tells whether what its tar is to end with is no longer than any is.
    pub(crate) fn is_bounded(&self) -> bool {
        match &self.tail {
            None => true,
            Some(TarTail::Bytes(hex)) => hex.len() <= 2 * TarTail::MAX_BYTES,
            Some(TarTail::Zeros(count)) => *count <= MOST_ZEROS,
        }
    }

    /// Returns a word that names it.
    pub(crate) fn key(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Digest::of(&json).hex().to_owned()
    }
}

/// What is known of a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proof {
    /// Not all of it is here.
    Pending,
    /// It is what the image's digest commits to.
    Proven,
    /// It is not. Nothing of it is shown any more.
    Refused,
}

fn broken() -> ReadError {
    UpstreamError::Protocol { what: "a gzip member without a file's bytes is broken".into() }.into()
}

impl Layer {
    /// Returns what is known of the layer's tar.
    pub(crate) fn proof(&self, expected: &Expected) -> Proof {
        self.verdict(expected).get()
    }

    /// Returns what is known of the layer's tar, and will be.
    pub(crate) fn verdict(&self, expected: &Expected) -> Arc<Verdict> {
        self.verdicts.of(expected)
    }

    /// Fetches what is missing, by so many requests at once, while nobody waits for anything else: `idle` is told how many bytes come
    /// on the disk next, and returns when that is so, or an error when the work is to end.
    ///
    /// # Errors
    /// What went wrong, or the end that `idle` tells.
    pub(crate) async fn complete<F: Future<Output = Result<(), ReadError>>>(
        self: &Arc<Self>,
        expected: &Expected,
        at_once: usize,
        idle: impl Fn(u64) -> F,
    ) -> Result<(), ReadError> {
        while let Err(error) = self.bring_ends(&idle).await {
            // Those who are asked here are asked of nobody else's account.
            let is_absent =
                matches!(&error, ReadError::Upstream(UpstreamError::NotFound | UpstreamError::Denied { .. }));
            if !self.fell_short(expected, &error, is_absent)? {
                return Err(error);
            }
        }
        let brought = self.bring_chunks(at_once, &idle).await;
        brought.or_else(|error| self.fell_short(expected, &error, false).and(Err(error)))
    }

    /// Fetches what lies before the first chunk, and where the TOC begins.
    async fn bring_ends<F: Future<Output = Result<(), ReadError>>>(
        self: &Arc<Self>,
        idle: &impl Fn(u64) -> F,
    ) -> Result<(), ReadError> {
        let end = self.end().await?;
        if !self.data.rests.has(0) {
            idle(0).await?;
            let first = self.tree.chunks().first().map_or(end, |chunk| chunk.offset);
            let age = self.data.rests.age();
            self.of_tar(|source| self.bring_head(source, first, age)).await?;
        }
        Ok(())
    }

    async fn bring_chunks<F: Future<Output = Result<(), ReadError>>>(
        self: &Arc<Self>,
        at_once: usize,
        idle: &impl Fn(u64) -> F,
    ) -> Result<(), ReadError> {
        let fetch = |run: Range<u32>| async move {
            idle(self.room_of(run.clone())).await?;
            self.want(run, Wanted::Tar).await
        };
        // What comes for somebody who reads it lacks what is behind the last chunk; it may be about to end.
        for pause in [Duration::ZERO, Duration::ZERO, SHORT_PAUSE] {
            if self.missing_runs().next().is_none() {
                break;
            }
            tokio::time::sleep(pause).await;
            stream::iter(self.missing_runs().map(Ok)).try_for_each_concurrent(at_once, fetch).await?;
        }
        Ok(())
    }

    /// Has a place asked for something of the tar, and the next one where that one fails; if one is to send all of it, only that.
    async fn of_tar<T, F>(&self, ask: impl Fn(Source) -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, ReadError>>,
    {
        let mut tries = if self.sources.is_one_alone() { 1 } else { self.sources.count() };
        loop {
            let source = self.sources.for_tar();
            let error = match ask(source.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.sources.turn_from(&source);
            tries = tries.saturating_sub(1);
            if tries == 0 || !matches!(error, ReadError::Upstream(_)) {
                return Err(error);
            }
        }
    }

    /// Has another place asked for the tar, if one was to send all of it and fell short. Tells whether that is to be done now: the one
    /// that fell short does not have it.
    fn fell_short(&self, expected: &Expected, error: &ReadError, is_absent: bool) -> Result<bool, ReadError> {
        match error {
            ReadError::Upstream(error) if error.retry_after().is_some() => return Ok(false),
            ReadError::Upstream(_) | ReadError::Corrupt { .. } => {}
            ReadError::Disk(_) | ReadError::NoRoom | ReadError::Over => return Ok(false),
        }
        // That may be what was wrong.
        self.forget_end();
        match self.sources.fell_short(is_absent) {
            Left::Same => {
                // As often as there are places it turned already, and is where it was.
                if matches!(error, ReadError::Corrupt { .. }) {
                    self.sources.turn_from(&self.sources.first());
                }
                Ok(false)
            }
            Left::Another => {
                self.data.rests.clear()?;
                Ok(is_absent)
            }
            Left::Nobody => {
                let verdict = self.verdict(expected);
                // Twice: they may have been away.
                if verdict.accuses_somebody() && verdict.note_nobody() {
                    self.refuse(expected, "those who have it send another tar")?;
                }
                Ok(false)
            }
        }
    }

    fn forget_end(&self) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns runs of chunks of which something is missing.
    fn missing_runs(&self) -> impl Iterator<Item = Range<u32>> {
        let chunks = self.tree.chunks();
        let is_missing = move |number: &u32| !self.data.is_whole(*number);
        let count = chunks.len() as u32;
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..count).find(is_missing)?;
            let is_near =
                |&number: &u32| chunks[number as usize].offset.saturating_sub(chunks[first as usize].offset) < RUN;
            let last = (first + 1..count).take_while(|number| is_missing(number) && is_near(number)).last();
            next = last.unwrap_or(first) + 1;
            Some(first..next)
        })
    }

    /// Hashes the tar that all the bytes make, and remembers what came of it.
    ///
    /// # Errors
    /// The disk's, or that of what is fetched for it.
    pub(crate) async fn prove(self: &Arc<Self>, expected: &Expected) -> Result<Proof, ReadError> {
        let mut tries = self.sources.count();
        loop {
            let error = match self.replay_all(expected).await {
                Ok(proof) => return Ok(proof),
                Err(error) => error,
            };
            if self.fell_short(expected, &error, false)? {
                return Ok(Proof::Pending);
            }
            tries = tries.saturating_sub(1);
            // Where the next one has another end of it.
            if tries == 0 || self.sources.is_one_alone() || !matches!(error, ReadError::Upstream(_)) {
                return Err(error);
            }
        }
    }

    async fn replay_all(self: &Arc<Self>, expected: &Expected) -> Result<Proof, ReadError> {
        let end_of_twin = match expected.tail {
            // The TOC is part of this tar, and its header is nowhere else.
            None => {
                let end = self.end().await?;
                let members = |source: Source| async move { source.toc_members(end, &self.folder).await };
                Some(self.of_tar(members).await?)
            }
            Some(_) => None,
        };
        // Never closed.
        let _turn = REPLAYS.acquire().await;
        let (layer, expected) = (Arc::clone(self), expected.clone());
        let age = layer.data.rests.age();
        let prove = move || match layer.replay(&expected, end_of_twin) {
            Ok(found) => Ok(layer.remember(&expected, &found, age)?),
            // Only what was fetched for it is packed.
            Err(ReadError::Disk(error)) if error.kind() == io::ErrorKind::InvalidData => {
                layer.sources.turn_from(&layer.sources.first());
                Err(broken())
            }
            Err(error) => Err(error),
        };
        telemetry::blocking(prove).await
    }

    fn remember(&self, expected: &Expected, found: &Replayed, age: u64) -> io::Result<Proof> {
        let is_expected = expected.commitment.is_met_by(&found.tar);
        if is_expected && found.story.is_ok() {
            self.sources.acquit();
            self.verdicts.put(expected, Proof::Proven)?;
            return Ok(Proof::Proven);
        }
        // What lies between the files is verified by this alone: it is fetched again, all of each place that has it.
        if !is_expected {
            if self.data.rests.age() != age {
                // Of some that were forgotten meanwhile.
                return Ok(Proof::Pending);
            }
            let suspicion = self.sources.suspect(&self.verdict(expected));
            if suspicion == Suspicion::Again {
                let tar = &found.tar;
                tracing::warn!(blob.digest = %self.blob, %tar, "a layer is not what it should be and is fetched again");
                self.data.rests.clear()?;
                self.forget_end();
            }
            if suspicion != Suspicion::Confirmed {
                return Ok(Proof::Pending);
            }
        }
        let story = found.story.as_ref().err().map(|error| format!(", {}", with_causes(error)));
        self.refuse(expected, &format!("its tar is {}{}", found.tar, story.unwrap_or_default()))?;
        Ok(Proof::Refused)
    }

    fn refuse(&self, expected: &Expected, why: &str) -> io::Result<()> {
        tracing::error!(
            blob.digest = %self.blob, expected = %expected.commitment, why,
            "a layer is not what its image says: nothing of it is shown any more"
        );
        self.verdicts.put(expected, Proof::Refused)
    }

    /// Returns where the TOC begins in the blob.
    async fn end(&self) -> Result<u64, ReadError> {
        if let Some(end) = self.known_end() {
            return Ok(end);
        }
        let last = self.tree.chunks().last().map(|last| last.offset);
        let ask = |source: Source| async move {
            match source.toc_offset().await? {
                // Who says so has another blob.
                end if last.is_some_and(|last| end <= last) => {
                    Err(UpstreamError::Protocol { what: format!("the TOC cannot begin at {end}") }.into())
                }
                end => Ok(end),
            }
        };
        let end = self.of_tar(ask).await?;
        Ok(*self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end))
    }

    /// Fetches what lies before the first chunk, which begins at `first`.
    async fn bring_head(self: &Arc<Self>, source: Source, first: u64, age: u64) -> Result<(), ReadError> {
        if first == 0 {
            return Ok(self.data.rests.put(0, &[], age)?);
        }
        let packed = source.members(0..first, &self.folder).await?;
        // Never closed.
        let _alone = HEADS.acquire().await;
        let layer = Arc::clone(self);
        let keep = move || {
            let plain = inflate::head(packed).map_err(|_| broken())?;
            Ok(layer.data.rests.put(0, &plain, age)?)
        };
        telemetry::blocking(keep).await
    }
}

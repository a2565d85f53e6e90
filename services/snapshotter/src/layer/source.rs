//! [`Source`]: where the bytes of a twin come from; [`Sources`]: all places that have them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, RepositoryName};
use bytes::{Bytes, BytesMut};
use estargz::footer::{self, FOOTER_SIZE};
use upstream::{Client, UpstreamError};

use super::ReadError;
use crate::layers::{Clients, Via};

/// The most places that a layer's bytes come from.
const MOST: usize = 8;
/// The most of a blob that is held in memory at once: a large TOC.
const LARGEST_PIECE: u64 = 256 << 20;
/// How long a piece of a blob may take, beside what its bytes take at the slowest.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Returns how long so many bytes of a blob may take, however slowly they come: somebody waits.
pub(crate) const fn patience(bytes: u64) -> Duration {
    Duration::from_secs(PATIENCE.as_secs() + bytes / SLOWEST)
}

/// Where the bytes of a twin come from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) clients: Arc<Clients>,
    pub(crate) via: Via,
    /// The registry as the image's reference named it.
    pub(crate) host: String,
    pub(crate) name: RepositoryName,
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    /// Whether its layers are mounted before they are proven.
    pub(crate) is_trusted: bool,
}

impl Source {
    fn is(&self, via: Via, host: &str, repository: &str) -> bool {
        self.via == via && self.host == host && self.name.as_str() == repository
    }

    /// Returns whom to ask. Not kept: credentials change.
    pub(crate) fn client(&self) -> Result<Client, UpstreamError> {
        self.clients.of(self.via, &self.host).map_err(|error| UpstreamError::Protocol { what: chain(&error) })
    }

    /// Returns a range of the blob.
    pub(super) async fn bytes(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let expected = range.end - range.start;
        if expected > LARGEST_PIECE {
            let what = format!("{expected} bytes without a file's; the most is {LARGEST_PIECE}");
            return Err(UpstreamError::Protocol { what }.into());
        }
        let fetched = tokio::time::timeout(patience(expected), self.piece(range)).await;
        fetched.unwrap_or(Err(UpstreamError::Timeout.into()))
    }

    async fn piece(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let expected = range.end - range.start;
        let mut answer = self.client()?.blob(&self.name, &self.blob, Some(range.clone())).await?;
        // Who does not know ranges sends it all.
        let mut skip = if answer.range.is_some() { 0 } else { range.start };
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < expected {
            let Some(next) = answer.body.chunk().await? else {
                return Err(UpstreamError::Truncated { expected, received: bytes.len() as u64 }.into());
            };
            let passed = skip.min(next.len() as u64);
            skip -= passed;
            bytes.extend_from_slice(&next[passed as usize..]);
        }
        bytes.truncate(expected as usize);
        Ok(bytes.freeze())
    }

    /// Returns where the TOC begins in the blob.
    pub(super) async fn toc_offset(&self) -> Result<u64, ReadError> {
        let wrong = || ReadError::Upstream(UpstreamError::Protocol { what: "the blob has no eStargz footer".into() });
        let start = self.size.checked_sub(FOOTER_SIZE as u64).ok_or_else(wrong)?;
        let footer = self.bytes(start..self.size).await?;
        footer::parse(&footer).filter(|end| *end < start).ok_or_else(wrong)
    }

    /// Returns the gzip members that hold the TOC.
    pub(crate) async fn toc_members(&self) -> Result<Bytes, ReadError> {
        let start = self.toc_offset().await?;
        self.bytes(start..self.size - FOOTER_SIZE as u64).await
    }
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// All places that have the bytes of a twin, first where they are asked next.
#[derive(Debug)]
pub(super) struct Sources(Mutex<Vec<Source>>);

impl Sources {
    pub(super) fn new(source: Source) -> Self {
        Self(Mutex::new(vec![source]))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whom to ask.
    pub(super) fn first(&self) -> Source {
        // There is always one.
        self.all()[0].clone()
    }

    pub(super) fn count(&self) -> u32 {
        self.all().len() as u32
    }

    pub(super) fn have(&self, via: Via, host: &str, repository: &str) -> bool {
        self.all().iter().any(|one| one.is(via, host, repository))
    }

    /// Adds one. Where somebody is trusted, nobody else is asked.
    pub(super) fn add(&self, source: Source) {
        let mut all = self.all();
        match (all.iter().any(|one| one.is_trusted), source.is_trusted) {
            (true, false) => return,
            (false, true) => all.clear(),
            _ => {}
        }
        if all.len() == MOST {
            // The one whose turn is last.
            all.pop();
        }
        all.push(source);
    }

    /// Has another one asked next, if `failed` is the one that would be: of many who failed with it one counts.
    pub(super) fn turn_from(&self, failed: &Source) {
        let mut all = self.all();
        if all[0].is(failed.via, &failed.host, failed.name.as_str()) {
            all.rotate_left(1);
        }
    }
}

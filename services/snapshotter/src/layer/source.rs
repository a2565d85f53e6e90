//! [`Source`]: where the bytes of a twin come from; [`Sources`]: all places that have them.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, RepositoryName};
use bytes::{Bytes, BytesMut};
use estargz::footer::{self, FOOTER_SIZE};
use upstream::{BlobBody, UpstreamError};

use super::ReadError;
use crate::error::with_causes;
use crate::layers::{Clients, Via};
use crate::registries::Hosts;

/// The most places that a layer's bytes come from.
const MOST: usize = 8;
/// The most packed bytes of a blob that belong to no file: its TOC, or what lies before its first file.
const LARGEST_MEMBERS: u64 = 256 << 20;
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
    pub(super) fn hosts(&self) -> Result<Hosts, UpstreamError> {
        self.clients.of(self.via, &self.host).map_err(|error| UpstreamError::Protocol { what: with_causes(&error) })
    }

    /// Returns a small range of the blob.
    async fn bytes(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let gather = async {
            let mut piece = self.piece(&range).await?;
            let mut bytes = BytesMut::new();
            while let Some(next) = piece.next().await? {
                bytes.extend_from_slice(&next);
            }
            Ok(bytes.freeze())
        };
        let fetched = tokio::time::timeout(patience(range.end - range.start), gather).await;
        fetched.unwrap_or(Err(UpstreamError::Timeout.into()))
    }

    /// Asks for a range of the blob.
    async fn piece(&self, range: &Range<u64>) -> Result<Piece, ReadError> {
        let expected = range.end - range.start;
        if expected > LARGEST_MEMBERS {
            let what = format!("{expected} bytes without a file's; the most is {LARGEST_MEMBERS}");
            return Err(UpstreamError::Protocol { what }.into());
        }
        let (answer, _) = self.hosts()?.blob(&self.name, &self.blob, range).await?;
        // Who does not know ranges sends it all.
        let skip = if answer.range.is_some() { 0 } else { range.start };
        Ok(Piece { body: answer.body, skip, expected, received: 0 })
    }

    /// Returns where the TOC begins in the blob.
    pub(crate) async fn toc_offset(&self) -> Result<u64, ReadError> {
        let wrong = || ReadError::Upstream(UpstreamError::Protocol { what: "the blob has no eStargz footer".into() });
        let start = self.size.checked_sub(FOOTER_SIZE as u64).ok_or_else(wrong)?;
        let footer = self.bytes(start..self.size).await?;
        footer::parse(&footer).filter(|end| *end < start).ok_or_else(wrong)
    }

    /// Returns the gzip members that hold the TOC, which begin at `start`, in a file in `folder` that has no name any more.
    pub(crate) async fn toc_members(&self, start: u64, folder: &Path) -> Result<File, ReadError> {
        self.members(start..self.size - FOOTER_SIZE as u64, folder).await
    }

    /// Returns gzip members that hold no file's bytes, in a file in `folder` that has no name any more.
    pub(super) async fn members(&self, range: Range<u64>, folder: &Path) -> Result<File, ReadError> {
        let folder = folder.to_owned();
        let gather = async {
            let mut piece = self.piece(&range).await?;
            let mut file = telemetry::blocking(move || nameless(&folder, "members")).await?;
            while let Some(next) = piece.next().await? {
                file = telemetry::blocking(move || file.write_all(&next).map(|()| file)).await?;
            }
            file.rewind()?;
            Ok(file)
        };
        let fetched = tokio::time::timeout(patience(range.end - range.start), gather).await;
        fetched.unwrap_or(Err(UpstreamError::Timeout.into()))
    }
}

/// A range of a blob on its way.
struct Piece {
    body: BlobBody,
    /// Bytes before it that come nevertheless.
    skip: u64,
    expected: u64,
    received: u64,
}

impl Piece {
    /// Returns what comes next of it; `None` once that is all.
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Self { expected, received, .. } = *self;
        if received == expected {
            return Ok(None);
        }
        let Some(mut next) = self.body.chunk().await? else {
            return Err(UpstreamError::Truncated { expected, received }.into());
        };
        let passed = self.skip.min(next.len() as u64);
        self.skip -= passed;
        drop(next.split_to(passed as usize));
        next.truncate((expected - received).min(next.len() as u64) as usize);
        self.received += next.len() as u64;
        Ok(Some(next))
    }
}

/// Makes a file in a folder that is gone with whoever has it open.
///
/// # Errors
/// The system's.
pub(super) fn nameless(folder: &Path, name: &str) -> io::Result<File> {
    let path = folder.join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
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

    /// Returns how many may be asked, mirrors too.
    pub(super) fn count(&self) -> u32 {
        let all = self.all().clone();
        all.iter().map(|one| one.hosts().map_or(1, |hosts| hosts.count())).sum()
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

    /// Has another one asked next: another host of who is the first, and another place.
    pub(super) fn turn(&self) {
        let first = self.first();
        // Who cannot be asked is left all the same.
        if let Ok(hosts) = first.hosts() {
            hosts.turn();
        }
        self.turn_from(&first);
    }

    /// Has another one asked next, if `failed` is the one that would be: of many who failed with it one counts.
    pub(super) fn turn_from(&self, failed: &Source) {
        let mut all = self.all();
        if all[0].is(failed.via, &failed.host, failed.name.as_str()) {
            all.rotate_left(1);
        }
    }
}

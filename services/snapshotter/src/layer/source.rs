//! [`Source`]: where the bytes of a twin come from; [`Sources`]: all places that have them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Digest, RepositoryName};
use bytes::{Bytes, BytesMut};
use estargz::footer::{self, FOOTER_SIZE};
use upstream::{BlobAnswer, BlobBody, UpstreamError};

use super::ReadError;
use super::verdicts::Verdict;
use crate::clients::Clients;
use crate::error::with_causes;
use crate::layers::{LayerError, Via};
use crate::registries::RegistryError;

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
    pub(crate) place: Place,
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    /// Whether its layers are mounted before they are proven.
    pub(crate) is_trusted: bool,
}

/// A repository at one of those who have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) via: Via,
    /// The registry as the image's reference named it.
    pub(crate) registry: String,
    /// Which of the registry's hosts it is: what its URL is in the configuration, nothing for the registry itself.
    pub(crate) host: String,
    pub(crate) name: RepositoryName,
}

impl Source {
    /// Returns the address of the proxy that makes its twins; `None` of a registry.
    pub(super) fn maker(&self) -> Option<String> {
        self.clients.maker(&self.place)
    }

    /// Asks for the blob, or a range of it.
    pub(super) async fn blob(&self, range: &Range<u64>) -> Result<BlobAnswer, UpstreamError> {
        let told = |error: LayerError| match error {
            LayerError::Registry { source: RegistryError::Gone { .. }, .. } => UpstreamError::NotFound,
            error => UpstreamError::Protocol { what: with_causes(&error) },
        };
        // Not kept: credentials change.
        let client = self.clients.of(&self.place).map_err(told)?;
        let answer = client.blob(&self.place.name, &self.blob, Some(range.clone())).await;
        answer.inspect_err(|error| self.clients.note(&self.place, error))
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
        let answer = self.blob(range).await?;
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

/// All places that have the bytes of a twin; never none.
#[derive(Debug)]
pub(super) struct Sources(Mutex<State>);

#[derive(Debug)]
struct State {
    all: Vec<Source>,
    /// Who is asked next.
    first: usize,
    /// Once what all of them sent made another tar: who may be asked for all of it alone, the next one first.
    alone: VecDeque<usize>,
    /// Whose suspicion that was.
    owner: Option<Arc<Verdict>>,
}

impl State {
    fn new(all: Vec<Source>) -> Self {
        Self { all, first: 0, alone: VecDeque::new(), owner: None }
    }

    fn for_tar(&self) -> usize {
        self.alone.front().copied().unwrap_or(self.first)
    }
}

/// What follows from a tar that is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// All of it is fetched again, of one place alone.
    Again,
    /// Somebody else's suspicion is being followed; then all of it is looked at again.
    Later,
    /// Each place alone sent it.
    Confirmed,
}

/// Who is left to ask for a tar, after one of them fell short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// As before.
    Same,
    /// Another one, for all of it.
    Another,
    /// All have sent another tar, or do not have it.
    Nobody,
}

impl Sources {
    /// Makes them of some, of which there is at least one.
    pub(super) fn new(all: Vec<Source>) -> Self {
        Self(Mutex::new(State::new(all)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whom to ask for what is verified when it comes.
    pub(super) fn first(&self) -> Source {
        let state = self.state();
        state.all[state.first].clone()
    }

    /// Returns whom to ask for what is verified only once all of it is here.
    pub(super) fn for_tar(&self) -> Source {
        let state = self.state();
        state.all[state.for_tar()].clone()
    }

    /// Tells whether what is not verified yet may come from `place`.
    pub(super) fn is_for_tar(&self, place: &Place) -> bool {
        let state = self.state();
        state.alone.front().is_none_or(|&alone| state.all[alone].place == *place)
    }

    /// Tells whether all of a tar is to come from one place.
    pub(super) fn is_one_alone(&self) -> bool {
        !self.state().alone.is_empty()
    }

    pub(super) fn count(&self) -> u32 {
        self.state().all.len() as u32
    }

    /// Adds one that is not known. Where somebody is trusted, nobody else is asked.
    pub(super) fn add(&self, source: Source) {
        let mut state = self.state();
        match (state.all.iter().any(|one| one.is_trusted), source.is_trusted) {
            (true, false) => return,
            (false, true) => {
                *state = State::new(vec![source]);
                return;
            }
            _ if state.all.iter().any(|one| one.place == source.place) => return,
            _ => {}
        }
        if state.all.len() < MOST {
            state.all.push(source);
        } else if state.alone.is_empty() {
            // The one whose turn is last.
            let last = (state.first + MOST - 1) % MOST;
            state.all[last] = source;
        }
    }

    /// Has another one asked next, if `failed` is the one that would be: of many who failed with it one counts.
    pub(super) fn turn_from(&self, failed: &Source) {
        let mut state = self.state();
        if state.all[state.first].place == failed.place {
            state.first = (state.first + 1) % state.all.len();
        }
    }

    /// Has all of the tar come from one place that `verdict` does not know to have sent another one than it is about. What came so far is
    /// to be forgotten for that.
    pub(super) fn suspect(&self, verdict: &Arc<Verdict>) -> Suspicion {
        let mut state = self.state();
        // Before that it may have come of several, also of some that are not here any more.
        let sender = state.alone.front().map(|&sender| state.all[sender].place.clone());
        let is_news = sender.is_some_and(|sender| verdict.accuse(&sender));
        let count = state.all.len();
        let others = (1..=count).map(|step| (state.for_tar() + step) % count);
        let left: VecDeque<usize> = others.filter(|&other| !verdict.accuses(&state.all[other].place)).collect();
        let is_own = state.owner.as_ref().is_none_or(|owner| Arc::ptr_eq(owner, verdict));
        if left.is_empty() {
            if is_own {
                (state.alone, state.owner) = (left, None);
            }
            return Suspicion::Confirmed;
        }
        // An owner that does not go on is gone.
        if !is_own && is_news {
            return Suspicion::Later;
        }
        (state.alone, state.owner) = (left, Some(Arc::clone(verdict)));
        Suspicion::Again
    }

    /// Has another one asked for the tar, if one is asked alone: that one did not send all of it; `is_absent`: and will not.
    pub(super) fn fell_short(&self, is_absent: bool) -> Left {
        let mut state = self.state();
        let Some(&front) = state.alone.front() else { return Left::Same };
        if is_absent {
            state.alone.pop_front();
        } else {
            state.alone.rotate_left(1);
        }
        match state.alone.front() {
            None => {
                state.owner = None;
                Left::Nobody
            }
            Some(&next) if next == front => Left::Same,
            Some(_) => Left::Another,
        }
    }

    /// Has anybody asked again: what they sent is right.
    pub(super) fn acquit(&self) {
        let mut state = self.state();
        state.alone.clear();
        state.owner = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::proxies::Proxies;
    use crate::registries::Registries;

    fn source(host: usize) -> Source {
        let proxies = Arc::new(Proxies::new(&[]).unwrap());
        let registries = Arc::new(Registries::new(&Config::default()));
        Source {
            clients: Arc::new(Clients { proxies, registries }),
            place: Place {
                via: Via::Registry,
                registry: "registry".to_owned(),
                host: host.to_string(),
                name: RepositoryName::parse("app").unwrap(),
            },
            blob: Digest::of(b"blob"),
            size: 1,
            is_trusted: false,
        }
    }

    fn asked(sources: &Sources) -> (String, String) {
        (sources.first().place.host, sources.for_tar().place.host)
    }

    fn hosts(first: &str, for_tar: &str) -> (String, String) {
        (first.to_owned(), for_tar.to_owned())
    }

    #[test]
    fn who_fails_is_asked_last() {
        let sources = Sources::new((0..3).map(source).collect());
        let failed = sources.first();
        sources.turn_from(&failed);
        sources.turn_from(&failed);
        assert_eq!(asked(&sources), hosts("1", "1"));
        (0..3).chain(3..9).for_each(|host| sources.add(source(host)));
        assert_eq!(sources.count(), MOST as u32);
        sources.add(Source { is_trusted: true, ..source(9) });
        sources.add(source(10));
        assert_eq!((sources.count(), asked(&sources)), (1, hosts("9", "9")));
    }

    /// A tar is refused once each place alone has sent a wrong one.
    #[test]
    fn a_wrong_tar_is_fetched_of_each_alone() {
        let sources = Sources::new((0..3).map(source).collect());
        let verdict = Arc::new(Verdict::default());
        assert_eq!(sources.fell_short(true), Left::Same);
        assert!(sources.is_for_tar(&source(2).place) && !sources.is_one_alone());
        assert!(sources.suspect(&verdict) == Suspicion::Again && sources.is_one_alone());
        // Who is read of turns on its own.
        sources.turn_from(&source(1));
        sources.turn_from(&source(0));
        assert_eq!(asked(&sources), hosts("1", "1"));
        assert!(sources.is_for_tar(&source(1).place) && !sources.is_for_tar(&source(2).place));
        let mut alone = Vec::new();
        loop {
            alone.push(sources.for_tar().place.host);
            if sources.suspect(&verdict) == Suspicion::Confirmed {
                break;
            }
        }
        assert_eq!(alone, ["1", "2", "0"]);
        // Another image may want what they send.
        assert_eq!(sources.suspect(&Arc::default()), Suspicion::Again);
        sources.acquit();
        assert!(!sources.is_one_alone());
    }

    /// Who fails is asked again later, who does not have it is not.
    #[test]
    fn who_falls_short_accuses_nobody() {
        let sources = Sources::new((0..2).map(source).collect());
        let verdict = Arc::default();
        assert_eq!(sources.suspect(&verdict), Suspicion::Again);
        assert_eq!((sources.fell_short(false), sources.for_tar().place.host.as_str()), (Left::Another, "0"));
        assert_eq!(sources.suspect(&verdict), Suspicion::Again, "0 sent another tar");
        assert_eq!((sources.fell_short(false), sources.for_tar().place.host.as_str()), (Left::Same, "1"));
        assert_eq!(sources.fell_short(true), Left::Nobody);
        let (one, verdict) = (Sources::new(vec![source(0)]), Arc::default());
        assert_eq!(one.suspect(&verdict), Suspicion::Again, "what was here may have been somebody else's");
        assert_eq!(one.suspect(&verdict), Suspicion::Confirmed);
    }

    /// Two images want other tars of one layer: each hears every place, and what one has fetched again the other one looks at.
    #[test]
    fn a_suspicion_is_followed_to_its_end() {
        let sources = Sources::new((0..2).map(source).collect());
        let [one, two] = [(); 2].map(|()| Arc::new(Verdict::default()));
        let turns = [&one, &two, &one, &two, &one].map(|verdict| sources.suspect(verdict));
        use Suspicion::{Again, Confirmed, Later};
        assert_eq!(turns, [Again, Later, Again, Confirmed, Confirmed]);
        // One that is gone does not keep the other one waiting.
        let sources = Sources::new((0..2).map(source).collect());
        let [one, two] = [(); 2].map(|()| Arc::new(Verdict::default()));
        let turns = [&one, &two, &two, &two].map(|verdict| sources.suspect(verdict));
        assert_eq!(turns, [Again, Later, Again, Confirmed]);
    }
}

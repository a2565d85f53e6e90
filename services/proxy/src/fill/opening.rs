//! Opens a fill: a place, the lease or who has it, the first segment, the spool.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use api::{Digest, Repository, RepositoryName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use upstream::{BlobAnswer, UpstreamError};

use super::intervals::Intervals;
use super::journal::{Journal, spool_path};
use super::lane::Standing;
use super::pace::FIRST_SEGMENT;
use super::slot::{NotOpened, Slot};
use super::source::{Source, Sources, log_leaving};
use super::spool::Spool;
use super::{COLD_BLOCKS, Fill, FillError, Fills};
use crate::fleet::{Ask, Peer};

/// How long a wanted fill waits for a place before its blob is streamed through instead.
const PLACE_PATIENCE: Duration = Duration::from_secs(10);

impl Fills {
    pub(super) async fn start(
        self: &Arc<Self>,
        client: &upstream::Client,
        repository: &Repository,
        digest: &Digest,
        slot: &Slot,
    ) -> Result<Arc<Fill>, NotOpened> {
        let standing = Arc::clone(&slot.standing);
        let place = self.place(&standing).await?;
        // Where there is no room for anything, the upstream need not be asked twice.
        self.room.check(0).await?;
        let sources =
            Sources::find(&self.fleet, &self.stock, &self.metrics, repository, digest, slot.follows()).await?;
        let path = spool_path(&self.folder, repository.upstream(), digest);
        let left = Journal::load(&path);
        let gap = match &left {
            Some((size, have)) => have.first_gap(0, *size),
            None => Some(0..FIRST_SEGMENT),
        };
        let first = match gap {
            Some(gap) => {
                let range = gap.start..gap.end.min(gap.start + FIRST_SEGMENT);
                Some(first_segment(&sources, client, repository, digest, &standing, range).await?)
            }
            None => None,
        };
        let size = match (&first, &left) {
            (Some(answer), _) => answer.total,
            (None, Some((size, _))) => *size,
            (None, None) => 0,
        };
        self.check_room(size, standing.is_wanted()).await?;
        if sources.now().is_upstream() {
            sources.begin(size).await?;
        }
        let have = left.filter(|(was, _)| *was == size).map_or_else(Intervals::default, |(_, have)| have);
        let ranges = first.as_ref().is_none_or(|answer| answer.range.is_some());
        let failed = |source| FillError::Spool { digest: digest.clone(), source };
        let spool = Spool::create(digest.clone(), size, &path, have).map_err(failed)?;
        if let Some(answer) = &first {
            // Before anybody can know this fill, or a reader would ask for bytes that are on their way.
            let asked = answer.range.clone().unwrap_or(0..answer.total);
            while spool.claim(asked.start, asked.end, u64::MAX).is_some() {}
        }
        let fill = Arc::new(Fill {
            spool,
            sources,
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
}

/// Asks for the first segment, wherever the blob is to be had: at the upstream, or at the process that fills it.
async fn first_segment(
    sources: &Sources,
    client: &upstream::Client,
    repository: &Repository,
    digest: &Digest,
    standing: &Standing,
    range: Range<u64>,
) -> Result<BlobAnswer, NotOpened> {
    loop {
        let source = sources.current(None).await?;
        let answer = match &*source {
            Source::Stored(row, _) => return Err(NotOpened::Stored(row.clone())),
            Source::Upstream(_) => {
                // The first segment is a smallest one, so it is asked for however little is granted.
                let _share = standing.share().await;
                return Ok(Opener::Upstream(client, repository.name()).open(digest, range).await?);
            }
            Source::Peer(peer) => {
                let ask = if standing.is_wanted() { Ask::Wanted } else { Ask::Unasked };
                Opener::Peer(peer, ask).open(digest, range.clone()).await
            }
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                log_leaving(digest, &source, &error);
                sources.leave(&source, None).await?;
            }
        }
    }
}

/// Who is asked for the first segment.
enum Opener<'a> {
    Upstream(&'a upstream::Client, &'a RepositoryName),
    Peer(&'a Peer, Ask),
}

impl Opener<'_> {
    /// Opens a blob at `range`; an empty blob has no ranges and is asked for whole.
    async fn open(&self, digest: &Digest, range: Range<u64>) -> Result<BlobAnswer, FillError> {
        match self.blob(digest, Some(range)).await {
            Err(UpstreamError::RangeNotSatisfiable { .. }) => Ok(self.blob(digest, None).await?),
            other => Ok(other?),
        }
    }

    async fn blob(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<BlobAnswer, UpstreamError> {
        match self {
            Self::Upstream(client, name) => client.blob(name, digest, range).await,
            Self::Peer(peer, ask) => peer.blob(*ask, digest, range).await,
        }
    }
}

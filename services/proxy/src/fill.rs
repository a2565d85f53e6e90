//! [`Fill`]: the fetching of one blob from its upstream into a spool, read by many while it runs.
//!
//! A fill asks its upstream for one segment after the other; a cold range asks for the blocks it
//! needs. Whoever asks for bytes claims them first, so no byte is asked for twice. Fills that no client
//! waits for yield to those of the same upstream that one does ([`lane`]). In a fleet one process does
//! a fill; the others fill their own spools from its spool ([`source`]).

mod driver;
mod ending;
pub(crate) mod intervals;
mod journal;
mod lane;
mod opening;
mod pace;
mod pauses;
mod reader;
mod registry;
mod slot;
mod source;
pub(crate) mod spool;
mod taking_up;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{Digest, Repository};
use tokio::sync::{Semaphore, watch};
use upstream::UpstreamError;

use crate::metrics::Metrics;
use crate::stock::StockError;
use lane::Standing;
use source::Sources;
use spool::Spool;

pub(crate) use reader::FillReader;
pub(crate) use registry::{Fills, Joined};
pub(crate) use spool::Outcome;

/// The bytes asked for at once by a cold range.
const BLOCK: u64 = 1 << 20;
/// The cold blocks one fill fetches at the same time.
const COLD_BLOCKS: usize = 16;

/// Why a blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    /// The upstream did not give the bytes.
    #[error("upstream did not deliver the blob")]
    Upstream(#[from] UpstreamError),
    /// The upstream gave other bytes.
    #[error("upstream delivered content with digest {found} for {expected}")]
    WrongDigest {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The spool could not be written or read.
    #[error("spool of {digest} failed")]
    Spool {
        /// The blob.
        digest: Digest,
        /// The cause.
        source: std::io::Error,
    },
    /// The task that ran the fill is gone.
    #[error("fill broke off")]
    Broken,
    /// The blob is not to be stored: the disk is too full.
    #[error("less than storage.min_free of the disk is free")]
    NoRoom,
    /// Another process does the fill, and its spool cannot be read.
    #[error("another replica fills the blob and cannot be asked for it: is server.internal_listen set on all of them?")]
    HeldElsewhere,
    /// Another process does the fill, and did not put the blob into the store in time.
    #[error("the replica that fills the blob did not store it in time: its log says why")]
    NotStored,
    /// The catalog could not be asked.
    #[error("catalog failed")]
    Catalog(#[from] catalog::CatalogError),
    /// The store could not take or give the blob.
    #[error("blob store failed")]
    Store(#[from] blobstore::StoreError),
    /// The catalog names a key that is none.
    #[error("catalog row of a blob is damaged")]
    Key(#[from] blobstore::KeyError),
}

impl FillError {
    /// Tells whether the catalog or the store was out of reach for a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Catalog(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            _ => false,
        }
    }
}

impl From<StockError> for FillError {
    fn from(error: StockError) -> Self {
        match error {
            StockError::Store(error) => Self::Store(error),
            StockError::Key(error) => Self::Key(error),
            StockError::Catalog(error) => Self::Catalog(error),
        }
    }
}

/// The fetching of one blob.
#[derive(Debug)]
pub(crate) struct Fill {
    spool: Spool,
    sources: Sources,
    client: upstream::Client,
    repository: Repository,
    /// Whether the upstream answers ranges; learnt from its first answer.
    ranges: AtomicBool,
    cold_blocks: Arc<Semaphore>,
    standing: Arc<Standing>,
    /// Whether the fill is over and its row, where it has one, is written.
    over: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Fill {
    /// Returns the size of the blob in bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.spool.size()
    }

    /// Returns the spool, for blocking readers.
    pub(crate) const fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Tells whether the byte at `position` is there already.
    pub(crate) fn has(&self, position: u64) -> bool {
        matches!(self.spool.at(position), Ok(spool::Available::Until(_)))
    }

    /// Waits until the digest is known to be right.
    ///
    /// # Errors
    /// The reason when the fill fails.
    pub(crate) async fn wait_verified(&self) -> Result<(), Arc<FillError>> {
        match self.spool.wait_finished().await {
            Outcome::Verified => Ok(()),
            Outcome::Failed(error) => Err(error),
        }
    }

    /// Waits until the blob is in the store and has its row, or the fill has failed.
    pub(crate) async fn wait_stored(&self) {
        let mut over = self.over.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _over = over.wait_for(|over| *over).await;
    }

    fn answers_ranges(&self) -> bool {
        self.ranges.load(Ordering::Relaxed)
    }

    fn spool_error(&self, source: std::io::Error) -> FillError {
        FillError::Spool { digest: self.spool.digest().clone(), source }
    }
}

//! [`Unpacker`]: unpacks a layer of a lazy image that has no twin. Left to containerd, it would fetch all layers above it, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::Digest;
use moka::future::Cache;
use tokio::sync::{Mutex, Semaphore};
use upstream::UpstreamError;

use crate::containerd::{Blob, Containerd, ContainerdError};
use crate::layer::patience;
use crate::proxies::Proxies;
use crate::store::Ordinary;
use crate::wanted::{Wanted, chain_id};
use crate::{Labels, SnapshotError, Snapshots};

/// Layers that are unpacked at once.
const AT_ONCE: usize = 2;
/// How long it may take while a caller waits, who keeps others waiting behind it; after that it goes on alone.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than what it knows a proxy may take to tell the size of a blob: its upstream may have to.
const SIZE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a blob stays at least that is to be unpacked.
const KEPT: Duration = Duration::from_secs(600);
/// How long after the last one nobody is thought to unpack the same layer.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Layers of which it is known that somebody unpacks them.
const MOST: u64 = 10_000;

/// Unpacks layers.
#[derive(Debug)]
pub(crate) struct Unpacker {
    snapshots: Arc<Snapshots>,
    proxies: Arc<Proxies>,
    socket: PathBuf,
    next: AtomicU64,
    slots: Semaphore,
    /// Who unpacks a chain has its turn.
    turns: Cache<Digest, Arc<Mutex<()>>>,
}

/// A layer to unpack.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) wanted: Wanted,
    /// containerd's, in which the image is pulled.
    pub(crate) namespace: String,
    pub(crate) parent: Option<String>,
    /// The chain that the parent is.
    pub(crate) below: Option<Digest>,
    pub(crate) labels: Labels,
    /// Why it is not lazy.
    pub(crate) why: Ordinary,
}

/// Why a layer was not unpacked here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// There is no proxy to fetch it from.
    #[error("no proxy stands for {host}")]
    NoProxy {
        /// The registry.
        host: String,
    },
    /// Its size is not told.
    #[error("its size is not known")]
    Size(#[source] UpstreamError),
    /// containerd did not do its part.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// The layer is not the one that the chain id commits to.
    #[error("the layer's tar is {tar}, which does not make the chain {wanted}: the image is not what it says")]
    Chain {
        /// Its tar.
        tar: Digest,
        /// The chain.
        wanted: Digest,
    },
    /// The snapshot cannot be recorded.
    #[error("the snapshot cannot be recorded")]
    Snapshot(#[from] SnapshotError),
    /// It takes too long.
    #[error("it takes longer than anybody is to wait; it goes on")]
    Late,
    /// There is a snapshot of that name on another parent.
    #[error("there is one of that name on another parent")]
    OtherParent,
    /// There is a snapshot of that name whose layer is not what the image says.
    #[error("there is one of that name that was refused: remove the images that have it")]
    Refused,
    /// The process ends.
    #[error("the work was broken off")]
    BrokenOff,
}

impl Unpacker {
    pub(crate) fn new(snapshots: Arc<Snapshots>, proxies: Arc<Proxies>, socket: PathBuf) -> Self {
        let turns = Cache::builder().max_capacity(MOST).time_to_idle(REMEMBERED).build();
        Self { snapshots, proxies, socket, next: AtomicU64::new(0), slots: Semaphore::new(AT_ONCE), turns }
    }

    /// Fetches a layer into containerd's content store, has containerd unpack it, and commits its snapshot.
    ///
    /// # Errors
    /// See [`UnpackError`]; then nothing is left of it but the blob, or what came of it.
    pub(crate) async fn unpack(self: &Arc<Self>, job: Job) -> Result<(), UnpackError> {
        let unpacker = Arc::clone(self);
        // It ends, and cleans up, also where the caller goes away.
        let work = tokio::spawn(async move { unpacker.work(job).await });
        let done = tokio::time::timeout(PATIENCE, work).await.map_err(|_| UnpackError::Late)?;
        done.unwrap_or(Err(UnpackError::BrokenOff))
    }

    async fn work(&self, job: Job) -> Result<(), UnpackError> {
        let turn = self.turns.get_with(job.wanted.chain.clone(), async { Arc::default() }).await;
        let _turn = turn.lock().await;
        let _slot = self.slots.acquire().await.map_err(|_| UnpackError::BrokenOff)?;
        if let Some(done) = self.known(&job).await {
            return done;
        }
        let key = format!("{}{}", Snapshots::PRIVATE, self.next.fetch_add(1, Ordering::Relaxed));
        let done = self.fill(&job, &key).await;
        if done.is_err() {
            // One that is left is removed at the next start.
            let _left = self.run(move |all| all.remove(&key)).await;
        }
        match done {
            Err(UnpackError::Snapshot(SnapshotError::Exists { .. })) => self.known(&job).await.unwrap_or(done),
            done => done,
        }
    }

    /// Tells whether the snapshot is there, and is what is wanted: containerd looks it up by its parent.
    async fn known(&self, job: &Job) -> Option<Result<(), UnpackError>> {
        let name = job.wanted.chain.to_string();
        let known = move |all: &Snapshots| Ok((all.stat(&name)?, all.is_refused(&name)?));
        let (info, is_refused) = self.run(known).await.ok()?;
        if is_refused {
            return Some(Err(UnpackError::Refused));
        }
        Some(if info.parent == job.parent { Ok(()) } else { Err(UnpackError::OtherParent) })
    }

    async fn fill(&self, job: &Job, key: &str) -> Result<(), UnpackError> {
        let Wanted { host, name, layer, chain, .. } = &job.wanted;
        let (proxy, client) = self.proxies.of(host).ok_or_else(|| UnpackError::NoProxy { host: host.clone() })?;
        // Not of one that is silent.
        let size = proxy.ask(SIZE_PATIENCE, client.blob_size(name, layer)).await.map_err(UnpackError::Size)?;
        let mut containerd = Containerd::connect(&self.socket, &job.namespace).await?;
        containerd.keep_for(patience(size) + KEPT).await?;
        let put = containerd.put(Blob { name, digest: layer, size }, &client, |_| {});
        tokio::time::timeout(patience(size), put).await.map_err(|_| UnpackError::Late)??;
        let (new, parent, why) = (key.to_owned(), job.parent.clone(), Some(job.why.clone()));
        let mount = self.run(move |all| all.prepare(&new, parent.as_deref(), Labels::new(), why)).await?;
        let tar = containerd.apply(layer, size, mount).await?;
        if chain_id(job.below.as_ref(), &tar) != *chain {
            return Err(UnpackError::Chain { tar, wanted: chain.clone() });
        }
        let (key, name, labels) = (key.to_owned(), chain.to_string(), job.labels.clone());
        Ok(self.run(move |all| all.commit(&name, &key, labels)).await?)
    }

    /// Does `work` off the asynchronous threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshots) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let snapshots = Arc::clone(&self.snapshots);
        telemetry::blocking(move || work(&snapshots)).await
    }
}

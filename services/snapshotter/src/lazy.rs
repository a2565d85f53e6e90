//! [`Lazy`]: prepares a layer's snapshot without the layer, where somebody has its twin.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, LazyIndex, LazyState, LazyTwin, RepositoryName};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use upstream::{Client, UpstreamError};

use crate::layer::{self, Layer, OpenError, Proof, ReadError};
use crate::layers::{LayerError, Layers, Origin};
use crate::proxies::{Proxies, Proxy};
use crate::trust::Trust;
use crate::wanted::{REMOTE, Wanted, chain_id};
use crate::{Labels, SnapshotError, Snapshots};

/// How long what a proxy said of a layer is remembered: a pull asks once.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long after a wait that was in vain nobody waits for the same image.
const WAIT_AGAIN: Duration = Duration::from_secs(30);
/// The pause before a proxy is asked again for a conversion that goes on.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a registry may take to tell the size of a blob.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(20);
/// How long a pull waits for a layer that is mounted once it is proven: containerd keeps other calls waiting behind it.
const PROOF_PATIENCE: Duration = Duration::from_secs(60);
/// Layers that are brought for that at once, and how long a pull waits for those before it.
const PROVEN_AT_ONCE: usize = 16;
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How many times as fast as the slowest read such a layer is to come: others wait for their turn.
const LEAST_PACE: u64 = 16;
/// Requests for a layer that is to be proven first, side by side.
const AT_ONCE: usize = 4;
/// Layers remembered.
const MOST: u64 = 100_000;

/// Prepares snapshots without their layers.
#[derive(Debug)]
pub(crate) struct Lazy {
    snapshots: Arc<Snapshots>,
    layers: Arc<Layers>,
    proxies: Arc<Proxies>,
    convert_wait: Duration,
    trust: Arc<Trust>,
    /// Who brings a layer to be proven first has one.
    provers: Arc<Semaphore>,
    /// What was said of layers that have a twin.
    twins: Cache<Key, Arc<LazyTwin>>,
    /// Until when an image is waited for, by its manifest or else its uppermost layer.
    deadlines: Cache<Digest, Instant>,
}

/// A layer of a repository.
type Key = (String, RepositoryName, Digest);

/// Why a snapshot is unpacked in the ordinary way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLazy {
    /// No proxy stands for its registry.
    #[error("no proxy stands for {host}")]
    NoProxy {
        /// The registry.
        host: String,
    },
    /// The proxy gave no lazy index.
    #[error("the proxy did not say")]
    Unreachable(#[source] UpstreamError),
    /// The layer has no twin, or none yet.
    #[error("the layer is {state}: {reason}")]
    NoTwin {
        /// How far it is.
        state: &'static str,
        /// Why.
        reason: String,
        /// Whether other layers of the image have one, or will.
        is_gap: bool,
    },
    /// The layer is not the one that the chain id commits to.
    #[error(
        "the layer's tar is {diff_id}, which makes the chain {found} and not {wanted}: the image is not what it says"
    )]
    Chain {
        /// The layer's plain tar, as the proxy measured it.
        diff_id: Digest,
        /// The chain that it makes.
        found: Digest,
        /// The chain that was asked for.
        wanted: Digest,
    },
    /// What is said of the end of its tar cannot be.
    #[error("its tar is said to end with more than any does")]
    Tail,
    /// There is a snapshot of that name on another parent.
    #[error("there is one of that name on another parent")]
    OtherParent,
    /// The twin was refused before.
    #[error("its twin is not what the image says, as was found out before")]
    Refused,
    /// It is to be proven first, and its bytes do not come.
    #[error("it cannot be proven")]
    Unproven(#[from] ReadError),
    /// It is to be proven first, and that takes long.
    #[error("it is not proven yet: that takes longer than a pull waits")]
    Late,
    /// The parent's name does not say what is in it.
    #[error("the parent {name:?} is named by no chain id")]
    Parent {
        /// Its name.
        name: String,
    },
    /// The layer cannot be mounted.
    #[error("the layer cannot be mounted")]
    Layer(#[from] LayerError),
    /// The snapshot cannot be recorded.
    #[error("the snapshot cannot be recorded")]
    Snapshot(#[from] SnapshotError),
}

impl NotLazy {
    /// Tells whether a layer that is eStargz itself can be mounted nevertheless.
    const fn leaves_own_layer(&self) -> bool {
        matches!(self, Self::NoProxy { .. } | Self::Unreachable(_) | Self::NoTwin { .. })
    }

    /// Returns a word for it. A closed set: it labels metrics.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NoProxy { .. } => "no_proxy",
            Self::Unreachable(_) => "unreachable",
            Self::NoTwin { state, .. } => state,
            Self::Chain { .. } => "chain_mismatch",
            Self::Tail => "tail",
            Self::OtherParent => "other_parent",
            Self::Refused => "refused",
            Self::Unproven(_) | Self::Late => "unproven",
            Self::Parent { .. } => "parent",
            Self::Layer(LayerError::Open(OpenError::Memory(_))) => "memory",
            Self::Layer(_) => "layer",
            Self::Snapshot(_) => "snapshot",
        }
    }
}

impl Lazy {
    pub(crate) fn new(
        snapshots: Arc<Snapshots>,
        layers: Arc<Layers>,
        proxies: Arc<Proxies>,
        convert_wait: Duration,
        trust: Arc<Trust>,
    ) -> Self {
        Self {
            snapshots,
            layers,
            proxies,
            convert_wait,
            trust,
            provers: Arc::new(Semaphore::new(PROVEN_AT_ONCE)),
            twins: Cache::builder().max_capacity(MOST).time_to_live(REMEMBERED).build(),
            deadlines: Cache::builder().max_capacity(MOST).time_to_live(convert_wait + WAIT_AGAIN).build(),
        }
    }

    /// Commits the snapshot that is wanted on `parent`, with none of the layer's bytes here.
    ///
    /// # Errors
    /// Says why not; then it is to be unpacked.
    pub(crate) async fn prepare(&self, wanted: Wanted, parent: Option<&str>, labels: &Labels) -> Result<(), NotLazy> {
        if self.is_known(&wanted, parent).await? {
            return Ok(());
        }
        let below = parent.map(chain_of).transpose()?;
        let Some(toc) = wanted.toc.clone() else { return self.by_twin(&wanted, parent, below, labels).await };
        let refused = match self.by_twin(&wanted, parent, below.clone(), labels).await {
            Err(refused) if refused.leaves_own_layer() => refused,
            done => return done,
        };
        tracing::debug!(layer = %wanted.layer, reason = refused.reason(), "an eStargz layer is asked of its registry");
        let asked = tokio::time::timeout(REGISTRY_PATIENCE, self.layers.own(&wanted, &toc, below)).await;
        let origin = asked.map_err(|_| LayerError::Upstream(UpstreamError::Timeout))??;
        self.mount(&wanted, parent, labels, origin).await
    }

    /// Tells whether other layers of the image are lazy where this one is not: it is worth unpacking alone.
    pub(crate) fn is_gap(&self, wanted: &Wanted, refused: &NotLazy) -> bool {
        match refused {
            NotLazy::NoTwin { is_gap, .. } => *is_gap,
            // It has a twin, and that cannot be used.
            NotLazy::Chain { .. } | NotLazy::Tail | NotLazy::Refused | NotLazy::Layer(_) => {
                let others = wanted.layers.iter().filter(|other| **other != wanted.layer);
                let mut keys = others.map(|other| (wanted.host.clone(), wanted.name.clone(), other.clone()));
                keys.any(|key| self.twins.contains_key(&key))
            }
            NotLazy::NoProxy { .. }
            | NotLazy::Unreachable(_)
            | NotLazy::OtherParent
            | NotLazy::Unproven(_)
            | NotLazy::Late
            | NotLazy::Parent { .. }
            | NotLazy::Snapshot(_) => false,
        }
    }

    /// Commits the snapshot of a layer that a proxy has a twin of.
    async fn by_twin(
        &self,
        wanted: &Wanted,
        parent: Option<&str>,
        below: Option<Digest>,
        labels: &Labels,
    ) -> Result<(), NotLazy> {
        let twin = self.twin_of(wanted).await?;
        let found = chain_id(below.as_ref(), &twin.diff_id);
        if found != wanted.chain {
            return Err(NotLazy::Chain { diff_id: twin.diff_id.clone(), found, wanted: wanted.chain.clone() });
        }
        let origin = Origin::new(&wanted.host, &wanted.name, &wanted.layer, &twin);
        if !origin.expected.is_bounded() {
            return Err(NotLazy::Tail);
        }
        self.mount(wanted, parent, labels, origin).await
    }

    /// Records the snapshot of a layer whose TOC is fetched first.
    async fn mount(
        &self,
        wanted: &Wanted,
        parent: Option<&str>,
        labels: &Labels,
        origin: Origin,
    ) -> Result<(), NotLazy> {
        let layer = self.layers.fetch(&origin).await?;
        if layer.proof(&origin.expected) == Proof::Refused {
            return Err(NotLazy::Refused);
        }
        let is_trusted = self.trust.covers(&origin);
        if !is_trusted {
            tokio::time::timeout(PROOF_PATIENCE, self.prove(&layer, &origin)).await.map_err(|_| NotLazy::Late)??;
        }
        match self.add(wanted, parent, labels, origin, &layer).await {
            // Another pull of the same image was as fast.
            Err(SnapshotError::Exists { .. }) => match self.is_known(wanted, parent).await? {
                true => return Ok(()),
                false => return Err(NotLazy::OtherParent),
            },
            added => added?,
        }
        layer.prefetch();
        let (chain, source, files) = (&wanted.chain, &wanted.layer, layer.tree.inodes());
        match is_trusted {
            true => tracing::info!(%chain, layer = %source, files, "a layer is mounted before it is here"),
            false => tracing::info!(%chain, layer = %source, files, "a layer is here, proven and mounted"),
        }
        Ok(())
    }

    async fn add(
        &self,
        wanted: &Wanted,
        parent: Option<&str>,
        labels: &Labels,
        origin: Origin,
        layer: &Arc<Layer>,
    ) -> Result<(), SnapshotError> {
        let mut labels = labels.clone();
        labels.insert(REMOTE.to_owned(), "remote snapshot".to_owned());
        let (snapshots, layer) = (Arc::clone(&self.snapshots), Arc::clone(layer));
        let (parent, name) = (parent.map(str::to_owned), wanted.chain.to_string());
        telemetry::blocking(move || snapshots.add_lazy(&name, parent.as_deref(), labels, origin, layer)).await
    }

    /// Brings all of a layer and proves it; goes on with that where nobody waits any more, for the next pull to find.
    async fn prove(&self, layer: &Arc<Layer>, origin: &Origin) -> Result<(), NotLazy> {
        let turn = tokio::time::timeout(TURN_PATIENCE, Arc::clone(&self.provers).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(NotLazy::Late)?;
        let (layers, layer, origin) = (Arc::clone(&self.layers), Arc::clone(layer), origin.clone());
        let proving = tokio::spawn(async move {
            let _turn = turn;
            let patience = layer::patience(layer.tree.data_size() / LEAST_PACE);
            tokio::time::timeout(patience, prove(&layers, &layer, &origin)).await.unwrap_or(Err(NotLazy::Late))
        });
        proving.await.unwrap_or(Err(NotLazy::Late))
    }

    /// Tells whether the snapshot is there: another image has the same layers.
    async fn is_known(&self, wanted: &Wanted, parent: Option<&str>) -> Result<bool, NotLazy> {
        let (snapshots, name) = (Arc::clone(&self.snapshots), wanted.chain.to_string());
        let known = move || {
            let is_refused = snapshots.is_refused(&name)?;
            Ok((snapshots.stat(&name)?, is_refused))
        };
        match telemetry::blocking(known).await {
            Ok((_, true)) => Err(NotLazy::Refused),
            Ok((info, false)) if info.parent.as_deref() == parent => Ok(true),
            // containerd looks it up by its parent.
            Ok(_) => Err(NotLazy::OtherParent),
            Err(SnapshotError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the twin of a layer. The first layer of an image asks for all of them.
    async fn twin_of(&self, wanted: &Wanted) -> Result<Arc<LazyTwin>, NotLazy> {
        let key = (wanted.host.clone(), wanted.name.clone(), wanted.layer.clone());
        if let Some(twin) = self.twins.get(&key).await {
            return Ok(twin);
        }
        let (proxy, client) =
            self.proxies.of(&wanted.host).ok_or_else(|| NotLazy::NoProxy { host: wanted.host.clone() })?;
        let mut index = ask(proxy, &client, wanted, Duration::ZERO).await?;
        let image = wanted.manifest.as_ref().or(wanted.layers.last()).unwrap_or(&wanted.layer);
        let deadline = self.deadlines.get_with(image.clone(), async { Instant::now() + self.convert_wait }).await;
        loop {
            self.remember(wanted, &index).await;
            let state = index.layers.iter().find(|layer| layer.source == wanted.layer).map(|layer| &layer.state);
            let (state, reason) = match state {
                Some(LazyState::Ready(twin)) => return Ok(Arc::new((**twin).clone())),
                Some(LazyState::Unconvertible { reason, .. }) => ("unconvertible", reason.clone()),
                Some(LazyState::Unknown) | None => ("unknown", "the proxy has nothing of it".to_owned()),
                Some(LazyState::Filling | LazyState::Converting) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left >= Duration::from_secs(1) {
                        // One that does not wait is not asked without a pause.
                        tokio::time::sleep(ASK_AGAIN).await;
                        index = ask(proxy, &client, wanted, left).await?;
                        continue;
                    }
                    ("converting", "its twin is not ready yet".to_owned())
                }
            };
            return Err(NotLazy::NoTwin { state, reason, is_gap: is_gap(&index, wanted) });
        }
    }

    /// Remembers the twins that a proxy told, and begins to fetch all their TOCs.
    async fn remember(&self, wanted: &Wanted, index: &LazyIndex) {
        for layer in &index.layers {
            let LazyState::Ready(twin) = &layer.state else { continue };
            let key = (wanted.host.clone(), wanted.name.clone(), layer.source.clone());
            if !self.twins.entry(key).or_insert(Arc::new((**twin).clone())).await.is_fresh() {
                continue;
            }
            let origin = Origin::new(&wanted.host, &wanted.name, &layer.source, twin);
            let layers = Arc::clone(&self.layers);
            tokio::spawn(async move {
                // Whoever wants the layer next is told of what goes wrong.
                let _told_later = layers.fetch(&origin).await;
            });
        }
    }
}

async fn prove(layers: &Layers, layer: &Arc<Layer>, origin: &Origin) -> Result<(), NotLazy> {
    let _proving = layer.proving.lock().await;
    if layer.proof(&origin.expected) == Proof::Proven {
        return Ok(());
    }
    if !layers.room().is_enough(layer.tree.data_size()) {
        return Err(ReadError::NoRoom.into());
    }
    loop {
        let keep = |_| async {
            layers.keep(origin);
            Ok(())
        };
        layer.complete(&origin.expected, AT_ONCE, keep).await?;
        match layer.prove(&origin.expected).await? {
            // What came out wrong is fetched again, a few times at most.
            Proof::Pending => {}
            Proof::Proven => return Ok(()),
            Proof::Refused => return Err(NotLazy::Refused),
        }
    }
}

async fn ask(proxy: &Proxy, client: &Client, wanted: &Wanted, wait: Duration) -> Result<LazyIndex, NotLazy> {
    let answer = async {
        match &wanted.manifest {
            Some(manifest) => client.lazy_index(&wanted.name, manifest, wait).await,
            None => client.lazy_layers(&wanted.name, &wanted.layers, wait).await,
        }
    };
    proxy.ask(wait, answer).await.map_err(NotLazy::Unreachable)
}

/// Tells whether a layer that has no twin is among others that have one: if it never will, also those count that will.
fn is_gap(index: &LazyIndex, wanted: &Wanted) -> bool {
    let (own, others): (Vec<_>, Vec<_>) = index.layers.iter().partition(|layer| layer.source == wanted.layer);
    let is_for_good = own.iter().any(|layer| matches!(layer.state, LazyState::Unconvertible { .. }));
    others.iter().any(|layer| match layer.state {
        LazyState::Ready(_) => true,
        LazyState::Filling | LazyState::Converting => is_for_good,
        LazyState::Unknown | LazyState::Unconvertible { .. } => false,
    })
}

/// Returns the chain id that a committed snapshot is named by. containerd puts its namespace and a number before it.
pub(crate) fn chain_of(name: &str) -> Result<Digest, NotLazy> {
    let chain = name.rsplit('/').next().unwrap_or_default();
    Digest::parse(chain).map_err(|_| NotLazy::Parent { name: name.to_owned() })
}

//! [`Layers`]: the twins of a node, each with a folder and each opened once, however many images have it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::lazy::Toc;
use api::{Digest, LazyTwin, RepositoryName};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use upstream::UpstreamError;

use crate::clients::Clients;
use crate::layer::{Commitment, Common, Expected, Layer, OpenError, Place, Source};
use crate::memory::Share;
use crate::proxies::Proxies;
use crate::registries::{Registries, RegistryError};
use crate::room::Room;
use crate::status::Reads;
use crate::toc_file::{self, Growing, LARGEST_TOC, TocFile};
use crate::tree::Tree;
use crate::trust::Trust;
use crate::wanted::Wanted;
use crate::{SnapshotError, Usage, usage};

/// What is kept of a lazy snapshot: where the layer's bytes are, here and elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) via: Via,
    /// The registry as the image's reference named it.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// The layer as the manifest names it.
    pub(crate) layer: Digest,
    pub(crate) twin: Digest,
    pub(crate) twin_size: u64,
    pub(crate) toc: Toc,
    /// The layer's plain tar, which the chain commits to.
    pub(crate) expected: Expected,
    /// Whether nothing that it shows has an extended attribute.
    pub(crate) is_bare: bool,
}

/// Who is asked for the bytes of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// The proxy that stands for its registry.
    Proxy,
    /// The registry itself: the layer is its own twin.
    Registry,
}

/// What makes two twins the same: the same bytes, told by the same TOC.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    twin: Digest,
    size: u64,
    toc: Digest,
}

/// Why a layer cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// Its TOC does not come.
    #[error("the TOC does not come")]
    Upstream(#[from] UpstreamError),
    /// What comes is not the TOC that was told.
    #[error("the TOC that came is not {expected}")]
    Toc {
        /// What was told.
        expected: Digest,
    },
    /// The TOC is longer than is read.
    #[error("the TOC has {size} bytes, more than {LARGEST_TOC}")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// The disk failed.
    #[error("the layer's folder cannot be written")]
    Disk(#[from] io::Error),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nobody is configured to ask for it.
    #[error("no proxy stands for {host}, where the layer came from")]
    NoProxy {
        /// The registry.
        host: String,
    },
    /// The registry cannot be asked.
    #[error("the registry {host} cannot be asked")]
    Registry {
        /// The registry.
        host: String,
        /// Why not.
        source: RegistryError,
    },
}

impl LayerError {
    /// Tells whether the TOC is not on the disk, or damaged there.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Open(OpenError::Io { source, .. }) => source.kind() == ErrorKind::NotFound,
            Self::Open(OpenError::Damaged { .. }) => true,
            _ => false,
        }
    }
}

/// How long a TOC may take to come.
const TOC_PATIENCE: Duration = Duration::from_secs(120);
/// TOCs that come at once.
const TOCS_AT_ONCE: usize = 16;
/// How long a twin that was wanted is kept without a snapshot.
const KEPT: Duration = Duration::from_secs(600);

/// Somebody's wish for a twin.
#[derive(Debug, Clone)]
struct Want {
    at: Instant,
    /// Who fetches the TOC has this.
    turn: Arc<AsyncMutex<()>>,
}

/// The twins of a node.
#[derive(Debug)]
pub(crate) struct Layers {
    folder: PathBuf,
    clients: Arc<Clients>,
    trust: Arc<Trust>,
    common: Common,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    /// TOCs that come at once: each has a blocking thread, which waits for others of these.
    arriving: Semaphore,
    /// The twins that somebody wanted of late: their snapshots may not be recorded yet.
    wanted: Mutex<HashMap<Key, Want>>,
}

/// Where a layer is, once it is open.
#[derive(Debug, Default)]
struct Slot {
    layer: OnceLock<Arc<Layer>>,
    /// Who opens it has this.
    turn: Mutex<()>,
}

impl Origin {
    pub(crate) fn new(host: &str, name: &RepositoryName, layer: &Digest, twin: &LazyTwin) -> Self {
        Self {
            via: Via::Proxy,
            host: host.to_owned(),
            repository: name.as_str().to_owned(),
            layer: layer.clone(),
            twin: twin.twin.digest.clone(),
            twin_size: twin.twin.size,
            toc: twin.toc.clone(),
            expected: Expected::tar(twin.diff_id.clone(), twin.tail.clone()),
            is_bare: false,
        }
    }

    pub(crate) fn key(&self) -> Key {
        Key { twin: self.twin.clone(), size: self.twin_size, toc: self.toc.digest.clone() }
    }
}

impl Layers {
    /// Opens the folder of layers below `root`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn open(
        root: &Path,
        proxies: Arc<Proxies>,
        registries: Arc<Registries>,
        trust: Arc<Trust>,
        common: Common,
    ) -> Result<Self, SnapshotError> {
        let folder = root.join("layers");
        fs::create_dir_all(&folder).map_err(|error| SnapshotError::io("make the folder", &folder, error))?;
        let only_ours = fs::set_permissions(&folder, Permissions::from_mode(0o700));
        only_ours.map_err(|error| SnapshotError::io("set the mode of", &folder, error))?;
        Ok(Self {
            folder,
            clients: Arc::new(Clients { proxies, registries }),
            trust,
            common,
            slots: Mutex::default(),
            arriving: Semaphore::new(TOCS_AT_ONCE),
            wanted: Mutex::default(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}-{}-{}", key.twin.hex(), key.size, key.toc.hex()))
    }

    /// Returns who has a layer's bytes, who is to be asked first; there is always somebody.
    fn sources(&self, origin: &Origin) -> Result<Vec<Source>, LayerError> {
        let (via, registry) = (origin.via, &origin.host);
        let name = RepositoryName::parse(&origin.repository);
        let name = name.map_err(|_| LayerError::NoProxy { host: registry.clone() })?;
        let is_trusted = self.trust.covers(origin);
        let source = |host| Source {
            clients: Arc::clone(&self.clients),
            place: Place { via, registry: registry.clone(), host, name: name.clone() },
            blob: origin.twin.clone(),
            size: origin.twin_size,
            is_trusted,
        };
        Ok(self.clients.hosts(via, registry).into_iter().map(source).collect())
    }

    /// Returns a layer of which the TOC is on the disk. Of many who want it one opens it. May take its time.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) fn get(&self, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        let key = origin.key();
        let slot = Arc::clone(self.slots().entry(key.clone()).or_default());
        let _turn = match slot.layer.get() {
            Some(layer) => return self.known(layer, origin),
            None => slot.turn.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if let Some(layer) = slot.layer.get() {
            return self.known(layer, origin);
        }
        let mut share = self.common.memory.needed();
        let tree = toc_file::read(&self.folder(&key).join(toc_file::NAME), &origin.toc.digest, &mut share)?;
        let layer = self.open_layer(origin, (tree, share))?;
        Ok(self.opened(&slot, layer))
    }

    /// Notes that a layer is open; who calls it has the slot's turn.
    fn opened(&self, slot: &Slot, layer: Layer) -> Arc<Layer> {
        let layer = Arc::clone(slot.layer.get_or_init(|| Arc::new(layer)));
        self.common.kin.add(&layer);
        layer
    }

    fn open_layer(&self, origin: &Origin, tree: (Tree, Share)) -> Result<Layer, LayerError> {
        let folder = self.folder(&origin.key());
        Ok(Layer::open(&folder, (&origin.twin, origin.twin_size), tree, self.sources(origin)?, self.common.clone())?)
    }

    /// Opens a layer whose TOC is on its way, and keeps that if it is right.
    fn open_new(&self, origin: &Origin, toc: Growing, mut share: Share) -> Result<Arc<Layer>, LayerError> {
        let folder = self.folder(&origin.key());
        let tree = toc_file::read_new(toc, &folder, &origin.toc.digest, &mut share).map_err(|error| match error {
            OpenError::Damaged { .. } => LayerError::Toc { expected: origin.toc.digest.clone() },
            other => other.into(),
        })?;
        let slot = Arc::clone(self.slots().entry(origin.key()).or_default());
        // Nobody else opens the same files.
        let _turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = slot.layer.get() {
            return self.known(layer, origin);
        }
        let layer = self.open_layer(origin, (tree, share))?;
        toc_file::settle(&folder)?;
        Ok(self.opened(&slot, layer))
    }

    /// Returns a layer that is open, which has these sources, too, from now on.
    fn known(&self, layer: &Arc<Layer>, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        self.sources(origin)?.into_iter().for_each(|source| layer.add_source(source));
        Ok(Arc::clone(layer))
    }

    /// Returns what a layer takes of the disk.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn usage(&self, origin: &Origin) -> Result<Usage, SnapshotError> {
        let folder = self.folder(&origin.key());
        usage::measure(&folder).map_err(|error| SnapshotError::io("measure", &folder, error))
    }

    /// Has the proxy keep a twin for an hour.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) async fn hold(&self, origin: &Origin, holder: &str) -> Result<(), LayerError> {
        let proxy = self.clients.proxy(&origin.host)?;
        let name = RepositoryName::parse(&origin.repository);
        let name = name.map_err(|_| LayerError::NoProxy { host: origin.host.clone() })?;
        Ok(proxy.hold(&name, &origin.twin, holder).await?)
    }

    /// Tells whether a layer is still one of them.
    pub(crate) fn has(&self, layer: &Layer) -> bool {
        self.all().iter().any(|open| std::ptr::eq(&**open, layer))
    }

    /// Returns the room that their bytes have.
    pub(crate) fn room(&self) -> &Room {
        &self.common.room
    }

    /// Returns what readers cost so far.
    pub(crate) fn reads(&self) -> Reads {
        let layers = self.all();
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Reads {
            demand_bytes: get(&self.common.counts.demand_bytes),
            background_bytes: get(&self.common.counts.background_bytes),
            copied_bytes: get(&self.common.counts.copied_bytes),
            unread_bytes: layers.iter().map(|layer| layer.unread()).sum(),
            stalled: get(&self.common.counts.stalled),
            waiting: layers.iter().map(|layer| layer.waiting() as u64).sum(),
            failed: get(&self.common.counts.failed),
        }
    }

    /// Returns all layers that are open.
    pub(crate) fn all(&self) -> Vec<Arc<Layer>> {
        self.slots().values().filter_map(|slot| slot.layer.get().map(Arc::clone)).collect()
    }

    /// Returns a layer, fetching its TOC if it is not on the disk. Of many who want one, one fetches.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn fetch(self: &Arc<Self>, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        self.fetch_in_time(origin, self.common.memory.share()).await
    }

    /// Returns a layer that a snapshot has, likewise: whatever memory is left for its tree.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn fetch_needed(self: &Arc<Self>, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        self.fetch_in_time(origin, self.common.memory.needed()).await
    }

    async fn fetch_in_time(self: &Arc<Self>, origin: &Origin, share: Share) -> Result<Arc<Layer>, LayerError> {
        let fetched = tokio::time::timeout(TOC_PATIENCE, self.fetch_toc(origin, &share)).await;
        fetched.unwrap_or(Err(LayerError::Upstream(UpstreamError::Timeout)))
    }

    async fn fetch_toc(self: &Arc<Self>, origin: &Origin, share: &Share) -> Result<Arc<Layer>, LayerError> {
        let turn = self.want(&origin.key());
        // Who opens the layer has it to the end, also where nobody waits any more.
        let turn = Arc::new(turn.lock_owned().await);
        let (layers, of) = (Arc::clone(self), origin.clone());
        match telemetry::blocking(move || layers.get(&of)).await {
            Err(error) if error.is_lost() => {}
            known => return known,
        }
        if origin.toc.size > LARGEST_TOC {
            return Err(LayerError::TooLarge { size: origin.toc.size });
        }
        // Never closed.
        let _arriving = self.arriving.acquire().await;
        let mut failed = None;
        for source in self.sources(origin)? {
            match self.fetch_from(&source, origin, &turn, share.another()).await {
                // Somebody else may have it.
                Err(error @ (LayerError::Upstream(_) | LayerError::Toc { .. })) => failed = Some(error),
                done => return done,
            }
        }
        Err(failed.unwrap_or(LayerError::NoProxy { host: origin.host.clone() }))
    }

    async fn fetch_from(
        self: &Arc<Self>,
        source: &Source,
        origin: &Origin,
        turn: &Arc<OwnedMutexGuard<()>>,
        share: Share,
    ) -> Result<Arc<Layer>, LayerError> {
        let folder = self.folder(&origin.key());
        let (new, is_urgent) = (folder.clone(), !share.is_needed());
        let (file, growing) = telemetry::blocking(move || TocFile::new(&new)).await?;
        // It is read as it comes.
        let (layers, of, mine) = (Arc::clone(self), origin.clone(), Arc::clone(turn));
        let open = telemetry::blocking(move || {
            let _mine = mine;
            layers.open_new(&of, growing, share)
        });
        let fetch = async {
            match origin.via {
                Via::Proxy => file.fetch(source, &origin.toc, is_urgent).await,
                Via::Registry => file.extract(source, &folder).await,
            }
        };
        let (fetched, opened) = tokio::join!(fetch, open);
        // Why it did not come says more than that it did not.
        fetched.and(opened)
    }

    /// Returns what is known of a layer that is its own twin, with its TOC on the disk.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn own(&self, wanted: &Wanted, toc: &Digest, below: Option<Digest>) -> Result<Origin, LayerError> {
        let size = self.size_of(wanted).await?;
        Ok(Origin {
            via: Via::Registry,
            host: wanted.host.clone(),
            repository: wanted.name.as_str().to_owned(),
            layer: wanted.layer.clone(),
            twin: wanted.layer.clone(),
            twin_size: size,
            toc: Toc { digest: toc.clone(), size: 0 },
            expected: Expected { commitment: Commitment::Chain { below, chain: wanted.chain.clone() }, tail: None },
            is_bare: false,
        })
    }

    async fn size_of(&self, wanted: &Wanted) -> Result<u64, LayerError> {
        let mut failed = None;
        for host in self.clients.hosts(Via::Registry, &wanted.host) {
            let (registry, name) = (wanted.host.clone(), wanted.name.clone());
            let place = Place { via: Via::Registry, registry, host, name };
            let told = match self.clients.of(&place) {
                Ok(client) => client.blob_size(&wanted.name, &wanted.layer).await,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            match told {
                Ok(size) => return Ok(size),
                Err(error) => {
                    self.clients.note(&place, &error);
                    failed = Some(error.into());
                }
            }
        }
        Err(failed.unwrap_or(LayerError::NoProxy { host: wanted.host.clone() }))
    }

    /// Notes that somebody works on a layer that has no snapshot yet.
    pub(crate) fn keep(&self, origin: &Origin) {
        self.want(&origin.key());
    }

    fn want(&self, key: &Key) -> Arc<AsyncMutex<()>> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let want = wanted.entry(key.clone()).or_insert_with(|| Want { at: Instant::now(), turn: Arc::default() });
        want.at = Instant::now();
        Arc::clone(&want.turn)
    }

    /// Closes and removes the layers that no snapshot has, and nobody wanted of late; `known` are the twins of those that
    /// there are. What cannot be removed stays.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) fn sweep(&self, known: &HashSet<Key>) -> Result<(), SnapshotError> {
        // Held until the end: who wants one of them now waits.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.retain(|_, want| want.at.elapsed() < KEPT);
        self.slots().retain(|key, _| known.contains(key) || wanted.contains_key(key));
        let keep: HashSet<PathBuf> = known.iter().chain(wanted.keys()).map(|key| self.folder(key)).collect();
        let list = |error| SnapshotError::io("list", &self.folder, error);
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if let Some(error) = (!keep.contains(&path)).then(|| fs::remove_dir_all(&path).err()).flatten() {
                tracing::warn!(%error, path = %path.display(), "a layer that nobody has stays on the disk");
            }
        }
        Ok(())
    }
}

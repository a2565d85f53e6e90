//! [`Layers`]: the twins of a node, each with a folder and each opened once, however many images have it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::lazy::Toc;
use api::{Algorithm, Digest, Hasher, LazyTwin, RepositoryName};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use upstream::{TocBody, UpstreamError};

use crate::SnapshotError;
use crate::layer::{Counts, Expected, Layer, OpenError, Source};
use crate::proxies::Proxies;
use crate::room::Room;
use crate::status::Reads;

/// The largest JSON of a TOC that is read: more than a million files.
const LARGEST_TOC: u64 = 512 << 20;

/// What is kept of a lazy snapshot: where the layer's bytes are, here and elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The registry as the image's reference named it.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// The layer as the manifest names it.
    pub(crate) layer: Digest,
    pub(crate) twin: Digest,
    pub(crate) twin_size: u64,
    pub(crate) toc: Digest,
    /// The layer's plain tar, which the chain commits to.
    pub(crate) expected: Expected,
}

/// Why a layer cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// Its TOC does not come.
    #[error("the TOC does not come")]
    Upstream(#[from] UpstreamError),
    /// What comes is not the TOC that was told.
    #[error("the TOC that came is {found}, not {expected}")]
    Toc {
        /// What was told.
        expected: Digest,
        /// What came.
        found: Digest,
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
}

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
    proxies: Arc<Proxies>,
    room: Arc<Room>,
    counts: Arc<Counts>,
    open: Mutex<HashMap<Digest, Arc<Layer>>>,
    /// The twins that somebody wanted of late: their snapshots may not be recorded yet.
    wanted: Mutex<HashMap<Digest, Want>>,
}

impl Origin {
    pub(crate) fn new(host: &str, name: &RepositoryName, layer: &Digest, twin: &LazyTwin) -> Self {
        Self {
            host: host.to_owned(),
            repository: name.as_str().to_owned(),
            layer: layer.clone(),
            twin: twin.twin.digest.clone(),
            twin_size: twin.twin.size,
            toc: twin.toc.digest.clone(),
            expected: Expected { diff_id: twin.diff_id.clone(), tail: twin.tail.clone() },
        }
    }
}

impl Layers {
    /// Opens the folder of layers below `root`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn open(root: &Path, proxies: Arc<Proxies>, cap: u64) -> Result<Self, SnapshotError> {
        let folder = root.join("layers");
        fs::create_dir_all(&folder).map_err(|error| SnapshotError::io("make the folder", &folder, error))?;
        let only_ours = fs::set_permissions(&folder, Permissions::from_mode(0o700));
        only_ours.map_err(|error| SnapshotError::io("set the mode of", &folder, error))?;
        Ok(Self {
            folder,
            proxies,
            room: Arc::new(Room::new(cap)),
            counts: Arc::default(),
            open: Mutex::default(),
            wanted: Mutex::default(),
        })
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Layer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, twin: &Digest) -> PathBuf {
        self.folder.join(format!("{}-{}", twin.algorithm().name(), twin.hex()))
    }

    fn source(&self, origin: &Origin) -> Result<Source, LayerError> {
        let none = || LayerError::NoProxy { host: origin.host.clone() };
        let (_, client) = self.proxies.of(&origin.host).ok_or_else(none)?;
        let name = RepositoryName::parse(&origin.repository).map_err(|_| none())?;
        Ok(Source { client, name, blob: origin.twin.clone(), size: origin.twin_size })
    }

    /// Returns a layer of which the TOC is on the disk. May take its time.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) fn get(&self, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        if let Some(layer) = self.opened().get(&origin.twin) {
            return Ok(Arc::clone(layer));
        }
        let layer = Layer::open(
            &self.folder(&origin.twin),
            &origin.toc,
            self.source(origin)?,
            Arc::clone(&self.room),
            Arc::clone(&self.counts),
        )?;
        // Of two who open it at once one is used.
        Ok(Arc::clone(self.opened().entry(origin.twin.clone()).or_insert_with(|| Arc::new(layer))))
    }

    /// Tells whether a layer is still one of them.
    pub(crate) fn has(&self, layer: &Layer) -> bool {
        self.opened().values().any(|open| std::ptr::eq(&**open, layer))
    }

    /// Returns the room that their bytes have.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Returns what readers cost so far.
    pub(crate) fn reads(&self) -> Reads {
        let layers = self.all();
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Reads {
            demand_bytes: get(&self.counts.demand_bytes),
            background_bytes: get(&self.counts.background_bytes),
            unread_bytes: layers.iter().map(|layer| layer.unread()).sum(),
            stalled: get(&self.counts.stalled),
            waiting: layers.iter().map(|layer| layer.waiting() as u64).sum(),
            failed: get(&self.counts.failed),
        }
    }

    /// Returns all layers that are open.
    pub(crate) fn all(&self) -> Vec<Arc<Layer>> {
        self.opened().values().map(Arc::clone).collect()
    }

    /// Returns a layer, fetching its TOC if it is not on the disk. Of many who want one, one fetches.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn fetch(self: &Arc<Self>, origin: &Origin, toc: &Toc) -> Result<Arc<Layer>, LayerError> {
        let turn = self.want(&origin.twin);
        let _turn = turn.lock().await;
        let (layers, of) = (Arc::clone(self), origin.clone());
        match telemetry::blocking(move || layers.get(&of)).await {
            Err(LayerError::Open(OpenError::Io { source, .. })) if source.kind() == ErrorKind::NotFound => {}
            Err(LayerError::Open(OpenError::Damaged { path })) => {
                tracing::warn!(path = %path.display(), "a damaged TOC is fetched again");
            }
            known => return known,
        }
        if toc.size > LARGEST_TOC {
            return Err(LayerError::TooLarge { size: toc.size });
        }
        let source = self.source(origin)?;
        let body = source.client.toc(&source.name, toc).await?;
        let folder = self.folder(&origin.twin);
        self.keep(&folder, toc, body).await?;
        let (layers, of) = (Arc::clone(self), origin.clone());
        telemetry::blocking(move || layers.get(&of)).await
    }

    fn want(&self, twin: &Digest) -> Arc<AsyncMutex<()>> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let want = wanted.entry(twin.clone()).or_insert_with(|| Want { at: Instant::now(), turn: Arc::default() });
        want.at = Instant::now();
        Arc::clone(&want.turn)
    }

    /// Writes a TOC to the disk as it comes, and gives it its name when it is right.
    async fn keep(&self, folder: &Path, toc: &Toc, mut body: TocBody) -> Result<(), LayerError> {
        fs::create_dir_all(folder)?;
        let new = folder.join("toc.new");
        let mut writer = Unpacking::new(File::create(&new)?, toc.size, body.is_packed)?;
        while let Some(bytes) = body.chunk().await? {
            let written = telemetry::blocking(move || writer.write(&bytes).map(|()| writer)).await;
            writer = written?;
        }
        let (expected, path) = (toc.digest.clone(), folder.join("toc.json"));
        telemetry::blocking(move || {
            let found = writer.finish()?;
            if found != expected {
                return Err(LayerError::Toc { expected, found });
            }
            Ok(fs::rename(new, path)?)
        })
        .await
    }

    /// Closes and removes the layers that no snapshot has, and nobody wanted of late; `known` are the twins of those that
    /// there are.
    ///
    /// # Errors
    /// The folder cannot be listed, or one of the layers not be removed.
    pub(crate) fn sweep(&self, known: &HashSet<Digest>) -> Result<(), SnapshotError> {
        // Held until the end: who wants one of them now waits.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.retain(|_, want| want.at.elapsed() < KEPT);
        self.opened().retain(|twin, _| known.contains(twin) || wanted.contains_key(twin));
        let keep: HashSet<PathBuf> = known.iter().chain(wanted.keys()).map(|twin| self.folder(twin)).collect();
        let list = |error| SnapshotError::io("list", &self.folder, error);
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if !keep.contains(&path) {
                fs::remove_dir_all(&path).map_err(|error| SnapshotError::io("remove", &path, error))?;
            }
        }
        Ok(())
    }
}

/// Writes a file from bytes that may be packed, and hashes it.
struct Unpacking {
    into: Into,
}

enum Into {
    Plain(Hashing),
    Packed(Box<zstd::stream::write::Decoder<'static, Hashing>>),
}

impl Unpacking {
    fn new(file: File, size: u64, is_packed: bool) -> io::Result<Self> {
        let hashing = Hashing { file, hash: Hasher::new(Algorithm::Sha256), left: size };
        let into = if is_packed {
            Into::Packed(Box::new(zstd::stream::write::Decoder::new(hashing)?))
        } else {
            Into::Plain(hashing)
        };
        Ok(Self { into })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.into {
            Into::Plain(out) => out.write_all(bytes),
            Into::Packed(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Digest> {
        let out = match self.into {
            Into::Plain(out) => out,
            Into::Packed(mut out) => {
                out.flush()?;
                out.into_inner()
            }
        };
        out.file.sync_data()?;
        Ok(out.hash.finish())
    }
}

struct Hashing {
    file: File,
    hash: Hasher,
    /// What may still come.
    left: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let longer = || io::Error::other("the TOC is longer than was told");
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(longer)?;
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

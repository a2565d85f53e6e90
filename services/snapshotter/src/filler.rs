//! [`Filler`]: brings what is missing of all layers while nobody waits, so that they need no network any more, and proves them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use telemetry::Shutdown;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Snapshots;
use crate::files;
use crate::fuse::Notifier;
use crate::layer::{Layer, Proof, ReadError};
use crate::layers::{Key, LayerError, Layers, Origin, Via};

/// How long nobody may have waited before something is fetched.
const QUIET: Duration = Duration::from_millis(200);
/// How long the proxy may take to say that it holds a twin.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a layer that could not be brought is left alone, doubled each further time.
const RETRY: Duration = Duration::from_secs(30);
/// How often it is doubled at most.
const DOUBLINGS: u32 = 4;
/// How often the proxy is told that a layer is not here yet; it keeps the twin for an hour.
const HOLD_EVERY: Duration = Duration::from_secs(20 * 60);
/// How often it is looked for layers that nobody has any more.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// How long one layer is worked on before the next one is.
const TURN: Duration = Duration::from_secs(30);
/// The part of the disk that stays free.
const FREE_PERCENT: u64 = 10;

/// Servers whose layers are brought side by side.
const MOST_PASSES: usize = 4;

/// Who a layer comes from.
type Server = (Via, String);

/// When what is done with a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// From when on it may be worked on.
    from: Instant,
    /// When its proxy was last told to keep it.
    held: Option<Instant>,
    /// Whether there was no room for it.
    is_full: bool,
    /// How often in a row it could not be brought.
    failed: u32,
}

/// Brings and proves layers in the background.
#[derive(Debug)]
pub(crate) struct Filler {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) root: PathBuf,
    pub(crate) notifiers: Vec<Notifier>,
    /// The refused layers that the kernel was told to forget.
    pub(crate) forgotten: Mutex<HashSet<(Key, String)>>,
    /// When what is done with each layer.
    pub(crate) times: Mutex<HashMap<Key, Times>>,
    /// How long a new layer is left alone: what starts now needs the network more.
    pub(crate) after: Duration,
    pub(crate) shutdown: Shutdown,
}

impl Filler {
    /// Works until the process is told to stop. The layers of each server have a pass of their own: one that is slow or away holds up
    /// nobody else's.
    pub(crate) async fn run(self) {
        let filler = Arc::new(self);
        let (mut passes, mut busy) = (JoinSet::new(), HashMap::new());
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                () = filler.shutdown.requested() => return,
                Some(ended) = passes.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(panicked) => panicked.id(),
                    };
                    busy.retain(|_, pass| *pass != id);
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if swept.elapsed() >= SWEEP_EVERY {
                        swept = Instant::now();
                        filler.sweep().await;
                    }
                    for (server, origins) in filler.by_server().await {
                        if passes.len() < MOST_PASSES && !busy.contains_key(&server) {
                            let filler = Arc::clone(&filler);
                            let pass = passes.spawn(async move { filler.pass(&origins).await });
                            busy.insert(server, pass.id());
                        }
                    }
                }
            }
        }
    }

    /// Returns all layers by whom they come from.
    async fn by_server(&self) -> HashMap<Server, Vec<Origin>> {
        let snapshots = Arc::clone(&self.snapshots);
        let origins = match telemetry::blocking(move || snapshots.origins()).await {
            Ok(origins) => origins,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the layers cannot be listed");
                return HashMap::new();
            }
        };
        let keys: HashSet<Key> = origins.iter().map(Origin::key).collect();
        self.times().retain(|key, _| keys.contains(key));
        let mut servers: HashMap<Server, Vec<Origin>> = HashMap::new();
        for origin in origins {
            servers.entry((origin.via, origin.host.clone())).or_default().push(origin);
        }
        servers
    }

    fn times(&self) -> MutexGuard<'_, HashMap<Key, Times>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each of one server's layers its turn.
    async fn pass(&self, origins: &[Origin]) {
        for origin in origins {
            let key = origin.key();
            let now = Instant::now();
            let times = *self.times().entry(key.clone()).or_insert_with(|| Times {
                from: now + self.after,
                held: None,
                is_full: false,
                failed: 0,
            });
            if origin.via == Via::Proxy && times.held.is_none_or(|at| at.elapsed() >= HOLD_EVERY) {
                self.set(&key, |times| times.held = Some(now));
                self.hold(origin).await;
            }
            if now < times.from {
                continue;
            }
            match self.work_on(origin).await {
                Ok(()) => self.set(&key, |times| times.failed = 0),
                // Told to stop, or the layer was removed meanwhile.
                Err(ReadError::Over) if self.shutdown.is_requested() => return,
                Err(ReadError::Over) => {}
                Err(error @ ReadError::NoRoom) => {
                    // Once: a cache may be full for good.
                    if !times.is_full {
                        let error = &error as &dyn std::error::Error;
                        tracing::info!(blob.digest = %origin.twin, error, "only what is read of a layer is fetched");
                    }
                    self.set(&key, |times| (times.from, times.is_full) = (Instant::now() + RETRY, true));
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(blob.digest = %origin.twin, error, "a layer is brought later");
                    self.set(&key, |times| {
                        times.from = Instant::now() + RETRY * 2_u32.pow(times.failed.min(DOUBLINGS));
                        times.failed += 1;
                    });
                }
            }
        }
    }

    fn set(&self, key: &Key, change: impl FnOnce(&mut Times)) {
        if let Some(times) = self.times().get_mut(key) {
            change(times);
        }
    }

    /// Has the proxy keep the twin of a layer of which not all bytes are here.
    async fn hold(&self, origin: &Origin) {
        let (layers, of) = (Arc::clone(&self.layers), origin.clone());
        let Ok(layer) = telemetry::blocking(move || layers.get(&of)).await else { return };
        match layer.proof(&origin.expected) {
            Proof::Pending => {}
            // It may have been evicted in part since.
            Proof::Proven if !layer.is_complete() => {}
            Proof::Proven | Proof::Refused => return,
        }
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let held = tokio::time::timeout(HOLD_PATIENCE, self.layers.hold(origin, &format!("node-{node}"))).await;
        if !matches!(held, Ok(Ok(()))) {
            tracing::debug!(blob.digest = %origin.twin, "the proxy does not hold a twin: it may have to make it again");
        }
    }

    async fn sweep(&self) {
        let snapshots = Arc::clone(&self.snapshots);
        if let Err(error) = telemetry::blocking(move || snapshots.sweep_layers()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "layers that nobody has stay on the disk");
        }
    }

    /// Returns a layer, and fetches its TOC where that was lost.
    async fn layer(&self, origin: &Origin) -> Result<Arc<Layer>, LayerError> {
        let (layers, of) = (Arc::clone(&self.layers), origin.clone());
        match telemetry::blocking(move || layers.get(&of)).await {
            Err(error) if error.is_lost() => {
                tracing::warn!(blob.digest = %origin.twin, error = &error as &dyn std::error::Error, "a TOC is fetched again");
                self.layers.fetch_needed(origin).await
            }
            known => known,
        }
    }

    async fn work_on(&self, origin: &Origin) -> Result<(), ReadError> {
        let layer = match self.layer(origin).await {
            Ok(layer) => layer,
            Err(LayerError::Upstream(error)) => return Err(error.into()),
            Err(error) => {
                return Err(std::io::Error::other(error).into());
            }
        };
        // Or somebody who waits for it is at it.
        let Ok(_proving) = layer.proving.try_lock() else { return Ok(()) };
        match layer.proof(&origin.expected) {
            Proof::Pending => {}
            Proof::Proven => return Ok(()),
            Proof::Refused => {
                self.forget(origin).await;
                return Ok(());
            }
        }
        match tokio::time::timeout(TURN, layer.complete(&origin.expected, 1, |bytes| self.idle(&layer, bytes))).await {
            Ok(completed) => completed?,
            // The others have their turns, too.
            Err(_) => return Ok(()),
        }
        match layer.prove(&origin.expected).await? {
            Proof::Pending => {}
            Proof::Proven => {
                tracing::info!(blob.digest = %origin.twin, layer = %origin.layer, "a layer is here and proven");
            }
            Proof::Refused => self.forget(origin).await,
        }
        Ok(())
    }

    /// Has the kernel forget what it knows of a layer that is refused.
    async fn forget(&self, origin: &Origin) {
        // Once in the life of a process: an earlier one may have died over it.
        let is_new =
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).insert((origin.key(), origin.expected.key()));
        if !is_new {
            return;
        }
        let (snapshots, notifiers, origin) = (Arc::clone(&self.snapshots), self.notifiers.clone(), origin.clone());
        let forget = move || match snapshots.showing(&origin) {
            Ok(showing) => showing.iter().for_each(|snapshot| files::forget(&notifiers, snapshot)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the kernel may still show a refused layer");
            }
        };
        telemetry::blocking(forget).await;
    }

    /// Waits until nobody waits for bytes of any layer that come, and there is room for so many.
    async fn idle(&self, layer: &Layer, bytes: u64) -> Result<(), ReadError> {
        let mut quiet_since = Instant::now();
        let mut was_busy = false;
        loop {
            if self.shutdown.is_requested() || !self.layers.has(layer) {
                return Err(ReadError::Over);
            }
            let is_busy = self.layers.all().iter().any(|layer| layer.is_urgent());
            if is_busy {
                (quiet_since, was_busy) = (Instant::now(), true);
            }
            if !is_busy && (!was_busy || quiet_since.elapsed() >= QUIET) {
                // Another layer may be smaller, or only be waiting for its proof.
                let has_room = self.layers.room().is_ample(bytes) && self.has_room(bytes);
                return if has_room { Ok(()) } else { Err(ReadError::NoRoom) };
            }
            tokio::time::sleep(QUIET / 4).await;
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let Ok(disk) = rustix::fs::statvfs(&self.root) else { return true };
        let left = (disk.f_bavail * disk.f_frsize).saturating_sub(bytes);
        left >= disk.f_blocks * disk.f_frsize / 100 * FREE_PERCENT
    }
}

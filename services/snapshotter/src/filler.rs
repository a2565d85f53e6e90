//! [`Filler`]: brings what is missing of all layers while nobody waits, so that they need no network any more, and proves them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Digest;
use telemetry::Shutdown;
use tokio::time::Instant;

use crate::Snapshots;
use crate::layer::{Layer, Proof, ReadError};
use crate::layers::{Layers, Origin};

/// How long nobody may have waited before something is fetched.
const QUIET: Duration = Duration::from_millis(200);
/// How long the proxy may take to say that it holds a twin.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a layer that could not be brought is left alone.
const RETRY: Duration = Duration::from_secs(30);
/// How often the proxy is told that a layer is not here yet; it keeps the twin for an hour.
const HOLD_EVERY: Duration = Duration::from_secs(20 * 60);
/// The part of the disk that stays free.
const FREE_PERCENT: u64 = 10;

/// Brings and proves layers in the background.
#[derive(Debug)]
pub(crate) struct Filler {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) root: PathBuf,
    /// How long a new layer is left alone: what starts now needs the network more.
    pub(crate) after: Duration,
    pub(crate) shutdown: Shutdown,
}

impl Filler {
    /// Works until the process is told to stop.
    pub(crate) async fn run(self) {
        // From when on a layer may be worked on.
        let mut from: HashMap<Digest, Instant> = HashMap::new();
        let mut held: HashMap<Digest, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = self.shutdown.requested() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let snapshots = Arc::clone(&self.snapshots);
            let origins = match telemetry::blocking(move || snapshots.origins()).await {
                Ok(origins) => origins,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the layers cannot be listed");
                    continue;
                }
            };
            let twins: std::collections::HashSet<&Digest> = origins.iter().map(|origin| &origin.twin).collect();
            from.retain(|twin, _| twins.contains(twin));
            held.retain(|twin, _| twins.contains(twin));
            for origin in &origins {
                if held.get(&origin.twin).is_none_or(|at| at.elapsed() >= HOLD_EVERY) {
                    held.insert(origin.twin.clone(), Instant::now());
                    self.hold(origin).await;
                }
                let start = *from.entry(origin.twin.clone()).or_insert_with(|| Instant::now() + self.after);
                if Instant::now() < start {
                    continue;
                }
                match self.work_on(origin).await {
                    Ok(()) => {}
                    // Told to stop, or the layer was removed meanwhile.
                    Err(ReadError::Over) if self.shutdown.is_requested() => return,
                    Err(ReadError::Over) => {}
                    Err(ReadError::NoRoom) => {
                        from.insert(origin.twin.clone(), Instant::now() + RETRY);
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(blob.digest = %origin.twin, error, "a layer is brought later");
                        from.insert(origin.twin.clone(), Instant::now() + RETRY);
                    }
                }
            }
        }
    }

    /// Has the proxy keep the twin of a layer that is not all here.
    async fn hold(&self, origin: &Origin) {
        let (layers, of) = (Arc::clone(&self.layers), origin.clone());
        let Ok(layer) = telemetry::blocking(move || layers.get(&of)).await else { return };
        if layer.proof(&origin.expected) != Proof::Pending {
            return;
        }
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let held = tokio::time::timeout(HOLD_PATIENCE, layer.hold(&format!("node-{node}"))).await;
        if !matches!(held, Ok(Ok(()))) {
            tracing::debug!(blob.digest = %origin.twin, "the proxy does not hold a twin: it may have to make it again");
        }
    }

    async fn work_on(&self, origin: &Origin) -> Result<(), ReadError> {
        let (layers, of) = (Arc::clone(&self.layers), origin.clone());
        let Ok(layer) = telemetry::blocking(move || layers.get(&of)).await else { return Ok(()) };
        if layer.proof(&origin.expected) != Proof::Pending {
            return Ok(());
        }
        layer.complete(|| self.idle(&layer)).await?;
        if layer.prove(&origin.expected).await? == Proof::Proven {
            tracing::info!(blob.digest = %origin.twin, layer = %origin.layer, "a layer is here and proven");
        }
        Ok(())
    }

    /// Waits until nobody waits for bytes of any layer, and there is room.
    async fn idle(&self, layer: &Layer) -> Result<(), ReadError> {
        let mut quiet_since = Instant::now();
        let mut was_busy = false;
        loop {
            if self.shutdown.is_requested() || !self.layers.has(layer) {
                return Err(ReadError::Over);
            }
            let is_busy = self.layers.all().iter().any(|layer| layer.waiting() > 0);
            if is_busy {
                (quiet_since, was_busy) = (Instant::now(), true);
            }
            if !is_busy && (!was_busy || quiet_since.elapsed() >= QUIET) {
                // Another layer may be smaller, or only be waiting for its proof.
                let has_room = self.layers.room().is_ample() && self.has_room();
                return if has_room { Ok(()) } else { Err(ReadError::NoRoom) };
            }
            tokio::time::sleep(QUIET / 4).await;
        }
    }

    fn has_room(&self) -> bool {
        let Ok(disk) = rustix::fs::statvfs(&self.root) else { return true };
        disk.f_bavail * 100 >= disk.f_blocks * FREE_PERCENT
    }
}

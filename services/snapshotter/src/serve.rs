//! Serves containerd on a Unix socket until a signal asks to stop.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use telemetry::Shutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::evictor::Evictor;
use crate::files::LazyMount;
use crate::filler::Filler;
use crate::layer::Common;
use crate::layers::Layers;
use crate::lazy::Lazy;
use crate::memory::Memory;
use crate::mounting::Mounting;
use crate::names::Names;
use crate::proto::snapshots::v1::snapshots_server::SnapshotsServer;
use crate::proxies::Proxies;
use crate::registries::Registries;
use crate::room::Room;
use crate::trust::Trust;
use crate::unpacker::Unpacker;
use crate::{Service, SnapshotError, Snapshots, metrics, socket};

/// How often it is written down which bytes of layers are on the disk.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked for another holder.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// How long calls may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until a signal asks to stop.
///
/// # Errors
/// Says what could not be opened, bound or served.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let trust = Arc::new(Trust::new(&config));
    let registries = Arc::new(Registries::new(&config));
    let Config { root, socket: address, holder, cache_size, convert_wait, fill_after, metrics_listen, .. } = config;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&root);
    made.with_context(|| format!("cannot make the folder {}", root.display()))?;
    // Mounts are listed by their true path.
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    let _lock = lock(&root)?;
    let proxies = Arc::new(Proxies::new(&config.proxy)?);
    let room = Arc::new(Room::new(cache_size.as_u64()));
    let memory = Memory::new(config.tree_memory);
    let common = Common { room, memory, counts: Arc::default(), kin: Arc::default(), patience: config.read_timeout };
    let (folder, sources, trusted) = (root.clone(), Arc::clone(&proxies), Arc::clone(&trust));
    let opened = telemetry::blocking(move || {
        let layers = Arc::new(Layers::open(&folder, sources, registries, trusted, common)?);
        Ok::<_, SnapshotError>((Arc::new(Snapshots::open(&folder, Arc::clone(&layers))?), layers))
    });
    let (snapshots, layers) =
        opened.await.with_context(|| format!("cannot open the snapshots in {}", root.display()))?;
    let (names, shown) = (Arc::new(Names::default()), Arc::clone(&snapshots));
    let files = |at: &Path| LazyMount::new(Arc::clone(&shown), Handle::current(), Arc::clone(&names), at.to_owned());
    let shutdown = Shutdown::new();
    let is_broken = Arc::new(AtomicBool::new(false));
    let (stop, broken) = (shutdown.clone(), Arc::clone(&is_broken));
    let ended = move || {
        if !stop.is_requested() {
            broken.store(true, Ordering::Release);
            stop.trigger();
        }
    };
    // What can go wrong goes wrong before it is taken from the holder what readers wait for.
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let listener = bind(&address)?;
    if let Some(address) = metrics_listen {
        metrics::serve(address, Arc::clone(&snapshots), shutdown.clone()).await?;
    }
    let mount = Arc::new(Mounting::start(&root, files, &holder, ended.clone())?);
    let unpacker = Unpacker::new(Arc::clone(&snapshots), Arc::clone(&proxies), config.containerd);
    let lazy = Lazy::new(Arc::clone(&snapshots), Arc::clone(&layers), proxies, convert_wait, trust);
    let service = Service::new(Arc::clone(&snapshots), Arc::new(lazy), Arc::new(unpacker));
    let filler = Filler {
        snapshots: Arc::clone(&snapshots),
        layers: Arc::clone(&layers),
        root: root.clone(),
        notifiers: mount.notifiers(),
        forgotten: Mutex::default(),
        times: Mutex::default(),
        after: fill_after,
        shutdown: shutdown.clone(),
    };
    let filling = tokio::spawn(filler.run());
    let holding = tokio::spawn(hold(Arc::clone(&mount)));
    let evicting = tokio::spawn(Evictor { layers: Arc::clone(&layers) }.run());
    let flushing = tokio::spawn(flush(Arc::clone(&layers), Arc::clone(&snapshots), root.clone(), ended));
    tracing::info!(root = %root.display(), address = %address.display(), "serving");
    accept(&listener, &service, &shutdown).await;
    filling.abort();
    evicting.abort();
    holding.abort();
    flushing.abort();
    flush_all(layers).await;
    telemetry::blocking(move || mount.end()).await;
    // The next one to start makes its own.
    let _gone = fs::remove_file(&address);
    if is_broken.load(Ordering::Acquire) {
        bail!("the database or the kernel's requests cannot be used any more: start again");
    }
    Ok(())
}

/// Writes down from time to time which bytes of layers are on the disk, and how far every image is.
async fn flush(
    layers: Arc<Layers>,
    snapshots: Arc<Snapshots>,
    root: PathBuf,
    ended: impl Fn() + Clone + Send + 'static,
) {
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        flush_all(Arc::clone(&layers)).await;
        let (snapshots, root, ended) = (Arc::clone(&snapshots), root.clone(), ended.clone());
        telemetry::blocking(move || {
            if snapshots.is_broken() {
                tracing::error!("the database takes no more changes since the disk failed or was full");
                return ended();
            }
            match snapshots.status().map(|status| status.write(&root)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the status cannot be written"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the status is not known"),
            }
        })
        .await;
    }
}

/// Looks from time to time whether there is a holder that does not keep what is mounted yet.
async fn hold(mount: Arc<Mounting>) {
    let mut tick = tokio::time::interval(HOLD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mount = Arc::clone(&mount);
        telemetry::blocking(move || mount.renew()).await;
    }
}

async fn flush_all(layers: Arc<Layers>) {
    telemetry::blocking(move || {
        for layer in layers.all() {
            if let Err(error) = layer.flush() {
                tracing::error!(%error, "what is on the disk of a layer cannot be written down");
            }
        }
    })
    .await;
}

/// Keeps other processes from the folder as long as the file is open.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    socket::keep_to_ourselves(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            bail!("another snapshotter uses the folder {}: give each its own root", root.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Listens on the socket `address`.
fn bind(address: &Path) -> anyhow::Result<UnixListener> {
    let listener = socket::listen(address)?;
    let made = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    made.with_context(|| format!("cannot listen on {}", address.display()))
}

async fn accept(listener: &UnixListener, service: &Service, shutdown: &Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(talk(stream, service.clone(), shutdown.clone()))),
                Err(error) => {
                    tracing::error!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    let _late = tokio::time::timeout(GRACE, connections.join_all()).await;
}

/// Answers one connection's calls; after a stop those that have begun.
async fn talk(stream: UnixStream, service: Service, shutdown: Shutdown) {
    let service = TowerToHyperService::new(SnapshotsServer::new(service));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(connection.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

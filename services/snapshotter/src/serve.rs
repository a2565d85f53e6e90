//! Serves containerd on a Unix socket until a signal asks to stop.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use telemetry::Shutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::service::proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use crate::{Service, Snapshots};

/// How long calls may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until a signal asks to stop.
///
/// # Errors
/// Says what could not be opened, bound or served.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let Config { root, address } = config;
    fs::create_dir_all(&root).with_context(|| format!("cannot make the folder {}", root.display()))?;
    let _lock = lock(&root)?;
    let folder = root.clone();
    let opened = telemetry::blocking(move || Snapshots::open(&folder)).await;
    let snapshots = opened.with_context(|| format!("cannot open the snapshots in {}", root.display()))?;
    let service = Service::new(Arc::new(snapshots));
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let listener = bind(&address)?;
    tracing::info!(root = %root.display(), address = %address.display(), "serving");
    accept(&listener, &service, &shutdown).await;
    // The next one to start makes its own.
    let _gone = fs::remove_file(&address);
    Ok(())
}

/// Keeps other processes from the folder as long as the file is open.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            bail!("another snapshotter uses the folder {}: give each its own root", root.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Listens on the socket `address`, in place of one that a process which died left. Only who has the lock does so.
fn bind(address: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = address.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    match fs::remove_file(address) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", address.display()));
        }
        _ => {}
    }
    UnixListener::bind(address).with_context(|| format!("cannot listen on {}", address.display()))
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

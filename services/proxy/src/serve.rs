//! `firstlight serve` and `firstlight worker`: everything is checked and built before the first socket is bound;
//! stopping drains.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use telemetry::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::app::App;
use crate::config::{CatalogUrl, Config, Server};
use crate::gc;
use crate::htpasswd::Gate;
use crate::route::Listener;
use crate::router;
use crate::serve_http::{self, ConnLimits};
use crate::tls::TlsAcceptorHandle;

/// How long running requests may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(30);

/// What a process does for its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves clients, and fills and converts what they ask for.
    Serve,
    /// It serves no client, and fills and converts what the others leave.
    Worker,
}

/// Runs until a signal asks to stop.
///
/// # Errors
/// Says what could not be opened, bound or served.
pub async fn run(config: Config, role: Role) -> anyhow::Result<()> {
    if role == Role::Worker && matches!(config.catalog.url, CatalogUrl::Sqlite(_)) {
        bail!(
            "a worker shares its catalog with the replicas it works for: set catalog.url to their PostgreSQL database"
        );
    }
    let server = config.server.clone();
    let _lock = lock(&config.storage.path)?;
    let app = App::open(config).await?;
    // Before the first request: what is swept here must not be a new fill's.
    app.take_up().await?;
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;

    let collecting = gc::run(Arc::clone(&app.collector), Arc::clone(&app.uses), shutdown.clone());
    let collecting = tokio::spawn(collecting);

    let mut listeners = JoinSet::new();
    if role == Role::Serve {
        serve_clients(&mut listeners, &app, &server, &shutdown).await?;
    }
    if let (Some(internal), Some(secret)) = (&server.internal, app.fleet.secret()) {
        let listener = bind(internal.listen, "server.internal_listen").await?;
        listeners.spawn(serve(listener, None, router::internal(&app, secret.clone()), shutdown.clone()));
    }
    let listener = bind(server.admin_listen, "server.admin_listen").await?;
    listeners.spawn(serve(listener, None, router::admin(&app), shutdown.clone()));

    match role {
        Role::Serve => tracing::info!(listen = %server.listen, admin = %server.admin_listen, "serving"),
        Role::Worker => tracing::info!(admin = %server.admin_listen, "working"),
    }
    while let Some(ended) = listeners.join_next().await {
        ended.context("a listener failed")?;
    }
    shutdown.trigger();
    collecting.await.context("collecting broke off")?;
    app.conversions.stop().await;
    app.fleet.leave().await;
    tracing::info!("stopped");
    Ok(())
}

/// Binds and serves the listeners of the registry API.
async fn serve_clients(
    listeners: &mut JoinSet<()>,
    app: &Arc<App>,
    server: &Server,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let tls = server.tls.as_ref().map(TlsAcceptorHandle::load).transpose().context("tls_cert and tls_key")?;
    let tls = tls.map(Arc::new);
    let gate = server.htpasswd.as_deref().map(Gate::load).transpose().context("htpasswd")?.map(Arc::new);
    let main = router::registry(app, Listener::Main, gate.clone());
    let listener = bind(server.listen, "server.listen").await?;
    listeners.spawn(serve(listener, tls.clone(), main, shutdown.clone()));
    if let Some(address) = server.mirror_listen {
        let mirror = router::registry(app, Listener::Mirror, gate);
        let listener = bind(address, "server.mirror_listen").await?;
        listeners.spawn(serve(listener, tls, mirror, shutdown.clone()));
    }
    Ok(())
}

/// Takes the data folder for this process: two that sweep each other's spools would lose work.
pub(crate) fn lock(folder: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => bail!(
            "{} is in use by another firstlight; stop it, or set storage.path to another folder",
            folder.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({key}): is another process using it? Set {key} to a free address")
    })
}

async fn serve(listener: TcpListener, tls: Option<Arc<TlsAcceptorHandle>>, routes: Router, shutdown: Shutdown) {
    let stop = async move { shutdown.requested().await };
    serve_http::serve(listener, tls, routes, stop, GRACE, ConnLimits::default()).await;
}

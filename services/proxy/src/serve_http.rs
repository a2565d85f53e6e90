//! [`serve`]: HTTP/1.1 and HTTP/2 on one listener, with limits, until told to stop.

mod connection;
mod idle;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::tls::TlsAcceptorHandle;
use connection::Connection;

/// How long the listener rests when the process has no file descriptor left: `accept` would fail again at
/// once, and a connection that ends frees one.
const REST: Duration = Duration::from_millis(100);

/// What one listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct ConnLimits {
    /// Connections at once; more wait in the system's backlog.
    pub connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// The bytes of a request's head.
    pub head_bytes: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long an HTTP/1.1 connection may be without a complete request head, the time between requests
    /// included.
    pub head: Duration,
    /// How long a connection may be without one byte in either direction, requests in work included.
    pub idle: Duration,
}

impl Default for ConnLimits {
    /// Room for some thousand nodes; times like those of common proxies.
    fn default() -> Self {
        Self {
            connections: 4096,
            streams: 256,
            head_bytes: 64 << 10,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(75),
            idle: Duration::from_secs(300),
        }
    }
}

/// Serves `app` on `listener`, over TLS when `tls` is there, until `shutdown` is done. Then it stops
/// accepting, lets running requests finish for at most `grace`, and cuts the rest; it returns how many
/// connections it cut.
///
/// Requests carry `ConnectInfo<SocketAddr>`. A response body that ends in an error is cut, never ended
/// cleanly: the connection closes before the announced length or the last chunk (HTTP/1.1), or the stream
/// is reset (HTTP/2).
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<TlsAcceptorHandle>>,
    app: Router,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    limits: ConnLimits,
) -> usize {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let drain = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (slot, stream, client) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                log_panic(ended);
                continue;
            }
            accepted = accept(&listener, &slots) => accepted,
        };
        let connection =
            Connection { stream, client, tls: tls.clone(), app: app.clone(), limits, watcher: drain.watcher() };
        connections.spawn(async move {
            connection.run().await;
            drop(slot);
        });
    }
    // Closed before the drain, so that clients are refused and go elsewhere.
    drop(listener);
    let drained = tokio::time::timeout(grace, drain.shutdown()).await.is_ok();
    let mut cut = 0;
    if !drained {
        connections.abort_all();
    }
    while let Some(ended) = connections.join_next().await {
        cut += usize::from(ended.as_ref().is_err_and(tokio::task::JoinError::is_cancelled));
        log_panic(ended);
    }
    cut
}

/// Waits for a free slot, then for a client.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    // Never closed, so always a slot.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                // Small answers (HEAD, 206 of a few blocks) must not wait for an acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(client.address = %client, %error, "connection lost before it began");
                    continue;
                }
                return (slot, stream, client);
            }
            Err(error) if is_of_the_client(&error) => {
                tracing::debug!(%error, "connection lost before it began");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

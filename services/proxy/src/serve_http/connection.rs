//! [`Connection`]: one client from its first byte to its last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::Watcher;
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::ConnLimits;
use super::idle::Idle;
use crate::tls::TlsAcceptorHandle;

/// The bytes of answers held for one connection (HTTP/1.1) or stream (HTTP/2) that reads slowly.
const SEND_BUFFER: usize = 256 << 10;

/// One client from its first byte to its last.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    pub(super) tls: Option<Arc<TlsAcceptorHandle>>,
    pub(super) app: Router,
    pub(super) limits: ConnLimits,
    pub(super) watcher: Watcher,
}

impl Connection {
    /// Serves the client until it leaves, breaks a limit, or the drain begins and its requests are done.
    pub(super) async fn run(self) {
        let Self { stream, client, tls, app, limits, watcher } = self;
        let stream = Idle::new(stream, limits.idle);
        let ended = match tls {
            None => run_http(TokioIo::new(stream), client, app, limits, watcher).await,
            Some(tls) => match tokio::time::timeout(limits.handshake, tls.accept(stream)).await {
                Ok(Ok(stream)) => run_http(TokioIo::new(stream), client, app, limits, watcher).await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            },
        };
        // Clients leave in all manners, and a failed body is logged where it failed.
        if let Err(error) = ended {
            tracing::debug!(client.address = %client, error = &*error as &dyn std::error::Error, "connection ended");
        }
    }
}

async fn run_http<I>(
    io: I,
    client: SocketAddr,
    app: Router,
    limits: ConnLimits,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        app.clone().oneshot(request.map(Body::new))
    });
    watcher.watch(builder(limits).serve_connection(io, service).into_owned()).await
}

fn builder(limits: ConnLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes.max(MIN_HEAD_BYTES));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// hyper panics below this.
const MIN_HEAD_BYTES: usize = 8 << 10;

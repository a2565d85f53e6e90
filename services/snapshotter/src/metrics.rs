//! Answers Prometheus on `metrics_listen`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use telemetry::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{Snapshots, status};

/// The connections that are answered at once; more wait.
const MOST: usize = 16;
/// How long a connection may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens at `address`, and answers until the process is told to stop.
///
/// # Errors
/// Nobody can listen there.
pub(crate) async fn serve(address: SocketAddr, snapshots: Arc<Snapshots>, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    let places = Arc::new(Semaphore::new(MOST));
    tokio::spawn(async move {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = tokio::select! {
                () = shutdown.requested() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection for metrics was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let snapshots = Arc::clone(&snapshots);
            tokio::spawn(async move {
                talk(stream, snapshots).await;
                drop(place);
            });
        }
    });
    Ok(())
}

async fn talk(stream: TcpStream, snapshots: Arc<Snapshots>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let snapshots = Arc::clone(&snapshots);
        async move { Ok::<_, Infallible>(answer(request.uri().path(), snapshots).await) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection for metrics broke off");
    }
}

async fn answer(path: &str, snapshots: Arc<Snapshots>) -> Response<String> {
    let (status, text) = match path {
        "/metrics" => match telemetry::blocking(move || snapshots.status()).await {
            Ok(known) => (StatusCode::OK, status::metrics(&known)),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics and /healthz\n".to_owned()),
    };
    let mut answer = Response::new(text);
    *answer.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

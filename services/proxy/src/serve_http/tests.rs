use std::convert::Infallible;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::tls::tests::make_pair;

const PIECE: &[u8] = &[7; 1000];

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

async fn start(app: Router, tls: Option<Arc<TlsAcceptorHandle>>, grace: Duration, limits: ConnLimits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { stopped.await.unwrap_or_default() };
    let task = tokio::spawn(serve(listener, tls, app, shutdown, grace, limits));
    Server { address, stop, task }
}

async fn start_plain(app: Router) -> Server {
    start(app, None, Duration::from_secs(5), ConnLimits::default()).await
}

/// A body of one piece and then an error; of a length that says it would be longer, or of none.
fn broken(length: Option<&str>) -> http::Response<Body> {
    let error = async {
        // The piece is sent while the body is not ready.
        tokio::task::yield_now().await;
        Err(io::Error::other("wrong digest"))
    };
    let pieces = stream::iter([Ok(Bytes::from_static(PIECE))]).chain(stream::once(error));
    let mut response = http::Response::new(Body::from_stream(pieces));
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.parse().unwrap());
    }
    response
}

fn app() -> Router {
    Router::new()
        .route("/whole", get(|| async { Bytes::from_static(PIECE) }))
        .route("/cut", get(|| async { broken(Some("2000")) }))
        .route("/cut-chunked", get(|| async { broken(None) }))
        .route("/client", get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move { client.to_string() }))
        .route("/head", get(|headers: HeaderMap| async move { headers.len().to_string() }))
}

/// Sends one request and returns all that comes back until the connection ends.
async fn exchange(address: SocketAddr, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

fn client(h2: bool) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    if h2 { builder.http2_prior_knowledge() } else { builder.http1_only() }.build().unwrap()
}

#[tokio::test]
async fn a_failed_body_never_ends_cleanly() {
    let server = start_plain(app()).await;
    let url = |path: &str| format!("http://{}{path}", server.address);
    for h2 in [false, true] {
        let client = client(h2);
        let whole = client.get(url("/whole")).send().await.unwrap();
        assert_eq!(whole.version() == http::Version::HTTP_2, h2);
        assert_eq!(whole.bytes().await.unwrap(), PIECE);
        for path in ["/cut", "/cut-chunked"] {
            // Over HTTP/2 the reset may overtake the head.
            let end = match client.get(url(path)).send().await {
                Ok(response) => response.bytes().await.map(|bytes| bytes.len()),
                Err(error) => Err(error),
            };
            assert!(end.is_err(), "{path} ended cleanly after {end:?} bytes, HTTP/2: {h2}");
        }
    }
    // What stands on the wire: no byte after the piece, above all no last chunk.
    for (path, rest) in [("/cut", ""), ("/cut-chunked", "3E8\r\n")] {
        let answer = exchange(server.address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let mut expected = rest.as_bytes().to_vec();
        expected.extend_from_slice(PIECE);
        let tail = answer[body..].strip_prefix(&expected[..]).unwrap();
        assert!(tail.is_empty() || tail == b"\r\n", "{path}: {tail:?}");
    }
}

#[tokio::test]
async fn requests_know_their_client() {
    let server = start_plain(app()).await;
    let text = client(false).get(format!("http://{}/client", server.address)).send().await.unwrap().text().await;
    assert!(text.unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn tls_speaks_both_versions_and_refuses_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let files = make_pair(dir.path());
    let tls = Arc::new(TlsAcceptorHandle::load(&files).unwrap());
    let server = start(app(), Some(tls), Duration::from_secs(5), ConnLimits::default()).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = reqwest::Certificate::from_pem(&std::fs::read(&files.cert).unwrap()).unwrap();
    for (h1_only, version) in [(false, http::Version::HTTP_2), (true, http::Version::HTTP_11)] {
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([certificate.clone()]);
        let client = if h1_only { builder.http1_only() } else { builder }.build().unwrap();
        let response = client.get(format!("https://localhost:{}/whole", server.address.port())).send().await.unwrap();
        assert_eq!(response.version(), version);
        assert_eq!(response.bytes().await.unwrap(), PIECE);
        let cut = match client.get(format!("https://localhost:{}/cut", server.address.port())).send().await {
            Ok(response) => response.bytes().await.map(|bytes| bytes.len()),
            Err(error) => Err(error),
        };
        assert!(cut.is_err(), "{version:?} ended cleanly after {cut:?} bytes");
    }
    let answer = exchange(server.address, "GET /whole HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_stop_lets_running_requests_finish() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun_there, go_on_there) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow = move || {
        let (begun, go_on) = (Arc::clone(&begun_there), Arc::clone(&go_on_there));
        async move {
            begun.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let server = start(Router::new().route("/", get(slow)), None, Duration::from_secs(20), ConnLimits::default()).await;
    // An idle connection must not hold the drain up.
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let url = format!("http://{}/", server.address);
    let request = tokio::spawn(async move { client(false).get(url).send().await?.text().await });
    begun.notified().await;
    server.stop.send(()).unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "the idle connection stays open");
    assert!(TcpStream::connect(server.address).await.is_err(), "still accepting");
    go_on.notify_one();
    assert_eq!(request.await.unwrap().unwrap(), "done");
    assert_eq!(server.task.await.unwrap(), 0);
}

#[tokio::test]
async fn a_stop_cuts_what_is_not_done_in_time() {
    let begun = Arc::new(Notify::new());
    let begun_there = Arc::clone(&begun);
    let endless = move || {
        begun_there.notify_one();
        std::future::pending::<Result<String, Infallible>>()
    };
    let app = Router::new().route("/", get(async move || endless().await.unwrap_or_default()));
    let server = start(app, None, Duration::from_millis(50), ConnLimits::default()).await;
    let url = format!("http://{}/", server.address);
    let request = tokio::spawn(client(false).get(url).send());
    begun.notified().await;
    server.stop.send(()).unwrap();
    assert_eq!(server.task.await.unwrap(), 1);
    assert!(request.await.unwrap().is_err());
}

#[tokio::test]
async fn limits_hold() {
    let limits = ConnLimits {
        connections: 1,
        head_bytes: 8 << 10,
        head: Duration::from_millis(300),
        idle: Duration::from_millis(900),
        ..ConnLimits::default()
    };
    let server = start(app(), None, Duration::from_secs(5), limits).await;
    let begin = std::time::Instant::now();
    // Nothing at all: the protocol is not even known. Each must make room for the next.
    assert_eq!(exchange(server.address, "").await, b"");
    // Half a head.
    exchange(server.address, "GET /whole HTTP/1.1\r\nhost: ").await;
    // Half a preface of HTTP/2.
    exchange(server.address, "PRI * HTTP/2.0\r\n").await;
    assert!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
    let large = format!("GET /head HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(9 << 10));
    let answer = exchange(server.address, &large).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    let close = "GET /whole HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(exchange(server.address, close).await.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let limits = ConnLimits { idle: Duration::from_millis(300), ..ConnLimits::default() };
    let gone = Arc::new(Notify::new());
    let gone_there = Arc::clone(&gone);
    let endless = move || {
        let guard = NotifyOnDrop(Arc::clone(&gone_there));
        let piece = Bytes::from_static(&[0; 64 << 10]);
        let pieces = stream::repeat_with(move || {
            let _kept = &guard;
            Ok::<_, Infallible>(piece.clone())
        });
        async { Body::from_stream(pieces) }
    };
    let server = start(Router::new().route("/", get(endless)), None, Duration::from_secs(5), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), gone.notified()).await.expect("the body is dropped");
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

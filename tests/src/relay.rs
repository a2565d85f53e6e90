//! A relay in front of a registry, which counts, records and breaks.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::wait;

mod rule;

/// What a connection holds back at most, and the largest piece of an unthrottled body.
const BUFFER: usize = 16 << 10;

use rule::Faults;
pub use rule::{Fault, Rule};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = BoxBody<Bytes, BoxError>;

/// A request that came through, and what was sent for it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The status that was sent.
    pub status: u16,
    /// The bytes of the body that were handed to the connection so far; it and the kernel hold at most 160 KiB of them.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
}

/// An HTTP/1.1 relay to one registry. Counts body bytes, records requests, and applies [`Rule`]s.
#[derive(Debug)]
pub struct Relay {
    at: SocketAddrV4,
    target: SocketAddrV4,
    shared: Arc<Mutex<Shared>>,
    running: Option<(Runtime, watch::Sender<bool>)>,
}

impl Relay {
    /// Starts a relay on a free loopback port of this machine.
    ///
    /// # Errors
    /// It could not listen.
    pub fn start(target: SocketAddrV4) -> Result<Self> {
        let at = SocketAddrV4::new(*target.ip(), wait::free_port());
        let mut relay = Self { at, target, shared: Arc::default(), running: None };
        relay.resume()?;
        Ok(relay)
    }

    /// Returns the address it listens on.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Stops listening and cuts every connection, as if the registry's machine had gone.
    pub fn stop(&mut self) {
        if let Some((runtime, stop)) = self.running.take() {
            let _ = stop.send(true);
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Listens again, on the same port, after [`Relay::stop`].
    ///
    /// # Errors
    /// It could not listen.
    pub fn resume(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        // The socket of before [`Relay::stop`] lives on in a child that another thread is starting, until its exec.
        let listener =
            wait::until("port", Duration::from_secs(5), || match runtime.block_on(async { listen(self.at) }) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
                other => Ok(Some(other?)),
            });
        let listener = listener.with_context(|| format!("relay at {}", self.at))?;
        runtime.spawn(serve(listener, self.target, Arc::clone(&self.shared), stopped));
        self.running = Some((runtime, stop));
        Ok(())
    }

    /// Adds a rule; of several that match, the first of each kind counts.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared).rules.push(rule);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        lock(&self.shared).rules.clear();
    }

    /// Returns the requests that came through, in order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared).seen.clone()
    }

    /// Forgets the requests that came through.
    pub fn forget(&self) {
        lock(&self.shared).seen.clear();
    }

    /// Returns the requests whose path contains `path`.
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.contains(path)).collect()
    }

    /// Returns the bytes of all bodies sent for paths that contain `path`.
    pub fn bytes(&self, path: &str) -> u64 {
        self.seen_at(path).iter().map(|seen| seen.bytes).sum()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small buffers, so that what was counted was nearly all read.
fn listen(at: SocketAddrV4) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(64 << 10)?;
    socket.bind(at.into())?;
    socket.listen(1024)
}

async fn serve(
    listener: TcpListener,
    target: SocketAddrV4,
    shared: Arc<Mutex<Shared>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => continue,
            },
            _ = stopped.changed() => return,
        };
        let shared = Arc::clone(&shared);
        let service = hyper::service::service_fn(move |request| relay(request, target, Arc::clone(&shared)));
        // A broken connection is the client's to report.
        let mut server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.max_buf_size(BUFFER).serve_connection(TokioIo::new(stream), service));
    }
}

async fn relay(
    request: Request<Incoming>,
    target: SocketAddrV4,
    shared: Arc<Mutex<Shared>>,
) -> Result<Response<AnyBody>, BoxError> {
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let method = request.method().to_string();
    let (faults, index) = {
        let mut shared = lock(&shared);
        let headers = request.headers().clone();
        shared.seen.push(Seen { method: method.clone(), path: path.clone(), headers, status: 0, bytes: 0 });
        let index = shared.seen.len() - 1;
        (Faults::take(&mut shared.rules, &method, &path), index)
    };
    let mut response = match (&faults.status, &faults.document) {
        (Some((status, headers)), _) => refusal(*status, headers)?,
        (None, Some((kind, body))) => document(kind, body, &method)?,
        (None, None) => forward(request, target, &faults).await?,
    };
    if let Some(seen) = lock(&shared).seen.get_mut(index) {
        seen.status = response.status().as_u16();
    }
    // An empty body stays as it is, so that HEAD's Content-Length does.
    if method == "HEAD" || response.body().is_end_stream() {
        return Ok(response);
    }
    let from = first_byte(response.headers());
    let (sender, body) = Channel::<Bytes, BoxError>::new(1);
    let source = std::mem::replace(response.body_mut(), body.boxed());
    tokio::spawn(pump(source, from, sender, faults, shared, index));
    Ok(response)
}

fn refusal(status: u16, headers: &[(String, String)]) -> Result<Response<AnyBody>, BoxError> {
    let mut response = Response::builder().status(StatusCode::from_u16(status)?);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed())?)
}

fn document(kind: &str, body: &[u8], method: &str) -> Result<Response<AnyBody>, BoxError> {
    let response = Response::builder().header(header::CONTENT_TYPE, kind).header(header::CONTENT_LENGTH, body.len());
    let body = if method == "HEAD" { Bytes::new() } else { Bytes::copy_from_slice(body) };
    Ok(response.body(Full::new(body).map_err(|never| match never {}).boxed())?)
}

async fn forward(
    request: Request<Incoming>,
    target: SocketAddrV4,
    faults: &Faults,
) -> Result<Response<AnyBody>, BoxError> {
    let stream = TcpStream::connect(SocketAddr::from(target)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut head, _) = request.into_parts();
    head.headers.insert(header::HOST, HeaderValue::from_str(&target.to_string())?);
    if faults.no_range {
        head.headers.remove(header::RANGE);
    }
    let mut response = sender.send_request(Request::from_parts(head, Empty::<Bytes>::new())).await?;
    if faults.no_range {
        response.headers_mut().remove(header::ACCEPT_RANGES);
    }
    Ok(response.map(|body| body.map_err(Into::into).boxed()))
}

/// Carries a body, which begins at `from` of its blob, over piece by piece, with its faults.
async fn pump(
    mut source: AnyBody,
    from: u64,
    mut sender: Sender<Bytes, BoxError>,
    faults: Faults,
    shared: Arc<Mutex<Shared>>,
    index: usize,
) {
    /// A throttled body goes out in this many pieces a second.
    const PIECES: u64 = 50;
    let most = faults.throttle.map_or(BUFFER as u64, |rate| (rate / PIECES).max(1)) as usize;
    let begin = tokio::time::Instant::now();
    let mut sent = 0_u64;
    while let Some(frame) = source.frame().await {
        let Ok(mut data) = frame.map(|frame| frame.into_data().unwrap_or_default()) else {
            sender.abort("the registry broke off".into());
            return;
        };
        while !data.is_empty() {
            // A request that begins at or behind the cut is not concerned.
            let cut = faults.cut.filter(|cut| *cut > from || (*cut == 0 && from == 0));
            let mut left = cut.map_or(u64::MAX, |cut| cut.saturating_sub(from + sent));
            if left == 0 && cut == Some(from + sent) && Faults::take_cut(&mut lock(&shared).rules, from + sent) {
                // Time for what was sent to leave; then the connection breaks.
                tokio::time::sleep(Duration::from_secs(1)).await;
                sender.abort("cut".into());
                return;
            }
            if left == 0 {
                left = u64::MAX;
            }
            let piece = data.split_to(data.len().min(most).min(usize::try_from(left).unwrap_or(usize::MAX)));
            let piece = corrupt(piece, faults.corrupt, from + sent);
            let length = piece.len() as u64;
            if sender.send_data(piece).await.is_err() {
                return;
            }
            sent += length;
            if let Some(seen) = lock(&shared).seen.get_mut(index) {
                seen.bytes = sent;
            }
            if let Some(rate) = faults.throttle {
                tokio::time::sleep_until(begin + Duration::from_secs_f64(sent as f64 / rate as f64)).await;
            }
        }
    }
}

/// The offset of a body in its blob, from `Content-Range`.
fn first_byte(headers: &HeaderMap) -> u64 {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}

/// Flips the byte at `at` of the blob if it lies in this piece.
fn corrupt(piece: Bytes, at: Option<u64>, from: u64) -> Bytes {
    let place = at.and_then(|at| at.checked_sub(from)).and_then(|place| usize::try_from(place).ok());
    match place.filter(|place| *place < piece.len()) {
        None => piece,
        Some(place) => {
            let mut bytes = piece.to_vec();
            bytes[place] ^= 0x55;
            bytes.into()
        }
    }
}

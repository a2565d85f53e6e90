//! Plain HTTP requests of a test, each on a connection of its own.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Node;

/// The manifest types a current client accepts.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// No request of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, complete.
    pub body: Bytes,
}

impl Answer {
    /// Returns a header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: {}", self.status, self.text()))
    }
}

/// Returns the header for Basic credentials.
pub fn basic(user: &str, password: &str) -> (String, String) {
    use std::fmt::Write;
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = String::from("Basic ");
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]);
            let _ = write!(value, "{}", if place <= group.len() { letter } else { '=' });
        }
    }
    ("authorization".to_owned(), value)
}

/// Sends a request from a node and returns the whole answer.
///
/// # Errors
/// No connection, a body that ended early, or no end in two minutes.
pub fn request(
    node: &Node,
    at: SocketAddrV4,
    method: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<Answer> {
    let (method, path, headers) = (method.to_owned(), path.to_owned(), headers.to_vec());
    node.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let whole = async {
            let response = send(at, &method, &path, &headers).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.with_context(|| format!("body of {path}"))?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        runtime
            .block_on(async { tokio::time::timeout(LIMIT, whole).await })
            .with_context(|| format!("{method} {path}"))?
    })?
}

/// Sends a request and returns the answer as soon as its head is there; its connection is closed when the body is dropped.
///
/// # Errors
/// No connection, or no valid answer.
pub async fn send(
    at: SocketAddrV4,
    method: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<http::Response<Incoming>> {
    let stream = TcpStream::connect(at).await.with_context(|| format!("connection to {at}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", at.to_string());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    sender.send_request(request).await.with_context(|| format!("{method} {path} at {at}"))
}

/// How a download reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Bytes a second; as fast as they come when `None`.
    pub rate: Option<u64>,
    /// Closes the connection after this many bytes.
    pub stop_after: Option<u64>,
}

/// What a download brought.
#[derive(Clone, Debug)]
pub struct Download {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The bytes that were read.
    pub bytes: u64,
    /// Their digest.
    pub digest: String,
}

/// Downloads a body of any size from this machine without keeping it.
///
/// # Errors
/// No connection, or a body that ended early.
pub fn download(at: SocketAddrV4, path: &str, headers: &[(String, String)], pace: Pace) -> Result<Download> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (head, mut body) = send(at, "GET", path, headers).await?.into_parts();
        let begin = tokio::time::Instant::now();
        let mut hasher = api::Hasher::new(api::Algorithm::Sha256);
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.with_context(|| format!("{path} after {bytes} bytes"))?.into_data().unwrap_or_default();
            hasher.update(&data);
            bytes += data.len() as u64;
            if pace.stop_after.is_some_and(|most| bytes >= most) {
                break;
            }
            if let Some(rate) = pace.rate {
                tokio::time::sleep_until(begin + Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
            }
        }
        Ok(Download { status: head.status, headers: head.headers, bytes, digest: hasher.finish().to_string() })
    })
}

//! [`Server`]: an HTTP/1.1 server on raw TCP, so that it can break every rule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer; the connection closes after it.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<usize>,
    stall: bool,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), length: Some(body.len()), body, stall: false }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces `length` whatever the body has; with `None` the body ends with the connection.
    pub(super) fn length(mut self, length: Option<usize>) -> Self {
        self.length = length;
        self
    }

    /// Leaves the connection open and silent after the body.
    pub(super) fn stall(mut self) -> Self {
        self.stall = true;
        self
    }

    pub(super) fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").header("Location", to)
    }

    pub(super) fn bearer(realm: &str) -> Self {
        let challenge = format!(r#"Bearer realm="{realm}",service="svc",scope="repository:library/app:pull""#);
        Self::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#).header("WWW-Authenticate", challenge)
    }
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    log: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, shared) = (Arc::new(handler), Arc::clone(&log));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&shared));
                connections.spawn(async move { serve(stream, &*handler, &log).await });
            }
        });
        Self { url, log, task }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Returns how many requests had a target that begins with `prefix`.
    pub(super) fn count(&self, prefix: &str) -> usize {
        self.requests().iter().filter(|r| r.target.starts_with(prefix)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, handler: &(dyn Fn(&Request) -> Reply + Sync), log: &Mutex<Vec<Request>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.into())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let request = Request { method, target, headers, body };
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut answer = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if let Some(length) = reply.length {
        answer += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &reply.headers {
        answer += &format!("{name}: {value}\r\n");
    }
    answer += "\r\n";
    let mut bytes = answer.into_bytes();
    if request.method != "HEAD" {
        bytes.extend_from_slice(&reply.body);
    }
    // The client may have gone; that is its right.
    let _ = stream.write_all(&bytes).await;
    if reply.stall {
        let _ = stream.read_u8().await;
    }
    let _ = stream.shutdown().await;
}

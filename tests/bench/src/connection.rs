//! [`Connection`]: a client's connection, which asks for one thing after the other.

use std::net::SocketAddrV4;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use e2e::web;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A plain HTTP/1.1 connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects to a server.
    ///
    /// # Errors
    /// It does not listen.
    pub(crate) async fn open(to: SocketAddrV4) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: to.to_string() })
    }

    /// Reads a body to its end and returns its length in bytes.
    ///
    /// # Errors
    /// Not 200, or a body that ended early.
    pub(crate) async fn get(&mut self, path: &str) -> Result<u64> {
        let answer = self.ask(Method::GET, path, None, StatusCode::OK).await?;
        drain(answer.into_body(), path).await
    }

    /// Reads a range of a body and returns how many bytes came.
    ///
    /// # Errors
    /// Not 206, or a body that ended early.
    pub(crate) async fn get_range(&mut self, path: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let answer = self.ask(Method::GET, path, Some(range), StatusCode::PARTIAL_CONTENT).await?;
        drain(answer.into_body(), path).await
    }

    /// Asks for a head.
    ///
    /// # Errors
    /// Not 200.
    pub(crate) async fn head(&mut self, path: &str) -> Result<()> {
        self.ask(Method::HEAD, path, None, StatusCode::OK).await?;
        Ok(())
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        range: Option<RangeInclusive<u64>>,
        expected: StatusCode,
    ) -> Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", &self.host).header("accept", web::MANIFEST_TYPES);
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start(), range.end()));
        }
        let answer = self.sender.send_request(request.body(Empty::new())?).await?;
        ensure!(answer.status() == expected, "{path}: {}", answer.status());
        Ok(answer)
    }
}

async fn drain(mut body: Incoming, path: &str) -> Result<u64> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{path} after {bytes} bytes"))?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

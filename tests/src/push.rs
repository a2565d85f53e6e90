//! Pushing by hand: bytes that no honest client would push.

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Registry;
use crate::web::Answer;

impl Registry {
    /// Pushes a blob in one piece under a digest of any algorithm.
    ///
    /// # Errors
    /// The registry refused, such as because it was started without [`empty`](crate::RegistryOptions::empty).
    pub fn put_blob(&self, repository: &str, digest: &str, bytes: Bytes) -> Result<()> {
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", Bytes::new())?;
        ensure!(begun.status == StatusCode::ACCEPTED, "{repository}: {} {}", begun.status, begun.text());
        let location = begun.header("location").context("an upload without a location")?;
        let (_, path) = location.split_once("/v2/").with_context(|| location.clone())?;
        let path = format!("/v2/{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' });
        let put = self.send("PUT", &path, "application/octet-stream", bytes)?;
        ensure!(put.status == StatusCode::CREATED, "{path}: {} {}", put.status, put.text());
        Ok(())
    }

    /// Pushes a document as a manifest or an index under a tag or its digest.
    ///
    /// # Errors
    /// As for [`Registry::put_blob`].
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, document: Bytes) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let put = self.send("PUT", &path, media_type, document)?;
        ensure!(put.status == StatusCode::CREATED, "{path}: {} {}", put.status, put.text());
        Ok(())
    }

    /// Sends a request from a thread of its own, so that async tests may push, too.
    fn send(&self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<Answer> {
        let (at, host) = (self.at(), self.at().to_string());
        let request = Request::builder().method(method).uri(path).header("host", host).header("content-type", kind);
        let request = request.body(Full::new(body))?;
        let sending = async move {
            let stream = TcpStream::connect(at).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sent = std::thread::spawn(move || runtime.block_on(sending)).join();
        sent.map_err(|_| anyhow!("panic in {method} {path}"))?
    }
}

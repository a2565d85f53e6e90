//! [`Containerd`]: the daemon that we serve, asked for what is its own: to keep blobs, and to unpack layers.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use api::{Digest, RepositoryName};
use bytes::BytesMut;
use futures_util::stream;
use http::header::HeaderValue;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status, Streaming};
use tower::Service;
use upstream::{Client, UpstreamError};

use crate::Mount;
use crate::proto::content::v1::content_client::ContentClient;
use crate::proto::content::v1::{
    InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use crate::proto::diff::v1::ApplyRequest;
use crate::proto::diff::v1::diff_client::DiffClient;
use crate::proto::images::v1::GetImageRequest;
use crate::proto::images::v1::images_client::ImagesClient;
use crate::proto::leases::v1::CreateRequest;
use crate::proto::leases::v1::leases_client::LeasesClient;
use crate::proto::types::Descriptor;

/// What says in which namespace a call works.
const NAMESPACE: &str = "containerd-namespace";
/// What says by which lease something new is kept.
const LEASE: &str = "containerd-lease";
/// The label that says until when there is a lease.
const EXPIRES: &str = "containerd.io/gc.expire";
/// Nobody looks at it: there is one server on a socket.
const ORIGIN: &str = "http://containerd";
/// Bytes of one write.
const PIECE: usize = 1 << 20;
/// The type of a layer of which containerd finds out the compression.
const ANY_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// The longest manifest or index that is read.
const LONGEST_DOCUMENT: usize = 8 << 20;

/// Why containerd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerdError {
    /// It cannot be reached.
    #[error("containerd cannot be reached at {}: say containerd = \"…\" in the configuration", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It speaks something else.
    #[error("containerd's socket does not speak gRPC")]
    Handshake(#[from] hyper::Error),
    /// A call failed.
    #[error("containerd refused {call}: {}", status.message())]
    Call {
        /// The call.
        call: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// It said what cannot be.
    #[error("containerd's answer to {call} makes no sense: {what}")]
    Answer {
        /// The call.
        call: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The blob does not come.
    #[error("the blob {digest} does not come")]
    Upstream {
        /// The blob.
        digest: Digest,
        /// Why not.
        source: UpstreamError,
    },
}

impl ContainerdError {
    fn call(call: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Call { call, status: Box::new(status) }
    }

    /// Tells whether it has no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::NotFound)
    }

    /// Tells whether the blob that was written has another digest or size.
    fn is_other_content(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::FailedPrecondition)
    }

    fn is_there(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::AlreadyExists)
    }
}

/// A connection to containerd.
#[derive(Debug, Clone)]
pub(crate) struct Containerd(Channel);

/// A blob of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob<'a> {
    pub(crate) name: &'a RepositoryName,
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
}

impl Containerd {
    /// Connects to the socket `path`, for work in a namespace.
    ///
    /// # Errors
    /// [`ContainerdError::Connect`] or [`ContainerdError::Handshake`].
    pub(crate) async fn connect(path: &Path, namespace: &str) -> Result<Self, ContainerdError> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| ContainerdError::Connect { path: path.to_owned(), source })?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to containerd broke off");
            }
        });
        let namespace = HeaderValue::from_str(namespace)
            .map_err(|_| ContainerdError::Answer { call: "connect", what: format!("the namespace {namespace:?}") })?;
        Ok(Self(Channel { sender, namespace, lease: None }))
    }

    /// Has containerd collect nothing that is put from now on before so much time has passed.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn keep_for(&mut self, time: Duration) -> Result<(), ContainerdError> {
        let mut leases = LeasesClient::with_origin(self.0.clone(), Uri::from_static(ORIGIN));
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + time).to_string();
        // containerd finds an id.
        let wanted = CreateRequest { id: String::new(), labels: HashMap::from([(EXPIRES.to_owned(), until)]) };
        let answer = leases.create(wanted).await.map_err(ContainerdError::call("Create"))?;
        let id = answer.into_inner().lease.unwrap_or_default().id;
        let lease = HeaderValue::from_str(&id)
            .map_err(|_| ContainerdError::Answer { call: "Create", what: format!("the lease {id:?}") })?;
        self.0.lease = Some(lease);
        Ok(())
    }

    fn content(&self) -> ContentClient<Channel> {
        ContentClient::with_origin(self.0.clone(), Uri::from_static(ORIGIN))
    }

    /// Returns digest and media type of what an image is: a manifest or an index.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn image(&self, name: &str) -> Result<(Digest, String), ContainerdError> {
        let mut images = ImagesClient::with_origin(self.0.clone(), Uri::from_static(ORIGIN));
        let answer =
            images.get(GetImageRequest { name: name.to_owned() }).await.map_err(ContainerdError::call("Get"))?;
        let target = answer.into_inner().image.and_then(|image| image.target).unwrap_or_default();
        Ok((parse("Get", &target)?, target.media_type))
    }

    /// Tells whether a blob is in the content store.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool, ContainerdError> {
        let asked = self.content().info(InfoRequest { digest: digest.to_string() }).await;
        match asked.map_err(ContainerdError::call("Info")) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns a manifest or an index that is in the content store.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Vec<u8>, ContainerdError> {
        let wanted = ReadContentRequest { digest: digest.to_string(), ..ReadContentRequest::default() };
        let mut pieces = self.content().read(wanted).await.map_err(ContainerdError::call("Read"))?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await.map_err(ContainerdError::call("Read"))? {
            bytes.extend_from_slice(&piece.data);
            if bytes.len() > LONGEST_DOCUMENT {
                return Err(ContainerdError::Answer {
                    call: "Read",
                    what: format!("{digest} is no manifest: too long"),
                });
            }
        }
        Ok(bytes)
    }

    /// Brings a blob into the content store, which checks its digest; `received` is told of bytes as they come. One that is there
    /// is not fetched, one that broke off is gone on with.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn put(
        &self,
        blob: Blob<'_>,
        client: &Client,
        received: impl Fn(u64),
    ) -> Result<(), ContainerdError> {
        let done = match self.write(blob, client, &received, false).await {
            // What an earlier one left may have been wrong.
            Err(error) if error.is_other_content() => self.write(blob, client, &received, true).await,
            done => done,
        };
        done.or_else(|error| if error.is_there() { Ok(()) } else { Err(error) })
    }

    async fn write(
        &self,
        blob: Blob<'_>,
        client: &Client,
        received: impl Fn(u64),
        is_anew: bool,
    ) -> Result<(), ContainerdError> {
        let mut writer = Writer::begin(self.content(), blob).await?;
        if is_anew {
            // A write at the beginning takes away what is there.
            writer.offset = 0;
        }
        let failed = |source| ContainerdError::Upstream { digest: blob.digest.clone(), source };
        received(writer.offset);
        if writer.offset < blob.size {
            let from = writer.offset;
            let range = (from > 0).then_some(from..blob.size);
            let mut answer = client.blob(blob.name, blob.digest, range).await.map_err(failed)?;
            // Who does not know ranges sends it all.
            let mut skip = if answer.range.is_some() { 0 } else { from as usize };
            let mut piece = BytesMut::new();
            loop {
                let next = answer.body.chunk().await.map_err(failed)?;
                if let Some(bytes) = &next {
                    let passed = skip.min(bytes.len());
                    skip -= passed;
                    piece.extend_from_slice(&bytes[passed..]);
                    received((bytes.len() - passed) as u64);
                }
                if piece.len() >= PIECE || (next.is_none() && !piece.is_empty()) {
                    writer.write(piece.split().to_vec()).await?;
                }
                if next.is_none() {
                    break;
                }
            }
        }
        writer.commit().await
    }

    /// Unpacks a layer that is in the content store into what `mount` shows, and returns the digest of its tar.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub(crate) async fn apply(&self, layer: &Digest, size: u64, mount: Mount) -> Result<Digest, ContainerdError> {
        let mut diff = DiffClient::with_origin(self.0.clone(), Uri::from_static(ORIGIN));
        let (media_type, digest, size) = (ANY_LAYER.to_owned(), layer.to_string(), size as i64);
        let layer = Descriptor { media_type, digest, size, annotations: HashMap::new() };
        let wanted = ApplyRequest { diff: Some(layer), mounts: vec![mount.into()] };
        let answer = diff.apply(wanted).await.map_err(ContainerdError::call("Apply"))?;
        parse("Apply", &answer.into_inner().applied.unwrap_or_default())
    }
}

fn parse(call: &'static str, told: &Descriptor) -> Result<Digest, ContainerdError> {
    Digest::parse(&told.digest)
        .map_err(|_| ContainerdError::Answer { call, what: format!("the digest {:?}", told.digest) })
}

/// A blob that is being written.
struct Writer {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    /// What every request says.
    common: WriteContentRequest,
    offset: u64,
}

impl Writer {
    async fn begin(mut content: ContentClient<Channel>, blob: Blob<'_>) -> Result<Self, ContainerdError> {
        let (requests, mut receiver) = mpsc::channel(1);
        let common = WriteContentRequest {
            r#ref: format!("firstlight-{}", blob.digest),
            total: blob.size as i64,
            expected: blob.digest.to_string(),
            ..WriteContentRequest::default()
        };
        let first = WriteContentRequest { action: WriteAction::Stat.into(), ..common.clone() };
        // The receiver is still here.
        let _sent = requests.send(first).await;
        let requests_come = stream::poll_fn(move |context| receiver.poll_recv(context));
        let answers = content.write(requests_come).await.map_err(ContainerdError::call("Write"))?.into_inner();
        let mut writer = Self { requests, answers, common, offset: 0 };
        writer.offset = writer.answer().await?.offset as u64;
        Ok(writer)
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, ContainerdError> {
        let answer = self.answers.message().await.map_err(ContainerdError::call("Write"))?;
        answer.ok_or_else(|| ContainerdError::Answer { call: "Write", what: "it ends early".to_owned() })
    }

    async fn ask(&mut self, action: WriteAction, data: Vec<u8>) -> Result<WriteContentResponse, ContainerdError> {
        let request =
            WriteContentRequest { action: action.into(), offset: self.offset as i64, data, ..self.common.clone() };
        // If nobody listens any more, the answer says why.
        let _sent = self.requests.send(request).await;
        self.answer().await
    }

    async fn write(&mut self, data: Vec<u8>) -> Result<(), ContainerdError> {
        let end = self.offset + data.len() as u64;
        let answer = self.ask(WriteAction::Write, data).await?;
        self.offset = answer.offset as u64;
        if self.offset == end {
            return Ok(());
        }
        Err(ContainerdError::Answer { call: "Write", what: format!("it is at {}, not at {end}", self.offset) })
    }

    async fn commit(mut self) -> Result<(), ContainerdError> {
        self.ask(WriteAction::Commit, Vec::new()).await.map(drop)
    }
}

/// What calls go through.
#[derive(Debug, Clone)]
struct Channel {
    sender: SendRequest<Body>,
    namespace: HeaderValue,
    lease: Option<HeaderValue>,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.headers_mut().insert(LEASE, lease.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

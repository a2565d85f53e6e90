//! [`Service`]: containerd's snapshots service, in front of [`Snapshots`].

use std::pin::Pin;
use std::sync::Arc;

use api::Digest;
use futures_util::{Stream, stream};
use prost_types::Timestamp;
use tonic::{Code, Request, Response, Status};

use crate::error::with_causes;
use crate::lazy::{Lazy, chain_of};
use crate::proto::snapshots::v1 as messages;
use crate::proto::types;
use crate::store::Ordinary;
use crate::unpacker::{Job, Unpacker};
use crate::wanted::{TARGET, Wanted};
use crate::{Class, Filter, Info, Kind, Labels, LabelsUpdate, Moment, Mount, SnapshotError, Snapshots};

/// Snapshots in one message of a list: well below the 4 MiB that gRPC takes, whatever their labels.
const PAGE: usize = 100;

/// containerd's snapshots service.
#[derive(Debug, Clone)]
pub struct Service {
    snapshots: Arc<Snapshots>,
    lazy: Arc<Lazy>,
    unpacker: Arc<Unpacker>,
}

impl Service {
    /// Returns the service of `snapshots`, which are prepared without their layers where `lazy` can.
    pub(crate) fn new(snapshots: Arc<Snapshots>, lazy: Arc<Lazy>, unpacker: Arc<Unpacker>) -> Self {
        Self { snapshots, lazy, unpacker }
    }

    /// Prepares a layer of an image without its bytes, and tells the name of the committed snapshot that there is then.
    ///
    /// # Errors
    /// Why it is to be unpacked, where the labels say what it is of.
    async fn prepare_lazily(
        &self,
        parent: Option<&str>,
        labels: &Labels,
        namespace: Option<&str>,
    ) -> Result<String, Option<Ordinary>> {
        let Some(wanted) = Wanted::of(labels) else {
            let why = unnamed(labels);
            if let Some(Ordinary { layer, reason, .. }) = &why {
                tracing::warn!(chain = %layer, reason, "a layer is pulled in the ordinary way");
            }
            return Err(why);
        };
        let name = wanted.chain.to_string();
        let image = format!("{}/{}", wanted.host, wanted.name);
        let layer = wanted.layer.clone();
        let Err(error) = self.lazy.prepare(wanted.clone(), parent, labels).await else { return Ok(name) };
        let (reason, detail) = (error.reason().to_owned(), with_causes(&error));
        let why = Ordinary { image, layer, reason, detail };
        let is_gap = self.lazy.is_gap(&wanted, &error);
        if let (true, Some(namespace), Ok(below)) = (is_gap, namespace, parent.map(chain_of).transpose()) {
            let (parent, namespace) = (parent.map(str::to_owned), namespace.to_owned());
            let (labels, why) = (labels.clone(), why.clone());
            if self.unpack(Job { wanted, namespace, parent, below, labels, why }).await {
                return Ok(name);
            }
        }
        let Ordinary { image, layer, reason, .. } = &why;
        let error = &error as &dyn std::error::Error;
        tracing::warn!(image, %layer, reason, error, "a layer is pulled in the ordinary way");
        Err(Some(why))
    }

    /// Unpacks a layer of a lazy image that has no twin, and tells whether that is done.
    async fn unpack(&self, job: Job) -> bool {
        let Ordinary { image, layer, reason, detail } = job.why.clone();
        match self.unpacker.unpack(job).await {
            Ok(()) => {
                tracing::info!(image, %layer, reason, detail, "a layer without a twin was unpacked alone");
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(image, %layer, error, "a layer without a twin could not be unpacked alone");
                false
            }
        }
    }

    /// Does `work` off the asynchronous threads.
    async fn run<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&Snapshots) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshots = Arc::clone(&self.snapshots);
        telemetry::blocking(move || work(&snapshots)).await.map_err(|error| status(call, &error))
    }
}

/// Returns why a layer of an image is ordinary of which the client says no more than the chain id; `None` of other snapshots.
fn unnamed(labels: &Labels) -> Option<Ordinary> {
    let layer = Digest::parse(labels.get(TARGET)?).ok()?;
    let detail =
        "the client does not say which image the layer is of: CRI does with disable_snapshot_annotations = false";
    Some(Ordinary { image: "unknown".to_owned(), layer, reason: "no_labels".to_owned(), detail: detail.to_owned() })
}

/// Returns what containerd is told: it decides by the code and shows the text.
fn status(call: &'static str, error: &SnapshotError) -> Status {
    let code = match error.class() {
        Class::NotFound => Code::NotFound,
        Class::Exists => Code::AlreadyExists,
        Class::Invalid => Code::InvalidArgument,
        Class::Precondition => Code::FailedPrecondition,
        Class::Internal => {
            tracing::error!(call, error = error as &dyn std::error::Error, "a call failed");
            Code::Internal
        }
    };
    Status::new(code, with_causes(error))
}

#[tonic::async_trait]
impl messages::snapshots_server::Snapshots for Service {
    type ListStream = Pin<Box<dyn Stream<Item = Result<messages::ListSnapshotsResponse, Status>> + Send>>;

    async fn prepare(
        &self,
        request: Request<messages::PrepareSnapshotRequest>,
    ) -> Result<Response<messages::PrepareSnapshotResponse>, Status> {
        let messages::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let (parent, labels) = (named(parent), Labels::from_iter(labels));
        let why = match self.prepare_lazily(parent.as_deref(), &labels, namespace_of(&key)).await {
            // containerd's way to hear that nothing is left to do: it looks the snapshot up by its labels.
            Ok(name) => return Err(status("Prepare", &SnapshotError::Exists { name })),
            Err(why) => why,
        };
        let mount = self.run("Prepare", move |all| all.prepare(&key, parent.as_deref(), labels, why)).await?;
        Ok(Response::new(messages::PrepareSnapshotResponse { mounts: vec![mount.into()] }))
    }

    async fn view(
        &self,
        request: Request<messages::ViewSnapshotRequest>,
    ) -> Result<Response<messages::ViewSnapshotResponse>, Status> {
        let messages::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let (parent, labels) = (named(parent), Labels::from_iter(labels));
        let mount = self.run("View", move |all| all.view(&key, parent.as_deref(), labels)).await?;
        Ok(Response::new(messages::ViewSnapshotResponse { mounts: vec![mount.into()] }))
    }

    async fn mounts(
        &self,
        request: Request<messages::MountsRequest>,
    ) -> Result<Response<messages::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mount = self.run("Mounts", move |all| all.mounts(&key)).await?;
        Ok(Response::new(messages::MountsResponse { mounts: vec![mount.into()] }))
    }

    async fn commit(&self, request: Request<messages::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let messages::CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        self.run("Commit", move |all| all.commit(&name, &key, Labels::from_iter(labels))).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<messages::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.run("Remove", move |all| all.remove(&key)).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<messages::StatSnapshotRequest>,
    ) -> Result<Response<messages::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let info = self.run("Stat", move |all| all.stat(&key)).await?;
        Ok(Response::new(messages::StatSnapshotResponse { info: Some(info.into()) }))
    }

    async fn update(
        &self,
        request: Request<messages::UpdateSnapshotRequest>,
    ) -> Result<Response<messages::UpdateSnapshotResponse>, Status> {
        let messages::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("no snapshot to update"))?;
        let fields = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let update =
            labels_update(Labels::from_iter(info.labels), &fields).map_err(|error| status("Update", &error))?;
        let info = self.run("Update", move |all| all.update(&info.name, update)).await?;
        Ok(Response::new(messages::UpdateSnapshotResponse { info: Some(info.into()) }))
    }

    async fn list(
        &self,
        request: Request<messages::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let found = self.run("List", move |all| {
            let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text)).collect::<Result<_, _>>()?;
            all.list(&filters)
        });
        let mut found = found.await?.into_iter().map(messages::Info::from).peekable();
        let pages = std::iter::from_fn(move || {
            found.peek()?;
            Some(Ok(messages::ListSnapshotsResponse { info: found.by_ref().take(PAGE).collect() }))
        });
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    async fn usage(
        &self,
        request: Request<messages::UsageRequest>,
    ) -> Result<Response<messages::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.run("Usage", move |all| all.usage(&key)).await?;
        let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
        let answer = messages::UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) };
        Ok(Response::new(answer))
    }

    async fn cleanup(&self, _: Request<messages::CleanupRequest>) -> Result<Response<()>, Status> {
        self.run("Cleanup", Snapshots::cleanup).await?;
        Ok(Response::new(()))
    }
}

/// Returns containerd's namespace: it puts that and a number before every key.
fn namespace_of(key: &str) -> Option<&str> {
    let (namespace, rest) = key.split_once('/')?;
    let (number, _) = rest.split_once('/')?;
    number.parse::<u64>().is_ok().then_some(namespace)
}

fn named(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

/// Returns what of the labels `fields` say is to be changed: all where they say nothing.
fn labels_update(mut labels: Labels, fields: &[String]) -> Result<LabelsUpdate, SnapshotError> {
    if fields.is_empty() || fields.iter().any(|field| field == "labels") {
        return Ok(LabelsUpdate::All(labels));
    }
    let some = fields.iter().map(|field| match field.strip_prefix("labels.") {
        // An empty value takes a label away.
        Some(label) => Ok((label.to_owned(), labels.remove(label).filter(|value| !value.is_empty()))),
        None => Err(SnapshotError::Fixed { field: field.clone() }),
    });
    Ok(LabelsUpdate::Some(some.collect::<Result<_, _>>()?))
}

impl From<Mount> for types::Mount {
    fn from(mount: Mount) -> Self {
        Self { r#type: mount.kind.to_owned(), source: mount.source, target: String::new(), options: mount.options }
    }
}

impl From<Kind> for messages::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::View => Self::View,
            Kind::Active => Self::Active,
            Kind::Committed => Self::Committed,
        }
    }
}

impl From<Info> for messages::Info {
    fn from(info: Info) -> Self {
        let time = |Moment(seconds, nanos)| Some(Timestamp { seconds, nanos });
        Self {
            name: info.name,
            parent: info.parent.unwrap_or_default(),
            kind: messages::Kind::from(info.kind).into(),
            created_at: time(info.created_at),
            updated_at: time(info.updated_at),
            labels: info.labels.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_namespace() {
        assert_eq!(namespace_of("k8s.io/12/extract-1 sha256:00"), Some("k8s.io"));
        for key in ["", "default", "default/first", "a/b/c"] {
            assert_eq!(namespace_of(key), None, "{key}");
        }
    }

    #[test]
    fn a_layer_of_an_unknown_image_has_a_reason_and_a_container_has_none() {
        let chain = Digest::of(b"chain");
        let layer = Labels::from_iter([(TARGET.to_owned(), chain.to_string())]);
        let why = unnamed(&layer).unwrap();
        assert_eq!((why.layer, why.reason.as_str()), (chain, "no_labels"));
        assert_eq!(unnamed(&Labels::new()), None);
    }

    #[test]
    fn only_labels_change() {
        let labels = Labels::from([("a".to_owned(), "1".to_owned()), ("b.c".to_owned(), String::new())]);
        let update = |fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
            labels_update(labels.clone(), &fields)
        };
        assert_eq!(update(&[]).unwrap(), LabelsUpdate::All(labels.clone()));
        assert_eq!(update(&["labels.a", "labels"]).unwrap(), LabelsUpdate::All(labels.clone()));
        let some = [("a".to_owned(), Some("1".to_owned())), ("b.c".to_owned(), None), ("gone".to_owned(), None)];
        assert_eq!(update(&["labels.a", "labels.b.c", "labels.gone"]).unwrap(), LabelsUpdate::Some(some.into()));
        assert!(matches!(update(&["labels.a", "parent"]), Err(SnapshotError::Fixed { field }) if field == "parent"));
    }
}

//! Pushing by hand: blobs and manifests that no honest client would make.

use bytes::Bytes;
use e2e::Registry;
use serde_json::json;

use crate::layer;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A blob that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
    media_type: &'static str,
    diff_id: String,
}

impl Blob {
    /// A blob that is what it is: not packed, or not a layer that will ever be unpacked.
    pub(crate) fn new(media_type: &'static str, bytes: Bytes) -> Self {
        let digest = e2e::digest(&bytes);
        Self { diff_id: digest.clone(), digest, bytes, media_type }
    }

    /// A tar packed with gzip.
    pub(crate) fn gzip(tar: &Bytes) -> Self {
        Self { diff_id: e2e::digest(tar), ..Self::new(GZIP, layer::gzip(tar)) }
    }

    /// A tar packed with zstd.
    pub(crate) fn zstd(tar: &Bytes) -> Self {
        Self { diff_id: e2e::digest(tar), ..Self::new(ZSTD, layer::zstd(tar)) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// An image that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) layers: Vec<Blob>,
}

/// Pushes an image of these layers under `repository:tag`.
pub(crate) fn image(registry: &Registry, repository: &str, tag: &str, layers: Vec<Blob>) -> Image {
    let ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes().into());
    for blob in layers.iter().chain([&config]) {
        upload(registry, repository, blob);
    }
    let descriptor = |blob: &Blob| json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(&config),
        "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
    });
    let manifest = Bytes::from(manifest.to_string());
    let digest = e2e::digest(&manifest);
    registry.put_manifest(repository, tag, MANIFEST, manifest).unwrap();
    Image { digest, layers }
}

/// Pushes a manifest or an index as it is.
pub(crate) fn document(registry: &Registry, repository: &str, reference: &str, kind: &str, body: &str) {
    registry.put_manifest(repository, reference, kind, Bytes::copy_from_slice(body.as_bytes())).unwrap();
}

/// Pushes a blob.
pub(crate) fn upload(registry: &Registry, repository: &str, blob: &Blob) {
    registry.put_blob(repository, &blob.digest, blob.bytes.clone()).unwrap();
}

//! Pushing by hand: layers and manifests that no honest client would make.

use bytes::Bytes;
use e2e::Registry;
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer that is in the registry.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: usize,
    /// What the config will say of its plain tar.
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn descriptor(&self) -> Value {
        descriptor(&self.media_type, &self.digest, self.size)
    }
}

pub(crate) fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Pushes a layer.
pub(crate) fn layer(registry: &Registry, repository: &str, media_type: &str, bytes: Bytes, diff_id: String) -> Layer {
    let size = bytes.len();
    let digest = blob(registry, repository, bytes);
    Layer { media_type: media_type.to_owned(), digest, size, diff_id }
}

/// Pushes an image of layers that are there, and returns its digest.
pub(crate) fn image(registry: &Registry, repository: &str, tag: &str, layers: &[Layer]) -> String {
    let config = config(registry, repository, layers);
    let layers: Vec<_> = layers.iter().map(Layer::descriptor).collect();
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    manifest(registry, repository, tag, MANIFEST, &document)
}

/// Pushes a config for layers and returns its descriptor.
pub(crate) fn config(registry: &Registry, repository: &str, layers: &[Layer]) -> Value {
    let ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config =
        json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = Bytes::from(config.to_string());
    let size = config.len();
    descriptor(CONFIG, &blob(registry, repository, config), size)
}

/// Pushes a manifest or an index and returns its digest; an empty tag pushes it by digest alone.
pub(crate) fn manifest(registry: &Registry, repository: &str, tag: &str, media_type: &str, document: &Value) -> String {
    let bytes = Bytes::from(document.to_string());
    let digest = e2e::digest(&bytes);
    let reference = if tag.is_empty() { &digest } else { tag };
    let pushed = registry.put_manifest(repository, reference, media_type, bytes);
    pushed.unwrap_or_else(|error| panic!("{document:#}: {error:#}"));
    digest
}

/// Pushes a blob in one piece and returns its digest.
pub(crate) fn blob(registry: &Registry, repository: &str, bytes: Bytes) -> String {
    let digest = e2e::digest(&bytes);
    blob_as(registry, repository, &digest, bytes);
    digest
}

/// Pushes a blob in one piece under a digest of any algorithm.
pub(crate) fn blob_as(registry: &Registry, repository: &str, digest: &str, bytes: Bytes) {
    registry.put_blob(repository, digest, bytes).unwrap();
}

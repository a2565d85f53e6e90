//! [`Layout`]: an image in an OCI layout.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The media type of an OCI image manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image in an OCI layout (image-spec, image-layout.md).
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
    tag: String,
}

/// A layer as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Its digest.
    pub(crate) digest: String,
    /// Its length in bytes.
    pub(crate) size: u64,
}

impl Layout {
    /// Names an image, which need not be there yet.
    pub(crate) fn new(dir: &Path, tag: &str) -> Self {
        Self { dir: dir.to_owned(), tag: tag.to_owned() }
    }

    /// Returns its name as the tools take it: `oci:DIR:TAG`.
    pub(crate) fn location(&self) -> String {
        format!("oci:{}:{}", self.dir.display(), self.tag)
    }

    /// Returns the tag.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns the digest of its manifest.
    ///
    /// # Errors
    /// The image is not there.
    pub(crate) fn digest(&self) -> Result<String> {
        let index = json_file(&self.dir.join("index.json"))?;
        let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_it = |one: &&Value| one["annotations"]["org.opencontainers.image.ref.name"] == self.tag.as_str();
        let found = manifests.iter().find(is_it).with_context(|| format!("no {}", self.location()))?;
        Ok(found["digest"].as_str().context("no digest")?.to_owned())
    }

    /// Returns its manifest.
    ///
    /// # Errors
    /// The image is not there, or is an index.
    pub(crate) fn manifest(&self) -> Result<Value> {
        json_file(&self.blob(&self.digest()?)?)
    }

    /// Returns its layers.
    ///
    /// # Errors
    /// The image is not there, or is an index.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>> {
        layers(&self.manifest()?)
    }

    /// Returns the bytes of its layers together.
    ///
    /// # Errors
    /// The image is not there, or is an index.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(self.layers()?.iter().map(|layer| layer.size).sum())
    }

    /// Returns the bytes of manifest, configuration and layers together, each blob once.
    ///
    /// # Errors
    /// The image is not there, or is an index.
    pub(crate) fn unique_bytes(&self) -> Result<u64> {
        let manifest = self.manifest()?;
        let mut layers = layers(&manifest)?;
        layers.sort_by(|a, b| a.digest.cmp(&b.digest));
        layers.dedup();
        let own = std::fs::metadata(self.blob(&self.digest()?)?)?.len();
        let config = manifest["config"]["size"].as_u64().context("no size of the configuration")?;
        Ok(own + config + layers.iter().map(|layer| layer.size).sum::<u64>())
    }

    /// Returns where a blob lies.
    ///
    /// # Errors
    /// The digest is malformed.
    pub(crate) fn blob(&self, digest: &str) -> Result<PathBuf> {
        let digest = api::Digest::parse(digest)?;
        Ok(self.dir.join("blobs/sha256").join(digest.hex()))
    }

    /// Makes it an image of one layer: a gzip file that lies at [`Layout::incoming`].
    ///
    /// # Errors
    /// A file could not be written.
    pub(crate) fn finish(&self, layer: &Layer, diff_id: &str) -> Result<()> {
        std::fs::rename(self.incoming(), self.blob(&layer.digest)?)?;
        let config = self.put(&json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created_by": "bench" }],
        }))?;
        let manifest = self.put(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size,
            }],
        }))?;
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size,
            "annotations": { "org.opencontainers.image.ref.name": self.tag },
        }] });
        std::fs::write(self.dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(std::fs::write(self.dir.join("index.json"), index.to_string())?)
    }

    /// Returns where the layer is written before its digest is known; its folder is made.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.dir.join("blobs/sha256/incoming")
    }

    fn put(&self, document: &Value) -> Result<Layer> {
        let bytes = document.to_string().into_bytes();
        let digest = e2e::digest(&bytes);
        let size = bytes.len() as u64;
        std::fs::write(self.blob(&digest)?, bytes)?;
        Ok(Layer { digest, size })
    }
}

/// Returns the layers that an image manifest names.
///
/// # Errors
/// It names none.
pub(crate) fn layers(manifest: &Value) -> Result<Vec<Layer>> {
    let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
    let layer = |layer: &Value| {
        let digest = layer["digest"].as_str().context("a layer without a digest")?.to_owned();
        Ok(Layer { digest, size: layer["size"].as_u64().context("a layer without a size")? })
    };
    layers.iter().map(layer).collect()
}

fn json_file(path: &Path) -> Result<Value> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(std::io::BufReader::new(file)).with_context(|| path.display().to_string())
}

//! [`Manifest`] and [`Index`]: the raw bytes beside the view we read of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Descriptor, Digest, MediaType};

/// The largest manifest or index accepted, in bytes (distribution-spec: at least 4 MiB; clients
/// stop at 4 MiB too).
pub const MAX_MANIFEST_SIZE: u64 = 4 << 20;
/// The most layers or blobs one manifest may name.
pub const MAX_LAYERS: usize = 512;
/// The most children one index may name.
pub const MAX_CHILDREN: usize = 4096;

/// A manifest or index as read from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one per document, and nearly all are manifests")]
pub enum Parsed {
    /// An image or artifact manifest.
    Manifest(Manifest),
    /// An index.
    Index(Index),
    /// A document of a type we only pass through (schema 1, unknown types); it names nothing.
    Opaque(MediaType),
}

/// An image or artifact manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its own media type.
    pub media_type: MediaType,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    pub subject: Option<Descriptor>,
    /// The type of artifact, where it is one.
    pub artifact_type: Option<String>,
    /// Annotations; empty when absent.
    pub annotations: BTreeMap<String, String>,
}

/// An index (a manifest list).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its own media type.
    pub media_type: MediaType,
    /// The children.
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    pub subject: Option<Descriptor>,
    /// Annotations; empty when absent.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not a manifest we serve.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_MANIFEST_SIZE`].
    #[error("manifest has {0} bytes, more than the {MAX_MANIFEST_SIZE} allowed")]
    TooLarge(u64),
    /// Not JSON, or not of the right shape.
    #[error("manifest is not valid JSON of its type")]
    Json(#[from] serde_json::Error),
    /// Has both `layers` and `manifests` (CVE-2021-41190).
    #[error("manifest has both layers and manifests")]
    Ambiguous,
    /// The `mediaType` in the document is not the type it was served with (CVE-2021-41190).
    #[error("manifest says its type is {document} but was served as {header}")]
    TypeMismatch {
        /// The type in the document.
        document: String,
        /// The type in the Content-Type header.
        header: String,
    },
    /// Names more than [`MAX_LAYERS`] layers or [`MAX_CHILDREN`] children.
    #[error("manifest names {0} objects, more than allowed")]
    TooMany(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<MediaType>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<MediaType>,
}

impl Parsed {
    /// Reads a manifest or index that was served with the Content-Type `header`.
    ///
    /// # Errors
    /// Says what is wrong with the document; nothing that fails here may be served or stored.
    pub fn parse(bytes: &[u8], header: &MediaType) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        if !header.is_index() && !header.is_manifest() {
            // A document that says it is a manifest must not pass as something else (CVE-2021-41190).
            let typed: Typed = serde_json::from_slice(bytes)?;
            return match typed.media_type {
                Some(own) if own.is_index() || own.is_manifest() => {
                    Err(ManifestError::TypeMismatch { document: own.to_string(), header: header.to_string() })
                }
                _ => Ok(Self::Opaque(header.clone())),
            };
        }
        let document: Document = serde_json::from_slice(bytes)?;
        if let Some(media_type) = &document.media_type
            && media_type != header
        {
            return Err(ManifestError::TypeMismatch { document: media_type.to_string(), header: header.to_string() });
        }
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        if header.is_index() { document.into_index(header) } else { document.into_manifest(header) }
    }

    /// Returns every digest the document names that a pull may ask for, children and subject's
    /// excluded: config and layers, or the children of an index.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Self::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).collect(),
            Self::Index(index) => index.manifests.iter().collect(),
            Self::Opaque(_) => Vec::new(),
        }
    }

    /// Returns the manifest this one is about, if it says so.
    pub fn subject(&self) -> Option<&Digest> {
        match self {
            Self::Manifest(manifest) => manifest.subject.as_ref().map(|s| &s.digest),
            Self::Index(index) => index.subject.as_ref().map(|s| &s.digest),
            Self::Opaque(_) => None,
        }
    }
}

impl Document {
    fn into_index(self, header: &MediaType) -> Result<Parsed, ManifestError> {
        let manifests = self.manifests.ok_or_else(|| missing("manifests"))?;
        if manifests.len() > MAX_CHILDREN {
            return Err(ManifestError::TooMany(manifests.len()));
        }
        Ok(Parsed::Index(Index {
            media_type: header.clone(),
            manifests,
            subject: self.subject,
            annotations: self.annotations.unwrap_or_default(),
        }))
    }

    fn into_manifest(self, header: &MediaType) -> Result<Parsed, ManifestError> {
        let layers = self.layers.unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooMany(layers.len()));
        }
        Ok(Parsed::Manifest(Manifest {
            media_type: header.clone(),
            config: self.config.ok_or_else(|| missing("config"))?,
            layers,
            subject: self.subject,
            artifact_type: self.artifact_type,
            annotations: self.annotations.unwrap_or_default(),
        }))
    }
}

fn missing(field: &str) -> serde_json::Error {
    serde::de::Error::custom(format!("missing field {field}"))
}

impl Manifest {
    /// Tells whether this is a container image, as opposed to an artifact (chart, signature, SBOM,
    /// attestation) that only uses the manifest format.
    pub fn is_image(&self) -> bool {
        self.config.media_type.is_image_config()
            && self.artifact_type.is_none()
            && !self.layers.iter().any(|layer| layer.media_type.as_str() == "application/vnd.in-toto+json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":1}}"#, Digest::of(b"x"))
    }

    #[test]
    fn confusing_documents_are_refused() {
        let one = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let both = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}],"manifests":[{one}]}}"#);
        assert!(matches!(Parsed::parse(both.as_bytes(), &MediaType::OciManifest), Err(ManifestError::Ambiguous)));
        let index = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        assert!(matches!(
            Parsed::parse(index.as_bytes(), &MediaType::OciManifest),
            Err(ManifestError::TypeMismatch { .. })
        ));
        let disguised = br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
        assert!(matches!(
            Parsed::parse(disguised, &MediaType::parse("application/json")),
            Err(ManifestError::TypeMismatch { .. })
        ));
        let bad = br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../..","size":1},"layers":[]}"#;
        assert!(matches!(Parsed::parse(bad, &MediaType::OciManifest), Err(ManifestError::Json(_))));
    }

    #[test]
    fn limits_hold() {
        let one = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let many = vec![one.as_str(); MAX_LAYERS + 1].join(",");
        let text = format!(r#"{{"config":{one},"layers":[{many}]}}"#);
        assert!(matches!(Parsed::parse(text.as_bytes(), &MediaType::OciManifest), Err(ManifestError::TooMany(_))));
        let large = vec![b' '; MAX_MANIFEST_SIZE as usize + 1];
        assert!(matches!(Parsed::parse(&large, &MediaType::OciManifest), Err(ManifestError::TooLarge(_))));
    }
}

//! [`MediaType`]: the media types that registries and clients use, and what each means to us.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A media type. Unknown ones are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.config.v1+json`
    OciConfig,
    /// `application/vnd.oci.image.layer.v1.tar`
    OciLayer,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    OciLayerGzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    OciLayerZstd,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerList,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.container.image.v1+json`
    DockerConfig,
    /// `application/vnd.docker.image.rootfs.diff.tar`
    DockerLayer,
    /// `application/vnd.docker.image.rootfs.diff.tar.gzip`
    DockerLayerGzip,
    /// `application/vnd.docker.image.rootfs.diff.tar.zstd` (unofficial, in use)
    DockerLayerZstd,
    /// Any other type, kept as it is.
    Other(Box<str>),
}

const KNOWN: [(&str, MediaType); 12] = [
    ("application/vnd.oci.image.index.v1+json", MediaType::OciIndex),
    ("application/vnd.oci.image.manifest.v1+json", MediaType::OciManifest),
    ("application/vnd.oci.image.config.v1+json", MediaType::OciConfig),
    ("application/vnd.oci.image.layer.v1.tar", MediaType::OciLayer),
    ("application/vnd.oci.image.layer.v1.tar+gzip", MediaType::OciLayerGzip),
    ("application/vnd.oci.image.layer.v1.tar+zstd", MediaType::OciLayerZstd),
    ("application/vnd.docker.distribution.manifest.list.v2+json", MediaType::DockerList),
    ("application/vnd.docker.distribution.manifest.v2+json", MediaType::DockerManifest),
    ("application/vnd.docker.container.image.v1+json", MediaType::DockerConfig),
    ("application/vnd.docker.image.rootfs.diff.tar", MediaType::DockerLayer),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", MediaType::DockerLayerGzip),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", MediaType::DockerLayerZstd),
];

impl MediaType {
    /// Returns the type that `text` names; parameters (`;charset=…`) are dropped.
    pub fn parse(text: &str) -> Self {
        let bare = text.split(';').next().unwrap_or_default().trim();
        KNOWN
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(bare))
            .map_or_else(|| Self::Other(bare.into()), |(_, known)| known.clone())
    }

    /// Returns the text form.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            known => KNOWN.iter().find(|(_, k)| k == known).map_or("", |(name, _)| name),
        }
    }

    /// Tells whether this is an index (a list of manifests).
    pub const fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }

    /// Tells whether this is an image manifest.
    pub const fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// Tells whether this is the config of a container image (and not of an artifact).
    pub const fn is_image_config(&self) -> bool {
        matches!(self, Self::OciConfig | Self::DockerConfig)
    }

    /// Tells whether a layer of this type can be converted. Foreign, non-distributable and
    /// encrypted layers cannot.
    pub const fn is_convertible_layer(&self) -> bool {
        matches!(
            self,
            Self::OciLayer
                | Self::OciLayerGzip
                | Self::OciLayerZstd
                | Self::DockerLayer
                | Self::DockerLayerGzip
                | Self::DockerLayerZstd
        )
    }

    /// Returns the OCI type that stands for this one: Docker types are mapped, all others kept.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        match self {
            Self::DockerList => Self::OciIndex,
            Self::DockerManifest => Self::OciManifest,
            Self::DockerConfig => Self::OciConfig,
            Self::DockerLayer => Self::OciLayer,
            Self::DockerLayerGzip => Self::OciLayerGzip,
            Self::DockerLayerZstd => Self::OciLayerZstd,
            other => other.clone(),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_type_agree() {
        for (name, known) in KNOWN {
            assert_eq!(MediaType::parse(name), known);
            assert_eq!(known.as_str(), name);
        }
        assert_eq!(MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8"), MediaType::OciIndex);
        assert_eq!(MediaType::parse("text/x").as_str(), "text/x");
    }
}

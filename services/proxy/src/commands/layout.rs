//! [`Layout`]: an OCI image layout, read (image-spec, image-layout.md). Everything read is verified.

mod writer;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Descriptor, Digest, ManifestError, Parsed, VerifyError};
use bytes::Bytes;
use serde::Deserialize;

use crate::pull::StoredManifest;

pub(super) use writer::LayoutWriter;

/// The annotation that holds an image's name in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// Why a layout cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    /// The folder is none.
    #[error("{} is no OCI layout: it has no oci-layout file of version 1", dir.display())]
    NotALayout {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The list of images is malformed.
    #[error("{} is not an index of images", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// No image of that name.
    #[error("{} has no image {tag:?}; it has {known}", dir.display())]
    NoSuchTag {
        /// The folder.
        dir: PathBuf,
        /// The name asked for.
        tag: String,
        /// The names there are.
        known: String,
    },
    /// The name is missing or not unique.
    #[error("{} has several images: say which, as oci:DIR:TAG with one of {known}", dir.display())]
    Ambiguous {
        /// The folder.
        dir: PathBuf,
        /// The names there are.
        known: String,
    },
    /// A blob is not there.
    #[error("{} has no blob {digest}", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The blob.
        digest: Digest,
    },
    /// A document is larger than allowed.
    #[error("{} has more than the {limit} bytes allowed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A document has other bytes than its digest says.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Both digests.
        source: VerifyError,
    },
    /// A manifest is not valid.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong.
        source: ManifestError,
    },
}

impl LayoutError {
    fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// An OCI layout.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens the layout in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, LayoutError> {
        let path = dir.join(MARKER);
        let marker = match read_capped(&path, MAX_MANIFEST_SIZE) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            read => serde_json::from_slice::<Marker>(&read?).ok(),
        };
        match marker {
            Some(marker) if marker.version.starts_with("1.") => Ok(Self { dir: dir.into() }),
            Some(_) | None => Err(LayoutError::NotALayout { dir: dir.into() }),
        }
    }

    /// Returns the entry called `tag` (its digest will do too), or the only one.
    pub(super) fn resolve(&self, tag: Option<&str>) -> Result<Descriptor, LayoutError> {
        let path = self.dir.join(INDEX);
        let json = read_capped(&path, MAX_MANIFEST_SIZE)?;
        let index: Index = serde_json::from_slice(&json).map_err(|source| LayoutError::Index { path, source })?;
        let named = |entry: &Descriptor, tag: &str| {
            entry.annotations.get(REF_NAME).is_some_and(|name| name == tag) || entry.digest.to_string() == tag
        };
        let mut found: Vec<&Descriptor> =
            index.manifests.iter().filter(|entry| tag.is_none_or(|tag| named(entry, tag))).collect();
        found.dedup_by(|a, b| a.digest == b.digest);
        match (found.as_slice(), tag) {
            ([entry], _) => Ok((*entry).clone()),
            ([], tag) => Err(LayoutError::NoSuchTag {
                dir: self.dir.clone(),
                tag: tag.unwrap_or_default().into(),
                known: known(&index),
            }),
            (_, _) => Err(LayoutError::Ambiguous { dir: self.dir.clone(), known: known(&index) }),
        }
    }

    /// Returns where the blob `digest` is, if it is there.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.dir, digest)
    }

    /// Returns the path of the blob `digest`, which must be there.
    pub(super) fn existing(&self, digest: &Digest) -> Result<PathBuf, LayoutError> {
        let path = self.path(digest);
        match path.try_exists() {
            Ok(true) => Ok(path),
            Ok(false) => Err(LayoutError::Missing { dir: self.dir.clone(), digest: digest.clone() }),
            Err(source) => Err(LayoutError::Io { action: "find", path, source }),
        }
    }

    /// Returns the bytes of a document of at most `limit` bytes.
    pub(super) fn bytes(&self, digest: &Digest, limit: u64) -> Result<Bytes, LayoutError> {
        let path = self.existing(digest)?;
        let bytes = read_capped(&path, limit)?;
        api::verify(digest, &bytes).map_err(|source| LayoutError::Damaged { path, source })?;
        Ok(bytes.into())
    }

    /// Returns a manifest or index.
    pub(super) fn manifest(&self, entry: &Descriptor) -> Result<Arc<StoredManifest>, LayoutError> {
        let bytes = self.bytes(&entry.digest, MAX_MANIFEST_SIZE)?;
        let parsed = Parsed::parse(&bytes, &entry.media_type)
            .map_err(|source| LayoutError::Manifest { digest: entry.digest.clone(), source })?;
        let (digest, media_type) = (entry.digest.clone(), entry.media_type.clone());
        Ok(Arc::new(StoredManifest { digest, media_type, bytes, parsed }))
    }
}

fn known(index: &Index) -> String {
    const SHOWN: usize = 20;
    let names: Vec<String> = index
        .manifests
        .iter()
        .take(SHOWN)
        .map(|entry| entry.annotations.get(REF_NAME).cloned().unwrap_or_else(|| entry.digest.to_string()))
        .collect();
    match names.len() {
        0 => "none".into(),
        n if n < index.manifests.len() => format!("{}, …", names.join(", ")),
        _ => names.join(", "),
    }
}

fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let failed = LayoutError::io("read", path);
    let mut bytes = Vec::new();
    File::open(path).map_err(&failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(&failed)?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::TooLarge { path: path.into(), limit });
    }
    Ok(bytes)
}

fn make_dir(path: &Path) -> Result<(), LayoutError> {
    fs::create_dir_all(path).map_err(LayoutError::io("make", path))
}

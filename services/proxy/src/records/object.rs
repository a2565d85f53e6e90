//! [`MetaObject`]: one fact, as JSON in the store.

use std::fmt::Display;

use api::{Digest, MediaType, Reference, Repository, Tag, Twin, UnconvertibleReason};
use blobstore::{MetaKey, MetaKind};
use bytes::Bytes;
use catalog::{ConvertedRecord, TwinOutcome, TwinRecord};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of what is written here. A later version of the program that means something else writes another one.
const VERSION: u32 = 1;

/// One fact about stored bytes. It names no store key: a rebuild finds the bytes by their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum MetaObject {
    /// The repository holds the digest.
    Link {
        #[serde(serialize_with = "text", deserialize_with = "repository")]
        repository: Repository,
        digest: Digest,
    },
    /// The tag points to the digest, as the upstream said at that moment (milliseconds since 1970).
    Tag {
        #[serde(serialize_with = "text", deserialize_with = "repository")]
        repository: Repository,
        #[serde(serialize_with = "tag_text", deserialize_with = "tag")]
        tag: Tag,
        digest: Digest,
        checked_at: i64,
    },
    /// The blob is a manifest of this type.
    Manifest { digest: Digest, media_type: MediaType },
    /// The source has this twin.
    Twin {
        source: Digest,
        profile: String,
        #[serde(serialize_with = "text", deserialize_with = "repository")]
        repository: Repository,
        twin: Twin,
    },
    /// The source stays as it is.
    Unconvertible {
        source: Digest,
        profile: String,
        #[serde(serialize_with = "text", deserialize_with = "repository")]
        repository: Repository,
        reason: UnconvertibleReason,
        detail: String,
    },
    /// The source manifest has this converted form.
    Converted {
        source: Digest,
        profile: String,
        manifest: Digest,
        media_type: MediaType,
        size: u64,
        config: Option<Config>,
    },
    /// The image is never evicted.
    Pin {
        #[serde(serialize_with = "text", deserialize_with = "repository")]
        repository: Repository,
        #[serde(serialize_with = "text", deserialize_with = "reference")]
        reference: Reference,
        digest: Digest,
    },
    /// What the profile's id stands for.
    Profile { id: String, description: String },
    /// The store belongs to the catalog with this tie.
    Store { id: String },
}

/// A converted config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Why the bytes under a key are no object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// Another version of the program means something else by it.
    #[error(
        "{key} is of version {version}, this program knows {VERSION}: use the program that wrote it, or a later one"
    )]
    Version {
        /// Where it lies.
        key: MetaKey,
        /// Its version.
        version: u32,
    },
    /// It is not what was written.
    #[error("{key} is damaged: {problem}")]
    Damaged {
        /// Where it lies.
        key: MetaKey,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Serialize)]
struct Versioned<'a> {
    v: u32,
    #[serde(flatten)]
    object: &'a MetaObject,
}

impl MetaObject {
    /// Returns where the object lies.
    pub(crate) fn key(&self) -> MetaKey {
        match self {
            Self::Link { repository, digest } => {
                MetaKey::new(MetaKind::Link, &[&repository.to_string(), &digest.to_string()])
            }
            Self::Tag { repository, tag, .. } => Self::tag_key(repository, tag),
            Self::Manifest { digest, .. } => MetaKey::new(MetaKind::Manifest, &[&digest.to_string()]),
            Self::Twin { source, profile, .. } | Self::Unconvertible { source, profile, .. } => {
                MetaKey::new(MetaKind::Twin, &[&source.to_string(), profile])
            }
            Self::Converted { source, .. } => Self::converted_key(source),
            Self::Pin { repository, reference, .. } => Self::pin_key(repository, reference),
            Self::Profile { id, .. } => Self::profile_key(id),
            Self::Store { .. } => Self::store_key(),
        }
    }

    /// Returns where the store's own object lies.
    pub(crate) fn store_key() -> MetaKey {
        MetaKey::new(MetaKind::Store, &["store"])
    }

    /// Returns where the object of a converted form lies.
    pub(crate) fn converted_key(source: &Digest) -> MetaKey {
        MetaKey::new(MetaKind::Converted, &[&source.to_string()])
    }

    /// Returns where the object of a tag lies.
    pub(crate) fn tag_key(repository: &Repository, tag: &Tag) -> MetaKey {
        MetaKey::new(MetaKind::Tag, &[&repository.to_string(), tag.as_str()])
    }

    /// Returns where the object of a pin lies.
    pub(crate) fn pin_key(repository: &Repository, reference: &Reference) -> MetaKey {
        MetaKey::new(MetaKind::Pin, &[&repository.to_string(), &reference.to_string()])
    }

    /// Returns where the object of a profile lies.
    pub(crate) fn profile_key(id: &str) -> MetaKey {
        MetaKey::new(MetaKind::Profile, &[id])
    }

    /// Returns the JSON.
    pub(crate) fn to_bytes(&self) -> Bytes {
        // Text, numbers and lists of them: nothing that JSON cannot say.
        serde_json::to_vec(&Versioned { v: VERSION, object: self }).unwrap_or_default().into()
    }

    /// Returns the object that lies under `key`.
    ///
    /// # Errors
    /// [`ObjectError`]; also when it is one that belongs under another key.
    pub(crate) fn parse(key: &MetaKey, bytes: &[u8]) -> Result<Self, ObjectError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let damaged = |problem: String| ObjectError::Damaged { key: key.clone(), problem };
        let Version { v } = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if v != VERSION {
            return Err(ObjectError::Version { key: key.clone(), version: v });
        }
        let object: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if object.key() == *key { Ok(object) } else { Err(damaged("it is about something else".to_owned())) }
    }
}

impl From<TwinRecord> for MetaObject {
    fn from(record: TwinRecord) -> Self {
        let TwinRecord { source, profile, repository, outcome } = record;
        match outcome {
            TwinOutcome::Twin(twin) => Self::Twin { source, profile, repository, twin },
            TwinOutcome::Unconvertible { reason, detail } => {
                Self::Unconvertible { source, profile, repository, reason, detail }
            }
        }
    }
}

impl From<ConvertedRecord> for MetaObject {
    fn from(record: ConvertedRecord) -> Self {
        let ConvertedRecord { source, profile, manifest, media_type, size, config } = record;
        let config = config.map(|(digest, size)| Config { digest, size });
        Self::Converted { source, profile, manifest, media_type, size, config }
    }
}

fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn tag_text<S: Serializer>(tag: &Tag, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tag.as_str())
}

fn repository<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Repository, D::Error> {
    Repository::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
    Reference::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn tag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tag, D::Error> {
    Tag::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use api::TarTail;

    use super::*;

    fn objects() -> Vec<MetaObject> {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let repository = Repository::parse("docker.io/library/a").unwrap();
        let (source, profile) = (digest("source"), "p".to_owned());
        let twin = Twin {
            digest: digest("twin"),
            size: 1,
            diff_id: digest("diff"),
            plain_size: u64::MAX,
            toc_digest: digest("toc"),
            toc_size: 3,
            source_diff_id: digest("source diff"),
            source_plain_size: 4,
            tail: TarTail::Zeros(1024),
            implied_dirs: vec![String::new(), "a\"\u{1b}".to_owned()],
        };
        let (reason, detail) = (UnconvertibleReason::Limit, "too \"large\"\n".to_owned());
        let config = Some(Config { digest: digest("config"), size: 5 });
        vec![
            MetaObject::Link { repository: repository.clone(), digest: digest("linked") },
            MetaObject::Tag {
                repository: repository.clone(),
                tag: Tag::parse("v1").unwrap(),
                digest: source.clone(),
                checked_at: 7,
            },
            MetaObject::Manifest { digest: source.clone(), media_type: MediaType::parse("application/x.own+json") },
            MetaObject::Twin { source: source.clone(), profile: profile.clone(), repository: repository.clone(), twin },
            MetaObject::Unconvertible { source: digest("s"), profile: profile.clone(), repository, reason, detail },
            MetaObject::Converted {
                source,
                profile,
                manifest: digest("form"),
                media_type: MediaType::OciManifest,
                size: 9,
                config,
            },
            MetaObject::Pin {
                repository: Repository::parse("docker.io/library/a").unwrap(),
                reference: Reference::Digest(digest("pinned")),
                digest: digest("pinned"),
            },
            MetaObject::Pin {
                repository: Repository::parse("docker.io/library/a").unwrap(),
                reference: Reference::Tag(Tag::parse("v1").unwrap()),
                digest: digest("pinned"),
            },
            MetaObject::Profile { id: "p".to_owned(), description: "{\"level\":5}".to_owned() },
            MetaObject::Store { id: "0123456789abcdef".to_owned() },
        ]
    }

    #[test]
    fn objects_come_back() {
        for object in objects() {
            assert_eq!(MetaObject::parse(&object.key(), &object.to_bytes()).unwrap(), object);
        }
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_of_another_version() {
        let link = &objects()[0];
        let later = br#"{"v":2,"kind":"something"}"#;
        let error = MetaObject::parse(&link.key(), later).unwrap_err();
        assert!(matches!(error, ObjectError::Version { version: 2, .. }), "{error}");
        let other = MetaObject::Link {
            repository: Repository::parse("docker.io/library/b").unwrap(),
            digest: Digest::of(b"linked"),
        };
        let whole = link.to_bytes();
        for bytes in [&b""[..], b"{}", &whole[..whole.len() - 1], br#"{"v":1,"kind":"link"}"#, &other.to_bytes()] {
            let error = MetaObject::parse(&link.key(), bytes).unwrap_err();
            assert!(matches!(error, ObjectError::Damaged { .. }), "{error}");
        }
    }
}

//! [`Location`]: where an image is: `oci:DIR[:TAG]` or `docker://HOST/NAME[:TAG|@DIGEST]`.

use std::fmt;
use std::path::PathBuf;

use api::{Digest, Reference, ReferenceError, RepositoryName, Tag};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// In an OCI layout (image-spec, image-layout.md).
    Layout {
        /// The folder.
        dir: PathBuf,
        /// The name among its manifests; without one, the only one is meant.
        tag: Option<String>,
    },
    /// At a registry.
    Registry(RegistryRef),
}

/// An image at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryRef {
    /// The host as written, with its port.
    pub(super) host: String,
    /// The repository there.
    pub(super) name: RepositoryName,
    /// Which of its images.
    pub(super) reference: Reference,
}

/// Why a text is no location.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocationError {
    /// It begins with no known scheme.
    #[error("{text:?} is not an image: use oci:DIR[:TAG] or docker://HOST/NAME[:TAG|@DIGEST]")]
    Scheme {
        /// The text.
        text: String,
    },
    /// The folder is missing.
    #[error("{text:?} names no folder: use oci:DIR[:TAG]")]
    NoFolder {
        /// The text.
        text: String,
    },
    /// The tag of a layout has other characters than annotations allow.
    #[error("{tag:?} is not a name for an image in a layout: use letters, digits and - . _ : @ + /")]
    LayoutTag {
        /// The tag.
        tag: String,
    },
    /// The host is none.
    #[error("{host:?} in {text:?} is not a host: use docker://HOST[:PORT]/NAME")]
    Host {
        /// What stands for it.
        host: String,
        /// The text.
        text: String,
    },
    /// The repository, tag or digest is malformed.
    #[error("{text:?} is malformed")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong.
        source: ReferenceError,
    },
}

impl Location {
    /// Parses a location.
    ///
    /// # Errors
    /// See [`LocationError`].
    pub(super) fn parse(text: &str) -> Result<Self, LocationError> {
        if let Some(rest) = text.strip_prefix("docker://") {
            return RegistryRef::parse(rest, text).map(Self::Registry);
        }
        let Some(rest) = text.strip_prefix("oci:") else { return Err(LocationError::Scheme { text: text.into() }) };
        let (dir, tag) = rest.split_once(':').map_or((rest, None), |(dir, tag)| (dir, Some(tag)));
        if dir.is_empty() {
            return Err(LocationError::NoFolder { text: text.into() });
        }
        match tag {
            Some(tag) if !is_layout_tag(tag) => Err(LocationError::LayoutTag { tag: tag.into() }),
            tag => Ok(Self::Layout { dir: dir.into(), tag: tag.map(Into::into) }),
        }
    }
}

fn is_layout_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= 512 && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:@+/".contains(&b))
}

impl RegistryRef {
    fn parse(rest: &str, text: &str) -> Result<Self, LocationError> {
        let malformed = |source| LocationError::Reference { text: text.into(), source };
        let (host, path) = split_host(rest).unwrap_or(("docker.io", rest));
        let is_host = host.parse::<http::uri::Authority>().is_ok_and(|a| !a.host().is_empty() && !host.contains('@'));
        if !is_host {
            return Err(LocationError::Host { host: host.into(), text: text.into() });
        }
        let (name, reference) = name_and_reference(path).map_err(malformed)?;
        // As in docker: the images of Docker Hub with one segment are the official ones.
        let name = if host == "docker.io" && !name.as_str().contains('/') {
            RepositoryName::parse(&format!("library/{name}")).map_err(malformed)?
        } else {
            name
        };
        Ok(Self { host: host.into(), name, reference })
    }
}

/// Splits off the first segment where it is a host, as docker tells one: it has a dot or a colon, or is `localhost`.
pub(super) fn split_host(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some((first, rest))
}

/// Reads `NAME[:TAG][@DIGEST]`; the digest counts where both are there, and `latest` where neither is.
pub(super) fn name_and_reference(text: &str) -> Result<(RepositoryName, Reference), ReferenceError> {
    let (tagged, digest) = text.split_once('@').map_or((text, None), |(tagged, digest)| (tagged, Some(digest)));
    let (name, tag) = match tagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (tagged, None),
    };
    let name = RepositoryName::parse(name)?;
    let tag = Tag::parse(tag.unwrap_or("latest"))?;
    Ok((
        name,
        match digest {
            Some(digest) => Reference::Digest(Digest::parse(digest)?),
            None => Reference::Tag(tag),
        },
    ))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::Layout { dir, tag: Some(tag) } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::Registry(RegistryRef { host, name, reference }) => {
                let mark = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
                write!(f, "docker://{host}/{name}{mark}{reference}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_apart() {
        let digest = Digest::of(b"x");
        let cases = [
            ("oci:dir".to_owned(), "oci:dir".to_owned()),
            ("oci:/a/b:1.0".into(), "oci:/a/b:1.0".into()),
            ("oci:a:docker.io/library/python:3".into(), "oci:a:docker.io/library/python:3".into()),
            ("docker://ghcr.io/org/app".into(), "docker://ghcr.io/org/app:latest".into()),
            ("docker://localhost:5000/a:2".into(), "docker://localhost:5000/a:2".into()),
            ("docker://[::1]:5000/a".into(), "docker://[::1]:5000/a:latest".into()),
            ("docker://python".into(), "docker://docker.io/library/python:latest".into()),
            ("docker://org/app:1".into(), "docker://docker.io/org/app:1".into()),
            (format!("docker://h.x/a/b:1@{digest}"), format!("docker://h.x/a/b@{digest}")),
        ];
        for (text, shown) in cases {
            assert_eq!(Location::parse(&text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "dir",
            "oci:",
            "oci::tag",
            "oci:dir:",
            "oci:dir:a b",
            "docker:python",
            "docker://",
            "docker://h.x/",
            "docker://h.x/A",
            "docker://h.x/a:",
            "docker://h.x/a@sha256:0",
            "docker://u@h.x/a",
            "http://h.x/a",
        ] {
            assert!(Location::parse(text).is_err(), "{text} was accepted");
        }
    }
}

//! [`Route`]: what a path below `/v2/` asks for. Names contain slashes, so the tail decides.

use api::{Digest, ErrorCode, Reference, ReferenceError, RepositoryName};

/// A parsed path below `/v2/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The name as the client wrote it; it may begin with an upstream's name.
    pub(crate) name: RepositoryName,
    /// What is asked of it.
    pub(crate) object: Object,
}

/// What is asked of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// `manifests/<reference>`
    Manifest(Reference),
    /// `blobs/<digest>`
    Blob(Digest),
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
    /// `_firstlight/lazy/<digest>`
    Lazy(Digest),
    /// `_firstlight/layers`
    Layers,
    /// `_firstlight/toc/<digest>`
    Toc(Digest),
    /// `_firstlight/holds`
    Holds,
}

/// What the lazy API's paths have before their tail.
const OURS: &str = "_firstlight";

/// Why a path is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// No known tail.
    #[error(
        "no such endpoint: use <name>/manifests/<reference>, <name>/blobs/<digest>, <name>/tags/list, <name>/referrers/<digest> or <name>/_firstlight/…"
    )]
    NoEndpoint,
    /// The name, tag or digest is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl PathError {
    /// Returns the code of the answer.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::NoEndpoint => ErrorCode::Unsupported,
            Self::Reference(ReferenceError::Name) => ErrorCode::NameInvalid,
            Self::Reference(ReferenceError::Tag) => ErrorCode::ManifestUnknown,
            Self::Reference(ReferenceError::Digest(_)) => ErrorCode::DigestInvalid,
        }
    }
}

impl Route {
    /// Parses what follows `/v2/`.
    ///
    /// # Errors
    /// Says whether the endpoint or one of its parts is wrong.
    pub(crate) fn parse(tail: &str) -> Result<Self, PathError> {
        let mut parts = tail.rsplitn(3, '/');
        let (Some(last), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(PathError::NoEndpoint);
        };
        let digest = || Digest::parse(last).map_err(ReferenceError::Digest);
        let (object, name) = match (kind, last, name.strip_suffix(OURS).and_then(|name| name.strip_suffix('/'))) {
            ("lazy", _, Some(name)) => (Object::Lazy(digest()?), name),
            ("toc", _, Some(name)) => (Object::Toc(digest()?), name),
            (OURS, "layers", _) => (Object::Layers, name),
            (OURS, "holds", _) => (Object::Holds, name),
            _ => (Self::of_distribution(kind, last)?, name),
        };
        Ok(Self { name: RepositoryName::parse(name)?, object })
    }

    /// Parses the tails of the distribution specification.
    fn of_distribution(kind: &str, last: &str) -> Result<Object, PathError> {
        let digest = || Digest::parse(last).map_err(ReferenceError::Digest);
        Ok(match (kind, last) {
            ("manifests", _) => Object::Manifest(Reference::parse(last)?),
            ("blobs", _) => Object::Blob(digest()?),
            ("referrers", _) => Object::Referrers(digest()?),
            ("tags", "list") => Object::Tags,
            _ => return Err(PathError::NoEndpoint),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_decides() {
        let digest = Digest::of(b"x");
        let cases = [
            ("library/python/manifests/3".to_owned(), Some("library/python")),
            (format!("a/manifests/{digest}"), Some("a")),
            (format!("a/b/c/d/e/f/g/h/blobs/{digest}"), Some("a/b/c/d/e/f/g/h")),
            ("a/manifests/manifests/x".into(), Some("a/manifests")),
            ("a/tags/list".into(), Some("a")),
            (format!("a/referrers/{digest}"), Some("a")),
            (format!("a/b/_firstlight/lazy/{digest}"), Some("a/b")),
            (format!("a/_firstlight/toc/{digest}"), Some("a")),
            ("a/b/_firstlight/layers".into(), Some("a/b")),
            ("a/_firstlight/holds".into(), Some("a")),
            (format!("a/lazy/{digest}"), None),
            (format!("_firstlight/toc/{digest}"), None),
            ("a/_firstlight/lazy/latest".into(), None),
            ("a/blobs/sha256:baddigeststring".into(), None),
            ("a/blobs/../../etc".into(), None),
            ("A/manifests/x".into(), None),
            ("manifests/x".into(), None),
            ("a/tags/other".into(), None),
            (String::new(), None),
        ];
        for (path, name) in cases {
            let parsed = Route::parse(&path).ok();
            assert_eq!(parsed.as_ref().map(|r| r.name.as_str()), name, "{path}");
        }
    }
}

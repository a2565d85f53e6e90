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
}

/// Why a path is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// No known tail.
    #[error(
        "no such endpoint: use <name>/manifests/<reference>, <name>/blobs/<digest>, <name>/tags/list or <name>/referrers/<digest>"
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
        let object = match (kind, last) {
            ("manifests", _) => Object::Manifest(Reference::parse(last)?),
            ("blobs", _) => Object::Blob(digest()?),
            ("referrers", _) => Object::Referrers(digest()?),
            ("tags", "list") => Object::Tags,
            _ => return Err(PathError::NoEndpoint),
        };
        Ok(Self { name: RepositoryName::parse(name)?, object })
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

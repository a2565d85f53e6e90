//! [`RepositoryName`], [`Tag`] and [`Reference`], with the grammar of distribution-spec
//! ("Pulling manifests").

use std::fmt;

use crate::{Digest, DigestError};

/// The longest repository name accepted, in bytes (many clients cap host + name at 255).
pub const MAX_NAME_LEN: usize = 255;
/// The longest tag, in bytes.
pub const MAX_TAG_LEN: usize = 128;

/// A repository name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` segments joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Box<str>);

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

/// A repository of one upstream; written `docker.io/library/python`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    upstream: RepositoryName,
    name: RepositoryName,
}

impl Repository {
    /// Returns the repository `name` of the upstream called `upstream` (one segment, no slash).
    ///
    /// # Errors
    /// [`ReferenceError::Name`] when the upstream's name is not one segment of a repository name.
    pub fn new(upstream: &str, name: RepositoryName) -> Result<Self, ReferenceError> {
        let upstream = RepositoryName::parse(upstream)?;
        if upstream.as_str().contains('/') { Err(ReferenceError::Name) } else { Ok(Self { upstream, name }) }
    }

    /// Parses the text form: the upstream up to the first slash, then the repository's name.
    ///
    /// # Errors
    /// [`ReferenceError::Name`] when either part does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (upstream, name) = text.split_once('/').ok_or(ReferenceError::Name)?;
        Self::new(upstream, RepositoryName::parse(name)?)
    }

    /// Returns the upstream's configured name.
    pub fn upstream(&self) -> &str {
        self.upstream.as_str()
    }

    /// Returns the repository's name at the upstream.
    pub const fn name(&self) -> &RepositoryName {
        &self.name
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.name)
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// Content that never changes.
    Digest(Digest),
}

/// Why a text is not a repository name or reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The repository name does not follow the grammar.
    #[error("invalid repository name: use lower-case letters, digits and . _ - between /")]
    Name,
    /// The tag does not follow the grammar.
    #[error("invalid tag: use up to 128 letters, digits and . _ -")]
    Tag,
    /// The reference looks like a digest but is none.
    #[error("invalid digest")]
    Digest(#[from] DigestError),
}

impl RepositoryName {
    /// Parses a repository name.
    ///
    /// # Errors
    /// [`ReferenceError::Name`] when it does not follow the grammar or is longer than [`MAX_NAME_LEN`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() <= MAX_NAME_LEN && text.split('/').all(is_segment) {
            Ok(Self(text.into()))
        } else {
            Err(ReferenceError::Name)
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_segment(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes
        .split(|&b| alnum(b))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-'))
}

impl Tag {
    /// Parses a tag.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`] when it does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = !text.is_empty()
            && text.len() <= MAX_TAG_LEN
            && text.bytes().enumerate().all(|(i, b)| word(b) || (i > 0 && matches!(b, b'.' | b'-')));
        if valid { Ok(Self(text.into())) } else { Err(ReferenceError::Tag) }
    }

    /// Returns the tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Reference {
    /// Parses a tag, or a digest where the text has a colon.
    ///
    /// # Errors
    /// Says which of the two it is not.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(Digest::parse(text)?)) } else { Ok(Self::Tag(Tag::parse(text)?)) }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "library/python", "a.b/c_d/e__f/g---h", "ghcr.io/x", "0/1"] {
            assert!(RepositoryName::parse(good).is_ok(), "{good} was refused");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", ".a", "a-", "a:b", "../x", "a/../b", "a._b"] {
            assert!(RepositoryName::parse(bad).is_err(), "{bad} was accepted");
        }
        assert!(RepositoryName::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "_x", "1.2-esgz", &"a".repeat(128)] {
            assert!(Tag::parse(good).is_ok(), "{good} was refused");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "ä", &"a".repeat(129)] {
            assert!(Tag::parse(bad).is_err(), "{bad} was accepted");
        }
    }
}

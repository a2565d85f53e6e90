//! [`BlobKey`]: where a blob's bytes lie in a store.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use api::Digest;

/// What tells one writing of a digest's bytes from another: 16 hex digits.
///
/// A key is never used again after its bytes were deleted, because a later writing has another generation; so who
/// deletes late can never hit newer bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    const DIGITS: usize = 16;

    /// Returns a generation that no other call returns, in this process or another (64 random bits).
    pub fn random() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos());
        // `RandomState` is keyed by the system's randomness.
        Self(RandomState::new().hash_one((nanos, std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed))))
    }

    fn parse(text: &str) -> Option<Self> {
        let lower_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != Self::DIGITS || !lower_hex {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the bytes under a key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Blob,
    Toc,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Blob, Self::Toc];

    /// Returns the first segment of the text form. In the order of [`Kind::ALL`], so keys sort like their texts.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Toc => "tocs",
        }
    }
}

/// Where bytes lie in a store; written `blobs/sha256/ab/<hex>.<generation>`, with `tocs` in front for a TOC.
///
/// Invariants: the text form is a relative path of four segments from a closed alphabet, so it is safe as a file
/// name and as an object key; keys sort like their text forms.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey {
    kind: Kind,
    digest: Digest,
    generation: Generation,
}

/// A text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a store key")]
pub struct KeyError {
    /// The text given.
    pub text: String,
}

impl BlobKey {
    /// Returns the key of a blob (manifests and configs are blobs too).
    pub fn blob(digest: &Digest, generation: Generation) -> Self {
        Self { kind: Kind::Blob, digest: digest.clone(), generation }
    }

    /// Returns the key of a TOC's JSON.
    pub fn toc(digest: &Digest, generation: Generation) -> Self {
        Self { kind: Kind::Toc, digest: digest.clone(), generation }
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// Names the text when it is not exactly what [`BlobKey`] prints.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::parse_parts(text).ok_or_else(|| KeyError { text: text.into() })
    }

    fn parse_parts(text: &str) -> Option<Self> {
        let mut segments = text.split('/');
        let (folder, algorithm, shard, file) = (segments.next()?, segments.next()?, segments.next()?, segments.next()?);
        let (hex, generation) = file.split_once('.')?;
        if segments.next().is_some() || hex.get(..2) != Some(shard) {
            return None;
        }
        Some(Self {
            kind: Kind::ALL.into_iter().find(|kind| kind.folder() == folder)?,
            digest: Digest::parse(&format!("{algorithm}:{hex}")).ok()?,
            generation: Generation::parse(generation)?,
        })
    }

    /// Returns the digest that the bytes have.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns what the text forms of all keys of a blob begin with, whatever their generation.
    pub(crate) fn blob_prefix(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{}/{}/{}/{hex}.", Kind::Blob.folder(), digest.algorithm().name(), &hex[..2])
    }

    /// Returns the folder that holds this key's file: the text form without its last segment.
    pub(crate) fn folder(&self) -> String {
        format!("{}/{}/{}", self.kind.folder(), self.digest.algorithm().name(), &self.digest.hex()[..2])
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.folder(), self.digest.hex(), self.generation)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parse_and_display_agree() {
        let digest = Digest::of(b"x");
        let sha512 = Digest::from_sha512(&[7; 64]);
        for key in [
            BlobKey::blob(&digest, Generation::random()),
            BlobKey::toc(&digest, Generation(10)),
            BlobKey::blob(&sha512, Generation(u64::MAX)),
        ] {
            assert_eq!(BlobKey::parse(&key.to_string()).unwrap(), key);
        }
        let text = BlobKey::toc(&sha512, Generation(10)).to_string();
        assert!(text.starts_with("tocs/sha512/07/0707"), "{text}");
        assert!(text.ends_with("07.000000000000000a"), "{text}");
    }

    #[test]
    fn every_key_of_a_blob_has_its_prefix() {
        let digest = Digest::of(b"x");
        let key = BlobKey::blob(&digest, Generation::random()).to_string();
        assert_eq!(key.len(), BlobKey::blob_prefix(&digest).len() + Generation::DIGITS);
        assert!(key.starts_with(&BlobKey::blob_prefix(&digest)), "{key}");
    }

    #[test]
    fn malformed_keys_are_refused() {
        let hex = "ab".repeat(32);
        for text in [
            String::new(),
            "blobs/sha256/ab".into(),
            format!("other/sha256/ab/{hex}.0000000000000000"),
            format!("blobs/md5/ab/{hex}.0000000000000000"),
            format!("blobs/sha256/cd/{hex}.0000000000000000"),
            format!("blobs/sha256/ab/{hex}"),
            format!("blobs/sha256/ab/{hex}.000000000000000"),
            format!("blobs/sha256/ab/{hex}.000000000000000G"),
            format!("blobs/sha256/ab/{hex}.+00000000000000a"),
            format!("blobs/sha256/ab/{hex}.0000000000000000/x"),
            format!("/blobs/sha256/ab/{hex}.0000000000000000"),
            format!("blobs/sha256/../{hex}.0000000000000000"),
        ] {
            assert!(BlobKey::parse(&text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn keys_sort_like_their_texts() {
        let digests = [Digest::of(b"a"), Digest::of(b"b"), Digest::from_sha512(&[0; 64])];
        let keys: BTreeSet<BlobKey> = digests
            .iter()
            .flat_map(|d| {
                [BlobKey::blob(d, Generation(1)), BlobKey::blob(d, Generation(0)), BlobKey::toc(d, Generation(3))]
            })
            .collect();
        let texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted(), "{texts:?}");
    }

    #[test]
    fn generations_do_not_repeat() {
        let many: BTreeSet<Generation> = (0..10_000).map(|_| Generation::random()).collect();
        assert_eq!(many.len(), 10_000);
    }
}

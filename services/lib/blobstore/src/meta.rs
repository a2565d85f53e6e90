//! [`MetaKey`]: where a meta object lies in a store.
//!
//! Meta objects are small documents beside the bytes, which say what a lost database knew about them. A store keeps
//! them as it is given them; unlike a blob's, their bytes may be replaced.

use std::fmt;
use std::str::FromStr;

use api::{Algorithm, Digest, Hasher};

use crate::KeyError;

/// The most bytes of a meta object. The largest are twins with many implied directories.
pub const MAX_META: usize = 16 << 20;

/// What a meta object is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetaKind {
    /// The converted manifest of a source manifest.
    Converted,
    /// A repository holds a digest.
    Link,
    /// A blob is a manifest.
    Manifest,
    /// An image is never evicted.
    Pin,
    /// What a profile's id stands for.
    Profile,
    /// Which catalog the store belongs to. There is one.
    Store,
    /// What a tag points to.
    Tag,
    /// What came of converting a source layer.
    Twin,
}

impl MetaKind {
    /// Every kind, in the order of their folders.
    pub const ALL: [Self; 8] =
        [Self::Converted, Self::Link, Self::Manifest, Self::Pin, Self::Profile, Self::Store, Self::Tag, Self::Twin];

    /// Returns the kind's folder. In the order of [`MetaKind::ALL`], so keys sort like their texts.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Converted => "meta/converted",
            Self::Link => "meta/links",
            Self::Manifest => "meta/manifests",
            Self::Pin => "meta/pins",
            Self::Profile => "meta/profiles",
            Self::Store => "meta/store",
            Self::Tag => "meta/tags",
            Self::Twin => "meta/twins",
        }
    }
}

/// Where a meta object lies in a store; written `meta/<kind>/ab/<hex>`.
///
/// The last segment is a hash of the names of what the object is about, so whatever a name holds, the text form is a
/// relative path of four segments from a closed alphabet; keys sort like their text forms.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetaKey {
    kind: MetaKind,
    name: Digest,
}

impl MetaKey {
    /// Returns the key of the object of a kind about what `names` name together.
    pub fn new(kind: MetaKind, names: &[&str]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for name in names {
            // With its length in front, so that no two lists of names run into the same bytes.
            hasher.update(&(name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
        }
        Self { kind, name: hasher.finish() }
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// Names the text when it is not exactly what [`MetaKey`] prints.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::parse_parts(text).ok_or_else(|| KeyError { text: text.into() })
    }

    fn parse_parts(text: &str) -> Option<Self> {
        let (folder, name) = text.rsplit_once('/')?;
        let (folder, shard) = folder.rsplit_once('/')?;
        if name.get(..2) != Some(shard) {
            return None;
        }
        Some(Self {
            kind: MetaKind::ALL.into_iter().find(|kind| kind.folder() == folder)?,
            name: Digest::parse(&format!("sha256:{name}")).ok()?,
        })
    }

    /// Returns what the object is about.
    pub const fn kind(&self) -> MetaKind {
        self.kind
    }

    /// Returns the folder that holds this key's file: the text form without its last segment.
    pub(crate) fn folder(&self) -> String {
        format!("{}/{}", self.kind.folder(), &self.name.hex()[..2])
    }
}

impl fmt::Display for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder(), self.name.hex())
    }
}

impl fmt::Debug for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MetaKey {
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
        for kind in MetaKind::ALL {
            let key = MetaKey::new(kind, &["docker.io/library/a", "../x\n\u{1b}"]);
            assert_eq!(MetaKey::parse(&key.to_string()).unwrap(), key);
            assert_eq!(key.kind(), kind);
        }
        let key = MetaKey::new(MetaKind::Tag, &["a"]).to_string();
        assert!(key.starts_with("meta/tags/") && key.len() == "meta/tags/ab/".len() + 64, "{key}");
    }

    #[test]
    fn malformed_keys_are_refused() {
        let hex = "ab".repeat(32);
        for text in [
            String::new(),
            "meta/tags/ab".into(),
            format!("meta/tags/{hex}"),
            format!("meta/other/ab/{hex}"),
            format!("tags/ab/{hex}"),
            format!("/meta/tags/ab/{hex}"),
            format!("meta/tags/cd/{hex}"),
            format!("meta/tags/ab/{hex}0"),
            format!("meta/tags/ab/{}", "aB".repeat(32)),
            format!("meta/tags/ab/ab/{hex}"),
            format!("meta/tags/ab/{hex}/x"),
        ] {
            assert!(MetaKey::parse(&text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        let lists: [&[&str]; 6] = [&["ab", "c"], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"], &["a", "b", "c"]];
        let keys: BTreeSet<_> = lists.iter().map(|names| MetaKey::new(MetaKind::Link, names)).collect();
        assert_eq!(keys.len(), lists.len());
    }

    #[test]
    fn keys_sort_like_their_texts() {
        let keys: BTreeSet<MetaKey> =
            (0..50).map(|n: usize| MetaKey::new(MetaKind::ALL[n % 6], &[&n.to_string()])).collect();
        let texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted(), "{texts:?}");
    }
}

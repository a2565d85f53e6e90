//! [`Pattern`]: a pattern for repository names.

use serde::{Serialize, Serializer};

use super::upstream::MAX_LIST;
use super::value::Value;

/// A pattern for whole repository names: `*` is any run of characters within one segment, `**` any run
/// at all, everything else itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern: up to 255 characters of repository names and `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/*".contains(&b);
        let valid = !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed) && !text.contains("***");
        valid.then(|| Self(text.into()))
    }

    /// Returns the pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the pattern covers the whole of `name`. Takes pattern × name steps at most.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        // reached[n]: the pattern so far can cover name[..n].
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        let mut rest = self.0.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            if first == b'*' {
                let double = after.first() == Some(&b'*');
                rest = if double { &after[1..] } else { after };
                for n in 0..name.len() {
                    reached[n + 1] |= reached[n] && (double || name[n] != b'/');
                }
            } else {
                rest = after;
                for n in (0..name.len()).rev() {
                    reached[n + 1] = reached[n] && name[n] == first;
                }
                reached[0] = false;
            }
        }
        reached[name.len()]
    }

    pub(super) fn read_list(value: &Value) -> Result<Vec<Self>, String> {
        let texts = value.texts()?;
        if texts.len() > MAX_LIST {
            return Err(format!("expected at most {MAX_LIST} patterns"));
        }
        let invalid =
            |text: &str| format!("{text:?} is not a pattern for repository names such as library/* or org/**");
        texts.iter().map(|text| Self::parse(text).ok_or_else(|| invalid(text))).collect()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

//! Reads the JSON of a TOC without keeping its entries.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::TocEntry;

/// Calls `each` with every entry until it returns false, which is an error, and returns the version.
pub(super) fn document(json: &[u8], each: &mut dyn FnMut(TocEntry) -> bool) -> Result<i64, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let version = deserializer.deserialize_map(Document(each))?;
    deserializer.end()?;
    Ok(version)
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    Version,
    Entries,
    #[serde(other)]
    Other,
}

struct Document<'f>(&'f mut dyn FnMut(TocEntry) -> bool);

impl<'de> Visitor<'de> for Document<'_> {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a TOC")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<i64, A::Error> {
        let (mut version, mut has_entries) = (None, false);
        while let Some(key) = map.next_key()? {
            match key {
                Key::Version if version.is_none() => version = Some(map.next_value()?),
                Key::Entries if !has_entries => {
                    map.next_value_seed(Entries(&mut *self.0))?;
                    has_entries = true;
                }
                Key::Version | Key::Entries => return Err(A::Error::custom("a key is there twice")),
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !has_entries {
            return Err(A::Error::missing_field("entries"));
        }
        version.ok_or_else(|| A::Error::missing_field("version"))
    }
}

struct Entries<'f>(&'f mut dyn FnMut(TocEntry) -> bool);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of a TOC")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element()? {
            if !(self.0)(entry) {
                return Err(A::Error::custom("an entry was refused"));
            }
        }
        Ok(())
    }
}

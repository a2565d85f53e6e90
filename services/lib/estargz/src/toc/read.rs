//! Reads the JSON of a TOC without keeping its entries.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Error;

use super::pieces::Pieces;
use crate::TocEntry;

/// The most bytes of a TOC that belong to no entry.
const MOST_AROUND: usize = 1 << 20;

/// Calls `each` with every entry until it returns false, which is an error, and returns the version.
pub(super) fn document(input: impl Read, each: &mut dyn FnMut(TocEntry) -> bool) -> Result<i64, Error> {
    let mut pieces = Pieces::new(input);
    // The text without its entries, which come and go.
    let mut around = Vec::new();
    let (mut depth, mut is_entries) = (0_usize, false);
    while let Some(byte) = pieces.peek()? {
        match byte {
            b'"' => {
                let string = pieces.string()?;
                is_entries = depth == 1 && string == b"\"entries\"";
                around.extend_from_slice(string);
            }
            b'[' if is_entries => {
                entries(&mut pieces, each)?;
                around.extend_from_slice(b"[]");
                is_entries = false;
            }
            _ => {
                depth += usize::from(matches!(byte, b'{' | b'['));
                depth = depth.saturating_sub(usize::from(matches!(byte, b'}' | b']')));
                is_entries &= matches!(byte, b':' | b' ' | b'\t' | b'\n' | b'\r');
                around.push(byte);
                pieces.skip();
            }
        }
        if around.len() > MOST_AROUND {
            return Err(Error::custom(format_args!("more than {MOST_AROUND} bytes belong to no entry")));
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(&around);
    let version = deserializer.deserialize_map(Document(each))?;
    deserializer.end()?;
    Ok(version)
}

/// Reads an array of entries, of which the bracket is next.
fn entries(pieces: &mut Pieces<impl Read>, each: &mut dyn FnMut(TocEntry) -> bool) -> Result<(), Error> {
    pieces.skip();
    if pieces.peek_on()? == Some(b']') {
        pieces.skip();
        return Ok(());
    }
    loop {
        if pieces.peek_on()? != Some(b'{') {
            return Err(Error::custom("what stands among the entries is none"));
        }
        if !each(serde_json::from_slice(pieces.object()?)?) {
            return Err(Error::custom("an entry was refused"));
        }
        let next = pieces.peek_on()?;
        pieces.skip();
        match next {
            Some(b',') => {}
            Some(b']') => return Ok(()),
            _ => return Err(Error::custom("an entry is not followed by another one or the end")),
        }
    }
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

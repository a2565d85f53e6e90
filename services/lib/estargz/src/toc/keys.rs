//! [`Keys`]: the keys of a TOC's JSON without their values.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A TOC in which every key is known, spelt as it should be and there once.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    version: IgnoredAny,
    entries: Vec<EntryKeys>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct EntryKeys {
    name: IgnoredAny,
    r#type: IgnoredAny,
    size: IgnoredAny,
    modtime: IgnoredAny,
    link_name: IgnoredAny,
    mode: IgnoredAny,
    uid: IgnoredAny,
    gid: IgnoredAny,
    user_name: IgnoredAny,
    group_name: IgnoredAny,
    offset: IgnoredAny,
    inner_offset: IgnoredAny,
    dev_major: IgnoredAny,
    dev_minor: IgnoredAny,
    /// Of the reference writer; readers count the links themselves.
    #[serde(rename = "NumLink")]
    num_link: IgnoredAny,
    xattrs: IgnoredAny,
    digest: IgnoredAny,
    chunk_offset: IgnoredAny,
    chunk_size: IgnoredAny,
    chunk_digest: IgnoredAny,
}

#[cfg(test)]
mod tests {
    use crate::{EntryType, Toc, TocEntry};

    #[test]
    fn every_key_of_ours_is_known() {
        let mut entry = TocEntry::new("a", EntryType::Reg);
        (entry.size, entry.offset, entry.inner_offset, entry.chunk_offset, entry.chunk_size) = (1, 1, 1, 1, 1);
        (entry.mode, entry.uid, entry.gid, entry.dev_major, entry.dev_minor) = (1, 1, 1, 1, 1);
        for text in [&mut entry.modtime, &mut entry.link_name, &mut entry.user_name, &mut entry.group_name] {
            text.push('x');
        }
        entry.xattrs.0.insert("user.Offset".to_owned(), vec![1]);
        entry.digest = Some(api::Digest::of(b""));
        entry.chunk_digest.clone_from(&entry.digest);
        let json = serde_json::to_string(&entry).unwrap();
        assert!(Toc::is_unambiguous(format!("{{\"version\":1,\"entries\":[{json}]}}").as_bytes()), "{json}");
    }

    #[test]
    fn keys_that_readers_take_differently_are_found() {
        let told = |entry: &str| {
            let json = format!("{{\"version\":1,\"entries\":[{{\"name\":\"a\",\"type\":\"reg\"{entry}}}]}}");
            Toc::is_unambiguous(json.as_bytes())
        };
        assert!(told(",\"NumLink\":2"));
        for entry in [
            ",\"Offset\":7",
            ",\"ChunkDigest\":\"\"",
            ",\"numlink\":1",
            ",\"si\\u007ae\":1,\"size\":2",
            ",\"name\":\"a\"",
            ",\"uid\":0,\"uid\":0",
            ",\"u\u{17f}erName\":\"\"",
            ",\"comment\":\"\"",
        ] {
            assert!(!told(entry), "{entry}");
        }
        for json in [
            "{\"version\":1,\"entries\":[],\"Entries\":[]}",
            "{\"version\":1,\"entries\":[],\"entries\":[]}",
            "{\"version\":1,\"Version\":1,\"entries\":[]}",
        ] {
            assert!(!Toc::is_unambiguous(json.as_bytes()), "{json}");
        }
    }
}

//! [`TocEntry`]: one entry of a TOC.

use std::collections::BTreeMap;

use api::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryType {
    /// A directory.
    Dir,
    /// A regular file, and its first chunk.
    Reg,
    /// A symbolic link.
    Symlink,
    /// A further name of an entry.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A further chunk of the regular file before it.
    Chunk,
}

/// One entry of a TOC (estargz.md, "TOC"). Fields that are zero or empty are left out of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TocEntry {
    /// The path exactly as in the tar.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// For `reg`: the file's size in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// RFC 3339, UTC; empty when not given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub modtime: String,
    /// For links: the target, as in the tar.
    #[serde(default, rename = "linkName", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    /// The tar header's mode; type bits may be set and mean nothing.
    #[serde(default, skip_serializing_if = "is_zero_signed")]
    pub mode: i64,
    /// Owner.
    #[serde(default, skip_serializing_if = "is_zero_signed")]
    pub uid: i64,
    /// Group.
    #[serde(default, skip_serializing_if = "is_zero_signed")]
    pub gid: i64,
    /// The owner's name; written once for an id.
    #[serde(default, rename = "userName", skip_serializing_if = "String::is_empty")]
    pub user_name: String,
    /// The group's name; written once for an id.
    #[serde(default, rename = "groupName", skip_serializing_if = "String::is_empty")]
    pub group_name: String,
    /// For a chunk of a file: where its gzip member begins in the blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// For a chunk of a file: plain bytes of the member before the payload.
    #[serde(default, rename = "innerOffset", skip_serializing_if = "is_zero")]
    pub inner_offset: u64,
    /// For devices: the major number.
    #[serde(default, rename = "devMajor", skip_serializing_if = "is_zero_signed")]
    pub dev_major: i64,
    /// For devices: the minor number.
    #[serde(default, rename = "devMinor", skip_serializing_if = "is_zero_signed")]
    pub dev_minor: i64,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Xattrs::is_empty")]
    pub xattrs: Xattrs,
    /// For `reg`: the digest of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// For a chunk of a file: its offset in the file.
    #[serde(default, rename = "chunkOffset", skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    /// For a chunk of a file: its size; 0 means to the end of the file.
    #[serde(default, rename = "chunkSize", skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    /// For a chunk of a file: the digest of its payload.
    #[serde(default, rename = "chunkDigest", skip_serializing_if = "Option::is_none")]
    pub chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_signed(n: &i64) -> bool {
    *n == 0
}

impl TocEntry {
    /// Returns an entry with nothing but a name and a type.
    pub fn new(name: impl Into<String>, kind: EntryType) -> Self {
        Self {
            name: name.into(),
            kind,
            size: 0,
            modtime: String::new(),
            link_name: String::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            user_name: String::new(),
            group_name: String::new(),
            offset: 0,
            inner_offset: 0,
            dev_major: 0,
            dev_minor: 0,
            xattrs: Xattrs::default(),
            digest: None,
            chunk_offset: 0,
            chunk_size: 0,
            chunk_digest: None,
        }
    }

    /// Tells whether the entry has bytes in the blob.
    pub fn has_payload(&self) -> bool {
        match self.kind {
            EntryType::Reg => self.size > 0,
            EntryType::Chunk => true,
            EntryType::Dir
            | EntryType::Symlink
            | EntryType::Hardlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo => false,
        }
    }
}

/// Extended attributes by name; in JSON the values are base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs(pub BTreeMap<String, Vec<u8>>);

impl Xattrs {
    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Xattrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, STANDARD.encode(value))))
    }
}

impl<'de> Deserialize<'de> for Xattrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?.unwrap_or_default();
        let mut values = BTreeMap::new();
        for (name, text) in texts {
            let value = STANDARD.decode(text.unwrap_or_default()).map_err(serde::de::Error::custom)?;
            values.insert(name, value);
        }
        Ok(Self(values))
    }
}

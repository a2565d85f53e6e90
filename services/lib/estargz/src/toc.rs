//! [`Toc`]: the table of contents, parsed; [`TocWriter`]: the same, streamed out.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use api::{Algorithm, Digest, Hasher};
use serde::Deserialize;

use crate::entry::{EntryType, TocEntry};

mod keys;
mod pieces;
mod read;

/// A parsed TOC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Toc {
    /// Always 1.
    pub version: i64,
    /// The entries in the tar's order.
    pub entries: Vec<TocEntry>,
}

/// Why bytes are not a TOC.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// It is longer than allowed.
    #[error("TOC has {size} bytes, more than {limit}")]
    TooLong {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// It is not a TOC's JSON.
    #[error("TOC is malformed")]
    Json(#[source] serde_json::Error),
    /// It is of a version unknown here.
    #[error("TOC has version {0} instead of 1")]
    Version(i64),
    /// A file's chunks do not cover it exactly once, in order.
    #[error("chunks of {name:?} do not make up the file: {what}")]
    Chunks {
        /// The file's name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// One chunk of a file, with all sizes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Where its gzip member begins in the blob.
    pub offset: u64,
    /// Plain bytes of the member before the payload.
    pub inner_offset: u64,
    /// Its offset in the file.
    pub chunk_offset: u64,
    /// Its size in bytes, never 0.
    pub size: u64,
    /// The digest of its payload.
    pub digest: Option<&'a Digest>,
}

impl Toc {
    /// Parses a TOC's JSON. Nothing may follow it: some readers hash what follows, some do not.
    ///
    /// # Errors
    /// See [`TocError`].
    pub fn parse(json: &[u8]) -> Result<Self, TocError> {
        let toc: Self = serde_json::from_slice(json).map_err(TocError::Json)?;
        if toc.version != 1 {
            return Err(TocError::Version(toc.version));
        }
        Ok(toc)
    }

    /// Reads a TOC's JSON entry by entry as it comes, so that a long one takes no memory. What `each` refuses ends it.
    ///
    /// # Errors
    /// See [`TocError`], and those of `each`.
    pub fn read<E: From<TocError>>(json: impl Read, mut each: impl FnMut(TocEntry) -> Result<(), E>) -> Result<(), E> {
        let mut refused = None;
        let version = read::document(json, &mut |entry| match each(entry) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        });
        match (refused, version) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(TocError::Json(error).into()),
            (None, Ok(1)) => Ok(()),
            (None, Ok(version)) => Err(TocError::Version(version).into()),
        }
    }

    /// Tells whether every key in the JSON of a TOC is known, spelt exactly so and there once. Readers written in Go
    /// match keys whatever their case and take the last of several: any other TOC may tell them another story than
    /// [`Toc::parse`] tells.
    pub fn is_unambiguous(json: &[u8]) -> bool {
        serde_json::from_slice::<keys::Keys>(json).is_ok()
    }

    /// Returns the index of each entry that is no chunk, with the chunks of that entry.
    ///
    /// # Errors
    /// Names the first file whose chunks do not cover it exactly once, in order.
    pub fn files(&self) -> Result<Vec<(usize, Vec<Chunk<'_>>)>, TocError> {
        let mut files: Vec<(usize, Vec<Chunk<'_>>)> = Vec::new();
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.kind != EntryType::Chunk {
                files.push((i, Vec::new()));
            }
            let Some((owner, chunks)) = files.last_mut() else {
                return Err(chunk_error(entry, "a chunk before any file"));
            };
            let file = &self.entries[*owner];
            if !entry.has_payload() {
                continue;
            }
            if file.kind != EntryType::Reg {
                return Err(chunk_error(file, "it is not a regular file"));
            }
            let before = chunks.last().map_or(0, |c| c.chunk_offset + c.size);
            if entry.chunk_offset != before || before >= file.size {
                return Err(chunk_error(file, "a chunk does not begin where the one before ends"));
            }
            let rest = file.size - before;
            let size = if entry.chunk_size == 0 { rest } else { entry.chunk_size.min(rest) };
            chunks.push(Chunk {
                offset: entry.offset,
                inner_offset: entry.inner_offset,
                chunk_offset: before,
                size,
                digest: entry.chunk_digest.as_ref().or((size == file.size).then_some(file.digest.as_ref()).flatten()),
            });
        }
        for (i, chunks) in &files {
            let file = &self.entries[*i];
            let covered = chunks.last().map_or(0, |c| c.chunk_offset + c.size);
            if file.kind == EntryType::Reg && covered != file.size {
                return Err(chunk_error(file, "the last chunk does not reach the end"));
            }
        }
        Ok(files)
    }
}

fn chunk_error(entry: &TocEntry, what: &'static str) -> TocError {
    TocError::Chunks { name: entry.name.clone(), what }
}

/// Writes a TOC's JSON entry by entry, hashing it.
pub struct TocWriter<W> {
    inner: W,
    hash: Hasher,
    size: u64,
    line: Vec<u8>,
    users: HashMap<i64, String>,
    groups: HashMap<i64, String>,
}

impl<W> std::fmt::Debug for TocWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TocWriter").field("size", &self.size).finish_non_exhaustive()
    }
}

impl<W: Write> TocWriter<W> {
    /// Begins a TOC.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Hasher::new(Algorithm::Sha256),
            size: 0,
            line: Vec::new(),
            users: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// Returns the size so far in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds an entry. Names of owners are left out when a reader inherits them from an earlier entry.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn push(&mut self, entry: &mut TocEntry) -> io::Result<()> {
        if entry.kind != EntryType::Chunk {
            once(&mut self.users, entry.uid, &mut entry.user_name);
            once(&mut self.groups, entry.gid, &mut entry.group_name);
        }
        self.line.clear();
        self.line.extend_from_slice(if self.size == 0 { b"{\"version\":1,\"entries\":[\n" } else { b",\n" });
        serde_json::to_writer(&mut self.line, entry)?;
        self.flush_line()
    }

    /// Ends the TOC and returns its digest and its size in bytes.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.line.clear();
        if self.size == 0 {
            self.line.extend_from_slice(b"{\"version\":1,\"entries\":[");
        }
        self.line.extend_from_slice(b"\n]}");
        self.flush_line()?;
        self.inner.flush()?;
        Ok((self.hash.finish(), self.size))
    }

    fn flush_line(&mut self) -> io::Result<()> {
        self.hash.update(&self.line);
        self.size += self.line.len() as u64;
        self.inner.write_all(&self.line)
    }
}

/// Clears `name` if it is what was last given for `id`.
fn once(last: &mut HashMap<i64, String>, id: i64, name: &mut String) {
    if name.is_empty() {
        return;
    }
    if last.get(&id).is_some_and(|known| known == name) {
        name.clear();
    } else {
        last.insert(id, name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_entry_by_entry_is_what_is_parsed() {
        let read = |json: &str| {
            let mut entries = Vec::new();
            Toc::read(json.as_bytes(), |entry| {
                entries.push(entry);
                Ok::<_, TocError>(())
            })?;
            Ok::<_, TocError>(entries)
        };
        let entries = r#"[{"name":"a/","type":"dir"},{"name":"a/b","type":"reg","size":3}]"#;
        for json in [
            format!(r#"{{"version":1,"entries":{entries}}}"#),
            format!(r#"{{"entries":{entries},"more":[1],"version":1}}"#),
            r#" { "entries" : [ ] , "more" : {"entries":[{"name":1}]}, "x":"entries", "version" : 1 } "#.to_owned(),
            r#"{"version":1,"entries":[ {"name":"a]}\\\"{[","type":"reg","xattrs":{"user.x":"e30="}} ]}"#.to_owned(),
            format!(r#"{{"version":1,"entries":[{{"name":"{}","type":"dir"}}]}}"#, "long".repeat(200_000)),
        ] {
            assert_eq!(read(&json).unwrap(), Toc::parse(json.as_bytes()).unwrap().entries);
        }
        for json in [
            format!(r#"{{"version":1,"entries":{entries}}} x"#),
            format!(r#"{{"version":2,"entries":{entries}}}"#),
            format!(r#"{{"version":1,"entries":{entries},"entries":[]}}"#),
            r#"{"version":1}"#.to_owned(),
            r#"{"entries":[]}"#.to_owned(),
            r#"{"version":1,"entries":[{"name":"a"}]}"#.to_owned(),
            r#"{"version":1,"entries":[{"name":"a","type":"dir"},]}"#.to_owned(),
            r#"{"version":1,"entries":[{"name":"a","type":"dir"} {"name":"b","type":"dir"}]}"#.to_owned(),
            r#"{"version":1,"entries":[1]}"#.to_owned(),
            r#"{"version":1,"entries":[{"name":"a","type":"dir"}"#.to_owned(),
            r#"{"version":1,"entries":[{"name":"a","#.to_owned(),
            r#"{"version":1,"entries"[]}"#.to_owned(),
        ] {
            assert!(Toc::parse(json.as_bytes()).is_err() && read(&json).is_err(), "{json}");
        }
        let mut seen = 0;
        let refused = Toc::read(format!(r#"{{"version":1,"entries":{entries}}}"#).as_bytes(), |_| {
            seen += 1;
            Err(TocError::Version(7))
        });
        assert!(matches!(refused, Err(TocError::Version(7))));
        assert_eq!(seen, 1);
    }
}

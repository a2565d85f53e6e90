//! The eStargz format: TOC, footer, reader, writer, verify. Sync, std::io only.
//!
//! A blob is a row of gzip members that unpack to one tar. Every chunk of a regular file begins a member; the last
//! tar entry, `stargz.index.json`, is the TOC; a footer of 51 bytes says where the TOC's member begins.

pub mod entry;
pub mod footer;
pub mod listing;
pub mod members;
pub mod read_at;
pub mod reader;
pub mod rebuild;
pub mod tar;
pub mod time;
pub mod toc;
pub mod tree;
pub mod verify;
pub mod writer;

pub use entry::{EntryType, TocEntry};
pub use read_at::ReadAt;
pub use reader::{Blob, OpenError};
pub use toc::{Toc, TocError, TocWriter};

/// The name of the tar entry that holds the TOC.
pub const TOC_NAME: &str = "stargz.index.json";
/// The landmark that says: no file is to be fetched ahead.
pub const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";
/// The landmark behind the files to fetch ahead.
pub const PREFETCH_LANDMARK: &str = ".prefetch.landmark";
/// The one byte that a landmark file holds.
pub const LANDMARK_CONTENTS: u8 = 0x0f;
/// Annotation on a layer's descriptor: the digest of the TOC's JSON.
pub const TOC_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation on a layer's descriptor: the size of the plain tar, TOC entry included, in decimal.
pub const UNCOMPRESSED_SIZE_ANNOTATION: &str = "io.containers.estargz.uncompressed-size";

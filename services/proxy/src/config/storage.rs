//! [`Storage`]: where bytes are kept.

use std::path::PathBuf;

use serde::Serialize;

use super::section::Section;
use super::size::MinFree;
use super::value::Value;

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// What keeps the blobs. Default `fs`.
    pub backend: Backend,
    /// The directory of blobs and spools. Default `./firstlight-data`; relative to the working directory.
    pub path: PathBuf,
    /// What must stay free on the file system of `path`; below it, blobs are streamed through and not
    /// kept. Default `10%`.
    pub min_free: MinFree,
}

/// What keeps the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Files in a directory.
    Fs,
}

impl Storage {
    pub(super) fn read(section: &mut Section) -> Self {
        section.not_built("backend", |value| value.text() == Some("s3"));
        for key in ["bucket", "prefix", "endpoint", "region", "path_style"] {
            section.not_built(key, Value::is_set);
        }
        Self {
            backend: section.or("backend", Backend::Fs, |value| match value.text() {
                // s3 has its own error above.
                Some("fs" | "s3") => Ok(Backend::Fs),
                _ => Err(value.expected("fs")),
            }),
            path: section.or("path", PathBuf::from("./firstlight-data"), Value::path),
            min_free: section.or("min_free", MinFree::BasisPoints(1_000), MinFree::read),
        }
    }
}

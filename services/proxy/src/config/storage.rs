//! [`Storage`]: where bytes are kept.

use std::path::PathBuf;

use blobstore::S3Config;
use http::Uri;
use serde::Serialize;

use super::section::Section;
use super::size::MinFree;
use super::value::Value;

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// What keeps the blobs. Default `fs`.
    pub backend: Backend,
    /// The directory of spools, and of blobs or the disk cache. Default `./firstlight-data`; relative to the working
    /// directory.
    pub path: PathBuf,
    /// What must stay free on the file system of `path`; below it, blobs are streamed through and not
    /// kept. Default `10%`.
    pub min_free: MinFree,
    /// The bucket; set with `s3`, and only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// What every object's name begins with, a path; only with `s3`. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The URL of the service, without a `/` at its end; only with `s3`. Default: AWS's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The bucket's region; only with `s3`. Default: what AWS's own tools would take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Names the bucket in the path instead of the host; only with `s3`. Default: with an `endpoint`, yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
}

/// What keeps the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Files in a directory.
    Fs,
    /// A bucket of an S3-compatible service.
    S3,
}

impl Storage {
    pub(super) fn read(section: &mut Section) -> Self {
        let storage = Self {
            backend: section.or("backend", Backend::Fs, backend),
            path: section.or("path", PathBuf::from("./firstlight-data"), Value::path),
            min_free: section.or("min_free", MinFree::BasisPoints(1_000), MinFree::read),
            bucket: section.optional("bucket", bucket),
            prefix: section.optional("prefix", prefix),
            endpoint: section.optional("endpoint", endpoint),
            region: section.optional("region", region),
            path_style: section.optional("path_style", Value::boolean),
        };
        match storage.backend {
            Backend::Fs => {
                for key in ["bucket", "prefix", "endpoint", "region", "path_style"] {
                    if section.is_set(key) {
                        section.error(key, "needs backend = \"s3\"");
                    }
                }
            }
            Backend::S3 if !section.is_set("bucket") => {
                section.error("backend", "storage.bucket must be set too");
            }
            Backend::S3 => {}
        }
        storage
    }

    /// Returns where the bucket is, when blobs are kept in one.
    pub fn s3(&self) -> Option<S3Config> {
        let bucket = self.bucket.clone().filter(|_| self.backend == Backend::S3)?;
        Some(S3Config {
            bucket,
            prefix: self.prefix.clone().unwrap_or_default(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style.unwrap_or(self.endpoint.is_some()),
        })
    }
}

fn backend(value: &Value) -> Result<Backend, String> {
    match value.text() {
        Some("fs") => Ok(Backend::Fs),
        Some("s3") => Ok(Backend::S3),
        _ => Err(value.expected("fs or s3")),
    }
}

/// Reads a text that `is_right` says yes to.
fn text(value: &Value, what: &str, is_right: impl FnOnce(&str) -> bool) -> Result<String, String> {
    let text = value.text().filter(|text| is_right(text));
    text.map(Into::into).ok_or_else(|| value.expected(what))
}

/// The service decides what a name may be; this keeps out what would be taken for something else in a URL.
fn bucket(value: &Value) -> Result<String, String> {
    text(value, "a bucket's name", |text| is_made_of(text, b".-_") && (3..=63).contains(&text.len()))
}

fn prefix(value: &Value) -> Result<String, String> {
    let is_segment = |segment: &str| is_made_of(segment, b".-_") && !matches!(segment, "." | "..");
    text(value, "a path such as firstlight/blobs, at most 512 letters, digits and .-_/", |text| {
        text.len() <= 512 && text.split('/').all(is_segment)
    })
}

fn region(value: &Value) -> Result<String, String> {
    text(value, "a region such as eu-central-1", |text| is_made_of(text, b"-") && text.len() <= 63)
}

fn is_made_of(text: &str, others: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

fn endpoint(value: &Value) -> Result<String, String> {
    let expected = || value.expected("http[s]://HOST[:PORT]");
    let uri: Uri = value.text().and_then(|text| text.parse().ok()).ok_or_else(expected)?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(expected)?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https")).ok_or_else(expected)?;
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(expected());
    }
    Ok(format!("{scheme}://{authority}"))
}

//! One odd layer and what must become of it.

use bytes::Bytes;

use crate::compressed::gzip;
use crate::push;
use crate::tar::Tar;

/// What must become of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has a twin, and both trees of that are what containerd makes of the source.
    Twin,
    /// The same, but the twin is not shown in the estargz view: the layer implies a directory that a lower one defines otherwise.
    NotShown,
    /// It stays as it is, for the reason with this label.
    Stays(&'static str),
    /// It has a twin, although containerd refuses the source.
    RefusedTwin,
}

/// A layer on top of [`base`].
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) blob: Bytes,
    pub(crate) media_type: &'static str,
    pub(crate) diff_id: String,
    pub(crate) outcome: Outcome,
}

impl Row {
    /// A tar in one gzip member.
    pub(crate) fn tar(name: &str, plain: &[u8], outcome: Outcome) -> Self {
        Self::blob(name, push::GZIP, gzip(plain), plain, outcome)
    }

    /// A tar with an ordinary end that has a twin.
    pub(crate) fn twin(name: &str, tar: Tar) -> Self {
        Self::tar(name, &tar.end(), Outcome::Twin)
    }

    /// A tar with an ordinary end that stays as it is for a reason.
    pub(crate) fn stays(name: &str, tar: Tar, reason: &'static str) -> Self {
        Self::tar(name, &tar.end(), Outcome::Stays(reason))
    }

    /// A blob, and the tar that is in it.
    pub(crate) fn blob(
        name: &str,
        media_type: &'static str,
        blob: impl Into<Bytes>,
        plain: &[u8],
        outcome: Outcome,
    ) -> Self {
        Self { name: name.to_owned(), blob: blob.into(), media_type, diff_id: e2e::digest(plain), outcome }
    }
}

/// Returns the plain tar of the layer below each row's.
pub(crate) fn base() -> Vec<u8> {
    let strict = crate::tar::Header { flag: b'5', name: b"strict/", mode: 0o2750, ..crate::tar::Header::default() };
    Tar::new()
        .dir("./")
        .dir("lower/")
        .file("lower/file", b"of the lower layer")
        .file("lower/other", b"also")
        .dir("lower/folder/")
        .file("lower/folder/inner", b"inner")
        .symlink("lower/link", "folder")
        .dir("sub/")
        .file("sub/a", b"lower a")
        .file("sub/b", b"lower b")
        .header(&strict)
        .end()
}

//! Names that come twice, whiteouts, and names that eStargz uses itself.

use crate::row::{Outcome, Row};
use crate::tar::Tar;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = replaced();
    rows.extend(whiteouts());
    rows.extend(reserved());
    rows
}

fn replaced() -> Vec<Row> {
    vec![
        Row::twin("file-twice", Tar::new().file("a", b"first").file("a", b"second one")),
        Row::twin("file-twice-other-spelling", Tar::new().file("a", b"first").file("./a", b"second one")),
        Row::twin("file-thrice", Tar::new().file("a", b"1").file("a", b"22").file("a", b"")),
        Row::twin("directory-twice", Tar::new().dir("d/").file("d/x", b"X").dir("d/")),
        Row::twin("directory-becomes-file", Tar::new().dir("d/").file("d/x", b"X").file("d", b"D")),
        Row::twin("file-becomes-directory", Tar::new().file("d", b"D").dir("d/").file("d/x", b"X")),
        Row::tar(
            "directory-becomes-dangling-symlink",
            &Tar::new().dir("d/").file("d/x", b"X").symlink("d", "nowhere").end(),
            Outcome::RefusedTwin,
        ),
        Row::twin("directory-becomes-symlink", Tar::new().dir("t/").dir("d/").file("d/x", b"X").symlink("d", "t")),
        Row::twin("symlink-becomes-directory", Tar::new().symlink("d", "lower").dir("d/").file("d/x", b"X")),
        Row::twin("there-and-back", Tar::new().dir("d/").file("d/x", b"X").file("d", b"D").dir("d/").file("d/y", b"Y")),
        Row::twin("lower-file-becomes-directory", Tar::new().dir("lower/file/").file("lower/file/x", b"X")),
        Row::twin("lower-directory-becomes-file", Tar::new().file("lower/folder", b"F")),
        Row::twin(
            "lower-directory-gets-attributes",
            Tar::new().special(b'5', "strict/", (0, 0)).file("strict/x", b"X"),
        ),
    ]
}

fn whiteouts() -> Vec<Row> {
    let opaque = |name: &str| format!("{name}/.wh..wh..opq");
    vec![
        Row::twin("whiteout", Tar::new().dir("lower/").file("lower/.wh.file", b"")),
        Row::twin("whiteout-of-a-directory", Tar::new().dir("lower/").file("lower/.wh.folder", b"")),
        Row::twin("whiteout-of-nothing", Tar::new().file(".wh.nothing", b"").file("new/.wh.nothing", b"")),
        Row::twin("whiteout-at-root", Tar::new().file(".wh.sub", b"")),
        Row::twin("whiteout-then-file", Tar::new().dir("sub/").file("sub/.wh.a", b"").file("sub/a", b"new a")),
        Row::tar(
            "file-then-whiteout",
            &Tar::new().dir("sub/").file("sub/a", b"new a").file("sub/.wh.a", b"").end(),
            Outcome::RefusedTwin,
        ),
        Row::twin("whiteout-then-directory", Tar::new().file(".wh.sub", b"").dir("sub/").file("sub/c", b"C")),
        Row::twin("opaque-first", Tar::new().dir("sub/").file(&opaque("sub"), b"").file("sub/c", b"C")),
        Row::twin("opaque-last", Tar::new().dir("sub/").file("sub/c", b"C").file(&opaque("sub"), b"")),
        Row::twin("opaque-alone", Tar::new().file(&opaque("sub"), b"")),
        Row::twin("opaque-of-nothing", Tar::new().dir("new/").file(&opaque("new"), b"").file("new/c", b"C")),
        Row::twin("opaque-root", Tar::new().file(".wh..wh..opq", b"").file("only", b"O")),
        Row::twin("opaque-and-whiteout", Tar::new().dir("sub/").file(&opaque("sub"), b"").file("sub/.wh.a", b"")),
        Row::twin("whiteout-with-contents", Tar::new().dir("lower/").file("lower/.wh.file", b"not empty")),
        Row::twin("whiteout-is-a-directory", Tar::new().dir("lower/.wh.folder/")),
        Row::twin("whiteout-is-a-hardlink", Tar::new().file("f", b"").hardlink(".wh.sub", "f")),
        Row::tar("whiteout-of-no-name", &Tar::new().dir("sub/").file("sub/.wh.", b"").end(), Outcome::RefusedTwin),
        Row::tar(
            "whiteout-then-implied-directory",
            &Tar::new().file(".wh.sub", b"").file("sub/c", b"C").end(),
            Outcome::RefusedTwin,
        ),
        Row::twin("whiteout-as-a-device", Tar::new().dir("lower/").special(b'3', "lower/file", (0, 0))),
        Row::twin("aufs-metadata", Tar::new().dir(".wh..wh.plnk/").file(".wh..wh.aufs", b"").file("x", b"X")),
    ]
}

/// The tree is compared without these names at the root, where a converted layer has its own.
fn reserved() -> Vec<Row> {
    vec![
        Row::twin("landmark-in-source", Tar::new().file(".no.prefetch.landmark", b"mine").file("x", b"X")),
        Row::twin("prefetch-landmark-in-source", Tar::new().file("./.prefetch.landmark", b"mine").file("x", b"X")),
        Row::twin("toc-in-source", Tar::new().file("stargz.index.json", b"{}").file("x", b"X")),
        Row::twin("toc-in-source-absolute", Tar::new().file("/stargz.index.json", b"no json").file("x", b"X")),
        Row::twin("toc-directory-in-source", Tar::new().dir("stargz.index.json/").file("x", b"X")),
        Row::twin(
            "reserved-names-below",
            Tar::new().dir("d/").file("d/stargz.index.json", b"{}").file("d/.no.prefetch.landmark", b"mine"),
        ),
        Row::twin(
            "hardlink-to-a-reserved-name",
            Tar::new().file("stargz.index.json", b"{}").hardlink("h", "stargz.index.json"),
        ),
    ]
}

//! Odd names, and directories that are only implied.

use crate::row::{Outcome, Row};
use crate::tar::{Format, Header, Tar};

fn raw(flag: u8, name: &'static [u8], link: &'static [u8]) -> Tar {
    Tar::new().header(&Header { flag, name, link, ..Header::default() })
}

/// The prefix of a `star` header: a part of the name, two times, and the mark at its end.
fn star_prefix() -> Vec<u8> {
    let mut prefix = vec![0; 167];
    prefix[..11].copy_from_slice(b"long/prefix");
    prefix[131..142].copy_from_slice(b"14000000000");
    prefix[143..154].copy_from_slice(b"14000000000");
    prefix[163..].copy_from_slice(b"tar\0");
    prefix
}

pub(crate) fn rows() -> Vec<Row> {
    let long = format!("long/{}", "n".repeat(150));
    let longer = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let prefixed = Header { name: b"tail", prefix: b"long/prefix", ..Header::default() };
    let star = star_prefix();
    let gnu_times =
        Header { format: Format::Gnu, name: b"x", prefix: b"14000000000\x0014000000000\0", ..Header::default() };
    vec![
        Row::twin("name-empty", raw(b'0', b"", b"").file("x", b"X")),
        Row::twin("name-root-after-cleaning", Tar::new().dir("a/..").file("x", b"X").dir("a/./../b")),
        Row::tar(
            "name-too-long-for-a-file-system",
            &Tar::new().pax(b'x', &[("path", &[b'a'; 300])]).file("short", b"L").end(),
            Outcome::RefusedTwin,
        ),
        Row::stays(
            "name-beyond-the-limit",
            Tar::new().pax(b'x', &[("path", &[b'a'; 5000])]).file("short", b"L"),
            "limit",
        ),
        Row::twin("name-star-prefix", Tar::new().header(&Header { name: b"tail", prefix: &star, ..Header::default() })),
        Row::twin("name-gnu-times-in-prefix", Tar::new().header(&gnu_times)),
        Row::twin(
            "name-signed-checksum",
            Tar::new().header_summed_signed(&Header { name: "ümläut".as_bytes(), ..Header::default() }),
        ),
        Row::twin("name-of-a-file-ends-in-slash", Tar::new().file("f/", b"")),
        Row::twin(
            "v7-directory-by-long-name",
            Tar::new().long(b'L', "long/d/").header(&Header {
                flag: 0,
                name: b"long/d",
                mode: 0o755,
                format: Format::V7,
                ..Header::default()
            }),
        ),
        Row::stays(
            "below-a-hardlink",
            Tar::new().file("f", b"F").hardlink("h", "f").file("h/x", b"X"),
            "below_non_directory",
        ),
        Row::stays("below-a-device", Tar::new().special(b'3', "c", (1, 3)).file("c/x", b"X"), "below_non_directory"),
        Row::twin("name-dot", Tar::new().dir("./").dir("./d/").file("./d/x", b"X")),
        Row::twin("name-absolute", Tar::new().dir("/d/").file("/d/x", b"X")),
        Row::twin("name-parent", Tar::new().file("../x", b"X").file("../../y", b"Y")),
        Row::twin("name-double-slash", Tar::new().dir("a//").file("a//b", b"B").file("a///./c", b"C")),
        Row::twin("name-parent-inside", Tar::new().dir("a/").file("a/../b", b"B").file("a/./c", b"C")),
        Row::twin("name-without-slash", Tar::new().dir("a").file("a/b", b"B")),
        Row::twin(
            "name-newline",
            Tar::new().file("new\nline", b"N").file("back\\slash", b"B").file("quote\"<&>", b"Q"),
        ),
        Row::twin("name-utf8", Tar::new().file("ümläut/日本", b"U").symlink("ß", "ümläut")),
        Row::tar("name-not-utf8", &raw(b'0', b"a\xff", b"").end(), Outcome::Stays("not_utf8")),
        Row::tar("target-not-utf8", &raw(b'2', b"s", b"\xfe").end(), Outcome::Stays("not_utf8")),
        Row::twin("name-gnu-long", Tar::new().long(b'L', &longer).file("short", b"L")),
        Row::twin("target-gnu-long", Tar::new().long(b'K', &longer).symlink("s", "short")),
        Row::twin("name-and-target-gnu-long", Tar::new().long(b'K', &longer).long(b'L', &long).symlink("s", "short")),
        Row::twin("name-pax", Tar::new().pax(b'x', &[("path", longer.as_bytes())]).file("short", b"P")),
        Row::twin("target-pax", Tar::new().pax(b'x', &[("linkpath", longer.as_bytes())]).symlink("s", "short")),
        Row::twin(
            "hardlink-target-pax",
            Tar::new().file("f", b"F").pax(b'x', &[("linkpath", b"f")]).hardlink("h", "elsewhere"),
        ),
        Row::twin("name-ustar-prefix", Tar::new().header(&prefixed)),
        Row::twin(
            "name-gnu-no-prefix",
            Tar::new().header(&Header { format: Format::Gnu, name: b"g", ..Header::default() }),
        ),
        Row::twin("no-root-no-parents", Tar::new().file("new/deep/er/x", b"X")),
        Row::twin("implied-in-lower", Tar::new().file("lower/folder/new", b"N")),
        Row::tar("implied-otherwise-in-lower", &Tar::new().file("strict/new", b"N").end(), Outcome::NotShown),
        Row::twin(
            "root-with-attributes",
            Tar::new().header(&Header { flag: b'5', name: b"./", mode: 0o1777, ..Header::default() }).file("x", b"X"),
        ),
        Row::twin("root-is-a-file", Tar::new().file("./", b"").file("x", b"X")),
        Row::stays("below-a-file", Tar::new().file("f", b"F").file("f/x", b"X"), "below_non_directory"),
        Row::stays("below-a-symlink", Tar::new().dir("d/").symlink("s", "d").file("s/x", b"X"), "below_non_directory"),
        Row::stays(
            "below-a-dangling-symlink",
            Tar::new().symlink("s", "nowhere").file("s/x", b"X"),
            "below_non_directory",
        ),
        // A client that mounts one layer alone cannot know that the implied directory is none below.
        Row::tar("below-a-symlink-of-a-lower-layer", &Tar::new().file("lower/link/x", b"X").end(), Outcome::NotShown),
        Row::tar("below-a-file-of-a-lower-layer", &Tar::new().file("lower/file/x", b"X").end(), Outcome::NotShown),
    ]
}

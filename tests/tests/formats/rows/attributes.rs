//! Owners, modes, times, devices, extended attributes, and the pax records that carry them.

use crate::row::{Outcome, Row};
use crate::tar::{Format, Header, Number, Tar};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = records();
    rows.extend(numbers());
    rows.extend(xattrs());
    rows.extend(times());
    rows
}

/// Records of a global header.
const COMMENT: &[u8] = b"20 comment=a commit\n";

/// A global header of an own name.
fn global(name: &[u8]) -> Header<'_> {
    Header { flag: b'g', name, ..Header::default() }
}

fn records() -> Vec<Row> {
    let sparse_1 = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"4096")];
    let owner = [("uid", &b"5000000000"[..]), ("gid", b"3000000"), ("uname", b"someone"), ("mtime", b"1500000000")];
    let small_owner = [("uid", &b"70000"[..]), ("gid", b"80000")];
    vec![
        Row::twin("pax-global", Tar::new().pax(b'g', &[("comment", b"a commit")]).file("x", b"X")),
        Row::twin("pax-global-alone", Tar::new().pax(b'g', &[("comment", b"a commit")])),
        Row::twin("pax-global-last", Tar::new().file("x", b"X").pax(b'g', &[("comment", b"a commit")])),
        Row::twin(
            "pax-global-mtime",
            Tar::new().pax(b'g', &[("mtime", b"1000000000")]).file("x", b"X").file("y", b"Y"),
        ),
        Row::twin("pax-global-path", Tar::new().pax(b'g', &[("path", b"other")]).file("x", b"X")),
        // containerd's applier makes the folders of a global header's name and clears its place, which no TOC says.
        Row::stays(
            "pax-global-in-folder",
            Tar::new().entry(global(b"new/pax_global_header"), COMMENT).file("x", b"X"),
            "corrupt",
        ),
        Row::stays(
            "pax-global-over-file",
            Tar::new().file("x", b"X").entry(global(b"x"), COMMENT).file("y", b"Y"),
            "corrupt",
        ),
        Row::twin(
            "pax-global-in-known-folder",
            Tar::new().dir("d/").entry(global(b"./d/pax_global_header"), COMMENT).file("d/x", b"X"),
        ),
        Row::twin("pax-owner", Tar::new().pax(b'x', &small_owner).file("x", b"X").file("y", b"Y")),
        Row::twin("pax-owner-too-large", Tar::new().pax(b'x', &owner).file("x", b"X")),
        Row::twin(
            "pax-size",
            Tar::new().pax(b'x', &[("size", b"5")]).file("x", b"").payload(b"12345").file("after", b"A"),
        ),
        Row::twin("pax-empty-path", Tar::new().pax(b'x', &[("path", b"")]).file("x", b"X")),
        Row::twin("pax-unknown-record", Tar::new().pax(b'x', &[("VENDOR.thing", b"value=\n")]).file("x", b"X")),
        Row::twin("pax-twice", Tar::new().pax(b'x', &[("uid", b"7")]).pax(b'x', &[("gid", b"8")]).file("x", b"X")),
        Row::stays(
            "pax-malformed",
            Tar::new().entry(Header { flag: b'x', name: b"p", ..Header::default() }, b"99 a=b\n").file("x", b"X"),
            "corrupt",
        ),
        Row::stays(
            "sparse-gnu",
            Tar::new().entry(Header { flag: b'S', name: b"x", format: Format::Gnu, ..Header::default() }, b"X"),
            "sparse",
        ),
        Row::stays(
            "sparse-pax-0.0",
            Tar::new().pax(b'x', &[("GNU.sparse.size", b"9"), ("GNU.sparse.numblocks", b"0")]).file("x", b"X"),
            "sparse",
        ),
        Row::stays(
            "sparse-pax-0.1",
            Tar::new().pax(b'x', &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1")]).file("x", b"X"),
            "sparse",
        ),
        Row::stays("sparse-pax-1.0", Tar::new().pax(b'x', &sparse_1).file("x", &[b'0'; 512]), "sparse"),
        Row::tar(
            "contiguous",
            &Tar::new().entry(Header { flag: b'7', name: b"x", ..Header::default() }, b"contiguous").end(),
            Outcome::RefusedTwin,
        ),
        Row::twin(
            "v7-file",
            Tar::new().entry(Header { flag: 0, name: b"x", format: Format::V7, ..Header::default() }, b"old"),
        ),
        Row::twin(
            "v7-directory",
            Tar::new()
                .header(&Header { flag: 0, name: b"d/", mode: 0o755, format: Format::V7, ..Header::default() })
                .file("d/x", b"X"),
        ),
        Row::tar("unknown-type", &Tar::new().special(b'Z', "x", (0, 0)).end(), Outcome::Stays("corrupt")),
    ]
}

fn numbers() -> Vec<Row> {
    let base256 = Header {
        name: b"x",
        size: Number::Base256(3),
        owner: (Number::Base256(3_000_000), Number::Base256(2_097_152)),
        mtime: Number::Base256(1_700_000_000),
        format: Format::Gnu,
        ..Header::default()
    };
    let mode = |name: &'static [u8], mode| Header { name, mode, ..Header::default() };
    let negative = Header {
        name: b"x",
        owner: (Number::Base256(-1), Number::Base256(-1)),
        format: Format::Gnu,
        ..Header::default()
    };
    vec![
        Row::twin("base-256", Tar::new().header(&base256).payload(b"123").file("after", b"A")),
        Row::tar("base-256-negative-owner", &Tar::new().header(&negative).end(), Outcome::Twin),
        Row::twin(
            "mode-type-bits",
            Tar::new().header(&mode(b"x", 0o100_644)).header(&Header { flag: b'5', ..mode(b"d/", 0o40755) }),
        ),
        Row::twin(
            "mode-special-bits",
            Tar::new()
                .header(&mode(b"u", 0o4755))
                .header(&mode(b"g", 0o2711))
                .header(&mode(b"t", 0o1644))
                .header(&mode(b"none", 0)),
        ),
        Row::twin(
            "mode-directory-bits",
            Tar::new().header(&Header { flag: b'5', ..mode(b"d/", 0o7770) }).file("d/x", b"X"),
        ),
        Row::twin(
            "devices",
            Tar::new().special(b'3', "c", (1, 3)).special(b'4', "b", (259, 1000)).special(b'3', "zero", (0, 1)),
        ),
        Row::twin("fifo", Tar::new().special(b'6', "p", (0, 0))),
        Row::twin(
            "device-with-size",
            Tar::new()
                .header(&Header {
                    flag: b'3',
                    name: b"c",
                    device: (1, 5),
                    size: Number::Octal(1000),
                    ..Header::default()
                })
                .file("after", b"A"),
        ),
        Row::twin(
            "directory-with-size",
            Tar::new()
                .header(&Header {
                    flag: b'5',
                    name: b"d/",
                    mode: 0o755,
                    size: Number::Octal(4096),
                    ..Header::default()
                })
                .file("d/x", b"X"),
        ),
    ]
}

fn xattrs() -> Vec<Row> {
    let capability = b"\x01\x00\x00\x02\x00\x24\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let acl = b"\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff";
    vec![
        Row::twin(
            "xattr-binary",
            Tar::new()
                .pax(b'x', &[("SCHILY.xattr.user.a", b"\0\xff\n= "), ("SCHILY.xattr.user.b", b"b")])
                .file("x", b"X"),
        ),
        Row::twin("xattr-empty", Tar::new().pax(b'x', &[("SCHILY.xattr.user.a", b"")]).file("x", b"X")),
        Row::twin(
            "xattr-capability",
            Tar::new().pax(b'x', &[("SCHILY.xattr.security.capability", capability)]).file("x", b"X"),
        ),
        Row::twin(
            "xattr-capability-and-owner",
            Tar::new().pax(b'x', &[("SCHILY.xattr.security.capability", capability), ("uid", b"1000")]).file("x", b"X"),
        ),
        Row::twin(
            "xattr-on-directory",
            Tar::new().pax(b'x', &[("SCHILY.xattr.user.d", b"D")]).dir("d/").file("d/x", b"X"),
        ),
        Row::twin("xattr-libarchive", Tar::new().pax(b'x', &[("LIBARCHIVE.xattr.user.b", b"YQ")]).file("x", b"X")),
        Row::twin(
            "xattr-trusted",
            Tar::new().pax(b'x', &[("SCHILY.xattr.trusted.t", b"T"), ("SCHILY.xattr.user.u", b"U")]).file("x", b"X"),
        ),
        Row::twin(
            "xattr-acl",
            Tar::new()
                .pax(b'x', &[("SCHILY.xattr.system.posix_acl_access", acl), ("SCHILY.acl.access", b"user::rw-")])
                .file("x", b"X"),
        ),
        Row::twin("xattr-on-symlink", Tar::new().pax(b'x', &[("SCHILY.xattr.user.s", b"S")]).symlink("s", "x")),
        Row::twin(
            "xattr-on-hardlink",
            Tar::new()
                .pax(b'x', &[("SCHILY.xattr.user.a", b"A")])
                .file("f", b"F")
                .pax(b'x', &[("SCHILY.xattr.user.b", b"B")])
                .hardlink("h", "f"),
        ),
        Row::twin(
            "xattr-on-hardlink-capability",
            Tar::new()
                .pax(b'x', &[("SCHILY.xattr.security.capability", capability)])
                .file("f", b"F")
                .hardlink("h", "f"),
        ),
        Row::twin(
            "xattr-overlay-opaque",
            Tar::new().pax(b'x', &[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).dir("sub/").file("sub/c", b"C"),
        ),
    ]
}

fn times() -> Vec<Row> {
    let mtime = |name: &'static [u8], mtime| Header { name, mtime, ..Header::default() };
    let pax = |value: &'static [u8]| Tar::new().pax(b'x', &[("mtime", value)]).file("x", b"X");
    vec![
        Row::twin(
            "mtime-zero",
            Tar::new().header(&mtime(b"x", Number::Octal(0))).header(&Header {
                flag: b'5',
                mode: 0o755,
                ..mtime(b"d/", Number::Octal(0))
            }),
        ),
        Row::twin(
            "mtime-negative",
            Tar::new().header(&Header { format: Format::Gnu, ..mtime(b"x", Number::Base256(-5)) }),
        ),
        Row::twin("mtime-pax-negative", pax(b"-1.5")),
        Row::twin("mtime-fraction", pax(b"1350244992.023960108")),
        Row::twin("mtime-fraction-short", pax(b"1350244992.7")),
        Row::twin("mtime-fraction-long", pax(b"1350244992.9999999999")),
        Row::twin("mtime-2100", pax(b"4102444800")),
        Row::twin("mtime-far-future", pax(b"9223372037")),
        Row::twin(
            "mtime-year-10000",
            Tar::new().header(&Header { format: Format::Gnu, ..mtime(b"x", Number::Base256(253_402_300_800)) }),
        ),
        Row::twin("mtime-on-symlink", Tar::new().pax(b'x', &[("mtime", b"1350244992.5")]).symlink("s", "x")),
        Row::twin(
            "atime-ctime",
            Tar::new().pax(b'x', &[("atime", b"1.5"), ("ctime", b"2.5"), ("mtime", b"3.5")]).file("x", b"X"),
        ),
    ]
}

//! One row for each kind of tar: what its TOC lists, or why it has no twin.

use super::builder::{Header, Tar};
use super::*;

#[test]
fn every_kind_of_tar_converts() {
    let long = format!("{}/f", "d".repeat(200));
    let header = |h: Header<'_>| Tar::default().header(&h);
    let cases: Vec<(&str, Tar, Vec<&str>)> = vec![
        ("empty", Tar::default(), vec![]),
        (
            "plain",
            Tar::default().dir("./").file("./a", b"A").file("./e", b""),
            vec!["dir ./ 0", "reg ./a 1", "reg ./e 0"],
        ),
        ("chunks", Tar::default().file("a", &[7; 9000]), vec!["reg a 9000", "chunk a 0", "chunk a 0"]),
        ("exact chunks", Tar::default().file("a", &[7; 8192]), vec!["reg a 8192", "chunk a 0"]),
        ("pax global", Tar::default().pax(b'g', &[("comment", b"c")]).file("a", b"A"), vec!["reg a 1"]),
        ("contiguous", Tar::default().flag_file(b'7', "a", b"A"), vec!["reg a 1"]),
        ("v7 directory", header(Header { flag: 0, name: b"d/", magic: b"", ..Header::default() }), vec!["dir d/ 0"]),
        ("v7 file", header(Header { flag: 0, name: b"f", magic: b"", ..Header::default() }), vec!["reg f 0"]),
        (
            "gnu long name",
            Tar::default().flag_file(b'L', "././@LongLink", format!("{long}\0").as_bytes()).file("x", b"A"),
            vec!["reg LONG 1"],
        ),
        ("pax path", Tar::default().pax(b'x', &[("path", long.as_bytes())]).file("x", b"A"), vec!["reg LONG 1"]),
        (
            "pax size",
            Tar::default()
                .pax(b'x', &[("size", b"3")])
                .header(&Header { name: b"a", ..Header::default() })
                .bytes(b"ABC"),
            vec!["reg a 3"],
        ),
        ("symlink", Tar::default().link(b'2', "s", "../t"), vec!["symlink s 0 ../t"]),
        (
            "device",
            header(Header { flag: b'3', name: b"null", device: (1, 3), ..Header::default() }),
            vec!["char null 0"],
        ),
        ("fifo", Tar::default().link(b'6', "p", ""), vec!["fifo p 0"]),
        ("duplicate", Tar::default().file("a", b"1").file("./a", b"22"), vec!["reg ./a 2"]),
        ("directory replaced", Tar::default().dir("d").file("d/x", b"X").file("d", b"D"), vec!["reg d 1"]),
        ("file replaced", Tar::default().file("d", b"D").dir("d").file("d/x", b"X"), vec!["dir d 0", "reg d/x 1"]),
        ("hard link", Tar::default().file("a", b"A").hardlink("b", "./a"), vec!["reg a 1", "hardlink b 0 a"]),
        (
            "hard link to the replaced",
            Tar::default().file("a", b"old").hardlink("b", "a").file("a", b"new!"),
            vec!["reg b 3", "reg a 4"],
        ),
        (
            "hard link to the replaced, chunks",
            Tar::default().file("a", &[1; 5000]).hardlink("b", "a").file("a", &[2; 5000]),
            vec!["reg b 5000", "chunk b 0", "reg a 5000", "chunk a 0"],
        ),
        ("hard link to a later", Tar::default().hardlink("b", "a").file("a", b"A"), vec!["reg a 1", "hardlink b 0 a"]),
        (
            "hard link with a size",
            header(Header { name: b"a", ..Header::default() }).header(&Header {
                flag: b'1',
                name: b"b",
                link: b"a",
                size: 77,
                ..Header::default()
            }),
            vec!["reg a 0", "hardlink b 0 a"],
        ),
        (
            "whiteouts",
            Tar::default().file("d/.wh.x", b"").file("d/.wh..wh..opq", b""),
            vec!["reg d/.wh.x 0", "reg d/.wh..wh..opq 0"],
        ),
        (
            "toc in the source",
            Tar::default().file("stargz.index.json", b"{}").file("a", b"A"),
            vec!["reg stargz.index.json 2", "reg a 1"],
        ),
        (
            "prefetch landmark",
            Tar::default().file(".prefetch.landmark", b"no").file("a", b"A"),
            vec!["reg .prefetch.landmark 2", "reg a 1"],
        ),
        (
            "odd names",
            Tar::default().file("/x", b"").file("../y", b"").file("p//q\n\\\"<", b""),
            vec!["reg /x 0", "reg ../y 0", "reg p//q\n\\\"< 0"],
        ),
    ];
    for (what, tar, expected) in cases {
        let plain = tar.end();
        let (_, _, entries) = twin_of(&gzip(&plain), &plain);
        let expected: Vec<String> = expected.iter().map(|line| line.replace("LONG", &long)).collect();
        assert_eq!(shown(&entries), expected, "{what}");
    }
}

#[test]
fn what_cannot_convert_says_why() {
    let bad_name = Header { name: b"a\xff", ..Header::default() };
    let sparse = |records: &[(&str, &[u8])]| Tar::default().pax(b'x', records).file("a", b"A");
    let cases = [
        ("name", Tar::default().header(&bad_name), UnconvertibleReason::NotUtf8),
        (
            "link",
            Tar::default().header(&Header { flag: b'2', name: b"s", link: b"\xff", ..Header::default() }),
            UnconvertibleReason::NotUtf8,
        ),
        ("gnu sparse", Tar::default().flag_file(b'S', "a", b"A"), UnconvertibleReason::Sparse),
        (
            "pax sparse 0.0",
            sparse(&[("GNU.sparse.size", b"9"), ("GNU.sparse.numblocks", b"0")]),
            UnconvertibleReason::Sparse,
        ),
        ("pax sparse 0.1", sparse(&[("GNU.sparse.map", b"0,1")]), UnconvertibleReason::Sparse),
        (
            "pax sparse 1.0",
            sparse(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]),
            UnconvertibleReason::Sparse,
        ),
        ("cycle", Tar::default().hardlink("a", "b").hardlink("b", "a"), UnconvertibleReason::HardlinkCycle),
        ("missing", Tar::default().hardlink("a", "b"), UnconvertibleReason::HardlinkMissing),
        ("below a file", Tar::default().file("f", b"").file("f/x", b""), UnconvertibleReason::BelowNonDirectory),
        (
            "below a symlink",
            Tar::default().link(b'2', "s", "d").file("s/x", b""),
            UnconvertibleReason::BelowNonDirectory,
        ),
        ("bad pax", Tar::default().flag_file(b'x', "p", b"99 a=b\n").file("a", b""), UnconvertibleReason::Corrupt),
        ("unknown type", Tar::default().flag_file(b'Z', "a", b""), UnconvertibleReason::Corrupt),
        ("long path", Tar::default().pax(b'x', &[("path", &[b'a'; 5000])]).file("x", b""), UnconvertibleReason::Limit),
    ];
    for (what, tar, reason) in cases {
        assert_eq!(reason_of(&gzip(&tar.end())), reason, "{what}");
    }
}

#[test]
fn attributes_are_those_of_an_unpack() {
    let xattrs: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.a", b"\0\xff"),
        ("SCHILY.xattr.trusted.t", b"never set"),
        ("SCHILY.xattr.security.capability", b"cap"),
        ("LIBARCHIVE.xattr.user.b", b"YQ"),
        ("mtime", b"12.5"),
    ];
    let plain = Tar::default()
        .pax(b'x', xattrs)
        .file("a", b"A")
        .pax(b'x', &[("SCHILY.xattr.user.c", b"C"), ("mtime", b"-1.5")])
        .header(&Header { flag: b'1', name: b"b", link: b"a", mode: 0o4711, ..Header::default() })
        .pax(b'x', xattrs)
        .link(b'2', "s", "a")
        .end();
    let (_, _, entries) = twin_of(&plain, &plain);
    let a = entries.iter().find(|e| e.name == "a").unwrap();
    // The link's header was applied last; setting the owner dropped the capability.
    assert_eq!((a.mode, a.modtime.as_str()), (0o4711, "1970-01-01T00:00:00Z"));
    assert_eq!(a.xattrs.0.keys().collect::<Vec<_>>(), ["user.a", "user.c"]);
    assert_eq!((a.uid, a.gid, a.user_name.as_str(), a.group_name.as_str()), (1000, 100, "user", "group"));
    let s = entries.iter().find(|e| e.name == "s").unwrap();
    assert_eq!(s.modtime, "1970-01-01T00:00:12.5Z");
    assert_eq!(s.xattrs.0.keys().collect::<Vec<_>>(), ["security.capability"]);
    assert_eq!(s.user_name, "", "it is inherited");
}

#[test]
fn landmark_of_the_source_wins() {
    let plain = Tar::default().file(estargz::NO_PREFETCH_LANDMARK, b"mine").end();
    let (_, _, entries) = twin_of(&plain, &plain);
    let sizes: Vec<u64> = entries.iter().map(|e| e.size).collect();
    assert_eq!(sizes, [4]);
    assert_eq!(entries[0].kind, EntryType::Reg);
}

/// Returns where the members of a blob begin, compressed and plain.
fn members(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut members = estargz::members::Members::new(bytes).recording();
    io::copy(&mut members, &mut io::sink()).unwrap();
    members.starts().to_vec()
}

#[test]
fn many_headers_do_not_share_a_member() {
    let mut tar = Tar::default().file("big", &[1; 100]);
    for i in 0..6000 {
        tar = tar.file(&format!("dir/{i}"), b"");
    }
    let plain = tar.file("last", b"L").end();
    let (twin, bytes, _) = twin_of(&plain, &plain);
    let toc_offset = estargz::reader::toc_offset(&bytes, twin.size).unwrap();
    let starts = members(&bytes[..toc_offset as usize]);
    assert!(starts.windows(2).all(|w| w[1].1 - w[0].1 < 2 << 20), "{starts:?}");
    assert_eq!(twin.implied_dirs, ["", "dir"]);
}

#[test]
fn a_long_toc_is_one_member() {
    let (mut tar, long) = (Tar::default(), "n".repeat(90));
    for i in 0..60_000 {
        tar = tar.link(b'2', &format!("{i:08}{long}"), &long);
    }
    let plain = tar.end();
    let (twin, bytes, _) = twin_of(&plain, &plain);
    assert!(twin.toc_size > 16 << 20, "{}", twin.toc_size);
    let toc_offset = estargz::reader::toc_offset(&bytes, twin.size).unwrap();
    let starts = members(&bytes[toc_offset as usize..]);
    assert_eq!(starts.len(), 2, "the TOC and the footer");
    // The stream compressor's output; see `the_same_tar_gives_the_same_twin`.
    assert_eq!(twin.digest.hex(), "23d60b3d58d4c3f8fdc7cd68d4b1d64e3ec02cb050a1e282edf1e8f369166a70");
}

/// The bytes of a twin are part of the profile. If this fails after an update of a compressor, its version in
/// `profile.rs` must be raised too; after a change here, the converter's.
#[test]
fn the_same_tar_gives_the_same_twin() {
    let text: Vec<u8> = (0..30_000u32).flat_map(|i| format!("line {} of {i}\n", i * i % 977).into_bytes()).collect();
    let plain = Tar::default()
        .dir("d/")
        .pax(b'x', &[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"v")])
        .file("d/text", &text)
        .file("d/empty", b"")
        .hardlink("h", "d/text")
        .link(b'2', "s", "d")
        .end();
    let made = make(&plain, &Profile::default(), &Limits::default(), &POOL).unwrap();
    let Converted::Twin(twin) = made.converted else { panic!("it was taken for eStargz") };
    assert_eq!(Profile::default().id(), "v1-libdeflate1.26-l5-c1048576-zlib-rs0.6.8-l4");
    assert_eq!(twin.digest.hex(), "eb13e5187fc7a9f520b3806de28b968a58fc7deec86a00b663ea2a7ac058ef90");
}

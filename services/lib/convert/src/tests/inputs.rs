//! Compressions, sources, limits, and that nothing but source and profile decides the bytes.

use std::time::Duration;

use super::builder::Tar;
use super::*;

fn sample() -> Vec<u8> {
    let mut tar = Tar::default().pax(b'x', &[("SCHILY.xattr.user.a", b"XX")]).dir("./");
    let mut state = 1u32;
    for i in 0..200 {
        let noise = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 28) as u8
        };
        let contents: Vec<u8> = (0..i * 97).map(noise).collect();
        tar = tar.file(&format!("./f{i}"), &contents);
    }
    tar.end()
}

#[test]
fn workers_do_not_change_the_bytes() {
    let source = gzip(&sample());
    for profile in [PROFILE, Profile::default()] {
        let make = |workers| {
            let pool = Pool::new(workers, 0).unwrap();
            make(&source, &profile, &Limits::default(), &pool).unwrap()
        };
        let one = make(1);
        for workers in [2, 8] {
            let other = make(workers);
            assert!(one.twin == other.twin && one.toc == other.toc && one.converted == other.converted);
        }
    }
}

#[test]
fn compression_is_told_by_magic() {
    let plain = sample();
    let (a, b) = plain.split_at(5000);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&plain)].concat();
    let inputs = [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("gzip members", [gzip(a), gzip(b""), gzip(b)].concat()),
        ("gzip and zeros", [gzip(&plain), vec![0; 700]].concat()),
        ("zstd", zstd(&plain)),
        ("zstd frames", [zstd(a), zstd(b)].concat()),
        ("zstd after a skippable frame", skippable),
    ];
    let twins: Vec<_> = inputs.iter().map(|(_, source)| twin_of(source, &plain).0).collect();
    for (twin, (what, _)) in twins.iter().zip(&inputs) {
        assert_eq!(twin, &twins[0], "{what}");
    }
    twin_of(b"", b"");
    twin_of(&gzip(b""), b"");
    twin_of(&[0; 1024], &[0; 1024]);
}

#[test]
fn broken_compression_is_corrupt() {
    let plain = sample();
    let (gz, zst) = (gzip(&plain), zstd::encode_all(plain.as_slice(), 3).unwrap());
    let mut bad_sum = gz.clone();
    let at = bad_sum.len() - 6;
    bad_sum[at] ^= 1;
    for source in [
        &bad_sum,
        &gz[..gz.len() / 2],
        &gz[..gz.len() - 1],
        &[&gz[..], b"garbage"].concat(),
        &zst[..zst.len() / 2],
        &[&zst[..], b"garbage"].concat(),
        b"\xfd7zXZ\0 not for us",
        b"abc",
    ] {
        assert_eq!(reason_of(source), UnconvertibleReason::Corrupt, "{} bytes", source.len());
    }
}

#[test]
fn a_twin_is_its_own_twin() {
    let plain = sample();
    let (twin, bytes, _) = twin_of(&plain, &plain);
    let made = try_convert(&bytes).unwrap();
    let Converted::OwnTwin(own) = made.converted else { panic!("it was converted again") };
    assert_eq!((&own.digest, &own.diff_id, &own.toc_digest), (&twin.digest, &twin.diff_id, &twin.toc_digest));
    assert_eq!(own.source_diff_id, own.diff_id);
    assert_eq!(Digest::of(&made.toc), own.toc_digest);
    let mut rebuilt = Vec::new();
    estargz::rebuild::rebuild(&bytes, &own, &mut rebuilt).unwrap();
    assert_eq!(Digest::of(&rebuilt), own.source_diff_id);
}

/// Returns the blob of `members` and a TOC.
fn with_toc(members: &[u8], json: &[u8]) -> Vec<u8> {
    let size = json.len() as u64;
    let entry = [&estargz::writer::toc_header(size)[..], json, &estargz::writer::toc_end(size)].concat();
    [members, &gzip(&entry), &estargz::footer::write(members.len() as u64)].concat()
}

#[test]
fn a_toc_with_another_story_is_not_believed() {
    let plain = Tar::default().file("a", b"AAAA").file("b", b"BBBB").hardlink("c", "a").end();
    let (twin, bytes, _) = twin_of(&plain, &plain);
    let json = try_convert(&plain).unwrap().toc;
    let json = String::from_utf8(json).unwrap();
    let toc_offset = estargz::reader::toc_offset(&bytes, twin.size).unwrap();
    for (from, to) in [
        // For readers that match keys whatever their case.
        ("\"size\":4", "\"size\":4,\"Offset\":1"),
        ("\"entries\":[", "\"Entries\":[],\"entries\":["),
        ("\"uid\":1000", "\"uid\":1000,\"comment\":0"),
        ("\"name\":\"b\"", "\"name\":\"z\""),
        ("\"mode\":420", "\"mode\":511"),
        ("\"size\":4", "\"size\":3"),
        ("\"uid\":1000", "\"uid\":0"),
        ("\"linkName\":\"a\"", "\"linkName\":\"b\""),
        ("2023-11-14", "2022-11-14"),
        ("\"type\":\"reg\"", "\"type\":\"fifo\""),
        ("sha256:", "sha256:0"),
        ("]}", ",{\"name\":\"more\",\"type\":\"dir\"}]}"),
    ] {
        let told = json.replacen(from, to, 1);
        assert_ne!(told, json, "{from}");
        let made = try_convert(&with_toc(&bytes[..toc_offset as usize], told.as_bytes())).unwrap();
        assert!(matches!(made.converted, Converted::Twin(_)), "{to} was believed");
    }
}

#[test]
fn limits_hold() {
    let plain = sample();
    let source = gzip(&plain);
    let defaults = Limits::default();
    for (what, limits) in [
        ("entries", Limits { entries: 200, ..defaults.clone() }),
        ("plain bytes", Limits { plain_bytes: plain.len() as u64 - 1, ..defaults.clone() }),
        ("ratio", Limits { ratio: 1, ratio_from: 1000, ..defaults.clone() }),
        ("path", Limits { path_len: 5, ..defaults.clone() }),
        ("toc", Limits { toc_bytes: 1000, ..defaults.clone() }),
        ("attributes", Limits { all_xattr_bytes: 7, ..defaults.clone() }),
        ("spill", Limits { spill_bytes: 10_000, ..defaults.clone() }),
        ("twin", Limits { twin_bytes: 1000, twin_ratio: 0, ..defaults.clone() }),
        ("wall clock", Limits { wall_clock: Duration::ZERO, ..defaults.clone() }),
    ] {
        match make(&source, &PROFILE, &limits, &POOL) {
            Err(ConvertError::Unconvertible { reason, .. }) => assert_eq!(reason, UnconvertibleReason::Limit, "{what}"),
            other => panic!("{what}: {:?}", other.map(|made| made.converted)),
        }
    }
    let size = source.len() as u64;
    // The twin's bound is the larger one of the two.
    let exact = Limits {
        entries: 201,
        plain_bytes: plain.len() as u64,
        all_xattr_bytes: 8,
        twin_bytes: size,
        twin_ratio: 4,
        ..defaults
    };
    assert!(make(&source, &PROFILE, &exact, &POOL).is_ok());
}

/// Fails at an offset, or claims more than it has.
struct Failing {
    bytes: Vec<u8>,
    size: u64,
    fail_at: u64,
}

impl Source for Failing {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.fail_at {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut"));
        }
        let room = buf.len().min(1000);
        self.bytes.read_at(&mut buf[..room], offset)
    }
}

#[test]
fn trouble_of_the_source_is_transient() {
    let bytes = gzip(&sample());
    let len = bytes.len() as u64;
    for (size, fail_at) in [(len, 0), (len, 3), (len, len / 2), (len, len - 1), (len + 1, len + 1)] {
        let source = Failing { bytes: bytes.clone(), size, fail_at };
        match make(&source, &PROFILE, &Limits::default(), &POOL) {
            Err(e @ ConvertError::Source(_)) => assert!(e.is_transient()),
            other => panic!("{fail_at}: {:?}", other.map(|made| made.converted)),
        }
    }
}

#[test]
fn cancelled_is_cancelled() {
    let (mut twin, mut toc) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (scratch, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
    cancel.cancel();
    let out = Outputs { twin: &mut twin, toc: &mut toc, scratch: scratch.path() };
    let result = convert(&gzip(&sample()), out, &PROFILE, &Limits::default(), &POOL, &cancel, &|_| {});
    assert!(matches!(result, Err(ConvertError::Cancelled)));
}

#[test]
fn a_chunk_inside_a_member_is_converted() {
    // Both files in one member, as a writer with a minimal chunk size makes it.
    let plain = Tar::default().file("a", b"AAAA").file("b", b"BBBB");
    let offset = |name: &str, at: u64, contents: &[u8]| {
        let mut entry = TocEntry::new(name, EntryType::Reg);
        (entry.size, entry.mode, entry.uid, entry.gid) = (4, 0o644, 1000, 100);
        entry.modtime = "2023-11-14T22:13:20Z".to_owned();
        (entry.offset, entry.inner_offset) = (0, at);
        entry.digest = Some(Digest::of(contents));
        entry.chunk_digest.clone_from(&entry.digest);
        entry
    };
    let mut json = Vec::new();
    let mut toc = estargz::TocWriter::new(&mut json);
    toc.push(&mut offset("a", 512, b"AAAA")).unwrap();
    toc.push(&mut offset("b", 1536, b"BBBB")).unwrap();
    toc.finish().unwrap();
    let blob = with_toc(&gzip(&plain.0), &json);
    let opened = Blob::open(blob.as_slice(), blob.len() as u64, 1 << 20).unwrap();
    verify(&opened, None, &Limits::default().tar()).unwrap();
    assert!(matches!(try_convert(&blob).unwrap().converted, Converted::Twin(_)));
}

#[test]
fn a_tar_with_more_than_its_toc_is_converted() {
    let mut tar = Tar::default();
    for _ in 0..70 {
        tar = tar.dir("d");
    }
    let plain = tar.end();
    let (_, bytes, entries) = twin_of(&plain, &plain);
    assert_eq!(entries.len(), 2);
    assert!(matches!(try_convert(&bytes).unwrap().converted, Converted::Twin(_)));
}

/// Asks its conversion to stop once the source is read a second time.
struct Rereading {
    bytes: Vec<u8>,
    cancel: Cancel,
}

impl Source for Rereading {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.len() == estargz::footer::FOOTER_SIZE {
            self.cancel.cancel();
        }
        self.bytes.read_at(buf, offset)
    }
}

#[test]
fn the_check_of_an_own_twin_can_be_cancelled() {
    let plain = sample();
    let source = Rereading { bytes: twin_of(&plain, &plain).1, cancel: Cancel::default() };
    let (mut twin, mut toc) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let out = Outputs { twin: &mut twin, toc: &mut toc, scratch: scratch.path() };
    let result = convert(&source, out, &PROFILE, &Limits::default(), &POOL, &source.cancel, &|_| {});
    assert!(matches!(result, Err(ConvertError::Cancelled)));
}

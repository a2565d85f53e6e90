//! No input makes a conversion panic or hang, and what it accepts has a twin that holds.

use super::builder::{Header, Tar};
use super::*;

fn small() -> Vec<u8> {
    Tar::default()
        .dir("d/")
        .pax(b'x', &[("path", b"d/pax"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"v")])
        .file("x", b"pax contents")
        .flag_file(b'L', "././@LongLink", b"d/long\0")
        .file("x", &[3; 700])
        .hardlink("h", "d/pax")
        .link(b'2', "s", "d")
        .header(&Header { flag: b'3', name: b"c", device: (1, 3), ..Header::default() })
        .end()
}

/// Converts; a panic of any thread fails the test, and so does a twin that does not hold.
fn try_one(source: &[u8]) {
    match try_convert(source) {
        Ok(Made { converted: Converted::Twin(twin), twin: bytes, .. }) => {
            let blob = Blob::open(bytes.as_slice(), twin.size, 1 << 20).unwrap();
            verify(&blob, Some(&twin.toc_digest), &Limits::default().tar()).unwrap();
            let mut rebuilt = Vec::new();
            estargz::rebuild::rebuild(&bytes, &twin, &mut rebuilt).unwrap();
            assert_eq!(Digest::of(&rebuilt), twin.source_diff_id);
        }
        Ok(Made { converted: Converted::OwnTwin(_), .. }) | Err(ConvertError::Unconvertible { .. }) => {}
        Err(e) => panic!("{e}: {e:?}"),
    }
}

fn mutate(source: &[u8], step: usize) {
    for at in (0..source.len()).step_by(step) {
        for value in [0, 0xff, source[at] ^ 1, source[at].wrapping_add(1)] {
            let mut wrecked = source.to_vec();
            wrecked[at] = value;
            try_one(&wrecked);
        }
        try_one(&source[..at]);
    }
}

/// Sets one byte of a header and mends its checksum, so that the mutation gets past it.
fn mutate_header(plain: &[u8], header: usize, step: usize) {
    for at in (0..512).step_by(step).filter(|at| !(148..156).contains(at)) {
        for value in [0, 0xff, b'7'] {
            let mut wrecked = plain.to_vec();
            wrecked[header + at] = value;
            wrecked[header + 148..header + 156].fill(b' ');
            let sum: u32 = wrecked[header..header + 512].iter().map(|&b| u32::from(b)).sum();
            wrecked[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            try_one(&wrecked);
        }
    }
}

#[test]
fn wrecked_tars() {
    let plain = small();
    mutate(&plain, 61);
    for header in [0, 512, 1536, 2560, 3584, 5632] {
        mutate_header(&plain, header, 7);
    }
}

#[test]
fn wrecked_pax_records() {
    let plain = small();
    for at in 1024..1110 {
        for value in [0, b' ', b'=', b'\n', b'9', 0xff] {
            let mut wrecked = plain.clone();
            wrecked[at] = value;
            try_one(&wrecked);
        }
    }
}

#[test]
fn wrecked_gzip() {
    mutate(&gzip(&small()), 3);
}

#[test]
fn wrecked_zstd() {
    mutate(&zstd::encode_all(small().as_slice(), 3).unwrap(), 3);
}

#[test]
fn wrecked_estargz() {
    let plain = small();
    let (_, bytes, _) = twin_of(&plain, &plain);
    mutate(&bytes, 11);
}

//! Layers that are compressed in odd ways, or not as their media type says.

use crate::compressed::{gzip, gzip_members, skippable, zstd};
use crate::push::{GZIP, TAR, ZSTD};
use crate::row::{Outcome, Row};
use crate::tar::Tar;

pub(crate) fn rows() -> Vec<Row> {
    let noise: Vec<u8> = (0..40_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let tar = Tar::new().dir("d/").file("d/x", b"contents").file("noise", &noise).end();
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    let with = |parts: &[&[u8]]| parts.concat();
    let corrupt = Outcome::Stays("corrupt");
    let mut wrong_crc = gz.clone();
    let at = wrong_crc.len() - 6;
    wrong_crc[at] ^= 1;
    let mut flipped = gz.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 0x55;
    let row = |name, media_type, blob: Vec<u8>, outcome| Row::blob(name, media_type, blob, &tar, outcome);
    vec![
        row("plain-tar", TAR, tar.clone(), Outcome::Twin),
        row("zstd", ZSTD, zst.clone(), Outcome::Twin),
        row("gzip-as-zstd", ZSTD, gz.clone(), Outcome::Twin),
        row("gzip-as-plain", TAR, gz.clone(), Outcome::Twin),
        row("zstd-as-gzip", GZIP, zst.clone(), Outcome::Twin),
        row("plain-as-gzip", GZIP, tar.clone(), Outcome::Twin),
        row("gzip-members", GZIP, gzip_members(&tar, 1000), Outcome::Twin),
        row("gzip-empty-members", GZIP, with(&[&gzip(b""), &gz, &gzip(b"")]), Outcome::Twin),
        row("gzip-then-zeros", GZIP, with(&[&gz, &[0; 100]]), Outcome::Twin),
        row("gzip-then-garbage", GZIP, with(&[&gz, b"trailing garbage"]), corrupt),
        row("gzip-wrong-crc", GZIP, wrong_crc, corrupt),
        row("gzip-flipped", GZIP, flipped, corrupt),
        row("gzip-cut", GZIP, gz[..gz.len() / 2].to_vec(), corrupt),
        row("gzip-cut-in-trailer", GZIP, gz[..gz.len() - 3].to_vec(), corrupt),
        row("zstd-frames", ZSTD, with(&[&zstd(&tar[..2000]), &zstd(&tar[2000..])]), Outcome::Twin),
        row("zstd-skippable-first", ZSTD, with(&[&skippable(b"hello"), &zst]), Outcome::Twin),
        row("zstd-skippable-last", ZSTD, with(&[&zst, &skippable(b"hello")]), Outcome::Twin),
        row(
            "zstd-skippable-between",
            ZSTD,
            with(&[&zstd(&tar[..2000]), &skippable(b""), &zstd(&tar[2000..])]),
            Outcome::Twin,
        ),
        row("zstd-cut", ZSTD, zst[..zst.len() / 2].to_vec(), corrupt),
        row("xz", GZIP, with(&[b"\xfd7zXZ\0\0\x04", &noise]), corrupt),
        row("bzip2", GZIP, with(&[b"BZh91AY&SY", &noise]), corrupt),
        Row::blob("zero-bytes", GZIP, Vec::new(), b"", Outcome::RefusedTwin),
        Row::blob("three-bytes", GZIP, b"abc".to_vec(), b"abc", corrupt),
    ]
}

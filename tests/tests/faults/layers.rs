//! Layers that cannot be converted: served as they are, with the reason in a metric.

use std::time::Duration;

use bytes::Bytes;
use e2e::wait;

use crate::layer::{entry, gzip, noise, tar, zstd};
use crate::push::{self, Blob, GZIP, TAR, ZSTD};
use crate::world::{REPOSITORY, World};

fn cut(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len() * 2 / 3)
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes.into()
}

fn one(name: &[u8], kind: u8, target: &[u8]) -> Bytes {
    let mut tar = Vec::new();
    entry(&mut tar, b"file", b'0', b"content");
    entry(&mut tar, name, kind, b"");
    let header = tar.len() - 512;
    tar[header + 157..header + 157 + target.len()].copy_from_slice(target);
    let field = |header: &[u8]| {
        let sum: u32 = header
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        format!("{sum:06o}\0 ")
    };
    let sum = field(&tar[header..]);
    tar[header + 148..header + 156].copy_from_slice(sum.as_bytes());
    tar.resize(tar.len() + 1024, 0);
    tar.into()
}

/// A file with a pax record before it.
fn pax(key: &str, value: &str) -> Bytes {
    let rest = format!(" {key}={value}\n");
    // The length counts its own digits.
    let length = (1_usize..).find(|length| length == &(rest.len() + length.to_string().len())).unwrap_or_default();
    let mut tar = Vec::new();
    entry(&mut tar, b"pax", b'x', format!("{length}{rest}").as_bytes());
    entry(&mut tar, b"file", b'0', b"content");
    tar.resize(tar.len() + 1024, 0);
    tar.into()
}

/// Name, media type, bytes and the reason why there is no twin.
fn cases() -> Vec<(&'static str, &'static str, Bytes, &'static str)> {
    let tar = tar(112, 3, 300_000);
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    let bad_checksum = flipped(&tar, 512 + 150);
    vec![
        ("gzip, cut off", GZIP, cut(&gz), "corrupt"),
        ("gzip, a bit wrong", GZIP, flipped(&gz, gz.len() / 2), "corrupt"),
        ("gzip, its checksum wrong", GZIP, flipped(&gz, gz.len() - 6), "corrupt"),
        ("gzip, rubbish behind it", GZIP, [gz.clone(), noise(1, 5000)].concat().into(), "corrupt"),
        ("zstd, cut off", ZSTD, cut(&zst), "corrupt"),
        ("zstd, a bit wrong", ZSTD, flipped(&zst, zst.len() / 2), "corrupt"),
        ("tar, cut off", TAR, cut(&tar), "corrupt"),
        ("tar, a header wrong", TAR, bad_checksum.clone(), "corrupt"),
        ("a wrong tar in right gzip", GZIP, gzip(&bad_checksum), "corrupt"),
        ("no tar at all", GZIP, noise(113, 100_000), "corrupt"),
        ("a hardlink to nothing", TAR, one(b"link", b'1', b"nothing"), "hardlink_missing"),
        ("an entry below a file", TAR, one(b"file/below", b'0', b""), "below_non_directory"),
        ("a name without end", TAR, pax("path", &"x".repeat(5000)), "limit"),
        ("attributes without end", TAR, pax("SCHILY.xattr.user.x", &"x".repeat(600_000)), "limit"),
        ("a name that is not UTF-8", TAR, one(b"\xff\xfe", b'0', b""), "not_utf8"),
    ]
}

/// One image of all of them: every layer comes byte for byte, each reason is counted, and the view says that nothing was converted.
#[test]
fn what_cannot_be_converted_is_served_as_it_is() {
    let cases = cases();
    let layers = cases.iter().map(|(_, kind, bytes, _)| Blob::new(kind, bytes.clone())).collect();
    let world = World::start(layers, |options| options.view("estargz").config("[convert]\nwait = \"60s\"\n"));
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("docker-content-digest"), Some(world.image.digest.clone()), "nothing to convert");
    world.wait_tidy();
    for (number, (what, ..)) in cases.iter().enumerate() {
        let answer = world.get(&world.path(number));
        assert!(answer.body == world.image.layers[number].bytes, "{what}");
    }
    for reason in ["corrupt", "hardlink_missing", "below_non_directory", "not_utf8", "limit"] {
        let count = cases.iter().filter(|case| case.3 == reason).count() as f64;
        let series = format!("firstlight_conversions_total{{state=\"unconvertible\",reason=\"{reason}\"}}");
        assert_eq!(world.series(&series), count, "{reason}\n{}", world.stage.proxy.log());
    }
    world.wait_tidy();
    world.assert_calm();
}

/// A layer of half a megabyte that unpacks to 8 GiB is refused for its ratio (gzip cannot pass the limit, zstd can), and served.
#[test]
fn a_bomb_is_served_as_it_is() {
    const PIECE: usize = 128 << 20;
    let zeros = zstd(&vec![0; PIECE].into());
    let mut bomb = zstd(&tar(115, 1, 1000)).to_vec();
    for _ in 0..=(8 << 30) / PIECE {
        bomb.extend_from_slice(&zeros);
    }
    let layers = vec![Blob::new(TAR, tar(116, 2, 1000)), Blob::new(ZSTD, bomb.into())];
    let world = World::start(layers, |options| options.view("estargz").config("[convert]\nwait = \"500ms\"\n"));
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("docker-content-digest"), Some(world.image.digest.clone()), "the pull waited");
    assert!(world.get(&world.path(1)).body == world.image.layers[1].bytes);
    // 8 GiB are hashed until the limit is passed.
    let converted = wait::until("the converted manifest", Duration::from_secs(900), || {
        Ok((world.stage.proxy.sql("SELECT count(*) FROM converted")? == "1").then_some(()))
    });
    converted.unwrap();
    let log = world.stage.proxy.log();
    assert_eq!(world.series("firstlight_conversions_total{state=\"unconvertible\",reason=\"limit\"}"), 1.0, "{log}");
    assert!(log.contains("more than 2000:1"), "{log}");
    // A tag that is not held.
    push::image(&world.stage.registry, REPOSITORY, "other", world.image.layers.clone());
    let shown = world.get(&format!("/v2/{REPOSITORY}/manifests/other")).json().unwrap()["layers"].clone();
    assert_ne!(shown[0]["digest"], world.image.layers[0].digest);
    assert_eq!(shown[1]["digest"], world.image.layers[1].digest);
    world.wait_tidy();
    world.assert_calm();
}

/// An empty layer, an empty tar and a layer of one empty gzip member are no tars or empty ones; nothing hangs, and the rest converts.
#[test]
fn odd_layers_do_not_stop_the_others() {
    let layers = vec![
        Blob::new(TAR, Bytes::new()),
        Blob::gzip(&Bytes::new()),
        Blob::gzip(&vec![0; 1024].into()),
        Blob::new(TAR, tar(114, 2, 1 << 20)),
    ];
    let world = World::start(layers, |options| options.view("estargz").config("[convert]\nwait = \"60s\"\n"));
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("estargz"), "{}", world.stage.proxy.log());
    let document = answer.json().unwrap();
    assert_ne!(document["layers"][3]["digest"].as_str().unwrap(), world.image.layers[3].digest);
    for number in 0..4 {
        let answer = world.get(&world.path(number));
        assert!(answer.status == 200 && answer.body == world.image.layers[number].bytes, "layer {number}");
    }
    world.wait_tidy();
    world.assert_calm();
}

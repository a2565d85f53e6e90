//! What a Range means (RFC 9110 §13 and §14), and the headers of a blob.

use e2e::web::{Answer, Pace};

use crate::layer::noise;
use crate::push::{Blob, TAR};
use crate::world::{World, code};

#[test]
fn the_store_knows_every_range() {
    let world = World::linked(vec![Blob::new(TAR, noise(121, 3 << 20))]);
    world.download(Pace::default()).unwrap();
    world.wait_tidy();
    world.stage.relay.forget();
    check_all(&world);
    assert_eq!(world.upstream(), 0, "a stored blob was asked for again");
    assert!(world.series("firstlight_ranges_total{kind=\"stored\"}") > 0.0);
}

/// Asks for the first layer in every way.
pub(crate) fn check_all(world: &World) {
    single(world);
    several(world);
    outside(world);
    conditions(world);
    heads(world);
}

fn single(world: &World) {
    let (bytes, size) = (&world.layer().bytes, world.layer().bytes.len());
    let cases = [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=100-199".to_owned(), 100..200),
        (format!("bytes={}-", size - 10), size - 10..size),
        ("bytes=-7".to_owned(), size - 7..size),
        (format!("bytes=-{}", size + 5), 0..size),
        (format!("bytes=5-{}", size + 1000), 5..size),
        (format!("bytes=0-{}", size - 1), 0..size),
        (format!("bytes=0-0,{size}-"), 0..1),
    ];
    for (header, range) in cases {
        let answer = world.range(&header);
        assert_eq!(answer.status, 206, "{header}");
        let expected = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        assert_eq!(answer.header("content-range").unwrap(), expected, "{header}");
        assert!(answer.body == bytes.slice(range), "{header}: wrong bytes");
        check_headers(world, &answer);
    }
    for header in ["bytes=x-1", "bytes=--1", "lines=0-1", "bytes=", "0-1"] {
        let answer = world.range(header);
        assert_eq!(answer.status, 200, "{header} is none, and ignored");
        assert!(answer.body == *bytes, "{header}");
    }
}

fn several(world: &World) {
    let (bytes, size) = (&world.layer().bytes, world.layer().bytes.len());
    let answer = world.range(&format!("bytes=0-99, 1000000-1000999, -50, {size}-"));
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
    let kind = answer.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap().trim_matches('"');
    let found = parts(&answer.body, boundary);
    let expected = [0..100, 1_000_000..1_001_000, size - 50..size].map(|range| {
        let head = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        (head, bytes[range].to_vec())
    });
    assert!(found == expected, "{:?}", found.iter().map(|(head, part)| (head, part.len())).collect::<Vec<_>>());
}

/// Takes a multipart body apart: the Content-Range and the bytes of each part.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let delimiter = format!("\r\n--{boundary}");
    let find = |text: &[u8], wanted: &str| text.windows(wanted.len()).position(|window| window == wanted.as_bytes());
    let mut rest = &body[find(body, &delimiter).unwrap() + delimiter.len()..];
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let head_end = find(rest, "\r\n\r\n").unwrap();
        let head = String::from_utf8(rest[..head_end].to_vec()).unwrap().to_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("content-range: ")).unwrap().to_owned();
        rest = &rest[head_end + 4..];
        let end = find(rest, &delimiter).unwrap();
        parts.push((range, rest[..end].to_vec()));
        rest = &rest[end + delimiter.len()..];
    }
    assert_eq!(rest, b"--\r\n");
    parts
}

fn outside(world: &World) {
    let size = world.layer().size();
    for header in [format!("bytes={size}-"), format!("bytes={}-{}", size + 1, size + 2), "bytes=-0".to_owned()] {
        let answer = world.range(&header);
        assert_eq!(answer.status, 416, "{header}");
        assert_eq!(answer.header("content-range").unwrap(), format!("bytes */{size}"), "{header}");
        assert_eq!(code(&answer), "RANGE_INVALID", "{header}");
    }
}

fn conditions(world: &World) {
    let path = world.path(0);
    let tag = format!("\"{}\"", world.layer().digest);
    let range = ("range", "bytes=10-19");
    assert_eq!(world.send("GET", &path, &[range, ("if-range", &tag)]).status, 206);
    let changed = world.send("GET", &path, &[range, ("if-range", "\"other\"")]);
    assert_eq!((changed.status.as_u16(), changed.body.len() as u64), (200, world.layer().size()));
    for value in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        for method in ["GET", "HEAD"] {
            let answer = world.send(method, &path, &[("if-none-match", &value)]);
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{method} {value}");
            assert_eq!(answer.header("etag"), Some(tag.clone()));
        }
    }
    let answer = world.send("HEAD", &path, &[("if-none-match", "\"other\"")]);
    assert_eq!(answer.status, 200);
}

fn heads(world: &World) {
    let answer = world.send("HEAD", &world.path(0), &[]);
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length").unwrap(), world.layer().size().to_string());
    check_headers(world, &answer);
}

fn check_headers(world: &World, answer: &Answer) {
    let digest = &world.layer().digest;
    let expected = [
        ("docker-content-digest", digest.clone()),
        ("etag", format!("\"{digest}\"")),
        ("accept-ranges", "bytes".to_owned()),
        ("content-type", "application/octet-stream".to_owned()),
        ("docker-distribution-api-version", "registry/2.0".to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(answer.header("content-encoding"), None);
}

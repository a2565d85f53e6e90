//! The lazy API: what a snapshotter is told of an image's layers, and who is told.

use std::io::Read;

use bytes::Bytes;
use e2e::web::{Answer, Pace};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::joins::OTHER;
use crate::layer::{self, noise, tar};
use crate::push::{self, Blob, GZIP, MANIFEST, TAR};
use crate::world::{REPOSITORY, World, blob_path};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn path(repository: &str, call: &str) -> String {
    format!("/v2/{repository}/_firstlight/{call}")
}

fn layers(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["layers"].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Every layer is converted because it is asked about, and told with its twin and the digests of both plain tars as measured;
/// what is no tar says so. Twin and TOC can be read by what is told.
#[test]
fn an_image_is_told_layer_by_layer() {
    let plain = tar(801, 3, 40_000);
    let world = World::start(vec![Blob::gzip(&plain), Blob::new(GZIP, noise(802, 1000))], |options| options);
    let image = &world.image;
    let answer = world.get(&path(REPOSITORY, &format!("lazy/{}?wait=30", image.digest)));
    assert_eq!(answer.json().unwrap()["manifest"], image.digest);
    let told = layers(&answer);
    assert_eq!(told.iter().map(|layer| text(&layer["state"])).collect::<Vec<_>>(), ["ready", "unconvertible"]);
    assert_eq!(told[0]["source"], image.layers[0].digest);
    assert_eq!(told[0]["diff_id"], e2e::digest(&plain));
    assert_eq!(told[0]["tail"], json!({"zeros": 1024}));
    assert_eq!(told[1]["reason"], "corrupt");

    let twin = world.get(&blob_path(REPOSITORY, text(&told[0]["twin"]["digest"]))).body;
    assert_eq!(e2e::digest(&twin), text(&told[0]["twin"]["digest"]));
    assert_eq!(told[0]["twin"]["size"], twin.len());
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(&twin[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(e2e::digest(&unpacked), text(&told[0]["twin_diff_id"]));
    let kept = &plain[..plain.len() - 1024];
    assert!(unpacked.windows(kept.len()).any(|window| window == kept), "the twin has another tar");

    let (digest, size) = (text(&told[0]["toc"]["digest"]), &told[0]["toc"]["size"]);
    for accepted in ["", "gzip", "zstd"] {
        let answer = world.send("GET", &path(REPOSITORY, &format!("toc/{digest}")), &[("accept-encoding", accepted)]);
        assert_eq!(answer.header("content-encoding").unwrap_or_default(), accepted);
        let json = decode(accepted, &answer.body);
        assert_eq!((e2e::digest(&json).as_str(), &json!(json.len())), (digest, size), "{accepted}");
    }

    // Those who know the layers alone are told the same; a twin answers with itself.
    let call = format!(
        "layers?digest={}&digest={}&digest={}",
        image.layers[0].digest,
        text(&told[0]["twin"]["digest"]),
        e2e::digest(b"nobody's")
    );
    let alone = layers(&world.get(&path(REPOSITORY, &call)));
    assert_eq!(alone[0], told[0]);
    assert_eq!(alone[1]["diff_id"], told[0]["twin_diff_id"]);
    assert_eq!(alone[1]["twin"], told[0]["twin"]);
    assert_eq!(alone[2], json!({"source": e2e::digest(b"nobody's"), "state": "unknown"}));
    world.assert_frugal();
}

fn decode(coding: &str, packed: &Bytes) -> Bytes {
    match coding {
        "gzip" => gunzip(packed),
        "zstd" => layer::filter("zstd", &["-d", "-q", "-c"], packed),
        _ => packed.clone(),
    }
}

fn gunzip(packed: &Bytes) -> Bytes {
    let mut plain = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
    plain.into()
}

/// The child for the platform is told; for another one, and of what is no image, nothing.
#[test]
fn of_an_index_the_platforms_child_is_told() {
    let world = World::start(vec![Blob::new(TAR, tar(811, 1, 1000))], |options| options);
    let size = world.get(&format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest)).body.len();
    let child = json!({
        "mediaType": MANIFEST, "digest": world.image.digest, "size": size,
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).to_string();
    push::document(&world.stage.registry, REPOSITORY, "multi", INDEX, &index);
    let digest = e2e::digest(index.as_bytes());
    for platform in ["", "&platform=linux/amd64"] {
        let answer = world.get(&path(REPOSITORY, &format!("lazy/{digest}?wait=30{platform}")));
        assert_eq!(answer.json().unwrap()["manifest"], world.image.digest, "{}", answer.text());
        assert_eq!(layers(&answer)[0]["state"], "ready");
    }
    for (call, status) in [
        (format!("lazy/{digest}?platform=linux/s390x"), 404),
        (format!("lazy/{digest}?platform=linux"), 400),
        (format!("lazy/{}?wait=31", world.image.digest), 400),
        (format!("lazy/{}", e2e::digest(b"nobody's")), 404),
        (format!("toc/{}", e2e::digest(b"nobody's")), 404),
        ("lazy/latest".to_owned(), 400),
        ("layers".to_owned(), 400),
        ("layers?digest=sha256:1".to_owned(), 400),
        ("holds".to_owned(), 405),
        ("elsewhere".to_owned(), 404),
    ] {
        let answer = world.get(&path(REPOSITORY, &call));
        assert_eq!(answer.status, status, "{call}: {}", answer.text());
    }
    assert_eq!(world.send("POST", &path(REPOSITORY, &format!("lazy/{digest}")), &[]).status, 405);
    world.assert_calm();
}

/// What a repository does not hold it is not told of, although another one does: no state, no TOC, no twin, no hold.
#[test]
fn another_repository_is_told_nothing() {
    let world = World::start(vec![Blob::new(TAR, tar(821, 1, 1000))], |options| options);
    let told = layers(&world.get(&path(REPOSITORY, &format!("lazy/{}?wait=30", world.image.digest))));
    let (toc, twin) = (text(&told[0]["toc"]["digest"]), text(&told[0]["twin"]["digest"]));
    push::image(&world.stage.registry, OTHER, "latest", vec![Blob::new(TAR, noise(822, 1000))]);
    for call in [format!("lazy/{}", world.image.digest), format!("toc/{toc}")] {
        assert_eq!(world.get(&path(OTHER, &call)).status, 404, "{call}");
    }
    assert_eq!(world.get(&blob_path(OTHER, twin)).status, 404);
    let source = &world.layer().digest;
    for told in layers(&world.get(&path(OTHER, &format!("layers?digest={source}&digest={twin}")))) {
        assert_eq!(told["state"], "unknown");
        assert!(told["twin"].is_null(), "{told}");
    }
    let hold =
        |repository: &str| world.send("POST", &path(repository, &format!("holds?holder=node-1&digest={twin}")), &[]);
    assert_eq!(hold(OTHER).status, 404);
    assert_eq!(hold(REPOSITORY).status, 204);
    assert_eq!(world.send("POST", &path(REPOSITORY, &format!("holds?digest={twin}")), &[]).status, 400);
    // A hold outlasts what the cap would evict.
    assert_eq!(world.stage.proxy.sql("SELECT count(*) FROM holds WHERE holder = 'node-1'").unwrap().trim(), "1");
}

/// A layer that still arrives is told as such at once, and ready when the wait is long enough.
#[test]
fn a_layer_on_its_way_is_told_so() {
    let world = World::start(vec![Blob::new(TAR, tar(831, 8, 1 << 20))], |options| options);
    world.throttle(500_000);
    let call = path(REPOSITORY, &format!("lazy/{}", world.image.digest));
    world.wait("the fill", || layers(&world.get(&call))[0]["state"] == "filling");
    world.stage.relay.clear();
    world.wait("the twin", || layers(&world.get(&format!("{call}?wait=30")))[0]["state"] == "ready");
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.assert_frugal();
}

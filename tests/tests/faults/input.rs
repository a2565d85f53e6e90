//! Requests and manifests that nobody should send.

use e2e::{Fault, Rule};
use serde_json::json;

use crate::layer::noise;
use crate::push::{Blob, MANIFEST, TAR};
use crate::world::{REPOSITORY, World, code};

fn world() -> World {
    World::linked(vec![Blob::new(TAR, noise(111, 1000))])
}

/// Each malformed path has its status and its code, and reaches no upstream.
#[test]
fn malformed_paths_are_refused_here() {
    let world = world();
    world.stage.relay.forget();
    let (zeros, long) = ("0".repeat(64), "x".repeat(300));
    let cases = [
        ("/v2/Team/a/manifests/latest".to_owned(), 400, "NAME_INVALID"),
        ("/v2/team/../a/manifests/latest".to_owned(), 400, "NAME_INVALID"),
        ("/v2/team/%2e%2e/a/manifests/latest".to_owned(), 400, "NAME_INVALID"),
        ("/v2/team//a/manifests/latest".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{long}/manifests/latest"), 400, "NAME_INVALID"),
        ("/v2/team/a/manifests/-dash".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/team/a/manifests/{long}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/a/manifests/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/team/a/manifests/md5:{zeros}"), 400, "DIGEST_INVALID"),
        ("/v2/team/a/blobs/latest".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/team/a/blobs/sha256:{}", "A".repeat(64)), 400, "DIGEST_INVALID"),
        (format!("/v2/team/a/blobs/sha256:{zeros}0"), 400, "DIGEST_INVALID"),
        (format!("/v2/team/a/blobs/sha512:{zeros}"), 400, "DIGEST_INVALID"),
        ("/v2/team/a/referrers/nothing".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/team/a/blobs/..%2f..%2fcatalog.db".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/team/a/tags/other".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/docker.io/manifests/latest".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v1/team/a".to_owned(), 404, "NAME_UNKNOWN"),
    ];
    for (path, status, wanted) in cases {
        let answer = world.get(&path);
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (status, wanted), "{path}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"), "{path}");
        assert_eq!(world.send("HEAD", &path, &[]).status.as_u16(), status, "HEAD {path}");
    }
    assert_eq!(world.stage.relay.seen().len(), 0);
    let answer = world.send("GET", &format!("/v2/{REPOSITORY}/manifests/latest"), &[("firstlight-view", "zip")]);
    assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "UNSUPPORTED"));
    let answer = world.send("GET", "/v2/", &[("x-long", &"x".repeat(200_000))]);
    assert!(answer.status.is_client_error(), "{}", answer.status);
    world.assert_calm();
}

/// Writes get 405, what they may do instead, and a reason.
#[test]
fn writes_are_refused() {
    let world = world();
    let paths = [
        format!("/v2/{REPOSITORY}/blobs/uploads/"),
        format!("/v2/{REPOSITORY}/manifests/latest"),
        format!("/v2/{REPOSITORY}/blobs/{}", world.layer().digest),
    ];
    for path in &paths {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let answer = world.send(method, path, &[]);
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (405, "UNSUPPORTED"), "{method} {path}");
            assert_eq!(answer.header("allow").as_deref(), Some("GET, HEAD"), "{method} {path}");
        }
    }
}

/// Manifests that are none: an OCI error that says why, and nothing of them stays.
#[test]
fn manifests_that_are_none_are_not_passed_on() {
    let world = world();
    let descriptor = json!({"mediaType": TAR, "digest": world.layer().digest, "size": 1000});
    let index = "application/vnd.oci.image.index.v1+json";
    let both = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [], "manifests": [],
    });
    let mismatch = json!({"schemaVersion": 2, "mediaType": index, "config": descriptor, "layers": []});
    let many =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": vec![&descriptor; 513]});
    let path = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor,
        "layers": [{"mediaType": TAR, "digest": "sha256:../../../etc/passwd", "size": 1}],
    });
    let negative = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor,
        "layers": [{"mediaType": TAR, "digest": world.layer().digest, "size": -1}],
    });
    let deep = format!("{{\"schemaVersion\": 2, \"mediaType\": \"{MANIFEST}\", \"x\": {}", "[".repeat(100_000));
    let large = json!({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"x": "x".repeat(5 << 20)}});
    let cases = [
        ("layers and manifests", MANIFEST, both.to_string().into_bytes()),
        ("layers and manifests, as an index", index, both.to_string().into_bytes()),
        ("the other type", MANIFEST, mismatch.to_string().into_bytes()),
        ("too many layers", MANIFEST, many.to_string().into_bytes()),
        ("a path as a digest", MANIFEST, path.to_string().into_bytes()),
        ("a negative size", MANIFEST, negative.to_string().into_bytes()),
        ("too deep", MANIFEST, deep.into_bytes()),
        ("no JSON", MANIFEST, b"<html>".to_vec()),
        ("nothing", MANIFEST, Vec::new()),
        ("too large", MANIFEST, large.to_string().into_bytes()),
    ];
    for (number, (what, kind, body)) in cases.into_iter().enumerate() {
        let digest = e2e::digest(&body);
        world.stage.relay.add(Rule::new("/manifests/", Fault::Document(kind.to_owned(), body)));
        for reference in [format!("bad{number}"), digest.clone()] {
            let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/{reference}"));
            assert_eq!(answer.status, 502, "{what}: {}", answer.text());
            assert!(["MANIFEST_INVALID", "UNAVAILABLE"].contains(&code(&answer).as_str()), "{what}");
            assert!(answer.json().unwrap()["errors"][0]["detail"].is_string(), "{what}: {}", answer.text());
        }
        world.stage.relay.clear();
        assert_eq!(world.files(digest.trim_start_matches("sha256:")), Vec::<std::path::PathBuf>::new(), "{what}");
    }
    // Asked for by digest, another document is not it.
    let wrong = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": []});
    world.stage.relay.add(Rule::new("/manifests/", Fault::Document(MANIFEST.to_owned(), wrong.to_string().into())));
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/sha256:{}", "1".repeat(64)));
    assert_eq!(answer.status, 502, "{}", answer.text());
    world.stage.relay.clear();
    assert_eq!(world.get(&format!("/v2/{REPOSITORY}/manifests/latest")).status, 200);
    world.assert_calm();
}

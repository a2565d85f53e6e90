//! What clients see when upstream refuses or is away, and what they must never see.

use e2e::web::{self, Answer};
use e2e::{Fault, Rule, Stage};

const MANIFEST: &str = "/v2/library/tiny/manifests/latest";

fn get(stage: &Stage, path: &str) -> Answer {
    stage.proxy.request("GET", path, &[("accept", web::MANIFEST_TYPES)]).unwrap()
}

fn status(stage: &Stage, path: &str) -> u16 {
    get(stage, path).status.as_u16()
}

/// Tags are checked at every request, so that each sees what upstream does.
fn impatient() -> Stage {
    Stage::start_with(|options| options.config("[cache]\ntag_ttl = \"0s\"\n")).unwrap()
}

/// Cached digests and stale tags answer while upstream is away, ill or overloaded; the tag says that it is stale.
#[test]
fn stale_tags_answer_while_upstream_is_away() {
    let mut stage = impatient();
    let digest = stage.registry.digest("library/tiny", "latest").unwrap();
    let body = get(&stage, MANIFEST).body;
    let (layer, _) = stage.layer("library/tiny", &digest, 0).unwrap();
    let blob = format!("/v2/library/tiny/blobs/{layer}");
    assert_eq!(e2e::digest(&get(&stage, &blob).body), layer);

    let check = |stage: &Stage, what: &str| {
        let answer = get(stage, MANIFEST);
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &body), "{what}");
        assert!(answer.header("warning").unwrap_or_default().starts_with("110"), "{what}: {:?}", answer.headers);
        assert_eq!(e2e::digest(&get(stage, &blob).body), layer, "{what}");
        assert_eq!(status(stage, &format!("/v2/library/tiny/manifests/{digest}")), 200, "{what}");
    };
    for code in [500, 503, 429] {
        stage.relay.add(Rule::new("", Fault::Status(code, vec![])));
        check(&stage, &code.to_string());
        stage.relay.clear();
    }
    stage.relay.stop();
    check(&stage, "no upstream");
}

/// Upstream's 404 is an answer; its 401 and 403 are 404 for clients, who must not be asked for credentials.
#[test]
fn refusals_are_404() {
    let stage = impatient();
    assert_eq!(status(&stage, "/v2/library/tiny/manifests/missing"), 404);
    assert_eq!(status(&stage, "/v2/library/nothing/manifests/latest"), 404);
    let missing = format!("/v2/library/tiny/blobs/sha256:{}", "0".repeat(64));
    assert_eq!(status(&stage, &missing), 404);
    for code in [401, 403] {
        stage.relay.add(Rule::new("/library/base/", Fault::Status(code, vec![])));
        let answer = get(&stage, "/v2/library/base/manifests/latest");
        assert_eq!(answer.status, 404, "{code}");
        assert!(answer.header("www-authenticate").is_none());
        let code = answer.json().unwrap()["errors"][0]["code"].as_str().unwrap().to_owned();
        assert!(["NAME_UNKNOWN", "MANIFEST_UNKNOWN"].contains(&code.as_str()), "{code}");
        stage.relay.clear();
    }
}

/// A digest cached for one repository is not there for another, whose upstream does not have it.
#[test]
fn a_repository_reads_only_what_it_is_linked_to() {
    let stage = impatient();
    let digest = stage.registry.digest("library/tiny", "latest").unwrap();
    let (layer, _) = stage.layer("library/tiny", &digest, 0).unwrap();
    assert_eq!(status(&stage, &format!("/v2/library/tiny/blobs/{layer}")), 200);
    assert_eq!(status(&stage, "/v2/library/base/manifests/latest"), 200);
    for repository in ["library/base", "library/other"] {
        for path in [format!("/v2/{repository}/blobs/{layer}"), format!("/v2/{repository}/manifests/{digest}")] {
            assert_eq!(status(&stage, &path), 404, "{path}");
            assert_eq!(stage.proxy.request("HEAD", &path, &[]).unwrap().status, 404, "{path}");
            assert_eq!(stage.proxy.request("GET", &path, &[("range", "bytes=0-9")]).unwrap().status, 404, "{path}");
        }
    }
}

/// The version check, the content headers of a manifest, and no writing.
#[test]
fn the_api_is_pull_only() {
    let stage = impatient();
    assert_eq!(status(&stage, "/v2/"), 200);
    let digest = stage.registry.digest("library/tiny", "latest").unwrap();
    let (head, answer) = (stage.proxy.tag("library/tiny", "latest").unwrap(), get(&stage, MANIFEST));
    assert_eq!((head.0.as_str(), head.1.as_str()), (digest.as_str(), "original"));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.clone()));
    assert_eq!(e2e::digest(&answer.body), digest);
    for (method, path) in
        [("POST", "/v2/library/tiny/blobs/uploads/"), ("PUT", MANIFEST), ("DELETE", MANIFEST), ("PATCH", MANIFEST)]
    {
        let answer = stage.proxy.request(method, path, &[]).unwrap();
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.json().unwrap()["errors"][0]["code"], "UNSUPPORTED", "{method}");
    }
}

/// Update bots poll with HEAD: no conversion, no fill of a layer.
#[test]
fn heads_start_nothing() {
    let stage = Stage::start("estargz").unwrap();
    for _ in 0..50 {
        stage.proxy.tag("library/tiny", "latest").unwrap();
    }
    assert_eq!(stage.relay.bytes("/blobs/"), 0, "a HEAD read a blob");
}

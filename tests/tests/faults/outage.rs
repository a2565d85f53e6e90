//! An upstream that is away, ill, overloaded or unfriendly, and a disk without room.

use std::process::Command;

use e2e::web::{self, Answer, Pace};
use e2e::{
    Fault, Node, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Rule, Scratch, Stage, is_root, run, skip,
};

use crate::layer::noise;
use crate::push::{self, Blob, TAR};
use crate::world::{REPOSITORY, World, code};

const IMPATIENT: &str = "[cache]\ntag_ttl = \"0s\"\n[convert]\nenabled = false\n";

fn tag() -> String {
    format!("/v2/{REPOSITORY}/manifests/latest")
}

fn impatient() -> World {
    World::start(vec![Blob::new(TAR, noise(71, 1 << 20)), Blob::new(TAR, noise(72, 1 << 20))], |options| {
        options.config(IMPATIENT)
    })
}

/// What is cached answers as before, the tag with a warning; what is not is an error of the server, never a wrong answer.
fn check_stale(world: &World, what: &str) {
    let answer = world.get(&tag());
    assert_eq!((answer.status.as_u16(), e2e::digest(&answer.body)), (200, world.image.digest.clone()), "{what}");
    assert!(answer.header("warning").unwrap_or_default().starts_with("110"), "{what}: {:?}", answer.headers);
    let head = world.send("HEAD", &tag(), &[]);
    assert_eq!(head.header("docker-content-digest"), Some(world.image.digest.clone()), "{what}");
    let by_digest = world.get(&format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest));
    assert_eq!((by_digest.status.as_u16(), by_digest.header("warning")), (200, None), "{what}");
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest, "{what}");
    let cold = world.get(&world.path(1));
    assert!(cold.status.is_server_error() && cold.json().is_ok(), "{what}: {} {}", cold.status, cold.text());
    let unknown = world.get(&format!("/v2/{REPOSITORY}/manifests/other"));
    assert!(unknown.status.is_server_error(), "{what}: {}", unknown.status);
}

#[test]
fn what_is_cached_answers_during_an_outage() {
    let mut world = impatient();
    assert_eq!(world.get(&tag()).header("warning"), None);
    world.download(Pace::default()).unwrap();
    world.wait_tidy();
    for status in [500, 502, 503, 429] {
        world.stage.relay.add(Rule::new("", Fault::Status(status, Vec::new())));
        check_stale(&world, &status.to_string());
        world.stage.relay.clear();
    }
    world.stage.relay.stop();
    check_stale(&world, "no upstream");
    world.stage.relay.resume().unwrap();
    assert_eq!(world.get(&tag()).header("warning"), None, "upstream is back");
    assert!(world.series("firstlight_tag_checks_total{outcome=\"stale\"}") >= 10.0);
    world.assert_calm();
}

/// A stale tag is served for `max_stale` at most.
#[test]
fn a_tag_is_not_stale_for_ever() {
    let config = "[cache]\ntag_ttl = \"0s\"\nmax_stale = \"0s\"\n[convert]\nenabled = false\n";
    let mut world = World::start(vec![Blob::new(TAR, noise(73, 1000))], |options| options.config(config));
    assert_eq!(world.get(&tag()).status, 200);
    world.stage.relay.stop();
    let answer = world.get(&tag());
    assert!(answer.status.is_server_error(), "{}", answer.status);
}

/// 404, 401 and 403 are upstream's answers, for a tag that is cached too: 404 with the reason, and no challenge.
#[test]
fn refusals_are_404_and_never_a_challenge() {
    let world = impatient();
    assert_eq!(world.get(&tag()).status, 200);
    let refused = |answer: &Answer, what: &str| {
        assert_eq!(answer.status, 404, "{what}");
        assert_eq!(answer.header("www-authenticate"), None, "{what}");
        let error = answer.json().unwrap()["errors"][0].clone();
        let codes = ["NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"];
        assert!(codes.contains(&error["code"].as_str().unwrap()), "{what}: {error}");
        assert!(error["detail"].is_string(), "{what}: {error}");
    };
    let challenge = vec![("www-authenticate".to_owned(), "Basic realm=\"theirs\"".to_owned())];
    for status in [404, 401, 403] {
        world.stage.relay.add(Rule::new("", Fault::Status(status, challenge.clone())));
        refused(&world.get(&tag()), &format!("{status}, a known tag"));
        refused(&world.get(&format!("/v2/{REPOSITORY}/manifests/new-{status}")), &format!("{status}, a new tag"));
        refused(&world.get(&world.path(1)), &format!("{status}, a cold blob"));
        refused(
            &world.get(&format!("/v2/team/c{status}/blobs/{}", world.layer().digest)),
            &format!("{status}, a link"),
        );
        assert_eq!(world.send("HEAD", &tag(), &[]).status, 404, "{status}");
        world.stage.relay.clear();
    }
    // "Not found" is believed for seconds only.
    world.wait("the tag", || world.get(&tag()).status == 200);
}

/// Credentials of ours that are no longer taken are our trouble: the stale tag is served.
#[test]
fn refused_credentials_of_ours_are_an_outage() {
    let scratch = Scratch::new().unwrap();
    let password = scratch.write("password", "right").unwrap();
    let login = Some(("robot".to_owned(), "right".to_owned()));
    let registry =
        Registry::start_with(&Node::Machine, &RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
    let relay = Relay::start(registry.at()).unwrap();
    let mut options = ProxyOptions::new(relay.at()).config(IMPATIENT);
    options.upstream_keys =
        format!("visibility = \"shared\"\nusername = \"robot\"\npassword_file = \"{}\"\n", password.display());
    let proxy = Proxy::start(&Node::Machine, options).unwrap();
    let mut stage = Stage { proxy, relay, registry };
    let get = |stage: &Stage| {
        let headers = [("accept", web::MANIFEST_TYPES)];
        stage.proxy.request("GET", "/v2/library/tiny/manifests/latest", &headers).unwrap()
    };
    let fresh = get(&stage);
    assert_eq!((fresh.status.as_u16(), fresh.header("warning")), (200, None));
    scratch.write("password", "wrong").unwrap();
    stage.proxy.restart().unwrap();
    let stale = get(&stage);
    assert_eq!((stale.status.as_u16(), &stale.body), (200, &fresh.body));
    assert!(stale.header("warning").unwrap_or_default().starts_with("110"), "{:?}", stale.headers);
}

/// No room: everything is streamed through and counted, wrong bytes are still caught, and no blob stays.
#[test]
fn a_full_disk_streams_through() {
    let layers = vec![Blob::new(TAR, noise(74, 4 << 20))];
    let mut world = World::start(layers, |options| options.config("[storage]\nmin_free = \"100%\"\n"));
    assert_eq!(world.get(&tag()).status, 200);
    for _ in 0..2 {
        assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    }
    let part = world.range("bytes=1000000-1000099");
    assert_eq!((part.status.as_u16(), part.body), (206, world.layer().bytes.slice(1_000_000..1_000_100)));
    assert_eq!(world.series("firstlight_uncached_streams_total"), 3.0);
    world.wait_tidy();
    let hex = world.layer().digest.trim_start_matches("sha256:").to_owned();
    assert_eq!(world.files(&hex), Vec::<std::path::PathBuf>::new());
    assert!(world.upstream() <= 2 * world.layer().size() + 100, "{:#?}", world.requests());

    world.stage.relay.add(Rule::new(&hex, Fault::Corrupt(world.layer().size() - 1)));
    assert!(world.download(Pace::default()).is_err(), "a clean end of wrong bytes");
    world.stage.relay.clear();
    world.stage.relay.stop();
    assert!(world.get(&world.path(0)).status.is_server_error());
    world.assert_calm();
}

/// A disk that is smaller than a blob, with nothing kept free: what fits is stored, the rest is streamed through.
#[test]
fn a_blob_larger_than_the_disk_streams_through() {
    if !is_root() {
        return skip("a_blob_larger_than_the_disk_streams_through", "not root");
    }
    let layers = vec![Blob::new(TAR, noise(75, 24 << 20)), Blob::new(TAR, noise(76, 1 << 20))];
    let config = "[storage]\nmin_free = \"0\"\n[convert]\nenabled = false\n";
    let mut world = World::start(layers, |options| options.config(config));
    world.stage.proxy.kill().unwrap();
    let store = world.stage.proxy.store();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&store)).unwrap();
    world.stage.proxy.start_again().unwrap();
    world.link();
    for _ in 0..2 {
        assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    }
    assert_eq!(world.series("firstlight_uncached_streams_total"), 2.0);
    assert!(world.get(&world.path(1)).body == world.image.layers[1].bytes);
    world.wait_tidy();
    world.stage.relay.stop();
    assert!(world.get(&world.path(1)).body == world.image.layers[1].bytes);
    assert!(world.get(&world.path(0)).status.is_server_error());
    world.assert_calm();
}

/// Foreign names are looked up only in the closed map.
#[test]
fn an_unknown_namespace_is_never_dialled() {
    let world = impatient();
    let before = world.stage.relay.seen().len();
    for ns in ["evil.example", "127.0.0.1:1", "docker.io.evil.example", "../docker.io", ""] {
        let answer = world.get(&format!("{}?ns={ns}", tag()));
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (404, "NAME_UNKNOWN"), "{ns:?}");
    }
    assert_eq!(world.stage.relay.seen().len(), before);
    let answer = world.get(&format!("{}?ns=docker.io", tag()));
    assert_eq!((answer.status.as_u16(), answer.header("oci-namespace").as_deref()), (200, Some("docker.io")));
    push::image(&world.stage.registry, "team/b", "latest", vec![]);
    assert_eq!(world.get("/v2/docker.io/team/b/manifests/latest").status, 200, "the upstream as first segment");
}

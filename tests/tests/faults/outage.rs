//! An upstream that is away, ill, overloaded or unfriendly, and a disk without room or that lost files.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2e::web::{self, Answer, Pace};
use e2e::{
    Fault, Node, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Rule, Scratch, Stage, is_root, run, skip,
};

use crate::layer::{noise, tar};
use crate::push::{self, Blob, TAR};
use crate::world::{REPOSITORY, World, blob_path, code};

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
    world.wait("the upstream to be asked again", || world.get(&tag()).header("warning").is_none());
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

/// What the upstream says is gone stays gone: no outage brings back what the tag meant before.
#[test]
fn a_tag_that_is_gone_is_not_stale() {
    let mut world = impatient();
    assert_eq!(world.get(&tag()).status, 200);
    world.stage.relay.add(Rule::new("/manifests/latest", Fault::Status(404, Vec::new())));
    assert_eq!(world.get(&tag()).status, 404);
    world.stage.relay.clear();
    world.stage.relay.stop();
    world.wait("the 404 to be forgotten", || {
        let answer = world.get(&tag());
        assert!(answer.status == 404 || answer.status.is_server_error(), "{}", answer.status);
        answer.status.is_server_error()
    });
    let tags = world.get(&format!("/v2/{REPOSITORY}/tags/list"));
    assert!(tags.status.is_server_error(), "{}", tags.text());
}

/// An upstream that takes connections and says nothing: one request waits for it, the others have the stale tag at once.
#[test]
fn a_silent_upstream_is_waited_for_by_one() {
    const REQUESTS: usize = 40;
    let mut world = impatient();
    assert_eq!(world.get(&tag()).status, 200);
    world.stage.relay.stop();
    let silent = TcpListener::bind(world.stage.relay.at()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Ends with the test's process; it holds what connects and answers nothing.
    std::thread::spawn(move || {
        let _held: Vec<_> = silent
            .incoming()
            .inspect(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .collect();
    });
    for _ in 0..REQUESTS {
        let answer = world.get(&tag());
        assert_eq!((answer.status.as_u16(), e2e::digest(&answer.body)), (200, world.image.digest.clone()));
        assert!(answer.header("warning").unwrap_or_default().starts_with("110"), "{:?}", answer.headers);
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..=REQUESTS / 4).contains(&asked), "{REQUESTS} requests made {asked} connections");
    world.assert_calm();
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
    assert_eq!(world.files(&hex), Vec::<PathBuf>::new());
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

/// Returns the files of the store.
fn stored(world: &World) -> Vec<PathBuf> {
    world.files("/blobs/").into_iter().chain(world.files("/tocs/")).collect()
}

/// Every stored file is lost, or cut short: each digest answers again, with the same bytes, what was made here after 503 at most.
#[test]
fn what_the_disk_lost_comes_back() {
    let layers = vec![Blob::new(TAR, tar(77, 4, 300_000)), Blob::gzip(&tar(78, 3, 200_000))];
    let config = "[convert]\nwait = \"60s\"\n[cache]\ntag_ttl = \"1h\"\n";
    let mut world = World::start(layers, |options| options.view("estargz").config(config));
    let shown = world.get(&tag());
    assert_eq!(shown.header("firstlight-view").as_deref(), Some("estargz"), "{}", world.stage.proxy.log());
    let document = shown.json().unwrap();
    let named = document["layers"].as_array().unwrap().iter().chain([&document["config"]]);
    let made: Vec<_> = named.map(|named| named["digest"].as_str().unwrap().to_owned()).collect();
    let form = format!("/v2/{REPOSITORY}/manifests/{}", e2e::digest(&shown.body));
    world.wait_tidy();

    world.stage.proxy.kill().unwrap();
    let lost = stored(&world);
    assert!(lost.len() > 2 + 2 + 2 + 1 + 1, "layers, twins, TOCs, manifests and configs: {lost:?}");
    let cut = [made[0].clone(), world.layer().digest.clone(), e2e::digest(&shown.body)];
    for file in &lost {
        let is_cut = cut.iter().any(|digest| file.to_string_lossy().contains(digest.trim_start_matches("sha256:")));
        match std::fs::File::options().write(true).open(file) {
            Ok(open) if is_cut => open.set_len(open.metadata().unwrap().len() - 1).unwrap(),
            _ => std::fs::remove_file(file).unwrap(),
        }
    }
    assert_eq!(stored(&world).len(), cut.len(), "{lost:#?}");
    world.stage.proxy.start_again().unwrap();

    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    let original = world.get(&format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest));
    assert_eq!((original.status.as_u16(), e2e::digest(&original.body)), (200, world.image.digest.clone()));
    let again = |path: &str, digest: &str| {
        world.wait(path, || {
            let answer = world.get(path);
            if answer.status == 503 {
                assert!(answer.header("retry-after").is_some(), "{path}");
                return false;
            }
            assert_eq!((answer.status.as_u16(), e2e::digest(&answer.body).as_str()), (200, digest), "{path}");
            true
        });
    };
    // The config first, so that nothing else has brought it back.
    made.iter().rev().for_each(|digest| again(&blob_path(REPOSITORY, digest), digest));
    again(&form, &e2e::digest(&shown.body));
    again(&tag(), &e2e::digest(&shown.body));
    world.wait_tidy();
    let digests = |files: &[PathBuf]| -> BTreeSet<String> {
        files.iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let mut kept = stored(&world);
    kept.retain(|file| !lost.contains(file));
    assert!(digests(&lost).is_subset(&digests(&kept)), "{lost:#?}\n{kept:#?}");
    let log = world.stage.proxy.log();
    for digest in made.iter().chain([&world.layer().digest]) {
        let why = if cut.contains(digest) { "a stored file has another size" } else { "a stored file is gone" };
        let told = log.lines().filter(|line| line.contains(why) && line.contains(digest)).count();
        assert_eq!(told, 1, "{digest}\n{log}");
    }
    world.assert_calm();
}

/// A tag whose converted form was lost, and cannot be built again for now, shows the original. The digest of that form is an answer
/// that comes back.
#[test]
fn a_tag_does_not_wait_for_a_lost_form() {
    let config = "[convert]\nwait = \"20s\"\n[cache]\ntag_ttl = \"1h\"\n";
    let layers = vec![Blob::new(TAR, tar(79, 4, 100_000))];
    let mut world = World::start(layers, |options| options.view("estargz").config(config));
    let shown = world.get(&tag());
    assert_eq!(shown.header("firstlight-view").as_deref(), Some("estargz"), "{}", world.stage.proxy.log());
    let form = format!("/v2/{REPOSITORY}/manifests/{}", e2e::digest(&shown.body));
    world.wait_tidy();

    world.stage.proxy.kill().unwrap();
    world.stage.relay.stop();
    let source = world.image.digest.trim_start_matches("sha256:").to_owned();
    let lost = stored(&world).into_iter().filter(|file| !file.to_string_lossy().contains(&source));
    lost.for_each(|file| std::fs::remove_file(file).unwrap());
    world.stage.proxy.start_again().unwrap();
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let answer = world.send(method, &tag(), &[]);
        let (view, digest) = (answer.header("firstlight-view"), answer.header("docker-content-digest"));
        assert_eq!((answer.status.as_u16(), view.as_deref()), (200, Some("original")), "{method}");
        assert_eq!(digest, Some(world.image.digest.clone()), "{method}");
    }
    let gone = world.get(&form);
    assert_eq!((gone.status.as_u16(), gone.header("retry-after").is_some()), (503, true));
    assert_eq!(world.stage.relay.seen_at("/manifests/").len(), 1, "the source is here");

    world.stage.relay.resume().unwrap();
    world.wait("the form", || world.get(&form).status == 200);
    assert_eq!(world.get(&form).body, shown.body);
    let held = world.get(&tag());
    assert_eq!(held.header("firstlight-view").as_deref(), Some("original"), "a moment after the original");
    world.assert_calm();
}

/// A lost form is built again under the profile it was made under, although the proxy now has another one.
#[test]
fn a_lost_form_keeps_its_profile() {
    let config = "[convert]\nwait = \"60s\"\n[cache]\ntag_ttl = \"1h\"\n";
    let layers = vec![Blob::new(TAR, tar(80, 4, 100_000))];
    let mut world = World::start(layers, |options| options.view("estargz").config(config));
    let shown = world.get(&tag());
    assert_eq!(shown.header("firstlight-view").as_deref(), Some("estargz"), "{}", world.stage.proxy.log());
    let twin = shown.json().unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let form = e2e::digest(&shown.body);
    world.wait_tidy();

    world.stage.proxy.kill().unwrap();
    let gone = [&twin, &form].map(|digest| digest.trim_start_matches("sha256:"));
    let lost = stored(&world).into_iter().filter(|file| gone.iter().any(|hex| file.to_string_lossy().contains(hex)));
    lost.for_each(|file| std::fs::remove_file(file).unwrap());
    let file = world.stage.proxy.store().with_file_name("firstlight.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("[convert]\n", "[convert]\nlevel = 9\n");
    std::fs::write(&file, text).unwrap();
    world.stage.proxy.start_again().unwrap();
    world.wait("the twin", || world.get(&blob_path(REPOSITORY, &twin)).status == 200);
    world.wait("the form", || world.get(&format!("/v2/{REPOSITORY}/manifests/{form}")).status == 200);
    assert_eq!(world.get(&tag()).body, shown.body);
    world.wait_tidy();
    assert_eq!(world.stage.proxy.sql("SELECT count(DISTINCT profile) FROM twins").unwrap(), "1", "converted anew");
    world.assert_calm();
}

/// A proxy that could not make a recorded twin again does not begin to serve it.
#[test]
fn twins_of_an_unknown_converter_are_a_reason_not_to_start() {
    let config = "[convert]\nwait = \"60s\"\n";
    let mut world =
        World::start(vec![Blob::new(TAR, tar(81, 4, 100_000))], |options| options.view("estargz").config(config));
    assert_eq!(world.get(&tag()).header("firstlight-view").as_deref(), Some("estargz"));
    world.wait_tidy();
    world.stage.proxy.kill().unwrap();
    for table in ["profiles SET id", "twins SET profile", "converted SET profile"] {
        world.stage.proxy.sql(&format!("UPDATE {table} = 'tomorrow'")).unwrap();
    }
    let refused = world.stage.proxy.start_again().unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("profile tomorrow") && said.contains("use the version that made them"), "{said}");
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

//! Who may read what, what starts a conversion, and what a digest means for ever.

use std::collections::BTreeMap;

use bytes::Bytes;
use e2e::web::{self, Answer};
use e2e::{Fault, Rule};

use crate::joins::{OTHER, assert_hidden, manifest_path};
use crate::layer::{noise, tar};
use crate::push::{self, Blob, MANIFEST, TAR};
use crate::world::{REPOSITORY, World, blob_path};

/// The converted form of a world's image: digest and document.
fn convert(world: &World) -> Answer {
    let path = manifest_path(REPOSITORY, "latest");
    world.wait("estargz view", || world.get(&path).header("firstlight-view").as_deref() == Some("estargz"));
    world.get(&path)
}

/// Twins, converted manifests and converted configs belong to whom their source belongs to.
#[test]
fn another_repository_cannot_read_what_was_made() {
    let world = World::start(vec![Blob::new(TAR, tar(103, 3, 1 << 20))], patient);
    let other = push::image(&world.stage.registry, OTHER, "latest", vec![Blob::new(TAR, noise(104, 1000))]);
    assert_eq!(world.get(&manifest_path(OTHER, &other.digest)).status, 200);
    let converted = convert(&world);
    let document = converted.json().unwrap();
    let digest = converted.header("docker-content-digest").unwrap();
    assert_ne!(digest, world.image.digest);
    let mut paths = vec![manifest_path(OTHER, &digest), blob_path(OTHER, &digest)];
    for blob in [&document["config"], &document["layers"][0]] {
        let blob = blob["digest"].as_str().unwrap();
        assert_eq!(e2e::digest(&world.get(&blob_path(REPOSITORY, blob)).body), blob, "its own repository");
        paths.push(blob_path(OTHER, blob));
    }
    for path in paths {
        assert_hidden(&world, &path);
    }
}

/// An upstream repository that claims another one's layer (a manifest is only text) gets neither the layer nor its twin from us,
/// where the upstream is not public: it must have the layer itself.
#[test]
fn a_claim_is_not_a_link() {
    let world = World::start(vec![Blob::new(TAR, tar(109, 3, 1 << 20))], |mut options| {
        options.upstream_keys = "visibility = \"shared\"\n".to_owned();
        patient(options)
    });
    let twin = convert(&world).json().unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(e2e::digest(&world.get(&world.path(0)).body), world.layer().digest);
    let claim = world.send("GET", &manifest_path(REPOSITORY, &world.image.digest), &[]).body;
    let document = Fault::Document(MANIFEST.to_owned(), claim.to_vec());
    world.stage.relay.add(Rule::new("/v2/team/b/manifests/", document));
    let original = [("firstlight-view", "original")];
    assert_eq!(world.send("GET", &manifest_path(OTHER, "latest"), &original).status, 200, "its own manifest");
    for blob in [&world.layer().digest, &twin] {
        assert_hidden(&world, &blob_path(OTHER, blob));
    }
    world.assert_calm();
}

/// A manifest at a public upstream that names a layer of a private one opens nothing: what is stored came from elsewhere, so
/// the public upstream must have it itself.
#[test]
fn a_claim_reaches_no_other_upstream() {
    let options = e2e::RegistryOptions { empty: true, ..e2e::RegistryOptions::default() };
    let private = e2e::Registry::start_with(&e2e::Node::Machine, &options).unwrap();
    let secret = push::image(&private, "team/app", "latest", vec![Blob::new(TAR, noise(110, 100_000))]);
    let upstream = format!(
        "[convert]\nenabled = false\n[[upstream]]\nname = \"private.example\"\nurl = \"http://{}\"\nplain_http = true\n\
         visibility = \"shared\"\n",
        private.at()
    );
    let world = World::start(vec![Blob::new(TAR, noise(111, 1000))], |options| options.config(&upstream));
    let repository = "private.example/team/app";
    let manifest = world.get(&manifest_path(repository, "latest"));
    assert_eq!(manifest.header("docker-content-digest"), Some(secret.digest.clone()));
    let layer = &secret.layers[0].digest;
    let document = Fault::Document(MANIFEST.to_owned(), manifest.body.to_vec());
    world.stage.relay.add(Rule::new("/v2/team/b/manifests/", document));
    assert_eq!(world.get(&manifest_path(OTHER, "latest")).status, 200, "the claim itself");
    // Asked for before it is here, and after: neither leaves a link behind.
    assert_hidden(&world, &blob_path(OTHER, layer));
    assert_eq!(e2e::digest(&world.get(&blob_path(repository, layer)).body), *layer, "its own repository");
    world.wait_tidy();
    assert_hidden(&world, &blob_path(OTHER, layer));
    world.assert_calm();
}

fn patient(options: e2e::ProxyOptions) -> e2e::ProxyOptions {
    options.view("estargz").config("[convert]\nwait = \"60s\"\n")
}

/// Update bots poll with HEAD, by tag and by digest, of manifests and of layers: nothing is fetched, filled or converted.
#[test]
fn a_storm_of_heads_starts_nothing() {
    let world = World::start(vec![Blob::new(TAR, tar(105, 2, 1 << 20))], patient);
    let paths = [
        manifest_path(REPOSITORY, "latest"),
        manifest_path(REPOSITORY, &world.image.digest),
        world.path(0),
        format!("/v2/{REPOSITORY}/tags/list"),
    ];
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (world, paths) = (&world, &paths);
            scope.spawn(move || {
                for round in 0..50 {
                    let path = &paths[(client + round) % 3];
                    assert_eq!(world.send("HEAD", path, &[]).status, 200, "{path}");
                }
                assert_eq!(world.get(&paths[3]).status, 200);
            });
        }
    });
    for metric in ["conversions_total", "conversions_running", "fills_total", "fills_running"] {
        assert_eq!(world.metric(&format!("firstlight_{metric}")), 0.0, "{metric}");
    }
    assert_eq!(world.stage.relay.bytes("/blobs/"), 0);
}

/// A tag that HEAD showed in one view is given by GET in the same, although the twins are ready in between.
#[test]
fn head_and_get_of_a_tag_agree() {
    let world = World::start(vec![Blob::new(TAR, tar(106, 3, 1 << 20))], patient);
    let head = world.stage.proxy.tag(REPOSITORY, "latest").unwrap();
    assert_eq!(head, (world.image.digest.clone(), "original".to_owned()));
    world.send("GET", &manifest_path(REPOSITORY, &world.image.digest), &[("firstlight-view", "estargz")]);
    world.wait_metric("firstlight_conversions_total", 1.0);
    for method in ["GET", "HEAD", "GET"] {
        let answer = world.send(method, &manifest_path(REPOSITORY, "latest"), &[]);
        assert_eq!(answer.header("docker-content-digest"), Some(world.image.digest.clone()), "{method}");
        assert_eq!(answer.header("firstlight-view").as_deref(), Some("original"), "{method}");
        assert_eq!(answer.header("vary").as_deref(), Some("Firstlight-View"));
    }
}

/// Every digest that was ever answered keeps answering the same bytes: after a restart, and without an upstream.
#[test]
fn a_digest_means_the_same_for_ever() {
    let layers = vec![Blob::new(TAR, tar(107, 3, 1 << 20)), Blob::new(TAR, tar(108, 3, 1 << 20))];
    let mut world = World::start(layers, patient);
    let converted = convert(&world);
    assert_eq!(converted.header("firstlight-source-digest"), Some(world.image.digest.clone()));
    let original = world.send("GET", &manifest_path(REPOSITORY, "latest"), &[("firstlight-view", "original")]);
    assert_eq!(original.header("docker-content-digest"), Some(world.image.digest.clone()));
    let mut paths = Vec::new();
    for answer in [&converted, &original] {
        let document = answer.json().unwrap();
        paths.push(manifest_path(REPOSITORY, &answer.header("docker-content-digest").unwrap()));
        let layers = document["layers"].as_array().unwrap();
        paths.extend(
            layers
                .iter()
                .chain([&document["config"]])
                .map(|blob| blob_path(REPOSITORY, blob["digest"].as_str().unwrap())),
        );
    }
    let read = |world: &World| -> BTreeMap<String, Bytes> {
        paths.iter().map(|path| (path.clone(), world.get(path).body)).collect()
    };
    let before = read(&world);
    for (path, body) in &before {
        assert!(path.ends_with(&e2e::digest(body)), "{path}");
    }
    world.wait_tidy();
    world.stage.relay.stop();
    world.stage.proxy.restart().unwrap();
    assert!(read(&world) == before, "an answer changed");
    let again = world.get(&manifest_path(REPOSITORY, "latest"));
    assert_eq!((again.status.as_u16(), &again.body), (200, &converted.body), "the tag flipped back");
    assert_eq!(world.metric("firstlight_conversions_total"), 0.0, "converted a second time");
    let headers = [("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
    let mirrored = web::request(
        &e2e::Node::Machine,
        world.stage.proxy.mirror_at(),
        "GET",
        &manifest_path(REPOSITORY, "latest"),
        &headers,
    );
    assert_eq!(mirrored.unwrap().body, original.body, "the mirror's view");
}

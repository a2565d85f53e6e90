//! Conversions in a fleet: who begins them, what they wait for, and what they keep from others.

use e2e::web::{self, Download, Pace};
use e2e::{Backing, Fault, Fleet, Node, Postgres, ProxyOptions, Rule, Seaweed};

use crate::layer::{noise, tar};
use crate::push::{self, Blob, TAR};
use crate::remains;
use crate::world::{REPOSITORY, World, blob_path};

/// Somebody else has read the manifest, or it was before a restart: the first read of a layer starts its conversion all the same;
/// a HEAD does not, nor a read of what is no layer.
#[test]
fn a_layer_is_converted_wherever_its_manifest_was_read() {
    let layers = [301, 302].map(|seed| Blob::new(TAR, tar(seed, 4, 1 << 20))).to_vec();
    let mut world = World::start(layers, |options| options);
    let document = manifest(&world, 0, REPOSITORY, &world.image.digest);
    let [first, second] = [0, 1].map(|layer| world.image.layers[layer].digest.clone());
    let begun = |world: &World| world.stage.proxy.sql("SELECT source FROM twins ORDER BY source").unwrap();

    let head = world.stage.proxy.replica(1).request("HEAD", &blob_path(REPOSITORY, &first), &[]).unwrap();
    assert_eq!((head.status.as_u16(), begun(&world)), (200, String::new()));
    let config = document["config"]["digest"].as_str().unwrap();
    assert_eq!(download(&world, 2, REPOSITORY, config).digest, config);
    assert_eq!(begun(&world), "");
    assert_eq!(download(&world, 1, REPOSITORY, &first).digest, first);
    wait_twin(&world, &first);
    let twin = world.stage.proxy.sql(&format!("SELECT twin FROM twins WHERE source = '{first}'")).unwrap();
    assert_eq!(download(&world, 2, REPOSITORY, &twin).digest, twin);
    assert_eq!(begun(&world), first, "something else was converted");

    world.stage.proxy.restart(0).unwrap();
    assert_eq!(download(&world, 0, REPOSITORY, &second).digest, second);
    wait_twin(&world, &second);
    world.wait_idle();
    remains::wait_none(&world.stage.proxy);
    world.assert_calm();
}

/// The bucket is away when a layer is converted: what was made waits for it, and is not made again.
#[test]
fn a_twin_that_cannot_be_stored_yet_is_stored_later() {
    let (postgres, mut seaweed) = (Postgres::shared().unwrap(), Seaweed::start().unwrap());
    let backing = Backing::new(&postgres, &seaweed).unwrap();
    let world = alone(vec![Blob::new(TAR, tar(303, 4, 1 << 20))], backing, |options| options);
    let digest = &world.layer().digest;
    manifest(&world, 0, REPOSITORY, &world.image.digest);
    seaweed.stop().unwrap();
    assert_eq!(download(&world, 0, REPOSITORY, digest).digest, *digest);
    world.wait("the conversion", || world.stage.proxy.log().contains("a converted layer could not be stored yet"));
    seaweed.resume().unwrap();
    wait_twin(&world, digest);
    world.wait_idle();
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
    assert_eq!(
        world.metric("firstlight_conversions_total"),
        1.0,
        "it was converted twice\n{}",
        world.stage.proxy.log()
    );
    remains::wait_none(&world.stage.proxy);
    world.assert_calm();
}

/// Many layers are to be converted whose fills yield to a long one: the conversion of a layer that is here does not wait for them.
#[test]
fn conversions_whose_fills_yield_keep_no_place() {
    const RATE: u64 = 250_000;
    let yielding = (0..6).map(|n| Blob::new(TAR, tar(310 + n, 1, 1 << 20))).collect();
    let world = alone(yielding, Backing::shared().unwrap(), |options| {
        options.view("estargz").config("[convert]\nworkers = 1\nwait = \"0s\"\n")
    });
    let [long, short] =
        [("team/long", noise(304, 25 << 20)), ("team/short", tar(305, 1, 1 << 20))].map(|(name, bytes)| {
            let image = push::image(&world.stage.registry, name, "latest", vec![Blob::new(TAR, bytes)]);
            manifest(&world, 0, name, &image.digest);
            image.layers[0].digest.clone()
        });
    world.stage.relay.add(Rule::new(&long, Fault::Throttle(RATE)));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| download(&world, 0, "team/long", &long));
        world.wait("the long fill", || world.stage.relay.bytes(&long) > 0);
        let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
        assert_eq!(answer.header("firstlight-view").as_deref(), Some("original"));
        // As many as have a lease while they wait for their bytes.
        world.wait("yielding", || world.metric("firstlight_fills_yielding") >= 4.0);
        assert_eq!(download(&world, 0, "team/short", &short).digest, short);
        wait_twin(&world, &short);
        let filling = world.stage.proxy.owner("fill", &long).unwrap();
        assert_eq!(filling, Some(0), "the long fill is over\n{}", world.stage.proxy.log());
        world.stage.relay.clear();
        assert_eq!(client.join().unwrap().digest, long);
    });
    for layer in &world.image.layers {
        wait_twin(&world, &layer.digest);
    }
    world.assert_frugal();
    world.assert_calm();
}

/// More conversions than are taken over at once are of an upstream that is configured no longer: one behind them is taken over.
#[test]
fn conversions_of_an_upstream_that_is_gone_keep_no_others_waiting() {
    let layer = Blob::new(TAR, tar(306, 1, 1 << 20));
    let world = alone(vec![layer], Backing::shared().unwrap(), |options| options);
    manifest(&world, 0, REPOSITORY, &world.image.digest);
    let digest = &world.layer().digest;
    let abandoned = format!(
        "INSERT INTO twins (source, profile, state, attempts, repository) SELECT source, id, 'converting', 0, repository \
         FROM profiles, (\
             SELECT 'sha256:' || lpad(to_hex(n), 64, '0') AS source, 'gone.example/team/a' AS repository \
             FROM generate_series(1, 600) n UNION ALL SELECT '{digest}', 'docker.io/{REPOSITORY}') abandoned"
    );
    world.stage.proxy.sql(&abandoned).unwrap();
    wait_twin(&world, digest);
    world.assert_calm();
}

/// The database breaks calls off while a replica waits for what another one converts: it goes on waiting, and so does its
/// client.
#[test]
fn a_broken_call_ends_no_wait_for_a_conversion() {
    const RATE: u64 = 20_000;
    let world = World::start(vec![Blob::new(TAR, tar(307, 1, 1 << 20))], |options| {
        options.view("estargz").config("[convert]\nwait = \"120s\"\n")
    });
    let digest = &world.layer().digest;
    world.throttle(RATE);
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let view = |replica: usize| {
        let answer = world.stage.proxy.replica(replica).request("GET", &path, &[("accept", web::MANIFEST_TYPES)]);
        answer.unwrap().header("firstlight-view")
    };
    std::thread::scope(|scope| {
        let clients = [0, 1, 2].map(|replica| scope.spawn(move || view(replica)));
        world.wait("the conversion", || world.stage.proxy.owner("conversion", digest).unwrap().is_some());
        // Longer than the pause between two looks: whoever waits looks, waits for the table and is broken off.
        let locked = "BEGIN; LOCK TABLE twins IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(14); COMMIT";
        world.stage.proxy.sql(locked).unwrap();
        assert!(world.stage.proxy.owner("conversion", digest).unwrap().is_some(), "it was over too soon");
        world.stage.relay.clear();
        for client in clients {
            assert_eq!(client.join().unwrap().as_deref(), Some("estargz"), "{}", world.stage.proxy.log());
        }
    });
    world.wait_idle();
}

/// Starts a world around one replica.
fn alone(layers: Vec<Blob>, backing: Backing, options: impl FnOnce(ProxyOptions) -> ProxyOptions) -> World {
    World::around(layers, |upstream| Fleet::start_on(&Node::Machine, backing, vec![options(upstream)]))
}

/// Has a replica read a manifest in the original view, which starts no conversion, and returns it.
fn manifest(world: &World, replica: usize, repository: &str, digest: &str) -> serde_json::Value {
    let path = format!("/v2/{repository}/manifests/{digest}");
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "original")];
    let answer = world.stage.proxy.replica(replica).request("GET", &path, &headers).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()
}

fn download(world: &World, replica: usize, repository: &str, digest: &str) -> Download {
    let at = world.stage.proxy.replica(replica).at();
    web::download(at, &blob_path(repository, digest), &[], Pace::default()).unwrap()
}

fn wait_twin(world: &World, source: &str) {
    let state = format!("SELECT state FROM twins WHERE source = '{source}'");
    world.wait("the twin", || world.stage.proxy.sql(&state).unwrap() == "ready");
}

//! The replica that does some work dies, hangs past its lease, or has no room: another one takes over, and no client gets wrong bytes.

use std::collections::BTreeSet;

use e2e::web::{self, Download, Pace};
use e2e::{Node, Proxy, ProxyOptions, Seaweed, is_root, skip, wait};

use crate::layer::{noise, tar};
use crate::load::assert_not_wrong;
use crate::push::{Blob, TAR};
use crate::world::{LIMIT, REPOSITORY, World, blob_path};
use crate::{remains, small_disk};

/// Short, so that a test need not wait long for its end.
const LEASE: &str = "3s";
const UNCONVERTED: &str = "[convert]\nenabled = false\n";
/// Converts so slowly that something can happen meanwhile.
const SLOW: &str = "[convert]\nlevel = 12\nworkers = 1\nwait = \"5m\"\n";
/// What may be on its way from upstream unseen.
const IN_FLIGHT: u64 = 1 << 20;

/// Killed at half of a fill that clients follow at every replica: nobody gets a clean wrong end, and another replica ends the fill
/// without being asked again.
#[test]
fn an_owner_killed_in_a_fill_has_a_successor() {
    let mut world = start(Blob::new(TAR, noise(201, 16 << 20)), UNCONVERTED);
    let (mut owner, mut lost) = (0, 0);
    while_filling(&world, |filler| {
        (owner, lost) = (filler, world.upstream());
        world.stage.proxy.kill(owner).unwrap();
    });
    wait_stored(&world);
    let most = world.layer().size() + lost + IN_FLIGHT;
    assert!(world.upstream() <= most, "{lost} bytes were lost: {:#?}", world.requests());
    world.stage.proxy.start_again(owner).unwrap();
    check_whole(&mut world);
}

/// Killed while it puts a verified blob into the bucket: another replica puts it there, and nothing of the first try is left.
#[test]
fn an_owner_killed_in_an_upload_has_a_successor() {
    let mut world = start(Blob::new(TAR, noise(206, 96 << 20)), UNCONVERTED);
    world.link();
    let digest = world.layer().digest.clone();
    let owner = std::thread::scope(|scope| {
        let client = scope.spawn(|| download(&world, 0, &digest));
        let owner = wait_owner(&world, "fill");
        world.wait("an upload", || !world.stage.proxy.backing().uploads().unwrap().is_empty());
        world.stage.proxy.kill(owner).unwrap();
        assert_not_wrong(client.join().unwrap(), &digest);
        owner
    });
    wait_stored(&world);
    world.stage.proxy.start_again(owner).unwrap();
    check_whole(&mut world);
}

/// The upload of a verified blob is taken away while it is put into the bucket: it is put there again from what is on the disk, and
/// nothing of it is fetched again.
#[test]
fn an_owner_whose_upload_is_taken_away_puts_it_again() {
    let layer = Blob::new(TAR, noise(207, 192 << 20));
    let mut world = World::start(vec![layer], |options| options.config(UNCONVERTED));
    world.link();
    let digest = world.layer().digest.clone();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| download(&world, 0, &digest));
        let backing = world.stage.proxy.backing();
        world.wait("an upload", || !backing.uploads().unwrap().is_empty());
        // So that it is not over before it is taken away.
        world.stage.proxy.freeze(0).unwrap();
        Seaweed::shared().unwrap().drop_uploads(backing.bucket()).unwrap();
        world.stage.proxy.thaw(0).unwrap();
        assert_not_wrong(client.join().unwrap(), &digest);
    });
    wait_stored(&world);
    let log = world.stage.proxy.log();
    assert!(log.contains("NoSuchUpload"), "the upload was over too soon\n{log}");
    assert!(world.upstream() <= world.layer().size() + IN_FLIGHT, "{:#?}", world.requests());
    let memory = world.stage.proxy.replica(0).peak_memory().unwrap();
    assert!(memory < world.layer().size(), "{memory} bytes of memory for an upload");
    check_whole(&mut world);
    check_objects(&world);
}

/// Frozen at half of a fill, and thawed when another replica has published the blob: it publishes nothing.
#[test]
fn an_owner_frozen_in_a_fill_publishes_nothing_afterwards() {
    let mut world = start(Blob::new(TAR, noise(202, 16 << 20)), UNCONVERTED);
    let mut key = String::new();
    while_filling(&world, |owner| {
        world.stage.proxy.freeze(owner).unwrap();
        wait_stored(&world);
        key = store_key(&world, &world.layer().digest);
        world.stage.proxy.thaw(owner).unwrap();
    });
    check_whole(&mut world);
    assert_eq!(store_key(&world, &world.layer().digest), key, "published twice");
    check_objects(&world);
}

/// Killed while it converts a stored layer: another replica makes the twin that one process alone makes, without upstream.
#[test]
fn an_owner_killed_in_a_conversion_has_a_successor() {
    let mut world = start(Blob::new(TAR, tar(203, 48, 1 << 20)), SLOW);
    let expected = converted_alone(&world);
    let owner = converting(&world);
    world.stage.proxy.kill(owner).unwrap();
    world.stage.relay.stop();
    wait_twin(&world);
    assert_eq!(of_twin(&world, "attempts"), "2");
    world.stage.proxy.start_again(owner).unwrap();
    world.stage.relay.resume().unwrap();
    assert_shown(&world, &expected);
    check_whole(&mut world);
}

/// Frozen while it converts, and thawed when another replica has published the twin: it publishes nothing.
#[test]
fn an_owner_frozen_in_a_conversion_publishes_nothing_afterwards() {
    let mut world = start(Blob::new(TAR, tar(204, 48, 1 << 20)), SLOW);
    let expected = converted_alone(&world);
    let owner = converting(&world);
    world.stage.proxy.freeze(owner).unwrap();
    wait_twin(&world);
    let key = store_key(&world, &of_twin(&world, "twin"));
    world.stage.proxy.thaw(owner).unwrap();
    world.wait_idle();
    assert_shown(&world, &expected);
    check_whole(&mut world);
    assert_eq!(store_key(&world, &of_twin(&world, "twin")), key, "published twice");
    check_objects(&world);
}

/// The disk of the replica that fills runs full: its clients and those of the others get no wrong bytes, and the next pulls are right
/// everywhere.
#[test]
fn an_owner_without_room_costs_no_pull() {
    if !is_root() {
        return skip("an_owner_without_room_costs_no_pull", "not root");
    }
    let config = format!("{UNCONVERTED}[storage]\nmin_free = \"0\"\n");
    let mut world = start(Blob::new(TAR, noise(205, 16 << 20)), &config);
    let store = world.stage.proxy.replica(0).store();
    world.stage.proxy.kill(0).unwrap();
    small_disk::mount(&store);
    world.stage.proxy.start_again(0).unwrap();
    let filler = store.join("filler");
    while_filling(&world, |owner| {
        assert_eq!(owner, 0);
        small_disk::fill_up(&filler);
    });
    for replica in [1, 2, 0] {
        let got = download(&world, replica, &world.layer().digest).unwrap();
        assert_eq!(got.digest, world.layer().digest, "at replica {replica}, without room");
    }
    std::fs::remove_file(&filler).unwrap();
    check_whole(&mut world);
}

/// Starts a world of one layer on a fleet whose leases are short.
fn start(layer: Blob, config: &str) -> World {
    World::start(vec![layer], |options| options.config(config).env("FIRSTLIGHT_SERVER_LEASE", LEASE))
}

/// Has a client at every replica download the layer, the first one at replica 0, and calls `disturb` with the owner when half of it
/// has come. What the clients got is right, refused or cut off; the client of a killed owner is cut off.
fn while_filling(world: &World, disturb: impl FnOnce(usize)) {
    let digest = &world.layer().digest;
    world.link();
    world.throttle(3_000_000);
    std::thread::scope(|scope| {
        let client = |replica| scope.spawn(move || download(world, replica, digest));
        let mut clients = vec![client(0)];
        world.wait("the fill", || world.stage.proxy.owner("fill", digest).unwrap().is_some());
        clients.extend([1, 2].map(client));
        world.wait_upstream(world.layer().size() / 2);
        disturb(wait_owner(world, "fill"));
        for client in clients {
            assert_not_wrong(client.join().unwrap(), digest);
        }
    });
    world.stage.relay.clear();
}

/// Has the layer filled and its conversion begun, and returns the replica that converts when the blob is stored.
fn converting(world: &World) -> usize {
    let path = format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest);
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "original")];
    assert_eq!(world.stage.proxy.replica(0).request("GET", &path, &headers).unwrap().status, 200);
    assert_eq!(download(world, 0, &world.layer().digest).unwrap().digest, world.layer().digest);
    wait_stored(world);
    world.wait("the conversion", || of_twin(world, "attempts") == "1");
    wait_owner(world, "conversion")
}

/// Waits until a replica does the work on the layer, and returns which; a stall may cost a lease for a moment.
fn wait_owner(world: &World, work: &str) -> usize {
    let mut owner = None;
    world.wait(work, || {
        owner = world.stage.proxy.owner(work, &world.layer().digest).unwrap();
        owner.is_some()
    });
    owner.unwrap()
}

/// Returns the converted digest of the image as one process makes it, on SQLite and files.
fn converted_alone(world: &World) -> String {
    let options = ProxyOptions::new(world.stage.registry.at()).config(SLOW);
    let proxy = Proxy::start(&Node::Machine, options).unwrap();
    proxy.convert(REPOSITORY, "latest", &world.image.digest).unwrap()
}

/// Checks that the tag shows the converted digest at every replica.
fn assert_shown(world: &World, converted: &str) {
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "estargz")];
    for replica in 0..world.stage.proxy.size() {
        let answer = world.stage.proxy.replica(replica).request("GET", &path, &headers).unwrap();
        let log = world.stage.proxy.log();
        assert_eq!(answer.header("firstlight-view").as_deref(), Some("estargz"), "at replica {replica}\n{log}");
        assert_eq!(e2e::digest(&answer.body), converted, "at replica {replica}");
    }
}

fn wait_stored(world: &World) {
    let digest = &world.layer().digest;
    world.wait("the blob's row", || !store_key(world, digest).is_empty());
}

fn wait_twin(world: &World) {
    world.wait("the twin", || of_twin(world, "state") == "ready");
}

/// Returns a column of the twin's row; empty when there is no row.
fn of_twin(world: &World, column: &str) -> String {
    let source = &world.layer().digest;
    world.stage.proxy.sql(&format!("SELECT {column} FROM twins WHERE source = '{source}'")).unwrap()
}

/// Returns where the bytes of a digest are; empty when they are nowhere.
fn store_key(world: &World, digest: &str) -> String {
    world.stage.proxy.sql(&format!("SELECT store_key FROM blobs WHERE digest = '{digest}'")).unwrap()
}

fn download(world: &World, replica: usize, digest: &str) -> anyhow::Result<Download> {
    web::download(world.stage.proxy.replica(replica).at(), &blob_path(REPOSITORY, digest), &[], Pace::default())
}

/// Waits until nothing is left of any work; then reads every byte of layer and twin back at every replica, without upstream.
fn check_whole(world: &mut World) {
    world.wait_idle();
    // Whatever became of the fill, the next client has the blob stored.
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    remains::wait_none(&world.stage.proxy);
    world.stage.relay.stop();
    let twin = of_twin(world, "twin");
    for digest in [&world.layer().digest, &twin].into_iter().filter(|digest| !digest.is_empty()) {
        for replica in 0..world.stage.proxy.size() {
            let got = download(world, replica, digest).unwrap();
            assert_eq!((got.status.as_u16(), &got.digest), (200, digest), "at replica {replica}");
        }
    }
    world.stage.proxy.check_running().unwrap();
    world.assert_calm();
}

/// Waits until the bucket holds what the rows name and no other bytes: nothing was published or left there twice.
fn check_objects(world: &World) {
    let same = wait::until("objects", LIMIT, || Ok((objects(world) == rows(world)).then_some(())));
    same.unwrap_or_else(|error| panic!("{error}: {:#?} for the rows {:#?}", objects(world), rows(world)));
}

fn objects(world: &World) -> BTreeSet<String> {
    let keys = world.stage.proxy.backing().objects().unwrap();
    keys.into_iter().filter(|key| key.starts_with("blobs/") || key.starts_with("tocs/")).collect()
}

fn rows(world: &World) -> BTreeSet<String> {
    world.stage.proxy.sql("SELECT store_key FROM blobs").unwrap().lines().map(str::to_owned).collect()
}

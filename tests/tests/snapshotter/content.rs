//! What is left to containerd: to unpack a layer that has no twin, and to keep blobs.

use std::process::Stdio;
use std::time::Duration;

use e2e::{Fault, Rule, Scratch, Snapshotter, is_root, noise, run, skip, wait};

use crate::bench::Bench;
use crate::compressed::gzip;
use crate::lazy::{BULKY, World};
use crate::push::{self, GZIP, Layer, MANIFEST};
use crate::row::Outcome;
use crate::rows;
use crate::tar::{Header, Tar};
use crate::trees::{Moment, ORDINARY, top_of};

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
const REPOSITORY: &str = "team/gap";

impl World {
    /// Pushes a layer with one file.
    fn small(&self, name: &str) -> Layer {
        let plain = Tar::new().dir("./").file(name, b"some bytes").end();
        push::layer(&self.registry, REPOSITORY, GZIP, gzip(&plain).into(), e2e::digest(&plain))
    }

    /// Pushes a layer that the proxy refuses to convert.
    fn odd(&self) -> Layer {
        let odd = rows::all().into_iter().find(|row| row.outcome == Outcome::Stays("not_utf8")).unwrap();
        push::layer(&self.registry, REPOSITORY, odd.media_type, odd.blob, odd.diff_id)
    }

    /// Starts a world with an image whose middle layer is this, and returns also its layers and its reference.
    fn with_gap(odd: impl FnOnce(&Self) -> Layer) -> (Self, [Layer; 3], String) {
        let world = Self::around(Self::bare(), "fill_after = '1h'\n");
        let layers = [world.small("below"), odd(&world), world.small("above")];
        let image = push::image(&world.registry, REPOSITORY, "latest", &layers);
        let reference = format!("{}/{REPOSITORY}@{image}", world.at());
        (world, layers, reference)
    }
}

/// A layer without a twin does not take the laziness of those above it.
#[test]
fn a_layer_without_a_twin_is_unpacked_alone() {
    if !is_root() {
        return skip("a_layer_without_a_twin_is_unpacked_alone", "not root");
    }
    let (world, layers, reference) = World::with_gap(World::odd);
    let containerd = &world.bench.containerd;
    let begun = Moment::now();
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let log = world.bench.snapshotter.log();
    assert!(log.contains("a layer without a twin was unpacked alone") && !log.contains("ordinary way"), "{log}");
    assert_eq!(log.matches("before it is here").count(), 2, "{log}");
    let kept = run(containerd.ctr().args(["content", "ls", "-q"])).unwrap();
    let is_kept = layers.each_ref().map(|layer| kept.contains(&layer.digest));
    assert_eq!(is_kept, [false, true, false], "{kept}");
    let ours = world.bench.tree(Snapshotter::NAME, &top_of(&world.bench, Snapshotter::NAME)).unwrap();
    containerd.pull_with(ORDINARY, &reference).unwrap();
    let theirs = world.bench.tree(ORDINARY, &top_of(&world.bench, ORDINARY)).unwrap();
    begun.assert_same(&theirs, &ours).unwrap();

    // Under the config of another image it is not committed, nor what is above it mounted.
    let [below, odd, above] = layers.clone();
    let genuine = [below, Layer { diff_id: e2e::digest(b"another tar"), ..odd }, above];
    let config = push::config(&world.registry, REPOSITORY, &genuine);
    let shown = layers.each_ref().map(Layer::descriptor);
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": shown,
    });
    let image = push::manifest(&world.registry, REPOSITORY, "evil", MANIFEST, &document);
    let reference = format!("{}/{REPOSITORY}@{image}", world.at());
    assert!(containerd.pull_lazily(Snapshotter::NAME, &reference).is_err());
    let log = world.bench.snapshotter.log();
    assert!(log.contains("the image is not what it says"), "{log}");
    let status = world.bench.ctr(&["ls"]).unwrap();
    assert!(!status.contains("unpacking"), "{status}");
}

/// Neither does one that has a twin which cannot be used, here because its TOC is not to be had.
#[test]
fn a_layer_without_its_toc_is_unpacked_alone() {
    if !is_root() {
        return skip("a_layer_without_its_toc_is_unpacked_alone", "not root");
    }
    let (world, layers, reference) = World::with_gap(|world| world.small("between"));
    let (_, image) = reference.rsplit_once('@').unwrap();
    world.proxy.wait_twins(REPOSITORY, image).unwrap();
    let call = format!("/v2/{REPOSITORY}/_firstlight/lazy/{image}");
    let index = world.proxy.request("GET", &call, &[]).unwrap().json().unwrap();
    let toc = format!("/_firstlight/toc/{}", index["layers"][1]["toc"]["digest"].as_str().unwrap());
    world.relay.add(Rule::new(&toc, Fault::Status(404, Vec::new())));
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let log = world.bench.snapshotter.log();
    let alone = log.lines().find(|line| line.contains("a layer without a twin was unpacked alone")).expect(&log);
    assert!(alone.contains("reason=\"layer\"") && !log.contains("ordinary way"), "{log}");
    assert_eq!(log.matches("before it is here").count(), 2, "{log}");
    let kept = run(world.bench.containerd.ctr().args(["content", "ls", "-q"])).unwrap();
    let is_kept = layers.each_ref().map(|layer| kept.contains(&layer.digest));
    assert_eq!(is_kept, [false, true, false], "{kept}");
    world.bench.ctr(&["prepare", "reader", &top_of(&world.bench, Snapshotter::NAME)]).unwrap();
    let mounted = world.bench.mount("reader");
    for name in ["below", "between", "above"] {
        assert_eq!(std::fs::read(mounted.join(name)).unwrap(), b"some bytes", "{name}");
    }
}

/// A kill while a layer is unpacked leaves nothing, and the next pull begins anew.
#[test]
fn a_kill_while_unpacking_leaves_nothing() {
    if !is_root() {
        return skip("a_kill_while_unpacking_leaves_nothing", "not root");
    }
    let mut plain = Tar::new().entry(Header { name: b"odd-\xff", ..Header::default() }, b"");
    for number in 0..200 {
        plain = plain.file(&format!("bulk/{number}"), &noise(number, 1 << 20));
    }
    let plain = plain.end();
    let digest = e2e::digest(&plain);
    let odd = |world: &World| push::layer(&world.registry, REPOSITORY, push::TAR, plain.into(), digest);
    let (mut world, _, reference) = World::with_gap(odd);
    let World { bench: Bench { containerd, snapshotter, .. }, .. } = &mut world;
    let unpacked = |snapshotter: &Snapshotter| std::fs::read_dir(snapshotter.folders()).unwrap().count();
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| containerd.pull_lazily(Snapshotter::NAME, &reference));
        wait::until("the unpacking", LIMIT, || Ok((unpacked(snapshotter) > 0).then_some(()))).unwrap();
        snapshotter.kill().unwrap();
        pull.join().unwrap().unwrap_err();
    });
    snapshotter.start_again().unwrap();
    assert_eq!(unpacked(snapshotter), 0, "{}", snapshotter.log());
    // containerd tries now and then.
    wait::until("a pull", LIMIT, || Ok(containerd.pull_lazily(Snapshotter::NAME, &reference).ok())).unwrap();
    let log = snapshotter.log();
    assert!(log.contains("a layer without a twin was unpacked alone") && !log.contains("ordinary way"), "{log}");
    assert_eq!(unpacked(snapshotter), 1, "{log}");
}

/// A pull that is given up while a layer is unpacked for it costs nothing: the work goes on, and the next pull finds it.
#[test]
fn a_pull_that_is_given_up_is_gone_on_with() {
    if !is_root() {
        return skip("a_pull_that_is_given_up_is_gone_on_with", "not root");
    }
    let (world, layers, reference) = World::with_gap(World::odd);
    world.relay.add(Rule::new(&layers[1].digest, Fault::Throttle(50)));
    give_up(&world, &reference, || world.relay.bytes(&layers[1].digest) > 0);
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let log = world.bench.snapshotter.log();
    assert_eq!(log.matches("a layer without a twin was unpacked alone").count(), 1, "{log}");
    assert!(!log.contains("ordinary way"), "{log}");
    assert_eq!(world.relay.seen_at(&layers[1].digest).iter().filter(|seen| seen.method == "GET").count(), 1);
    // A client that is killed leaves a lease, for a day.
    let leases = run(world.bench.containerd.ctr().args(["leases", "ls", "-q"])).unwrap();
    run(world.bench.containerd.ctr().args(["leases", "rm"]).args(leases.lines())).unwrap();
    run(world.bench.containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    world.bench.wait_empty();
}

/// Begins a pull, and kills the client when the time has come.
pub(crate) fn give_up(world: &World, reference: &str, has_come: impl Fn() -> bool) {
    let mut pull = world.bench.containerd.ctr_remote();
    pull.args(["images", "rpull", "--plain-http", "--snapshotter", Snapshotter::NAME, reference]);
    let mut pull = pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let come = wait::until("the time to give up", LIMIT, || Ok(has_come().then_some(())));
    pull.kill().unwrap();
    pull.wait().unwrap();
    come.unwrap();
}

/// Two namespaces that pull one image at once both have it, and its layer is unpacked once.
#[test]
fn two_namespaces_share_what_is_unpacked() {
    if !is_root() {
        return skip("two_namespaces_share_what_is_unpacked", "not root");
    }
    let (world, _, reference) = World::with_gap(World::odd);
    std::thread::scope(|scope| {
        let pulls = ["default", "k8s.io"].map(|namespace| {
            let mut pull = world.bench.containerd.ctr_remote();
            pull.args(["-n", namespace, "images", "rpull", "--plain-http", "--snapshotter", Snapshotter::NAME]);
            pull.arg(&reference);
            scope.spawn(move || run(&mut pull))
        });
        for pull in pulls {
            pull.join().unwrap().unwrap_or_else(|error| panic!("{error:#}\n{}", world.bench.snapshotter.log()));
        }
    });
    let log = world.bench.snapshotter.log();
    assert!(!log.contains("ordinary way"), "{log}");
    assert_eq!(std::fs::read_dir(world.bench.snapshotter.folders()).unwrap().count(), 1, "{log}");
}

/// An image that was mounted lazily is exported and pushed once its blobs were fetched, and is the same then.
#[test]
fn blobs_are_fetched_for_export_and_push() {
    if !is_root() {
        return skip("blobs_are_fetched_for_export_and_push", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '1h'\n");
    world.push_bulky();
    let (reference, digest) = world.pinned(BULKY);
    let containerd = &world.bench.containerd;
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.assert_lazy();
    let other = format!("{}/team/pushed:latest", world.registry.at());
    let push = || run(containerd.ctr().args(["images", "push", "--plain-http", &other, &reference]));
    assert!(push().is_err());
    let states = |said: &serde_json::Value| {
        let layers = said["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["was_there"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    // What comes wrong is not kept, and named; what is right is not fetched again.
    world.relay.add(Rule::new("/blobs/", Fault::Corrupt(50 << 20)));
    let refused = format!("{:#}", world.bench.snapshotter.fetch_content(&reference).unwrap_err());
    assert!(refused.contains("sha256:"), "{refused}");
    world.relay.clear();
    let fetched = states(&world.bench.snapshotter.fetch_content(&reference).unwrap());
    assert_eq!(fetched.iter().filter(|was_there| !**was_there).count(), 1, "{fetched:?}");
    push().unwrap();
    assert_eq!(world.registry.digest("team/pushed", "latest").unwrap(), digest);
    let scratch = Scratch::new().unwrap();
    let archive = scratch.join("image.tar");
    run(containerd.ctr().args(["images", "export"]).arg(&archive).arg(&reference)).unwrap();
    assert!(std::fs::metadata(archive).unwrap().len() > 100 << 20);
    // It stays also where nothing refers to it, as with CRI's discard_unpacked_layers.
    let manifest = world.registry.document(BULKY, &format!("manifests/{digest}")).unwrap();
    let count = manifest["layers"].as_array().unwrap().len();
    let unrefer = (0..count).map(|number| format!("containerd.io/gc.ref.content.l.{number}="));
    run(containerd.ctr().args(["content", "label", &digest]).args(unrefer)).unwrap();
    run(containerd.ctr().args(["content", "prune", "references"])).unwrap();
    assert_eq!(states(&world.bench.snapshotter.fetch_content(&reference).unwrap()), [true; 7]);
    // For a while.
    let leases = run(containerd.ctr().args(["leases", "ls", "-q"])).unwrap();
    run(containerd.ctr().args(["leases", "rm", "--sync"]).args(leases.lines())).unwrap();
    assert_eq!(states(&world.bench.snapshotter.fetch_content(&reference).unwrap()), [false; 7]);
    let unknown = format!("{:#}", world.bench.snapshotter.fetch_content("nobody.example/no/image:1").unwrap_err());
    assert!(unknown.contains("pull it first"), "{unknown}");
}

//! What is left to containerd: to unpack a layer that has no twin, and to keep blobs.

use e2e::{Snapshotter, is_root, run, skip};

use crate::compressed::gzip;
use crate::lazy::{BULKY, World};
use crate::push::{self, GZIP, Layer, MANIFEST};
use crate::row::Outcome;
use crate::rows;
use crate::tar::Tar;
use crate::trees::{Moment, ORDINARY, top_of};

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
}

/// A layer without a twin does not take the laziness of those above it.
#[test]
fn a_layer_without_a_twin_is_unpacked_alone() {
    if !is_root() {
        return skip("a_layer_without_a_twin_is_unpacked_alone", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '1h'\n");
    let layers = [world.small("below"), world.odd(), world.small("above")];
    let image = push::image(&world.registry, REPOSITORY, "latest", &layers);
    let reference = format!("{}/{REPOSITORY}@{image}", world.at());
    let containerd = &world.bench.containerd;
    let begun = Moment::now();
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let log = world.bench.snapshotter.log();
    assert!(log.contains("a layer without a twin was unpacked") && !log.contains("ordinary way"), "{log}");
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
    assert_eq!(states(&world.bench.snapshotter.fetch_content(&reference).unwrap()), [false; 7]);
    push().unwrap();
    assert_eq!(world.registry.digest("team/pushed", "latest").unwrap(), digest);
    assert_eq!(states(&world.bench.snapshotter.fetch_content(&reference).unwrap()), [true; 7]);
    let unknown = format!("{:#}", world.bench.snapshotter.fetch_content("nobody.example/no/image:1").unwrap_err());
    assert!(unknown.contains("pull it first"), "{unknown}");
}

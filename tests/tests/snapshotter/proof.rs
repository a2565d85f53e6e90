//! What is shown is what the image's digest commits to, whoever serves it.

use std::path::Path;
use std::time::Duration;

use api::Digest;
use bytes::Bytes;
use e2e::{Snapshotter, TreeKind as Kind, drop_caches, is_root, skip, wait};
use serde_json::json;

use crate::compressed::gzip;
use crate::lazy::World;
use crate::push::{self, GZIP, Layer, MANIFEST};
use crate::tar::Tar;
use crate::trees::{Moment, ORDINARY, top_of};

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
const REPOSITORY: &str = "team/app";
const GENUINE: &[u8] = b"genuine";
const EVIL: &[u8] = b"an attacker's";
/// What a row of the catalog says of a twin.
const WHAT_IT_IS: [&str; 7] = ["twin", "twin_size", "diff_id", "plain_size", "toc", "toc_size", "implied_dirs"];

impl World {
    /// Pushes a layer with one file.
    fn layer(&self, contents: &[u8]) -> Layer {
        let plain = Tar::new().dir("./").file("./program", contents).end();
        push::layer(&self.registry, REPOSITORY, GZIP, Bytes::from(gzip(&plain)), e2e::digest(&plain))
    }

    /// Returns the digest of the one file that a snapshot shows.
    fn program(&self, top: &str) -> anyhow::Result<String> {
        let tree = self.bench.tree(Snapshotter::NAME, top)?;
        match &tree.entries[Path::new("program")].kind {
            Kind::File(_, digest) => Ok(digest.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// Has the proxy convert an image's layer.
    fn convert(&self, image: &str) {
        self.proxy.wait_twins(REPOSITORY, image).unwrap();
    }

    /// Has the proxy's catalog tell of one layer's twin what is so of another's.
    fn tamper(&self, layer: &Layer, other: &Layer, columns: &[&str]) {
        let set: Vec<String> = columns
            .iter()
            .map(|column| format!("{column} = (SELECT {column} FROM twins WHERE source = '{}')", other.digest))
            .collect();
        let update = format!("UPDATE twins SET {} WHERE source = '{}'", set.join(", "), layer.digest);
        self.proxy.sql(&update).unwrap();
    }

    fn pull(&self, image: &str) -> anyhow::Result<String> {
        let reference = format!("{}/{REPOSITORY}@{image}", self.at());
        self.bench.containerd.pull_lazily(Snapshotter::NAME, &reference)
    }
}

/// What nobody reads comes in the background, is proven to be the image's own tar, and then needs neither proxy nor network, also
/// after a restart.
#[test]
fn an_image_comes_and_is_proven() {
    if !is_root() {
        return skip("an_image_comes_and_is_proven", "not root");
    }
    let mut world = World::start();
    let (reference, _) = world.pinned("library/python");
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.wait_proven();
    let begun = Moment::now();
    world.bench.containerd.pull_with(ORDINARY, &reference).unwrap();
    assert!(world.proxy.proc().stop().unwrap(), "{}", world.proxy.log());
    world.bench.kill_and_start();
    drop_caches().unwrap();
    let ours = world.bench.tree(Snapshotter::NAME, &top_of(&world.bench, Snapshotter::NAME)).unwrap();
    let theirs = world.bench.tree(ORDINARY, &top_of(&world.bench, ORDINARY)).unwrap();
    begun.assert_same(&theirs, &ours).unwrap();
    let log = world.bench.snapshotter.log();
    assert!(!log.contains("tried again") && !log.contains("panicked"), "{log}");
}

/// A manifest of an attacker's layer and the genuine image's config is not pulled, and leaves nothing that the genuine image,
/// pulled after it, would be given.
#[test]
fn a_genuine_config_opens_no_door_to_another_layer() {
    if !is_root() {
        return skip("a_genuine_config_opens_no_door_to_another_layer", "not root");
    }
    let world = World::empty();
    let (genuine, evil) = (world.layer(GENUINE), world.layer(EVIL));
    let image = push::image(&world.registry, REPOSITORY, "genuine", std::slice::from_ref(&genuine));
    let config = push::config(&world.registry, REPOSITORY, std::slice::from_ref(&genuine));
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [evil.descriptor()]});
    let poisoned = push::manifest(&world.registry, REPOSITORY, "evil", MANIFEST, &document);
    let refused = format!("{:#}", world.pull(&poisoned).unwrap_err());
    assert!(refused.contains("diff id"), "{refused}");
    world.bench.wait_log("chain_mismatch");
    world.pull(&image).unwrap();
    assert_eq!(world.program(&genuine.diff_id).unwrap(), e2e::digest(GENUINE));
}

/// A proxy whose catalog was tampered with: what the chain shows is not mounted, and what only the bytes show is shown no longer
/// once they are here.
#[test]
fn an_altered_twin_is_found_out() {
    if !is_root() {
        return skip("an_altered_twin_is_found_out", "not root");
    }
    let world = World::empty();
    let (genuine, evil) = (world.layer(GENUINE), world.layer(EVIL));
    let image = push::image(&world.registry, REPOSITORY, "genuine", std::slice::from_ref(&genuine));
    let other = push::image(&world.registry, REPOSITORY, "evil", std::slice::from_ref(&evil));
    world.convert(&image);
    world.convert(&other);
    world.tamper(&genuine, &evil, &[&WHAT_IT_IS[..], &["tail"]].concat());
    world.pull(&image).unwrap();
    assert_eq!(world.program(&genuine.diff_id).unwrap(), e2e::digest(EVIL), "until it is proven the proxy is trusted");
    world.bench.ctr(&["prepare", "early", &genuine.diff_id]).unwrap();
    let early = world.bench.mount("early");
    let read = || std::fs::read(early.join("program"));
    assert_eq!(read().unwrap(), EVIL);
    world.bench.wait_log("nothing of it is shown any more");
    // Also what the kernel has in its cache.
    wait::until("the end of what was shown", LIMIT, || Ok(read().is_err().then_some(()))).unwrap();
    assert_eq!(read().unwrap_err().raw_os_error(), Some(5));
    // And nobody new may begin on it.
    assert!(world.program(&genuine.diff_id).is_err());

    // It is not mounted a second time, under another image.
    let below = world.layer(b"below");
    world.pull(&push::image(&world.registry, REPOSITORY, "again", &[below.clone(), genuine.clone()])).unwrap();
    world.bench.wait_log("reason=\"refused\"");
    let top = Digest::of(format!("{} {}", below.diff_id, genuine.diff_id).as_bytes()).to_string();
    assert_eq!(world.program(&top).unwrap(), e2e::digest(GENUINE));

    // Told what the proxy measured, the snapshotter does not even begin.
    let third = world.layer(b"third");
    let image = push::image(&world.registry, REPOSITORY, "third", std::slice::from_ref(&third));
    world.convert(&image);
    let update =
        format!("UPDATE twins SET source_diff_id = '{}' WHERE source = '{}'", Digest::of(b"another"), third.digest);
    world.proxy.sql(&update).unwrap();
    world.pull(&image).unwrap();
    world.bench.wait_log("chain_mismatch");
    assert_eq!(world.program(&third.diff_id).unwrap(), e2e::digest(b"third"));
}

/// Also where another layer has all that the altered twin says: what others lend hides no lie.
#[test]
fn an_altered_twin_of_lent_chunks_is_found_out() {
    if !is_root() {
        return skip("an_altered_twin_of_lent_chunks_is_found_out", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '0s'\n");
    let large = e2e::noise(3, 5 << 20);
    let plain = Tar::new().dir("./").file("./program", &large).file("./more", b"").end();
    let lender = push::layer(&world.registry, REPOSITORY, GZIP, Bytes::from(gzip(&plain)), e2e::digest(&plain));
    let (genuine, evil) = (world.layer(GENUINE), world.layer(&large));
    let [lending, image, _] = [("lender", &lender), ("genuine", &genuine), ("evil", &evil)].map(|(tag, layer)| {
        let image = push::image(&world.registry, REPOSITORY, tag, std::slice::from_ref(layer));
        world.convert(&image);
        image
    });
    world.tamper(&genuine, &evil, &[&WHAT_IT_IS[..], &["tail"]].concat());
    world.pull(&lending).unwrap();
    world.wait_proven();
    world.pull(&image).unwrap();
    world.bench.wait_log("nothing of it is shown any more");
    assert!(world.bench.snapshotter.log().contains("fetched again"), "{}", world.bench.snapshotter.log());
}

/// Where nothing is to be mounted unproven, all of a layer comes first, and what is refused is unpacked in the ordinary way.
#[test]
fn nothing_unproven_is_mounted_where_that_is_said() {
    if !is_root() {
        return skip("nothing_unproven_is_mounted_where_that_is_said", "not root");
    }
    let world = World::around(World::bare(), "require_proof = true\nfill_after = '1h'\n");
    let (genuine, evil, altered) = (world.layer(GENUINE), world.layer(EVIL), world.layer(b"altered"));
    for layer in [&genuine, &evil, &altered] {
        let image = push::image(&world.registry, REPOSITORY, "latest", std::slice::from_ref(layer));
        world.convert(&image);
    }
    world.tamper(&altered, &evil, &[&WHAT_IT_IS[..], &["tail"]].concat());
    world.pull(&push::image(&world.registry, REPOSITORY, "latest", std::slice::from_ref(&genuine))).unwrap();
    world.bench.wait_log("a layer is here, proven and mounted");
    assert_eq!(world.program(&genuine.diff_id).unwrap(), e2e::digest(GENUINE));
    world.pull(&push::image(&world.registry, REPOSITORY, "latest", std::slice::from_ref(&altered))).unwrap();
    world.bench.wait_log("reason=\"refused\"");
    assert_eq!(world.program(&altered.diff_id).unwrap(), e2e::digest(b"altered"));
    assert!(!world.bench.snapshotter.log().contains("before it is here"), "{}", world.bench.snapshotter.log());
}

/// A proxy that tells a twin without a layer's last entries, and these as what its tar ends with: the tar is the image's own, the
/// tree is not.
#[test]
fn an_end_that_hides_entries_is_found_out() {
    if !is_root() {
        return skip("an_end_that_hides_entries_is_found_out", "not root");
    }
    let world = World::empty();
    let begun = || Tar::new().dir("./").file("./program", GENUINE);
    let end = Tar::new().file("./hidden", b"").end();
    let [genuine, shorter] = [begun().raw(&end).open(), begun().end()]
        .map(|plain| push::layer(&world.registry, REPOSITORY, GZIP, Bytes::from(gzip(&plain)), e2e::digest(&plain)));
    let image = push::image(&world.registry, REPOSITORY, "genuine", std::slice::from_ref(&genuine));
    let other = push::image(&world.registry, REPOSITORY, "shorter", std::slice::from_ref(&shorter));
    world.convert(&image);
    world.convert(&other);
    world.tamper(&genuine, &shorter, &WHAT_IT_IS);
    let hex: String = end.iter().map(|byte| format!("{byte:02x}")).collect();
    let tail = json!({"bytes": hex});
    world.proxy.sql(&format!("UPDATE twins SET tail = '{tail}' WHERE source = '{}'", genuine.digest)).unwrap();
    world.pull(&image).unwrap();
    world.bench.wait_log("the existence of /hidden");
    world.bench.wait_log("nothing of it is shown any more");
    assert!(world.program(&genuine.diff_id).is_err());

    // Nor is it asked of anybody to hash zeros for hours.
    let endless = world.layer(b"endless");
    let image = push::image(&world.registry, REPOSITORY, "endless", std::slice::from_ref(&endless));
    world.convert(&image);
    let tail = json!({"zeros": 1_u64 << 50});
    world.proxy.sql(&format!("UPDATE twins SET tail = '{tail}' WHERE source = '{}'", endless.digest)).unwrap();
    world.pull(&image).unwrap();
    world.bench.wait_log("reason=\"tail\"");
    assert_eq!(world.program(&endless.diff_id).unwrap(), e2e::digest(b"endless"));
}

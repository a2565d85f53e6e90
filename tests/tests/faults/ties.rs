//! A store and its catalog belong together: with any other, nothing is served, recorded or removed.

use std::fs;
use std::path::Path;

use e2e::Scratch;

use crate::layer::noise;
use crate::push::{Blob, TAR};
use crate::world::World;

/// The two folders of a store.
const FOLDERS: [&str; 2] = ["blobs", "meta"];

/// Starts a proxy that stores one layer, and ends it.
fn stored(seed: u64) -> World {
    let mut world = World::linked(vec![Blob::new(TAR, noise(seed, 1 << 20))]);
    world.check_layer();
    world.wait("the fill to end", || world.metric("firstlight_fills_running") == 0.0);
    world.stage.relay.stop();
    assert!(world.stage.proxy.proc().stop().unwrap(), "{}", world.stage.proxy.log());
    world
}

impl World {
    fn check_layer(&self) {
        let answer = self.get(&self.path(0));
        assert_eq!((answer.status.as_u16(), e2e::digest(&answer.body)), (200, self.layer().digest.clone()));
    }

    /// Checks that nothing can be done with store and catalog as they are, and that all say why.
    fn check_refused(&mut self, why: &str) {
        let image = format!("team/a@{}", self.image.digest);
        for command in [&["gc"][..], &["pin", "add", &image], &["pin", "remove", &image]] {
            let said = format!("{:#}", self.stage.proxy.run(command).unwrap_err());
            assert!(said.contains(why), "{command:?}: {said}");
        }
        self.check_no_start(why);
    }

    fn check_no_start(&mut self, why: &str) {
        let error = self.stage.proxy.start_again().unwrap_err();
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
}

fn move_store(from: &Path, to: &Path) {
    for folder in FOLDERS {
        fs::rename(from.join(folder), to.join(folder)).unwrap();
    }
}

#[test]
fn a_store_is_used_with_its_own_catalog_only() {
    let (mut world, mut other) = (stored(140), stored(141));
    let aside = Scratch::new().unwrap();
    let (store, others) = (world.stage.proxy.store(), other.stage.proxy.store());

    // As when a bucket or a prefix is mixed up.
    move_store(&store, aside.path());
    move_store(&others, &store);
    world.check_refused("belongs to another catalog");
    let error = world.stage.proxy.run(&["catalog", "rebuild", "--merge"]).unwrap_err();
    assert!(format!("{error:#}").contains("belongs to another catalog"), "{error:#}");
    // Nothing of it was touched.
    move_store(&store, &others);
    other.stage.proxy.start_again().unwrap();
    other.check_layer();

    // As when a folder is not mounted.
    world.check_refused("is the right folder mounted");
    for folder in FOLDERS {
        // Opening a store makes what it lacks.
        fs::remove_dir_all(store.join(folder)).unwrap();
    }
    move_store(aside.path(), &store);
    world.stage.proxy.start_again().unwrap();
    world.check_layer();
}

#[test]
fn a_store_may_begin_anew_and_a_lost_catalog_comes_back() {
    let mut world = stored(142);
    let store = world.stage.proxy.store();
    for folder in FOLDERS {
        fs::remove_dir_all(store.join(folder)).unwrap();
    }
    world.check_refused("`firstlight catalog tie`");
    world.stage.proxy.run(&["catalog", "tie"]).unwrap();
    world.stage.relay.resume().unwrap();
    world.stage.proxy.start_again().unwrap();
    world.check_layer();
    world.link();
    world.wait("the fill to end", || world.metric("firstlight_fills_running") == 0.0);
    world.stage.relay.stop();
    assert!(world.stage.proxy.proc().stop().unwrap(), "{}", world.stage.proxy.log());

    for entry in fs::read_dir(&store).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("catalog.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    world.check_no_start("the catalog is new");
    world.stage.proxy.run(&["catalog", "rebuild"]).unwrap();
    world.stage.proxy.start_again().unwrap();
    world.check_layer();
}

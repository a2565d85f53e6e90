//! What is asked of the network, and what is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Snapshotter, drop_caches, is_root, run, skip, wait};

use crate::bench::{self, Bench};
use crate::endurance::{read, right};
use crate::lazy::{BULKY, World};
use crate::push;
use crate::tar::Tar;
use crate::trees::top_of;

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A second namespace that pulls what the first one has asks nobody for anything.
#[test]
fn what_is_known_is_asked_of_nobody() {
    if !is_root() {
        return skip("what_is_known_is_asked_of_nobody", "not root");
    }
    let (world, reference) = World::bulky("");
    // The proxy is told of what is held, whoever pulls.
    let asked = || {
        let seen = world.relay.seen();
        let ours = |path: &str| path.contains("/_firstlight/") && !path.contains("/holds") || path.contains("/blobs/");
        let asked = seen.iter().filter(|seen| ours(&seen.path) && seen.status != 404);
        asked.map(|seen| seen.path.clone()).collect::<Vec<_>>()
    };
    let before = asked();
    assert!(
        ["/_firstlight/toc/", "/_firstlight/l"].iter().all(|path| before.iter().any(|asked| asked.contains(path))),
        "{before:?}"
    );
    let mut pull = world.bench.containerd.ctr_remote();
    pull.args(["-n", "k8s.io", "images", "rpull", "--plain-http", "--snapshotter", Snapshotter::NAME, &reference]);
    run(&mut pull).unwrap();
    assert_eq!(asked(), before, "{}", world.bench.snapshotter.log());
    world.assert_lazy();
}

/// Many that read the same files at once, from the front and from the back, have everything fetched once.
#[test]
fn what_many_read_is_fetched_once() {
    if !is_root() {
        return skip("what_many_read_is_fetched_once", "not root");
    }
    let (world, _) = World::bulky("");
    world.bench.ctr(&["prepare", "many", &top_of(&world.bench, Snapshotter::NAME)]).unwrap();
    let mounted = world.bench.mount("many");
    let before = world.relay.bytes("/blobs/");
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let read = |number: u64| {
                let found = std::fs::read(mounted.join(&format!("bulk/{number}"))).unwrap();
                assert!(found == e2e::noise(number, 1 << 20), "{number}");
            };
            scope.spawn(move || match reader % 2 {
                0 => (0..100).for_each(read),
                _ => (0..100).rev().for_each(read),
            });
        }
    });
    let fetched = world.relay.bytes("/blobs/") - before;
    assert!((100 << 20..110 << 20).contains(&fetched), "{fetched} bytes");
    drop(mounted);
    world.bench.ctr(&["rm", "many"]).unwrap();
}

/// A disk that gets full has less brought in the background, and everything that is read.
#[test]
fn a_full_disk_takes_what_is_read() {
    const DISK: u64 = 96 << 20;
    if !is_root() {
        return skip("a_full_disk_takes_what_is_read", "not root");
    }
    let world = World::on_disk(World::bare(), Some(DISK), "fill_after = '0s'\n");
    world.push_bulky();
    let (reference, _) = world.pinned(BULKY);
    let Bench { containerd, snapshotter, .. } = &world.bench;
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.bench.wait_log("only what is read of a layer is fetched");
    let free = || {
        let disk = rustix::fs::statvfs(snapshotter.layers()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    assert!((DISK / 11..DISK / 2).contains(&free()), "{} bytes", free());
    assert_eq!(read(containerd, &reference, 0, 100).unwrap(), right(0, 100), "{}", snapshotter.log());
    drop_caches().unwrap();
    assert_eq!(read(containerd, &reference, 0, 100).unwrap(), right(0, 100), "{}", snapshotter.log());
}

/// After a restart of the machine what is here is mounted without a proxy, though the TOC of another layer is damaged; and that one
/// is read when the proxy is back.
#[test]
fn a_reboot_needs_no_network() {
    if !is_root() {
        return skip("a_reboot_needs_no_network", "not root");
    }
    let mut world = World::around(World::bare(), "fill_after = '0s'\n");
    world.registry.push("python", BULKY, "latest").unwrap();
    let (reference, _) = world.pinned(BULKY);
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.wait_proven();
    // An image of one small layer, to be damaged.
    let plain = Tar::new().file("small", b"some bytes").end();
    let layer = push::layer(&world.registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
    let small = push::image(&world.registry, BULKY, "small", std::slice::from_ref(&layer));
    let known = layers(&world);
    let pulled = format!("{}/{BULKY}@{small}", world.at());
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &pulled).unwrap();
    world.wait_proven();
    let new: Vec<_> = layers(&world).into_iter().filter(|folder| !known.contains(folder)).collect();
    let [damaged] = &new[..] else { panic!("{new:?}") };

    world.relay.stop();
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    snapshotter.reboot(|| std::fs::write(damaged.join("toc.zst"), b"damaged").unwrap()).unwrap();
    bench::wait_found(containerd);
    drop_caches().unwrap();
    let said = containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", snapshotter.log());
    relay.resume().unwrap();
    let tree = || Ok(world.bench.tree(Snapshotter::NAME, &layer.diff_id).ok());
    let tree = wait::until("the small layer", LIMIT, tree).unwrap();
    assert!(tree.entries.contains_key(Path::new("small")), "{tree:?}");
}

fn layers(world: &World) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(world.bench.snapshotter.layers()).unwrap();
    folders.map(|folder| folder.unwrap().path()).collect()
}

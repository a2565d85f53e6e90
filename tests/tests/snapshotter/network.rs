//! What is asked of the network, and what is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Fault, Rule, Snapshotter, drop_caches, is_root, run, skip, wait};

use crate::bench::{self, Bench, Mounted};
use crate::content;
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
    let mounted = &prepare(&world, "many");
    let before = world.relay.bytes("/blobs/");
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let read = |number| assert!(read_bulk(mounted, number), "{number}");
            scope.spawn(move || match reader % 2 {
                0 => (0..100).for_each(read),
                _ => (0..100).rev().for_each(read),
            });
        }
    });
    let fetched = world.relay.bytes("/blobs/") - before;
    assert!((100 << 20..110 << 20).contains(&fetched), "{fetched} bytes");
}

/// What a layer of another image has on the disk is not fetched again for one that has the same file among others: neither for who
/// reads it nor in the background, but for the file's end.
#[test]
fn what_another_layer_has_is_not_fetched() {
    const SIZE: usize = 8 << 20;
    if !is_root() {
        return skip("what_another_layer_has_is_not_fetched", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '0s'\n");
    let pull = |tag: &str, own: &[u8], layers: usize| {
        let plain = Tar::new().file(&format!("own-{tag}"), own).file("same", &e2e::noise(7, SIZE)).file("z", own).end();
        let layer = push::layer(&world.registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
        let image = push::image(&world.registry, BULKY, tag, std::slice::from_ref(&layer));
        world.proxy.wait_twins(BULKY, &image).unwrap();
        let before = world.relay.bytes("/blobs/");
        world.bench.containerd.pull_lazily(Snapshotter::NAME, &format!("{}/{BULKY}@{image}", world.at())).unwrap();
        let proven = || {
            let status = world.bench.snapshotter.status()?;
            let known = status["images"][0]["layers"].as_array().cloned().unwrap_or_default();
            let is_proven = known.iter().filter(|layer| layer["proof"] == "proven").count() == layers;
            Ok(is_proven.then(|| status["reads"]["copied_bytes"].as_u64()))
        };
        let copied = wait::until("the proof", LIMIT, proven).unwrap().unwrap();
        (layer, world.relay.bytes("/blobs/") - before, copied)
    };
    let (_, fetched, copied) = pull("one", b"of the first", 1);
    assert!(fetched > SIZE as u64 && copied == 0, "{fetched} bytes, {copied} copied");
    let (layer, fetched, copied) = pull("two", b"of the second, which is longer", 2);
    assert!(fetched < 2 << 20, "{fetched} bytes");
    assert!(copied >= SIZE as u64 - (1 << 20), "{copied} bytes");
    world.bench.ctr(&["prepare", "reader", &layer.diff_id]).unwrap();
    let mounted = world.bench.mount("reader");
    assert!(std::fs::read(mounted.join("same")).unwrap() == e2e::noise(7, SIZE));
    assert_eq!(std::fs::read(mounted.join("z")).unwrap(), b"of the second, which is longer");
}

/// What is read in order comes in requests that grow.
#[test]
fn what_is_read_in_order_comes_in_few_requests() {
    if !is_root() {
        return skip("what_is_read_in_order_comes_in_few_requests", "not root");
    }
    let (world, _) = World::bulky("");
    let mounted = prepare(&world, "reader");
    let before = world.relay.seen_at("/blobs/").len();
    for number in 0..100 {
        assert!(read_bulk(&mounted, number), "{number}");
    }
    let requests = world.relay.seen_at("/blobs/").len() - before;
    assert!(requests <= 30, "{requests} requests for 100 files of a mebibyte");
}

/// The TOCs of all layers are asked for at the first one: none waits for another.
#[test]
fn the_tocs_come_side_by_side() {
    if !is_root() {
        return skip("the_tocs_come_side_by_side", "not root");
    }
    let world = World::start_with("fill_after = '1h'\n");
    let (reference, _) = world.pinned("library/python");
    world.relay.add(Rule::new("/_firstlight/toc/", Fault::Throttle(40_000)));
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference));
        let asked = || Ok((world.relay.seen_at("/_firstlight/toc/").len() == 6).then_some(()));
        wait::until("a request for each TOC", LIMIT, asked).unwrap();
        let log = world.bench.snapshotter.log();
        assert!(!log.contains("before it is here"), "{log}");
        pull.join().unwrap().unwrap();
    });
    world.assert_lazy();
}

/// TOCs that nobody waits for any more come nevertheless, or again.
#[test]
fn tocs_of_a_pull_that_is_given_up_do_not_hinder_the_next() {
    if !is_root() {
        return skip("tocs_of_a_pull_that_is_given_up_do_not_hinder_the_next", "not root");
    }
    let world = World::start_with("fill_after = '1h'\n");
    let (reference, _) = world.pinned("library/python");
    let tocs = || world.relay.seen_at("/_firstlight/toc/").len();
    world.relay.add(Rule::new("/_firstlight/toc/", Fault::Throttle(40_000)));
    content::give_up(&world, &reference, || tocs() == 6);
    world.relay.clear();
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.assert_lazy();
    assert!(tocs() <= 12, "{}", tocs());
    let said = world.bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", world.bench.snapshotter.log());
}

/// While somebody waits for bytes of one layer, nothing of another one is begun in the background.
#[test]
fn who_waits_comes_first() {
    /// What of its own and what was under way before comes nevertheless.
    const MOST: usize = 2;
    if !is_root() {
        return skip("who_waits_comes_first", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '0s'\n");
    world.push_bulky();
    let (reference, _) = world.pinned(BULKY);
    world.relay.add(Rule::new("/blobs/", Fault::Throttle(4_000_000)));
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let mounted = prepare(&world, "reader");
    let background = || Ok((world.bench.snapshotter.status()?["reads"]["background_bytes"] != 0).then_some(()));
    wait::until("the background", LIMIT, background).unwrap();
    let before = world.relay.seen().len();
    // Backwards: what is read next is not on its way already.
    for number in (0..20).rev() {
        assert!(read_bulk(&mounted, number), "{number}");
    }
    let seen: Vec<_> = world.relay.seen().split_off(before);
    let blobs: Vec<&str> = seen.iter().filter(|seen| seen.path.contains("/blobs/")).map(|seen| &*seen.path).collect();
    let read = blobs.iter().max_by_key(|path| blobs.iter().filter(|other| other == path).count()).unwrap();
    let others = blobs.iter().filter(|path| *path != read).count();
    assert!(blobs.len() > 3 * MOST && others <= MOST, "{blobs:#?}");
}

/// Returns a mount of a new snapshot on the image that was pulled.
fn prepare(world: &World, key: &str) -> Mounted {
    world.bench.ctr(&["prepare", key, &top_of(&world.bench, Snapshotter::NAME)]).unwrap();
    world.bench.mount(key)
}

/// Tells whether a file of the bulky layer is right.
fn read_bulk(mounted: &Mounted, number: u64) -> bool {
    std::fs::read(mounted.join(&format!("bulk/{number}"))).unwrap() == e2e::noise(number, 1 << 20)
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

/// And so is a layer that is not all here: what is missing comes when it is read.
#[test]
fn after_a_reboot_the_rest_is_lazy() {
    if !is_root() {
        return skip("after_a_reboot_the_rest_is_lazy", "not root");
    }
    let (mut world, reference) = World::warm("");
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    // What is here is noted when it ends.
    snapshotter.restart().unwrap();
    snapshotter.reboot(|| ()).unwrap();
    bench::wait_found(containerd);
    drop_caches().unwrap();
    let before = relay.bytes("/blobs/");
    assert_eq!(read(containerd, &reference, 0, 1).unwrap(), right(0, 1), "{}", snapshotter.log());
    assert_eq!(relay.bytes("/blobs/"), before, "what was here is fetched again");
    assert_eq!(read(containerd, &reference, 50, 52).unwrap(), right(50, 52), "{}", snapshotter.log());
    let fetched = relay.bytes("/blobs/") - before;
    assert!((1..10 << 20).contains(&fetched), "{fetched} bytes");
}

fn layers(world: &World) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(world.bench.snapshotter.layers()).unwrap();
    folders.map(|folder| folder.unwrap().path()).collect()
}

//! Readers outlive the snapshotter, the proxy and what lies between, wrong bytes and a small disk.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::{Containerd, Fault, Rule, Scratch, Snapshotter, drop_caches, is_root, keep_caches, skip, wait};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::bench::{self, Bench};
use crate::lazy::{BULKY, World};
use crate::trees::top_of;

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the kernel forgets.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// What a reader does: it reads files of the bulky layer one after the other, and says what they hold or what went wrong.
const READ: &str = "
import hashlib, sys
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    try:
        print(number, hashlib.sha256(open(f'/bulk/{number}', 'rb').read()).hexdigest(), flush=True)
    except OSError as error:
        print(number, error.errno, flush=True)
";

impl World {
    /// Starts a world with the bulky image, pulled, of which nothing is fetched that nobody reads.
    pub(crate) fn bulky(config: &str) -> (Self, String) {
        let world = Self::around(Self::bare(), &format!("fill_after = '1h'\n{config}"));
        world.push_bulky();
        let (reference, _) = world.pinned(BULKY);
        world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
        (world, reference)
    }

    /// Starts a bulky world in which a reader has run: what that itself needs is here, and the first file.
    pub(crate) fn warm(config: &str) -> (Self, String) {
        let (world, reference) = Self::bulky(config);
        let Bench { containerd, snapshotter, .. } = &world.bench;
        assert_eq!(read(containerd, &reference, 0, 1).unwrap(), right(0, 1), "{}", snapshotter.log());
        (world, reference)
    }
}

/// Runs a reader of the files `from` to `to`.
pub(crate) fn read(containerd: &Containerd, reference: &str, from: u32, to: u32) -> anyhow::Result<String> {
    let arguments = ["python3", "-c", READ, &from.to_string(), &to.to_string()];
    containerd.run_with(Snapshotter::NAME, reference, &arguments)
}

fn until(what: &str, snapshotter: &Snapshotter, mut done: impl FnMut() -> bool) {
    if let Err(error) = wait::until(what, LIMIT, || Ok(done().then_some(()))) {
        panic!("{error}\n{}", snapshotter.log());
    }
}

/// Returns what a reader says that reads everything rightly.
pub(crate) fn right(from: u32, to: u32) -> String {
    let line = |number: u32| {
        let digest = e2e::digest(&e2e::noise(number.into(), 1 << 20));
        format!("{number} {}", digest.trim_start_matches("sha256:"))
    };
    (from..to).map(line).collect::<Vec<_>>().join("\n")
}

/// Killed and restarted again and again under a container that reads what is not here yet, the snapshotter goes on where it was: no read fails.
#[test]
fn a_reader_outlives_its_snapshotter() {
    if !is_root() {
        return skip("a_reader_outlives_its_snapshotter", "not root");
    }
    let (mut world, reference) = World::bulky("");
    world.relay.add(Rule::new("/blobs/", Fault::Throttle(8_000_000)));
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    let said = Mutex::new(None);
    let (least, most) = std::thread::scope(|scope| {
        let reader = Arc::new(scope.spawn(|| *said.lock().unwrap() = Some(read(containerd, &reference, 0, 60))));
        let reads = Arc::clone(&reader);
        scope.spawn(move || {
            while !reads.is_finished() {
                drop_caches().unwrap();
                let begun = Instant::now();
                let is_over = || Ok((begun.elapsed() >= FORGET_EVERY || reads.is_finished()).then_some(()));
                wait::until("a second", LIMIT, is_over).unwrap();
            }
        });
        // What had been sent before the last of the five began, at least and at most.
        let (mut least, mut most) = (0, 0);
        for kill in 1..=4 {
            let before = relay.bytes("/blobs/");
            until("bytes on their way", snapshotter, || relay.bytes("/blobs/") > before + 2_000_000);
            assert!(!reader.is_finished(), "the reader has ended before kill {kill}\n{}", snapshotter.log());
            least = relay.bytes("/blobs/");
            match kill {
                4 => snapshotter.restart().unwrap(),
                _ => snapshotter.kill_and_start().unwrap(),
            }
            most = relay.bytes("/blobs/");
        }
        until("the reader's end", snapshotter, || reader.is_finished());
        (least, most)
    });
    let said = said.into_inner().unwrap().unwrap();
    assert_eq!(said.unwrap_or_else(|error| panic!("{error:#}\n{}", snapshotter.log())), right(0, 60));
    let log = snapshotter.log();
    assert_eq!(log.matches("going on with what is mounted").count(), 4, "{log}");
    let counted = || {
        let reads = snapshotter.status()?["reads"].clone();
        // It has counted what was sent to it.
        let all = relay.bytes("/blobs/");
        let is_right = reads["demand_bytes"].as_u64().is_some_and(|bytes| (all - most..=all - least).contains(&bytes));
        assert_eq!((&reads["failed"], &reads["background_bytes"]), (&0.into(), &0.into()));
        Ok((is_right && reads["stalled"].as_u64() > Some(0)).then_some(()))
    };
    wait::until("the counters", LIMIT, counted).unwrap();
}

/// Where no snapshotter comes back, readers get an error and are not stuck; when one does, everything can be read again, also by
/// who was there before.
#[test]
fn nobody_waits_for_ever() {
    if !is_root() {
        return skip("nobody_waits_for_ever", "not root");
    }
    let (mut world, reference) = World::bulky("restart_grace = '1s'\n");
    world.bench.ctr(&["prepare", "before", &top_of(&world.bench, Snapshotter::NAME)]).unwrap();
    let before_it = world.bench.mount("before");
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    let caches = keep_caches();
    // What the reader itself needs is here after this.
    assert_eq!(read(containerd, &reference, 0, 1).unwrap(), right(0, 1), "{}", snapshotter.log());
    relay.add(Rule::new("/blobs/", Fault::Throttle(4_000_000)));
    let before = relay.bytes("/blobs/");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(containerd, &reference, 0, 60));
        until("bytes on their way", snapshotter, || relay.bytes("/blobs/") > before + 2_000_000);
        snapshotter.kill().unwrap();
        until("the holder's patience", snapshotter, || snapshotter.log().contains("no snapshotter came back"));
        // It runs on, and says so of every file that was not here: errno 5 is EIO.
        let said = reader.join().unwrap().unwrap_or_else(|error| panic!("{error:#}\n{}", snapshotter.log()));
        let (failed, read): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.ends_with(" 5"));
        let right = right(0, 60);
        assert!(!failed.is_empty() && read.iter().all(|line| right.contains(line)), "{said}");
        assert_eq!(failed.len() + read.len(), 60, "{said}");
        assert_eq!(std::fs::read(before_it.join("bulk/99")).unwrap_err().raw_os_error(), Some(5));
    });
    drop(caches);
    relay.clear();
    snapshotter.start_again().unwrap();
    bench::wait_found(containerd);
    assert_eq!(read(containerd, &reference, 0, 60).unwrap(), right(0, 60), "{}", snapshotter.log());
    assert!(std::fs::read(before_it.join("bulk/99")).unwrap() == e2e::noise(99, 1 << 20));
}

/// A holder that was killed is no loss, once there is another one.
#[test]
fn another_holder_keeps_what_is_mounted() {
    if !is_root() {
        return skip("another_holder_keeps_what_is_mounted", "not root");
    }
    let (mut world, _) = World::bulky("");
    world.bench.ctr(&["prepare", "before", &top_of(&world.bench, Snapshotter::NAME)]).unwrap();
    let mounted = world.bench.mount("before");
    let right = |number| std::fs::read(mounted.join(&format!("bulk/{number}"))).unwrap() == e2e::noise(number, 1 << 20);
    assert!(right(1));
    world.bench.snapshotter.replace_holder().unwrap();
    world.bench.wait_log("a holder keeps what is mounted from now on");
    assert!(right(20));
    world.bench.kill_and_start();
    assert!(world.bench.snapshotter.log().contains("going on with what is mounted"));
    assert!(right(40));
}

/// A mount that was aborted is no mount: the snapshotter says so and ends, and the next one mounts it anew and leaves the other.
#[test]
fn an_aborted_mount_is_made_anew() {
    if !is_root() {
        return skip("an_aborted_mount_is_made_anew", "not root");
    }
    let (mut world, reference) = World::warm("");
    let World { bench: Bench { containerd, snapshotter, .. }, .. } = &mut world;
    let device = std::fs::metadata(snapshotter.layers().with_file_name("bare")).unwrap().dev();
    let control = Scratch::new().unwrap();
    rustix::mount::mount("fusectl", control.path(), "fusectl", MountFlags::empty(), None).unwrap();
    std::fs::write(control.join(&format!("{}/abort", rustix::fs::minor(device))), "1").unwrap();
    rustix::mount::unmount(control.path(), UnmountFlags::DETACH).unwrap();
    let ended = || Ok((!snapshotter.proc().is_running()).then_some(()));
    wait::until("the end of the snapshotter", LIMIT, ended).unwrap();
    snapshotter.start_again().unwrap();
    bench::wait_found(containerd);
    assert_eq!(read(containerd, &reference, 0, 2).unwrap(), right(0, 2), "{}", snapshotter.log());
    let log = snapshotter.log();
    let mounted =
        |place: &str| log.lines().filter(|line| line.contains(" mounted at=") && line.ends_with(place)).count();
    assert_eq!((mounted("/lazy"), mounted("/bare")), (1, 2), "{log}");
}

/// A proxy that is killed under a reader and stays away for 20 s costs it time and nothing else.
#[test]
fn a_proxy_that_is_away_is_waited_for() {
    if !is_root() {
        return skip("a_proxy_that_is_away_is_waited_for", "not root");
    }
    let (mut world, reference) = World::bulky("");
    let World { bench: Bench { containerd, snapshotter, .. }, proxy, relay, .. } = &mut world;
    relay.add(Rule::new("/blobs/", Fault::Throttle(8_000_000)));
    std::thread::scope(|scope| {
        let before = relay.bytes("/blobs/");
        let reader = scope.spawn(|| read(containerd, &reference, 0, 40));
        until("bytes on their way", snapshotter, || relay.bytes("/blobs/") > before + 8_000_000);
        proxy.kill().unwrap();
        let away = Instant::now();
        until("20 seconds", snapshotter, || away.elapsed() >= Duration::from_secs(20));
        assert!(!reader.is_finished() && snapshotter.log().contains("tried again"), "{}", snapshotter.log());
        proxy.start_again().unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), right(0, 40), "{}", snapshotter.log());
        // And so does one that keeps its connections and says nothing, for longer than anybody waits for the next byte.
        let before = relay.bytes("/blobs/");
        let reader = scope.spawn(|| read(containerd, &reference, 40, 60));
        until("bytes on their way", snapshotter, || relay.bytes("/blobs/") > before + 4_000_000);
        let tried = snapshotter.log().matches("tried again").count();
        proxy.freeze().unwrap();
        until("another try", snapshotter, || snapshotter.log().matches("tried again").count() > tried);
        proxy.thaw().unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), right(40, 60), "{}", snapshotter.log());
    });
}

/// Where no proxy comes back in time a read fails, that one alone; and it works again with the proxy.
#[test]
fn a_read_that_is_not_served_in_time_fails_alone() {
    if !is_root() {
        return skip("a_read_that_is_not_served_in_time_fails_alone", "not root");
    }
    let (mut world, reference) = World::bulky("read_timeout = '2s'\n");
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    let caches = keep_caches();
    // What the reader itself needs is here after this.
    assert_eq!(read(containerd, &reference, 0, 2).unwrap(), right(0, 2), "{}", snapshotter.log());
    relay.stop();
    // errno 5 is EIO.
    assert_eq!(read(containerd, &reference, 50, 52).unwrap(), "50 5\n51 5", "{}", snapshotter.log());
    assert_eq!(read(containerd, &reference, 0, 2).unwrap(), right(0, 2), "{}", snapshotter.log());
    drop(caches);
    relay.resume().unwrap();
    assert_eq!(read(containerd, &reference, 50, 52).unwrap(), right(50, 52), "{}", snapshotter.log());
}

/// A twin that the proxy has evicted is made again, however short the patience with one that does not answer; who is told to come
/// back later does.
#[test]
fn an_evicted_twin_is_waited_for() {
    if !is_root() {
        return skip("an_evicted_twin_is_waited_for", "not root");
    }
    let (mut world, reference) = World::warm("read_timeout = '1s'\n");
    let World { bench: Bench { containerd, snapshotter, .. }, proxy, relay, .. } = &mut world;
    let later = Fault::Status(503, vec![("retry-after".to_owned(), "1".to_owned())]);
    relay.add(Rule::new("/blobs/", later).times(6));
    assert_eq!(read(containerd, &reference, 30, 31).unwrap(), right(30, 31), "{}", snapshotter.log());
    assert!(snapshotter.log().matches("tried again").count() >= 6, "{}", snapshotter.log());

    // A hold keeps it for an hour.
    proxy.sql("DELETE FROM holds").unwrap();
    proxy.kill().unwrap();
    let limits = [("FIRSTLIGHT_CACHE_MAX_AGE", "1s"), ("FIRSTLIGHT_CACHE_GRACE", "1s")];
    let evicted = || {
        proxy.run_with(&limits, &["gc"])?;
        let left = "SELECT (SELECT count(*) FROM blobs WHERE size > 1000000 AND store_key <> '') + (SELECT count(*) FROM deletions)";
        Ok((proxy.sql(left)?.trim() == "0").then_some(()))
    };
    wait::until("the eviction", LIMIT, evicted).unwrap();
    proxy.start_again().unwrap();
    let before = proxy.metric("firstlight_conversions_total").unwrap_or_default();
    assert_eq!(read(containerd, &reference, 60, 62).unwrap(), right(60, 62), "{}", snapshotter.log());
    assert!(proxy.metric("firstlight_conversions_total").unwrap() > before, "{}", proxy.log());
}

/// Wrong bytes never reach a reader: what comes wrong is fetched once more and then given up, for that read alone; what lies wrong
/// on the disk is fetched again. A registry that knows no ranges costs more bytes, and nothing else.
#[test]
fn wrong_bytes_are_never_read() {
    if !is_root() {
        return skip("wrong_bytes_are_never_read", "not root");
    }
    let (mut world, reference) = World::warm("");
    let World { bench: Bench { containerd, snapshotter, .. }, relay, .. } = &mut world;
    // In the middle of a file: its one request comes next.
    let inside = |number: u64| (number << 20) + (1 << 19);
    relay.add(Rule::new("/blobs/", Fault::Corrupt(inside(50))).times(1));
    assert_eq!(read(containerd, &reference, 50, 51).unwrap(), right(50, 51), "{}", snapshotter.log());
    assert!(snapshotter.log().contains("tried again"), "{}", snapshotter.log());

    relay.add(Rule::new("/blobs/", Fault::Corrupt(inside(70))));
    let said = read(containerd, &reference, 60, 80).unwrap();
    let (failed, whole): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.ends_with(" 5"));
    assert_eq!((failed.len(), whole.len()), (1, 19), "{said}\n{}", snapshotter.log());
    relay.clear();
    relay.add(Rule::new("/blobs/", Fault::NoRange));
    assert_eq!(read(containerd, &reference, 60, 80).unwrap(), right(60, 80), "{}", snapshotter.log());
    relay.clear();

    // Under the running snapshotter, cut and changed.
    damage(snapshotter, |data| data.set_len(data.metadata().unwrap().len() / 2).unwrap());
    damage(snapshotter, change);
    drop_caches().unwrap();
    assert_eq!(read(containerd, &reference, 60, 80).unwrap(), right(60, 80), "{}", snapshotter.log());

    snapshotter.kill().unwrap();
    damage(snapshotter, change);
    snapshotter.start_again().unwrap();
    bench::wait_found(containerd);
    drop_caches().unwrap();
    assert_eq!(read(containerd, &reference, 0, 100).unwrap(), right(0, 100), "{}", snapshotter.log());
    assert!(snapshotter.log().contains("damaged chunk"), "{}", snapshotter.log());
}

/// Does something to the data of every layer.
fn damage(snapshotter: &Snapshotter, change: impl Fn(&File)) {
    for layer in std::fs::read_dir(snapshotter.layers()).unwrap() {
        change(&File::options().read(true).write(true).open(layer.unwrap().path().join("data")).unwrap());
    }
}

/// Changes a byte of every page: whatever is here is wrong now. Holes stay holes to whoever reads.
fn change(data: &File) {
    for at in (0..data.metadata().unwrap().len()).step_by(4096) {
        let mut byte = [0];
        data.read_exact_at(&mut byte, at).unwrap();
        if byte != [0] {
            data.write_all_at(&[!byte[0]], at).unwrap();
        }
    }
}

/// More is read than may lie on the disk, twice over: what is read is right, and the cap holds at every look.
#[test]
fn the_cache_keeps_its_cap() {
    const CAP: u64 = 32 << 20;
    if !is_root() {
        return skip("the_cache_keeps_its_cap", "not root");
    }
    let (world, reference) = World::bulky(&format!("cache_size = '{CAP}'\n"));
    let World { bench: Bench { containerd, snapshotter, .. }, .. } = &world;
    let on_disk = || -> u64 {
        let folders = std::fs::read_dir(snapshotter.layers()).unwrap();
        let data = folders.map(|folder| folder.unwrap().path().join("data").metadata().unwrap());
        data.map(|data| data.blocks() * 512).sum()
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| [(); 2].map(|()| read(containerd, &reference, 0, 100)));
        let mut most = 0;
        while !reader.is_finished() {
            most = most.max(on_disk());
            std::thread::yield_now();
        }
        for said in reader.join().unwrap() {
            assert_eq!(said.unwrap(), right(0, 100), "{}", snapshotter.log());
        }
        assert!(most > CAP / 2 && most <= CAP + (1 << 20), "{most} bytes");
    });
    let log = snapshotter.log();
    assert!(!log.contains("over its cap"), "{log}");
}

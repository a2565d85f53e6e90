//! Images that a kubelet asks for.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use e2e::{Cri, Seen, is_root, run, skip, wait};

use crate::lazy::{BULKY, World};

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Pulled and run through CRI, by its original digest, an image starts before it is here; and many pulls of it at once fetch
/// nothing twice.
#[test]
fn a_kubelet_starts_an_image_before_it_is_here() {
    if !is_root() {
        return skip("a_kubelet_starts_an_image_before_it_is_here", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '1h'\n");
    world.push_bulky();
    let pause = Cri::push_pause(&world.registry).unwrap();
    let (reference, digest) = world.pinned(BULKY);
    let cri = Cri::start(&world.bench.snapshotter, &pause).unwrap();
    let before = world.relay.bytes("/");
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..20).map(|_| scope.spawn(|| run(cri.crictl().args(["pull", &reference])))).collect();
        pulls.into_iter().for_each(|pull| drop(pull.join().unwrap().unwrap()));
    });
    let digests = cri.digests(&reference).unwrap();
    assert!(digests.iter().any(|known| known.ends_with(&digest)), "{digests:?}");
    let tocs = world.relay.seen_at("/_firstlight/toc/");
    assert_eq!(tocs.len(), 7, "one for each layer");
    let mut asked: Vec<&str> = tocs.iter().map(|seen| seen.path.as_str()).collect();
    asked.sort_unstable();
    let count = asked.len();
    asked.dedup();
    assert_eq!(asked.len(), count, "a TOC was fetched twice");
    let said = cri.run(&reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}\n{}", world.bench.snapshotter.log(), cri.log());
    let log = world.bench.snapshotter.log();
    assert!(!log.lines().any(|line| line.contains("ordinary way") && line.contains(BULKY)), "{log}");
    let (fetched, all) = (world.relay.bytes("/") - before, world.size(BULKY, &digest));
    assert!(fetched * 20 < all, "{fetched} of {all} bytes");
    assert_fetched_once(&world.relay.seen_at("/blobs/"));

    // The kubelet is told what is really on the disk. containerd asks every ten seconds.
    let told = || {
        let size = |path: &Path| -> anyhow::Result<u64> {
            let said = run(Command::new("du").args(["-s", "-B1"]).arg(path))?;
            said.split_whitespace().next().and_then(|size| size.parse().ok()).context(said.clone())
        };
        let layers = world.bench.snapshotter.layers();
        let (least, most) = (size(&layers)?, size(layers.parent().context("a root")?)?);
        let (_, used) = cri.images_on_disk()?;
        Ok((used >= least && used <= most).then_some(used))
    };
    let used = wait::until("the bytes on the disk", LIMIT, told).unwrap();
    assert!(used > fetched && used < all / 5, "{used} bytes on the disk");
}

/// Checks that no byte of a layer was asked for twice.
fn assert_fetched_once(seen: &[Seen]) {
    let mut ranges: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.status == 206) {
        let range = seen.headers["range"].to_str().unwrap();
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        ranges.entry(&seen.path).or_default().push((first.parse().unwrap(), last.parse().unwrap()));
    }
    assert!(!ranges.is_empty());
    for (path, ranges) in &mut ranges {
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{path}: {ranges:?}");
    }
}

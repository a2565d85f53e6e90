//! Files of a lazy image that is here, against the same files unpacked; and a layer of very many.

use std::time::Instant;

use anyhow::Result;
use e2e::{Snapshotter, Stargz, drop_caches};

use super::{Row, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::{Generated, Images};
use crate::measured::settle;
use crate::node::{Cold, ORDINARY, World};
use crate::report::Report;
use crate::samples::Samples;
use crate::serve::Memory;

/// Ours by overlayfs.
const SLOWER: Bar = Bar::AtMost(1.3);
/// Of a layer of a million files: from the pull to the first look, and what the snapshotter takes.
const MOUNTED: Bar = Bar::AtMost(2.0);
const RESIDENT: Bar = Bar::AtMost(250.0);

const LIST: &str = "find / -xdev -ls";
/// Some 470 MB of files of all sizes.
const READ: &str = "find /usr/lib /usr/share -xdev -type f -print0 | sort -z | xargs -0 cat | head -c 473000000";

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    side_by_side(images, quick, report)?;
    million(images, report)
}

/// What is done, and whether the kernel has anything cached before it.
const CASES: [(&str, &str, bool); 4] = [
    ("find / -xdev -ls, nothing cached", LIST, true),
    ("find / -xdev -ls, again", LIST, false),
    ("473 MB of files, nothing cached", READ, true),
    ("473 MB of files, again", READ, false),
];

fn side_by_side(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let world = World::start(&images.python())?;
    let (node, image) = (Cold::start(world.at(), "fill_after = '0s'\n")?, world.reference(world.at()));
    node.containerd.pull_lazily(Snapshotter::NAME, &image)?;
    node.wait_proven()?;
    node.containerd.pull_with(ORDINARY, &image)?;
    let [mut ours, mut plain, mut peer] = [(); 3].map(|()| CASES.map(|_| Samples::new()));
    for (case, (_, script, is_cold)) in CASES.into_iter().enumerate() {
        for _ in 0..turns(quick) {
            plain[case].push(seconds(&node, ORDINARY, &image, script, is_cold)?);
            ours[case].push(seconds(&node, Snapshotter::NAME, &image, script, is_cold)?);
        }
    }
    // Only now: it fetches on its own for as long as there is something to fetch.
    let view = world.reference_to(world.at(), &world.estargz()?);
    node.containerd.pull_lazily(Stargz::NAME, &view)?;
    node.seconds(Stargz::NAME, &view, READ)?;
    for (case, (_, script, is_cold)) in CASES.into_iter().enumerate() {
        for _ in 0..turns(quick) {
            peer[case].push(seconds(&node, Stargz::NAME, &view, script, is_cold)?);
        }
    }
    for ((((name, ..), ours), plain), peer) in CASES.into_iter().zip(ours).zip(plain).zip(peer) {
        let figure = Figure::new(format!("{name}: lazy by overlayfs"), Unit::Ratio, ours.ratios(&plain)).bar(SLOWER);
        let figure = figure.part("stargz 0.19 by overlayfs", Unit::Ratio, peer.ratios(&plain));
        report.add(Row::Files, figure.part("lazy", Unit::Seconds, ours).part("overlayfs", Unit::Seconds, plain));
    }
    Ok(())
}

/// Returns how long a script takes in a container of an image.
fn seconds(node: &Cold, snapshotter: &str, image: &str, script: &str, is_cold: bool) -> Result<f64> {
    settle();
    drop_caches()?;
    if !is_cold {
        node.seconds(snapshotter, image, script)?;
    }
    node.seconds(snapshotter, image, script)
}

fn million(images: &Images, report: &mut Report) -> Result<()> {
    let world = World::start(&images.generated(Generated::Million))?;
    let (mut node, reference) = (Cold::start(world.at(), "fill_after = '1h'\n")?, world.reference(world.at()));
    settle();
    let begin = Instant::now();
    node.containerd.pull_lazily(Snapshotter::NAME, &reference)?;
    let mounted = begin.elapsed().as_secs_f64();
    let memory = Memory::of(node.snapshotter.proc().pid())?;
    let figure = Figure::new("1 000 000 files: pulled", Unit::Seconds, Samples::one(mounted)).bar(MOUNTED);
    report.add(Row::Files, figure);
    let figure = Figure::new("1 000 000 files: resident memory", Unit::Mebibytes, Samples::one(memory.resident));
    report.add(Row::Files, figure.bar(RESIDENT).part("peak", Unit::Mebibytes, Samples::one(memory.peak)));
    Ok(())
}

//! `firstlight convert` against the reference converter.

use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Scratch, program};

use super::{Row, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::{Generated, Images};
use crate::layout::{Layer, Layout};
use crate::measured::{Cost, measure, settle};
use crate::peer::Peer;
use crate::report::Report;
use crate::samples::Samples;
use crate::upstream::Upstream;

/// Times faster than the reference converter.
const FASTER: Bar = Bar::AtLeast(15.0);

/// Converted bytes by source bytes, of the whole image.
const SIZE: Bar = Bar::AtMost(1.0);

/// MiB.
pub(super) const MEMORY: Bar = Bar::AtMost(256.0);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let python = images.python();
    let nginx = images.nginx();
    let node_modules = images.generated(Generated::NodeModules);
    let upstream = Upstream::start(&[&python, &nginx, &node_modules])?;
    // The reference converter takes minutes; twice shows whether it is steady.
    for (image, has_bars, peer_turns) in [
        (&python, true, if quick { 0 } else { 2 }),
        (&nginx, true, turns(quick)),
        (&node_modules, false, if quick { 0 } else { 1 }),
    ] {
        compare(&upstream, image, has_bars, (turns(quick), peer_turns), report)?;
    }
    Ok(())
}

/// What one converter did.
struct Done {
    seconds: Samples,
    cpu: Samples,
    peak: Samples,
    layers: Vec<Layer>,
}

impl Done {
    fn new() -> Self {
        let none = Samples::new;
        Self { seconds: none(), cpu: none(), peak: none(), layers: Vec::new() }
    }

    fn add(&mut self, (cost, layers): (Cost, Vec<Layer>)) {
        self.seconds.push(cost.wall);
        self.cpu.push(cost.cpu);
        self.peak.push(cost.peak);
        self.layers = layers;
    }

    fn size(&self) -> f64 {
        self.layers.iter().map(|layer| layer.size as f64).sum()
    }
}

fn compare(
    upstream: &Upstream,
    image: &Layout,
    has_bars: bool,
    (our_turns, peer_turns): (usize, usize),
    report: &mut Report,
) -> Result<()> {
    let (mut ours, mut peer) = (Done::new(), Done::new());
    for turn in 0..our_turns {
        ours.add(convert(image)?);
        if turn < peer_turns {
            // A daemon of its own each time: nothing is found done.
            peer.add(Peer::start(upstream, image)?.convert()?);
        }
    }
    let peer = (peer_turns > 0).then_some(&peer);
    let bar = |figure: Figure, bar| if has_bars { figure.bar(bar) } else { figure };
    let speed = time(image.tag(), &ours, peer);
    report.add(Row::Conversion, if peer.is_some() { bar(speed, FASTER) } else { speed });
    report.add(Row::Conversion, bar(size(image.tag(), image.size()? as f64, &ours, peer), SIZE));
    report.add(Row::Conversion, memory(image.tag(), &ours, peer).bar(MEMORY));
    per_layer(image.tag(), &image.layers()?, &ours.layers, report)
}

fn time(tag: &str, ours: &Done, peer: Option<&Done>) -> Figure {
    let Some(peer) = peer else {
        return Figure::new(format!("{tag}: time"), Unit::Seconds, ours.seconds.clone());
    };
    let mut figure = Figure::new(format!("{tag}: times faster"), Unit::Ratio, peer.seconds.ratios(&ours.seconds));
    for (name, done) in [("firstlight", ours), ("ctr-remote", peer)] {
        figure =
            figure.part(name, Unit::Seconds, done.seconds.clone()).part("its cpu", Unit::Seconds, done.cpu.clone());
    }
    figure
}

fn size(tag: &str, source: f64, ours: &Done, peer: Option<&Done>) -> Figure {
    let figure = Figure::new(format!("{tag}: size by source"), Unit::Ratio, Samples::one(ours.size() / source));
    match peer {
        None => figure,
        Some(peer) => figure.part("ctr-remote", Unit::Ratio, Samples::one(peer.size() / source)),
    }
}

fn memory(tag: &str, ours: &Done, peer: Option<&Done>) -> Figure {
    let figure = Figure::new(format!("{tag}: peak memory"), Unit::Mebibytes, ours.peak.clone());
    match peer {
        None => figure,
        Some(peer) => figure.part("ctr-remote", Unit::Mebibytes, peer.peak.clone()),
    }
}

/// Converts an image once with the program under test.
fn convert(image: &Layout) -> Result<(Cost, Vec<Layer>)> {
    let scratch = Scratch::new()?;
    let converted = Layout::new(&scratch.join("converted"), image.tag());
    let cost = measure_convert(image, &converted, &scratch)?;
    Ok((cost, converted.layers()?))
}

/// Measures `firstlight convert` from one layout to another.
///
/// # Errors
/// The conversion failed.
pub(super) fn measure_convert(image: &Layout, converted: &Layout, scratch: &Scratch) -> Result<Cost> {
    let mut command = Command::new(program()?);
    command.args(["convert", &image.location(), &converted.location()]);
    command.env("FIRSTLIGHT_STORAGE_PATH", scratch.join("data"));
    command.env("FIRSTLIGHT_CATALOG_URL", format!("sqlite:{}", scratch.join("catalog.db").display()));
    settle();
    measure(&command)
}

fn per_layer(tag: &str, source: &[Layer], converted: &[Layer], report: &mut Report) -> Result<()> {
    ensure!(source.len() == converted.len(), "{} layers became {}", source.len(), converted.len());
    for (number, (from, to)) in source.iter().zip(converted).enumerate() {
        let factor = to.size as f64 / from.size as f64;
        let kept = if from.digest == to.digest { ", left as it is" } else { "" };
        let line = format!("{tag} layer {}: {} → {} bytes, × {factor:.3}{kept}", number + 1, from.size, to.size);
        report.note(Row::Conversion, line);
    }
    Ok(())
}

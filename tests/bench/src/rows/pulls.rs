//! 20 pulls of one cold image at once, against one.
//!
//! The clients are `skopeo copy` to folders: 20 Docker daemons would unpack the image 20 times on this one machine and
//! measure that, and one daemon downloads an image once, however many ask it. Even so the 20 clients take more of two
//! cores than a fast line leaves time for; so the bar holds over a line of 100 Mbit/s, where clients wait for bytes and not for
//! a core, and the ratio over 500 Mbit/s is for information.

use std::time::Instant;

use anyhow::Result;
use e2e::Scratch;

use super::{Row, proxy_behind, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::layout::Layout;
use crate::measured::{Measured, settle};
use crate::report::Report;
use crate::samples::Samples;
use crate::upstream::{Upstream, pull};
use crate::wire::{Gauge, Wire};

const PULLS: usize = 20;

/// All of them at once by one alone.
const SLOWER: Bar = Bar::AtMost(1.5);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.nginx();
    let upstream = Upstream::start(&[&image])?;
    for (line, gauge, bar) in [("100 Mbit/s", Gauge::THIN, Some(SLOWER)), ("500 Mbit/s", Gauge::FAR, None)] {
        let (mut one, mut many) = (Samples::new(), Samples::new());
        let mut cpu = Samples::new();
        for _ in 0..turns(quick) {
            one.push(pull_at_once(1, &upstream, gauge, &image)?.0);
            let (seconds, clients) = pull_at_once(PULLS, &upstream, gauge, &image)?;
            many.push(seconds);
            cpu.push(clients);
        }
        let figure = Figure::new(format!("nginx, {line}: {PULLS} at once by one"), Unit::Ratio, many.ratios(&one));
        let figure = Figure { bar, ..figure };
        let figure = figure.part("20 at once", Unit::Seconds, many).part("one", Unit::Seconds, one);
        report.add(Row::Pulls, figure.part("cpu of the 20 clients", Unit::Seconds, cpu));
    }
    Ok(())
}

/// Starts some pulls through a proxy that knows nothing yet; returns the seconds until the last is done, and the
/// processor's seconds that the clients took together.
fn pull_at_once(pulls: usize, upstream: &Upstream, gauge: Gauge, image: &Layout) -> Result<(f64, f64)> {
    let wire = Wire::start(upstream.at(), gauge)?;
    let proxy = proxy_behind(&wire)?;
    let scratch = Scratch::new()?;
    let commands = (0..pulls).map(|number| pull(proxy.at(), image, &scratch.join(&format!("copy-{number}"))));
    let commands = commands.collect::<Result<Vec<_>>>()?;
    settle();
    let begin = Instant::now();
    let clients = commands.iter().map(Measured::start).collect::<Result<Vec<_>>>()?;
    let mut cpu = 0.0;
    for client in clients {
        cpu += client.end()?.cpu;
    }
    Ok((begin.elapsed().as_secs_f64(), cpu))
}

//! A cold download through the proxy, while it converts, against one straight from upstream.

use anyhow::{Result, ensure};
use e2e::Scratch;

use super::{Row, proxy_behind, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::layout::Layout;
use crate::measured::{Cost, measure, settle};
use crate::report::Report;
use crate::samples::Samples;
use crate::serve::Memory;
use crate::upstream::{Upstream, pull};
use crate::wire::{Gauge, Wire};

/// Through the proxy by straight.
const SLOWER: Bar = Bar::AtMost(1.05);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.python();
    let upstream = Upstream::start(&[&image])?;
    let (mut straight, mut through) = (Samples::new(), Samples::new());
    let (mut peak, mut running) = (Samples::new(), 0.0);
    for _ in 0..turns(quick) {
        let wire = Wire::start(upstream.at(), Gauge::FAR)?;
        straight.push(download(wire.at(), &image)?.wall);

        let wire = Wire::start(upstream.at(), Gauge::FAR)?;
        let mut proxy = proxy_behind(&wire)?;
        through.push(download(proxy.at(), &image)?.wall);
        let conversions = proxy.metric("firstlight_conversions_running")?;
        let done = proxy.metric("firstlight_conversions_total")?;
        ensure!(conversions + done > 0.0, "nothing was converted meanwhile:\n{}", proxy.log());
        running += conversions;
        peak.push(Memory::of(proxy.proc().pid())?.peak);
    }
    let ratio = through.ratios(&straight);
    let size = image.size()? as f64 / 1_048_576.0;
    let floor = Samples::one(image.size()? as f64 * 8.0 / Gauge::FAR.bits_per_second);
    let figure = Figure::new(format!("python, {size:.0} MiB: through by straight"), Unit::Ratio, ratio).bar(SLOWER);
    let figure = figure.part("through", Unit::Seconds, through).part("straight", Unit::Seconds, straight);
    report.add(Row::Download, figure.part("the wire alone", Unit::Seconds, floor));
    report.add(Row::Download, Figure::new("peak memory of serve", Unit::Mebibytes, peak));
    let each = running / turns(quick) as f64;
    report.note(Row::Download, format!("{each:.1} conversions were still under way when a download was done"));
    Ok(())
}

fn download(from: std::net::SocketAddrV4, image: &Layout) -> Result<Cost> {
    let scratch = Scratch::new()?;
    let copy = pull(from, image, &scratch.join("copy"))?;
    settle();
    measure(&copy)
}

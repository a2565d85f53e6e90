//! The converter's memory where there is much to hold.

use anyhow::{Result, ensure};
use e2e::Scratch;

use super::Row;
use super::conversion::{MEMORY, measure_convert};
use crate::figure::{Figure, Unit};
use crate::images::{Generated, Images};
use crate::layout::Layout;
use crate::report::Report;
use crate::samples::Samples;

pub(super) fn run(images: &Images, report: &mut Report) -> Result<()> {
    for image in [Generated::Huge, Generated::Million] {
        let (source, scratch) = (images.generated(image), Scratch::new()?);
        let converted = Layout::new(&scratch.join("converted"), source.tag());
        let cost = measure_convert(&source, &converted, &scratch)?;
        let (before, after) = (source.layers()?, converted.layers()?);
        ensure!(before != after, "{}: the layer was not converted", source.tag());
        let peak = Figure::new(format!("{}: peak memory", source.tag()), Unit::Mebibytes, Samples::one(cost.peak));
        let peak = peak.bar(MEMORY).part("time", Unit::Seconds, Samples::one(cost.wall));
        let size = converted.size()? as f64 / source.size()? as f64;
        report.add(Row::Memory, peak.part("size by source", Unit::Ratio, Samples::one(size)));
    }
    Ok(())
}

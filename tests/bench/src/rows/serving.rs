//! Ranges and whole blobs from the directory store against nginx.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};

use super::{Row, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::layout::{Layer, Layout};
use crate::load::Load;
use crate::nginx::Nginx;
use crate::report::Report;
use crate::samples::Samples;
use crate::upstream::{Upstream, blob};
use crate::warm::{Store, Warm};

/// What is answered each second, by nginx's.
const BY_NGINX: Bar = Bar::AtLeast(0.8);

/// A whole blob is no smaller than this, and otherwise as small as there is one.
const WHOLE: u64 = 16 << 20;

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.python();
    let wanted = Wanted::of(&image)?;
    let upstream = Upstream::start(&[&image])?;
    let warm = Warm::start(Store::Directory, &upstream, &image, &wanted.layers())?;
    let nginx = Nginx::start(&image, &wanted.layers())?;
    for load in wanted.loads(&image) {
        let figure = compare(&load, ("firstlight", warm.at()), ("nginx", nginx.at()), quick)?;
        report.add(Row::Serving, figure.bar(BY_NGINX));
    }
    Ok(())
}

/// The blobs that are asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The one whose ranges are read.
    large: Layer,
    /// The one that is read whole.
    whole: Layer,
}

impl Wanted {
    /// Chooses among an image's layers.
    ///
    /// # Errors
    /// None is large enough.
    pub(super) fn of(image: &Layout) -> Result<Self> {
        let layers = image.layers()?;
        let large_enough = || layers.iter().filter(|layer| layer.size >= WHOLE);
        let large = large_enough().max_by_key(|layer| layer.size).context("no large layer")?.clone();
        let whole = large_enough().min_by_key(|layer| layer.size).context("no large layer")?.clone();
        Ok(Self { large, whole })
    }

    /// Returns the layers.
    pub(super) fn layers(&self) -> [&Layer; 2] {
        [&self.large, &self.whole]
    }

    /// Returns what is asked of whoever has them.
    pub(super) fn loads(&self, image: &Layout) -> [Load; 2] {
        [
            Load::Ranges { path: blob(image, &self.large), size: self.large.size },
            Load::Whole { path: blob(image, &self.whole) },
        ]
    }
}

/// Puts a load on two servers in turns; returns what the first answered by what the second did.
pub(super) fn compare(
    load: &Load,
    one: (&'static str, SocketAddrV4),
    other: (&'static str, SocketAddrV4),
    quick: bool,
) -> Result<Figure> {
    let (mut ours, mut theirs) = (Samples::new(), Samples::new());
    for _ in 0..turns(quick) {
        ours.push(load.put_on(one.1)?);
        theirs.push(load.put_on(other.1)?);
    }
    let figure = Figure::new(format!("{}: {} by {}", load.name(), one.0, other.0), Unit::Ratio, ours.ratios(&theirs));
    Ok(figure.part(one.0, load.unit(), ours).part(other.0, load.unit(), theirs))
}

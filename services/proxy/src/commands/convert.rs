//! `firstlight convert SRC DST`: an image in, its estargz view out, byte for byte as the proxy would answer it.

mod destination;
mod download;
mod layers;
mod plan;
mod progress;
mod report;
mod source;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use convert::Cancel;
use telemetry::Shutdown;

use super::location::Location;
use crate::config::Config;
use crate::conversions;
use crate::image::Image;
use destination::Destination;
use layers::Workshop;
use plan::Plan;
use progress::Progress;
use source::Source;

pub use report::ConvertReport;

/// Converts the image at `from` and puts the result at `to`, as `config` says about conversions.
///
/// `plain_http` speaks HTTP to registries that are no upstreams, even if they are not this machine.
///
/// # Errors
/// Says what could not be read, converted or written, and when a signal interrupts it. Nothing of an unfinished image is
/// visible then but whole blobs.
pub async fn run(config: &Config, from: &str, to: &str, plain_http: bool) -> anyhow::Result<ConvertReport> {
    let started = Instant::now();
    let (from, to) = (Location::parse(from).context("SRC")?, Location::parse(to).context("DST")?);
    let source = Source::open(config, &from, plain_http).with_context(|| from.to_string())?;
    let destination = Destination::open(config, &to, plain_http).with_context(|| to.to_string())?;
    let cancel = Cancel::default();
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let work = convert_image(config, source, &destination, &cancel);
    let mut report = tokio::select! {
        done = work => {
            if done.is_err() {
                cancel.cancel();
            }
            done?
        }
        () = shutdown.requested() => {
            cancel.cancel();
            anyhow::bail!("interrupted; {to} has no new image");
        }
    };
    report.source = from.to_string();
    report.destination = to.to_string();
    report.seconds = report::seconds(started.elapsed());
    Ok(report)
}

async fn convert_image(
    config: &Config,
    source: Source,
    destination: &Destination,
    cancel: &Cancel,
) -> anyhow::Result<ConvertReport> {
    let source = Arc::new(source);
    let root = source.root().await?;
    let platforms = &config.convert.platforms;
    let (image, absent) = source.image(&root, platforms).await?;
    let profile = conversions::profile(&config.convert);
    let pool = convert::Pool::new(config.convert.worker_count(), 0).context("cannot start the compressing threads")?;
    let workshop = Workshop {
        source: Arc::clone(&source),
        staging: destination.staging().to_owned(),
        profile,
        min_layer_size: config.convert.min_layer_size.bytes(),
        pool: Arc::new(pool),
        cancel: cancel.clone(),
        progress: Progress::new(),
    };
    let sources: Vec<_> = image.iter().flat_map(Image::layers).cloned().collect();
    let layers = Arc::new(workshop).convert(sources).await?;
    let mut plan = Plan::new(&source, &layers, profile.id());
    plan.add_root(&root, image.as_ref()).await?;
    plan.note_absent(&absent);
    plan.publish(destination).await?;
    Ok(plan.into_report(image.as_ref()))
}

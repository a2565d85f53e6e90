//! The proxy's memory while 100 clients stream 1 GiB each.

use std::net::SocketAddrV4;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::Row;
use crate::connection::Connection;
use crate::figure::{Bar, Figure, Unit};
use crate::images::{Generated, Images};
use crate::layout::Layer;
use crate::measured::settle;
use crate::report::Report;
use crate::samples::Samples;
use crate::serve::Memory;
use crate::upstream::{Upstream, blob};
use crate::warm::{Store, Warm};

const CLIENTS: usize = 100;

/// Bytes for each client.
const EACH: u64 = 1 << 30;

/// MiB at the highest, of the resident set.
const PEAK: Bar = Bar::AtMost(300.0);

pub(super) fn run(images: &Images, report: &mut Report) -> Result<()> {
    let image = images.generated(Generated::Huge);
    let layer = image.layers()?.into_iter().next().context("no layers")?;
    let upstream = Upstream::start(&[&image])?;
    for (name, store) in [("directory", Store::Directory), ("s3", Store::S3)] {
        let mut warm = Warm::start(store, &upstream, &image, &[&layer])?;
        settle();
        // What it took to fetch the blob is no part of serving it.
        Memory::forget_peak(warm.pid())?;
        let seconds = stream_to_all(warm.at(), &blob(&image, &layer), &layer)?;
        let memory = Memory::of(warm.pid())?;
        let figure = Figure::new(format!("{name}: peak memory of serve"), Unit::Mebibytes, Samples::one(memory.peak));
        let rate = CLIENTS as f64 * EACH as f64 / 1_048_576.0 / seconds;
        let figure = figure.bar(PEAK).part("after", Unit::Mebibytes, Samples::one(memory.resident));
        let figure = figure.part("streamed in", Unit::Seconds, Samples::one(seconds));
        report.add(Row::Streams, figure.part("that is", Unit::MebibytesPerSecond, Samples::one(rate)));
    }
    Ok(())
}

/// Has all clients read at once; returns the seconds until the last is done.
fn stream_to_all(from: SocketAddrV4, path: &str, layer: &Layer) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let begin = Instant::now();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(stream(from, path.to_owned(), layer.size));
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

/// One client: the blob from its beginning, and once more as often as it takes.
async fn stream(from: SocketAddrV4, path: String, size: u64) -> Result<()> {
    let mut connection = Connection::open(from).await?;
    let mut left = EACH;
    while left > 0 {
        let wanted = left.min(size);
        let bytes = if wanted == size {
            connection.get(&path).await?
        } else {
            connection.get_range(&path, 0..=wanted - 1).await?
        };
        ensure!(bytes == wanted, "{path}: {bytes} of {wanted} bytes");
        left -= bytes;
    }
    Ok(())
}

//! 200 clients of one cold image.

use std::net::SocketAddrV4;
use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use super::{Row, proxy_behind, turns, until_converted};
use crate::connection::Connection;
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::layout::Layout;
use crate::measured::settle;
use crate::report::Report;
use crate::samples::Samples;
use crate::serve::Memory;
use crate::upstream::{Upstream, blob, repository};
use crate::wire::{Gauge, Wire};

const CLIENTS: usize = 200;

/// Everything that upstream sent, heads of answers included, by the image's blobs and manifest.
const UPSTREAM_BYTES: Bar = Bar::AtMost(1.01);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.nginx();
    let upstream = Upstream::start(&[&image])?;
    let unique = image.unique_bytes()? as f64;
    let (mut sent, mut seconds) = (Samples::new(), Samples::new());
    let (mut resident, mut peak) = (Samples::new(), Samples::new());
    for _ in 0..turns(quick) {
        let wire = Wire::start(upstream.at(), Gauge::FAR)?;
        let mut proxy = proxy_behind(&wire)?;
        settle();
        seconds.push(read_by_all(proxy.at(), &image)?);
        until_converted(&proxy)?;
        sent.push(wire.down_bytes() as f64);
        let memory = Memory::of(proxy.proc().pid())?;
        resident.push(memory.resident);
        peak.push(memory.peak);
    }
    let figure = Figure::new("nginx: upstream bytes by unique bytes", Unit::Ratio, sent.over(unique));
    report.add(
        Row::Clients,
        figure.bar(UPSTREAM_BYTES).part("unique", Unit::Mebibytes, Samples::one(unique / 1_048_576.0)),
    );
    let wire_alone = Samples::one(unique * 8.0 / Gauge::FAR.bits_per_second);
    let figure = Figure::new("until the last client is done", Unit::Seconds, seconds.clone());
    let served = CLIENTS as f64 * unique / 1_048_576.0;
    report.add(Row::Clients, figure.part("the wire alone", Unit::Seconds, wire_alone));
    report.add(
        Row::Clients,
        Figure::new("peak memory of serve", Unit::Mebibytes, peak).part("after", Unit::Mebibytes, resident),
    );
    report
        .note(Row::Clients, format!("{CLIENTS} clients read {served:.0} MiB, {:.0} MiB/s", served / seconds.median()));
    Ok(())
}

/// Has all clients read the image at once; returns the seconds until the last is done.
fn read_by_all(from: SocketAddrV4, image: &Layout) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let manifest = format!("/v2/{}/manifests/{}", repository(image), image.digest()?);
    let blobs: Vec<_> = image.layers()?.iter().map(|layer| (blob(image, layer), layer.size)).collect();
    let begin = Instant::now();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(read(from, manifest.clone(), blobs.clone()));
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

/// One client: the manifest, then each layer, on one connection.
async fn read(from: SocketAddrV4, manifest: String, blobs: Vec<(String, u64)>) -> Result<()> {
    let mut connection = Connection::open(from).await?;
    connection.get(&manifest).await?;
    for (path, size) in blobs {
        let bytes = connection.get(&path).await?;
        ensure!(bytes == size, "{path}: {bytes} of {size} bytes");
    }
    Ok(())
}

//! Random ranges of a stored blob against nginx.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Node, Proc, Scratch, run as run_command, wait, web};

use super::{Row, proxy_behind, turns, until_converted};
use crate::figure::{Figure, Unit};
use crate::images::Images;
use crate::layout::{Layer, Layout};
use crate::report::Report;
use crate::samples::Samples;
use crate::upstream::{Upstream, repository};
use crate::wire::{Gauge, Wire};

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.python();
    let layer = image.layers()?.into_iter().max_by_key(|layer| layer.size).context("no layers")?;
    let upstream = Upstream::start(&[&image])?;
    let wire = Wire::start(upstream.at(), Gauge::NEAR)?;
    let proxy = proxy_behind(&wire)?;
    let path = format!("/v2/{}/blobs/{}", repository(&image), layer.digest);
    let manifest = format!("/v2/{}/manifests/{}", repository(&image), image.digest()?);
    for path in [&manifest, &path] {
        let accept = [("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
        let whole = web::download(proxy.at(), path, &accept, web::Pace::default())?;
        ensure!(whole.status.is_success(), "{path}: {}", whole.status);
    }
    until_converted(&proxy)?;
    let scratch = Scratch::new()?;
    let (_nginx, nginx_at) = nginx(&image, &layer, &path, &scratch)?;
    let script = scratch.write("ranges.lua", &script(&layer, &path))?;
    let (mut ours, mut theirs) = (Samples::new(), Samples::new());
    for _ in 0..turns(quick) {
        for (at, samples) in [(proxy.at(), &mut ours), (nginx_at, &mut theirs)] {
            let mut wrk = Command::new("wrk");
            wrk.args(["-t1", "-c16", "-d5s", "-s"]).arg(&script).arg(format!("http://{at}"));
            samples.push(requests_per_second(&run_command(&mut wrk)?)?);
        }
    }
    let figure = Figure::new("requests: firstlight by nginx", Unit::Ratio, ours.ratios(&theirs));
    report.add(Row::Serving, figure.part("firstlight", Unit::PerSecond, ours).part("nginx", Unit::PerSecond, theirs));
    Ok(())
}

/// Starts nginx so that it serves a layer's file at the path where the proxy has it.
fn nginx(image: &Layout, layer: &Layer, path: &str, scratch: &Scratch) -> Result<(Proc, SocketAddrV4)> {
    let at = SocketAddrV4::new([127, 0, 0, 1].into(), wait::free_port());
    let (dir, file) = (scratch.path().display(), image.blob(&layer.digest)?);
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .join(" ");
    let config = format!(
        "daemon off; user root; worker_processes auto; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 100000000; {temporary}\n\
         server {{ listen {at}; location = {path} {{ alias {}; }} }} }}\n",
        file.display(),
    );
    let config = scratch.write("nginx.conf", &config)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(config).arg("-p").arg(scratch.path());
    let mut proc = Proc::start(&command, &scratch.join("nginx.log"))?;
    proc.ready(|| web::request(&Node::Machine, at, "HEAD", path, &[]).is_ok_and(|answer| answer.status.is_success()))?;
    Ok((proc, at))
}

/// A script for wrk: ranges of 64 KiB at random places.
fn script(layer: &Layer, path: &str) -> String {
    format!(
        "local last = {} - 65536\n\
         request = function()\n\
         local at = math.random(0, last)\n\
         return wrk.format('GET', '{path}', {{ Range = string.format('bytes=%d-%d', at, at + 65535) }})\n\
         end\n\
         done = function(summary)\n\
         if summary.errors.status + summary.errors.read + summary.errors.timeout > 0 then error('failed requests') end\n\
         end\n",
        layer.size,
    )
}

fn requests_per_second(output: &str) -> Result<f64> {
    let number = output.lines().find_map(|line| line.strip_prefix("Requests/sec:")).map(str::trim);
    number.and_then(|number| number.parse().ok()).with_context(|| format!("wrk wrote:\n{output}"))
}

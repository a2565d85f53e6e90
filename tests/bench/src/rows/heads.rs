//! HEADs of a warm tag.
//!
//! The clients are the bench's own: `wrk` takes no HEAD, and what it measures without a pause says nothing about
//! requests that come when they come. Here each request has its time. How long it took counts from then, also when the
//! answer before it came late, and when the client's own timer did, by up to a millisecond.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use e2e::{Node, Proxy, ProxyOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Row, turns};
use crate::connection::Connection;
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::report::Report;
use crate::samples::Samples;
use crate::upstream::{Upstream, repository};
use crate::wire::{Gauge, Wire};

const CLIENTS: u32 = 16;

/// How long they ask.
const LENGTH: Duration = Duration::from_secs(10);

/// Requests each second, of all clients together.
const RATE: f64 = 5000.0;

/// Milliseconds, at [`RATE`].
const SLOWEST: Bar = Bar::AtMost(5.0);

/// Answers each second when nobody waits.
const ANSWERS: Bar = Bar::AtLeast(RATE);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.nginx();
    let upstream = Upstream::start(&[&image])?;
    let wire = Wire::start(upstream.at(), Gauge::NEAR)?;
    // Upstream is not asked again while it is measured.
    let options = ProxyOptions::new(wire.at()).view("estargz").config("[cache]\ntag_ttl = \"1h\"\n");
    let proxy = Proxy::start(&Node::Machine, options)?;
    proxy.convert(&repository(&image), "latest", &image.digest()?)?;
    let path = format!("/v2/{}/manifests/latest", repository(&image));
    let gap = Duration::from_secs_f64(f64::from(CLIENTS) / RATE);
    for (name, gap) in [("5 000 requests/s", Some(gap)), ("without a pause", None)] {
        let (mut answers, mut median, mut p99) = (Samples::new(), Samples::new(), Samples::new());
        for _ in 0..turns(quick) {
            let (per_second, took) = ask(proxy.at(), &path, gap)?;
            answers.push(per_second);
            median.push(took.median());
            p99.push(took.percentile(99.0));
        }
        let slowest = Figure::new(format!("{name}: p99"), Unit::Milliseconds, p99);
        let slowest = slowest.part("median", Unit::Milliseconds, median);
        let answers = Figure::new(format!("{name}: answers"), Unit::PerSecond, answers);
        // One promise, two bars: how soon at that rate, and that there is room for more.
        let (slowest, answers) =
            if gap.is_some() { (slowest.bar(SLOWEST), answers) } else { (slowest, answers.bar(ANSWERS)) };
        report.add(Row::Heads, slowest);
        report.add(Row::Heads, answers);
    }
    Ok(())
}

/// Has all clients ask, each with this time from one request to the next, or with none; returns the answers each
/// second, and the milliseconds that each took.
fn ask(at: SocketAddrV4, path: &str, gap: Option<Duration>) -> Result<(f64, Samples)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // By then all are connected.
        let begin = Instant::now() + Duration::from_millis(200);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            // Spread, so that they do not ask all at once.
            let first = begin + gap.unwrap_or_default() * client / CLIENTS;
            clients.spawn(ask_again_and_again(at, path.to_owned(), first, gap));
        }
        let mut took = Samples::new();
        while let Some(client) = clients.join_next().await {
            client??.into_iter().for_each(|request| took.push(request.as_secs_f64() * 1e3));
        }
        Ok((took.len() as f64 / begin.elapsed().as_secs_f64(), took))
    })
}

/// One client; returns how long each request took from when it was due.
async fn ask_again_and_again(
    at: SocketAddrV4,
    path: String,
    first: Instant,
    gap: Option<Duration>,
) -> Result<Vec<Duration>> {
    let mut connection = Connection::open(at).await?;
    let (mut due, mut took) = (first, Vec::new());
    while due < first + LENGTH {
        sleep_until(due).await;
        connection.head(&path).await?;
        took.push(due.elapsed());
        due = gap.map_or_else(Instant::now, |gap| due + gap);
    }
    Ok(took)
}

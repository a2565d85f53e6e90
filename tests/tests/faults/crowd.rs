//! 200 clients on connections of their own.

use std::time::Duration;

use bytes::Bytes;
use e2e::{Fault, Rule, web};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::layer::{noise, tar};
use crate::push::{Blob, TAR};
use crate::world::{LIMIT, REPOSITORY, World};

const CLIENTS: usize = 200;

/// A client that compares what comes with what should.
#[derive(Clone)]
struct Client {
    at: std::net::SocketAddrV4,
    path: String,
    blob: Bytes,
}

impl Client {
    fn new(world: &World, layer: usize) -> Self {
        Self { at: world.stage.proxy.at(), path: world.path(layer), blob: world.image.layers[layer].bytes.clone() }
    }

    /// Reads the whole blob. A slow client keeps to `rate` and stands still at half until `others` is true.
    async fn whole(self, rate: Option<u64>, mut others: watch::Receiver<bool>) {
        let answer = web::send(self.at, "GET", &self.path, &[]).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let (mut body, mut at, begin) = (answer.into_body(), 0, Instant::now());
        while let Some(frame) = body.frame().await {
            at = self.compare(at, &frame.unwrap().into_data().unwrap_or_default());
            let Some(rate) = rate.filter(|_| !*others.borrow()) else { continue };
            if at * 2 >= self.blob.len() {
                others.wait_for(|over| *over).await.unwrap();
            } else {
                sleep_until(begin + Duration::from_secs_f64(at as f64 / rate as f64)).await;
            }
        }
        assert_eq!(at, self.blob.len(), "{} ended early, and cleanly", self.path);
    }

    /// Reads `from..end`, asking for just that or for all from there on; then hangs up.
    async fn part(self, from: usize, end: usize, open: bool) {
        let range = if open { format!("bytes={from}-") } else { format!("bytes={from}-{}", end - 1) };
        let answer = web::send(self.at, "GET", &self.path, &[("range".to_owned(), range)]).await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        let last = if open { self.blob.len() } else { end } - 1;
        let expected = format!("bytes {from}-{last}/{}", self.blob.len());
        assert_eq!(answer.headers()["content-range"].to_str().unwrap(), expected);
        let (mut body, mut at) = (answer.into_body(), from);
        while at < end {
            let frame = body.frame().await.expect("a range ended early, and cleanly");
            at = self.compare(at, &frame.unwrap().into_data().unwrap_or_default());
        }
    }

    fn compare(&self, at: usize, got: &[u8]) -> usize {
        assert!(self.blob.get(at..at + got.len()) == Some(got), "wrong bytes of {} at {at}", self.path);
        at + got.len()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits for every client and passes its panic on.
async fn finish(mut clients: JoinSet<()>) {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    timeout(LIMIT, all).await.expect("clients that never end");
}

/// Whole blobs, clients arriving over the whole length of the fills, ten of them slow: all bodies are right, upstream sends each blob
/// once, each layer is converted once, and the slow ones stand still until the last fast one is through.
#[test]
fn a_crowd_costs_one_download_and_one_conversion() {
    let layers = [1, 1000].map(|seed| Blob::new(TAR, tar(seed, 12, 1 << 20))).to_vec();
    let world = World::start(layers, |options| options);
    world.link();
    world.throttle(3_000_000);
    let runtime = runtime();
    let (fast_are_through, others) = watch::channel(false);
    let (mut fast, mut slow) = (JoinSet::new(), JoinSet::new());
    for client in 0..CLIENTS {
        let layer = client % 2;
        let blob = &world.image.layers[layer];
        if client > 1 {
            let front = blob.size() * client as u64 / CLIENTS as u64;
            world.wait("arrival", || world.stage.relay.bytes(&blob.digest) >= front);
        }
        let reader = Client::new(&world, layer);
        match client % 20 {
            1 => slow.spawn_on(reader.whole(Some(1_000_000), others.clone()), runtime.handle()),
            _ => fast.spawn_on(reader.whole(None, others.clone()), runtime.handle()),
        };
    }
    runtime.block_on(async {
        finish(fast).await;
        fast_are_through.send_replace(true);
        finish(slow).await;
    });
    world.wait_idle();
    world.assert_frugal();
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 2.0);
    assert_eq!(world.metric("firstlight_conversions_total"), 2.0);
    assert_eq!(world.series("firstlight_fills_total{state=\"stored\",reason=\"\"}"), 2.0);
    assert!(world.metric("firstlight_coalesced_readers_total") > 0.0);
    assert_eq!(world.stage.proxy.sql("SELECT count(*), sum(attempts) FROM twins").unwrap(), "2|2");
    world.wait_tidy();
    world.assert_calm();
}

/// A tag that everybody asks for at once costs each process one question.
#[test]
fn a_crowd_asks_for_a_tag_once() {
    let world = World::start(vec![Blob::new(TAR, noise(5, 1 << 20))], |options| options);
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    world.stage.relay.add(Rule::new(&path, Fault::Throttle(100)));
    let (runtime, mut clients) = (runtime(), JoinSet::new());
    for _ in 0..CLIENTS {
        let (at, path, digest) = (world.stage.proxy.at(), path.clone(), world.image.digest.clone());
        let ask = async move {
            let headers = [("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
            let answer = web::send(at, "GET", &path, &headers).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(e2e::digest(&body), digest);
        };
        clients.spawn_on(ask, runtime.handle());
    }
    runtime.block_on(finish(clients));
    let questions = world.stage.relay.seen_at("/manifests/").len();
    assert!((1..=world.stage.proxy.size()).contains(&questions), "{questions} questions");
}

/// Ranges that together cover a cold blob, a quarter of them open-ended and closed early as containerd's are.
#[test]
fn ranges_that_cover_a_cold_blob_cost_one_download() {
    cover(false);
}

/// The same from an upstream that does not know Range: answered from the fill.
#[test]
fn ranges_are_right_without_upstream_ranges() {
    cover(true);
}

fn cover(without_ranges: bool) {
    let world = World::linked(vec![Blob::new(TAR, noise(7, 24 << 20))]);
    if without_ranges {
        world.stage.relay.add(Rule::new("/blobs/", Fault::NoRange));
    }
    world.throttle(8_000_000);
    let size = world.layer().bytes.len();
    let step = size.div_ceil(CLIENTS);
    let runtime = runtime();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        // In an order that is nobody's: 77 and 200 have no common divisor.
        let place = client * 77 % CLIENTS;
        let (from, end) = (step * place, (step * (place + 1)).min(size));
        let reader = Client::new(&world, 0);
        clients.spawn_on(reader.part(from, end, place % 4 == 3), runtime.handle());
    }
    runtime.block_on(finish(clients));
    let whole = world.get(&world.path(0));
    assert_eq!(e2e::digest(&whole.body), world.layer().digest);
    world.wait_tidy();
    world.assert_frugal();
    world.assert_calm();
}

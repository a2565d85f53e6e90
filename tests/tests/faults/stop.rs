//! Stopping as operators do.

use std::net::TcpStream;

use e2e::web::{self, Pace};
use http_body_util::BodyExt;

use crate::layer::{noise, tar};
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// SIGTERM in the middle of a download: new clients are refused, the old one gets all its bytes, and the exit status is 0.
#[test]
fn a_stop_lets_downloads_finish() {
    // More than the buffers between proxy and client hold, so that the proxy has work left when it is told to stop.
    let mut world = World::linked(vec![Blob::new(TAR, noise(132, 48 << 20))]);
    assert_eq!(world.get(&world.path(0)).status, 200);
    world.wait_tidy();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let at = world.stage.proxy.at();
        let mut body = web::send(at, "GET", &world.path(0), &[]).await.unwrap().into_body();
        let mut read = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        world.stage.proxy.proc().signal(rustix::process::Signal::TERM).unwrap();
        world.wait("closed door", || TcpStream::connect(at).is_err());
        assert!(world.stage.proxy.proc().is_running(), "gone before the download was over");
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        assert!(world.layer().bytes == read, "wrong or missing bytes");
    });
    drop(runtime);
    let mut status = None;
    let proxy = &mut world.stage.proxy;
    e2e::wait::until("end", crate::world::LIMIT, || {
        status = proxy.proc().ended()?;
        Ok(status.map(drop))
    })
    .unwrap();
    assert_eq!(status.unwrap().code(), Some(0), "{}", proxy.log());
}

/// SIGTERM while nobody is there ends at once, twice in a row, and a restart finds all as it was.
#[test]
fn a_stop_without_clients_is_clean() {
    let mut world = World::linked(vec![Blob::new(TAR, noise(133, 1000))]);
    let body = world.get(&world.path(0)).body;
    world.wait_tidy();
    for _ in 0..2 {
        world.stage.proxy.restart().unwrap();
    }
    world.stage.relay.stop();
    assert_eq!(world.get(&world.path(0)).body, body);
}

/// SIGTERM in the middle of a fill that nobody reads: it does not hold the stop up, and goes on after the start.
#[test]
fn a_stop_does_not_wait_for_fills() {
    let mut world = World::linked(vec![Blob::new(TAR, noise(134, 16 << 20))]);
    world.throttle(500_000);
    world.download(Pace { stop_after: Some(1), rate: None }).unwrap();
    world.wait_journal();
    let before = world.upstream();
    world.stage.proxy.restart().unwrap();
    assert!(before < world.layer().size(), "the fill was over too soon");
    world.stage.relay.clear();
    world.stage.relay.forget();
    world.wait_metric("firstlight_fills_total", 1.0);
    world.wait_tidy();
    assert!(world.upstream() < world.layer().size(), "the fill began anew: {:#?}", world.requests());
    world.stage.relay.stop();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
}

/// A layer that is being converted whenever the proxy is told to stop is not taken for one that kills it.
#[test]
fn stops_in_a_conversion_are_no_attempts() {
    let mut world = World::start(vec![Blob::new(TAR, tar(135, 64, 1 << 20))], |options| {
        options.view("estargz").config("[convert]\nwait = \"0s\"\n")
    });
    world.throttle(200_000);
    assert_eq!(world.get(&format!("/v2/{REPOSITORY}/manifests/latest")).status, 200);
    let attempts = |world: &World, expected: &str| {
        world.wait("the attempts", || world.stage.proxy.sql("SELECT attempts FROM twins").unwrap() == expected);
    };
    for _ in 0..7 {
        attempts(&world, "1");
        assert!(world.stage.proxy.proc().stop().unwrap(), "the proxy had to be killed\n{}", world.stage.proxy.log());
        attempts(&world, "0");
        world.stage.proxy.start_again().unwrap();
    }
    world.stage.relay.clear();
    world.wait("the twin", || world.stage.proxy.sql("SELECT state FROM twins").unwrap() == "ready");
    world.assert_calm();
}

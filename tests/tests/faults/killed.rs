//! SIGKILL in the middle of the work.

use e2e::web::Pace;
use e2e::{Fault, Rule};

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// Killed at half of a fill: the client is cut off, and after a restart fill and conversion go on from the journal without being asked.
#[test]
fn a_fill_goes_on_after_a_kill() {
    let layer = Blob::new(TAR, tar(81, 16, 1 << 20));
    let mut world = World::start(vec![layer.clone()], |options| options);
    world.link();
    world.throttle(1_500_000);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()));
        world.wait_upstream(layer.size() / 2);
        world.wait_journal();
        world.stage.proxy.kill().unwrap();
        assert!(client.join().unwrap().is_err(), "a clean end of half a blob");
    });
    world.stage.relay.clear();
    world.stage.relay.forget();
    world.stage.proxy.start_again().unwrap();
    world.wait_metric("firstlight_conversions_total", 1.0);
    world.wait_tidy();
    assert!(world.upstream() < layer.size(), "the fill began anew: {:#?}", world.requests());
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
    assert_eq!(world.series("firstlight_fills_total{state=\"stored\",reason=\"\"}"), 1.0);
    world.stage.relay.stop();
    assert_eq!(world.download(Pace::default()).unwrap().digest, layer.digest);
    world.assert_calm();
}

/// Killed again and again: each time the fill goes on a little further, and at the end the blob is right.
#[test]
fn a_fill_survives_many_kills() {
    let layer = Blob::new(TAR, tar(84, 12, 1 << 20));
    let mut world = World::linked(vec![layer.clone()]);
    world.throttle(4_000_000);
    world.download(Pace { stop_after: Some(1), rate: None }).unwrap();
    for quarter in 1..4 {
        world.wait_upstream(layer.size() * quarter / 4);
        world.stage.proxy.kill().unwrap();
        world.stage.proxy.start_again().unwrap();
    }
    assert_eq!(world.download(Pace::default()).unwrap().digest, layer.digest);
    world.wait_tidy();
    world.assert_calm();
}

/// The spool is damaged while the proxy is away, as an unclean boot may do: nothing wrong is served, and the blob comes in the end.
#[test]
fn a_damaged_spool_is_never_served() {
    let layer = Blob::new(TAR, tar(82, 16, 1 << 20));
    let mut world = World::linked(vec![layer.clone()]);
    world.throttle(1_500_000);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()));
        world.wait_upstream(layer.size() / 2);
        world.wait_journal();
        world.stage.proxy.kill().unwrap();
        assert!(client.join().unwrap().is_err());
    });
    for spool in world.files(".spool") {
        let size = std::fs::metadata(&spool).unwrap().len();
        std::fs::write(&spool, vec![0; size as usize]).unwrap();
    }
    world.stage.relay.clear();
    world.stage.proxy.start_again().unwrap();
    // Whoever reads while the damage is not yet found out is reset; the next fill starts from nothing.
    world.wait("right bytes", || match world.download(Pace::default()) {
        Ok(got) if got.status == 200 => {
            assert_eq!(got.digest, layer.digest, "a clean end of wrong bytes");
            true
        }
        _ => false,
    });
    world.wait_tidy();
}

/// Killed while a stored layer is converted: taken up without being asked, without upstream, and without a trace of the first try.
#[test]
fn a_conversion_goes_on_after_a_kill() {
    let layer = Blob::new(TAR, tar(83, 48, 1 << 20));
    let slow = "[convert]\nlevel = 12\nworkers = 1\nwait = \"5m\"\n";
    let mut world = World::start(vec![layer.clone()], |options| options.view("estargz").config(slow));
    world.send(
        "GET",
        &format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest),
        &[("firstlight-view", "original")],
    );
    assert_eq!(world.download(Pace::default()).unwrap().digest, layer.digest);
    world.wait_metric("firstlight_fills_total", 1.0);
    assert_eq!(world.metric("firstlight_conversions_running"), 1.0, "the conversion was over too soon");
    world.stage.proxy.kill().unwrap();
    world.stage.relay.stop();
    world.stage.proxy.start_again().unwrap();
    world.wait_metric("firstlight_conversions_total", 1.0);
    world.wait_tidy();
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
    world.stage.relay.resume().unwrap();
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("estargz"));
    let twin = answer.json().unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let bytes = world.get(&crate::world::blob_path(REPOSITORY, &twin)).body;
    assert_eq!(e2e::digest(&bytes), twin);
    world.assert_calm();
}

/// A conversion that never began, for its layer cannot be had, is taken up however often the proxy was started in vain.
#[test]
fn starts_in_vain_are_no_attempts() {
    let layer = Blob::new(TAR, tar(85, 2, 100_000));
    let mut world = World::start(vec![layer], |options| options.view("estargz").config("[convert]\nwait = \"0s\"\n"));
    world.stage.relay.add(Rule::new("/blobs/", Fault::Status(503, Vec::new())));
    assert_eq!(world.get(&format!("/v2/{REPOSITORY}/manifests/latest")).status, 200);
    world.wait("the conversion", || world.stage.proxy.sql("SELECT count(*) FROM twins").unwrap() == "1");
    for _ in 0..7 {
        world.stage.proxy.kill().unwrap();
        world.stage.proxy.start_again().unwrap();
    }
    world.stage.proxy.kill().unwrap();
    world.stage.relay.clear();
    // One of these processes may have lived long enough to leave it for a while.
    world.stage.proxy.sql("UPDATE twins SET retry_at = 0, failures = 0").unwrap();
    world.stage.proxy.start_again().unwrap();
    world.wait("the twin", || world.stage.proxy.sql("SELECT state, attempts FROM twins").unwrap() == "ready|1");
    world.assert_calm();
}

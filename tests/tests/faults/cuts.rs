//! Connections that end where they should not, on either side.

use e2e::web::{self, Pace};
use e2e::{Fault, Rule};

use crate::layer::{noise, tar};
use crate::push::{Blob, TAR};
use crate::world::World;

/// Small buffers on the way hold what upstream sent and the proxy never read.
const IN_FLIGHT: u64 = 256 << 10;

/// The first client is gone at a tenth. The others, and the fill, go on.
#[test]
fn the_first_client_may_leave() {
    let world = World::linked(vec![Blob::new(TAR, noise(11, 12 << 20))]);
    world.throttle(4_000_000);
    let tenth = world.layer().size() / 10;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.download(Pace { stop_after: Some(tenth), rate: None }).unwrap());
        world.wait_upstream(1);
        let others: Vec<_> = (0..5).map(|_| scope.spawn(|| world.download(Pace::default()).unwrap())).collect();
        assert!(first.join().unwrap().bytes < world.layer().size());
        for other in others {
            assert_eq!(other.join().unwrap().digest, world.layer().digest);
        }
    });
    world.wait_tidy();
    world.assert_frugal();
}

/// Everybody is gone at a tenth. The fill ends all the same, and upstream is not needed again.
#[test]
fn every_client_may_leave() {
    let mut world = World::linked(vec![Blob::new(TAR, noise(12, 12 << 20))]);
    world.throttle(6_000_000);
    world.download(Pace { stop_after: Some(world.layer().size() / 10), rate: None }).unwrap();
    world.wait_metric("firstlight_fills_total", 1.0);
    world.wait_tidy();
    world.stage.relay.stop();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.assert_frugal();
}

/// A connection that breaks at half is taken up with a Range from there; the client does not notice, nor does the converter.
#[test]
fn a_cut_is_resumed_where_it_was() {
    let world = World::start(vec![Blob::new(TAR, tar(13, 12, 1 << 20))], |options| options);
    world.link();
    let half = world.layer().size() / 2;
    world.stage.relay.add(Rule::new(&world.layer().digest, Fault::Cut(half)).method("GET").times(1));
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    let from: Vec<_> = world.stage.relay.seen_at(&world.layer().digest).iter().filter_map(first_of_range).collect();
    assert!(from.iter().any(|from| (half - IN_FLIGHT..=half).contains(from)), "{:#?}", world.requests());
    world.wait_tidy();
    world.assert_frugal();
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
}

/// Three cuts in one blob, each at another place.
#[test]
fn many_cuts_are_resumed() {
    let world = World::linked(vec![Blob::new(TAR, noise(14, 12 << 20))]);
    for tenths in [2, 5, 9] {
        let at = world.layer().size() * tenths / 10;
        world.stage.relay.add(Rule::new(&world.layer().digest, Fault::Cut(at)).method("GET").times(1));
    }
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.wait_tidy();
    // Each cut loses at most what was on its way.
    assert!(world.upstream() <= world.layer().size() + 3 * IN_FLIGHT, "{:#?}", world.requests());
}

/// Upstream goes away at half, refuses for a while, and comes back: who reads waits, and gets the rest.
#[test]
fn a_fill_waits_for_an_upstream_that_restarts() {
    let mut world = World::linked(vec![Blob::new(TAR, noise(17, 12 << 20))]);
    world.throttle(6_000_000);
    let at = world.stage.proxy.at();
    let (path, size, digest) = (world.path(0), world.layer().size(), world.layer().digest.clone());
    let client = std::thread::spawn(move || web::download(at, &path, &[], Pace::default()).unwrap());
    world.wait_upstream(size / 2);
    world.stage.relay.stop();
    world.wait("a cut", || world.stage.proxy.log().contains("fill was cut"));
    world.stage.relay.add(Rule::new("/blobs/", Fault::Status(503, Vec::new())).times(2));
    world.stage.relay.resume().unwrap();
    assert_eq!(client.join().unwrap().digest, digest);
    world.wait_tidy();
    // Two segments may be under way at once; each loses what was on its way.
    assert!(world.upstream() <= size + 2 * IN_FLIGHT, "{:#?}", world.requests());
}

/// Upstream deletes the blob at half: readers are cut off, and then it is gone here too.
#[test]
fn a_blob_that_vanishes_leaves_nothing() {
    let world = World::linked(vec![Blob::new(TAR, noise(18, 24 << 20))]);
    world.throttle(4_000_000);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()));
        world.wait_upstream(1 << 20);
        world.stage.relay.add(Rule::new("/blobs/", Fault::Status(404, Vec::new())));
        assert!(client.join().unwrap().is_err(), "a clean end of half a blob");
    });
    world.wait_tidy();
    assert_eq!(world.files(world.layer().digest.trim_start_matches("sha256:")), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.get(&world.path(0)).status, 404);
    world.stage.relay.clear();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
}

/// An upstream that knows no Range starts anew after a cut; what clients get is still right.
#[test]
fn a_cut_without_ranges_starts_anew() {
    let world = World::linked(vec![Blob::new(TAR, noise(15, 8 << 20))]);
    let half = world.layer().size() / 2;
    world.stage.relay.add(Rule::new("/blobs/", Fault::NoRange));
    world.stage.relay.add(Rule::new(&world.layer().digest, Fault::Cut(half)).method("GET").times(1));
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.wait_tidy();
}

/// Upstream names the blob in HEAD but does not give it: 404, and nothing of it stays. When it recovers, so does the next pull.
#[test]
fn a_blob_that_never_comes_leaves_nothing() {
    let world = World::linked(vec![Blob::new(TAR, noise(16, 8 << 20))]);
    world.stage.relay.add(Rule::new(&world.layer().digest, Fault::Status(404, Vec::new())).method("GET"));
    let answer = world.get(&world.path(0));
    assert_eq!(answer.status, 404);
    world.wait_tidy();
    assert_eq!(world.files(world.layer().digest.trim_start_matches("sha256:")), Vec::<std::path::PathBuf>::new());
    world.stage.relay.clear();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
}

/// The first byte a request asked for, if it was answered with a part.
fn first_of_range(seen: &e2e::Seen) -> Option<u64> {
    let range = seen.headers.get("range").filter(|_| seen.status == 206)?.to_str().ok()?;
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

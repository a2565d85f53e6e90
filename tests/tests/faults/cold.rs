//! Ranges of a blob whose fill has only begun.

use e2e::web::Pace;

use crate::layer::noise;
use crate::push::{Blob, TAR};
use crate::world::World;

const RANGE: u64 = 64 << 10;

/// 64 KiB at the start, in the middle and at the end, at 1 MB/s from upstream: answered while the fill still runs.
#[test]
fn cold_ranges_overtake_the_fill() {
    let world = World::linked(vec![Blob::new(TAR, noise(31, 16 << 20))]);
    let size = world.layer().size();
    world.throttle(1_000_000);
    std::thread::scope(|scope| {
        let whole = scope.spawn(|| world.download(Pace::default()));
        world.wait_metric("firstlight_fills_running", 1.0);
        for from in [0, size / 2, size - RANGE] {
            let answer = world.range(&format!("bytes={from}-{}", from + RANGE - 1));
            assert_eq!(answer.status, 206);
            let expected = format!("bytes {from}-{}/{size}", from + RANGE - 1);
            assert_eq!(answer.header("content-range").unwrap(), expected);
            assert_eq!(answer.header("content-length").unwrap(), RANGE.to_string());
            let (from, end) = (from as usize, (from + RANGE) as usize);
            assert!(answer.body == world.layer().bytes.slice(from..end), "wrong bytes at {from}");
        }
        assert_eq!(world.metric("firstlight_fills_running"), 1.0, "the ranges waited for the fill");
        // Nor for one of its segments, which take 4 s each at this rate.
        let longest = world.stage.relay.seen_at("/blobs/").iter().map(|seen| seen.bytes).max().unwrap();
        assert!(longest < 4 << 20, "the ranges waited for the fill: {:#?}", world.requests());
        assert!(world.series("firstlight_ranges_total{kind=\"cold\"}") >= 2.0);
        world.stage.relay.clear();
        assert_eq!(whole.join().unwrap().unwrap().digest, world.layer().digest);
    });
    world.wait_tidy();
    world.assert_frugal();
}

/// Suffix, clamped, several, outside: a running fill answers them as the store does.
#[test]
fn a_running_fill_knows_every_range() {
    let world = World::linked(vec![Blob::new(TAR, noise(32, 6 << 20))]);
    world.throttle(2_000_000);
    crate::ranges::check_all(&world);
    world.stage.relay.clear();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.wait_tidy();
    world.assert_frugal();
}

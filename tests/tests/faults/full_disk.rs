//! A disk that runs full while a blob is on its way.

use e2e::web::Pace;
use e2e::{is_root, skip};

use crate::layer::noise;
use crate::push::{Blob, TAR};
use crate::small_disk;
use crate::world::World;

/// There is room when the fill begins, and none when it is at a quarter. Who reads gets the right bytes or is cut off; nothing of
/// the fill stays; the next pull is streamed through, and one with room again is kept.
#[test]
fn a_disk_that_runs_full_in_a_fill_gives_no_wrong_bytes() {
    if !is_root() {
        return skip("a_disk_that_runs_full_in_a_fill_gives_no_wrong_bytes", "not root");
    }
    let config = "[storage]\nmin_free = \"0\"\n[convert]\nenabled = false\n";
    let mut world = World::start(vec![Blob::new(TAR, noise(77, 16 << 20))], |options| options.config(config));
    world.stage.proxy.kill().unwrap();
    let store = world.stage.proxy.store();
    small_disk::mount(&store);
    world.stage.proxy.start_again().unwrap();
    world.link();
    world.throttle(2_000_000);
    let filler = store.join("filler");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()));
        world.wait_upstream(4 << 20);
        small_disk::fill_up(&filler);
        if let Ok(whole) = client.join().unwrap() {
            assert_eq!(whole.digest, world.layer().digest, "a clean end of wrong bytes");
        }
    });
    world.wait_tidy();
    assert_eq!(
        world.series("firstlight_fills_total{state=\"failed\",reason=\"\"}"),
        1.0,
        "{}",
        world.stage.proxy.log()
    );
    let hex = world.layer().digest.trim_start_matches("sha256:").to_owned();
    assert_eq!(world.files(&hex), Vec::<std::path::PathBuf>::new());

    world.stage.relay.clear();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest, "without room");
    assert_eq!(world.series("firstlight_uncached_streams_total"), 1.0);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest, "with room");
    world.wait_tidy();
    assert_eq!(world.stage.proxy.sql("SELECT count(*) FROM fills").unwrap(), "0", "a fill to be taken up");
    world.stage.relay.stop();
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest, "kept");
    world.assert_calm();
}

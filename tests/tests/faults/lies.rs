//! An upstream that sends wrong bytes.

use e2e::web::{self, Pace};
use e2e::{Fault, Rule};

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::World;

fn lie(layer: Blob, at: impl Fn(u64) -> u64) {
    let mut world = World::start(vec![layer], |options| options);
    world.link();
    let layer = world.layer().clone();
    world.stage.relay.add(Rule::new(&layer.digest, Fault::Corrupt(at(layer.size()))));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| world.download(Pace::default()))).collect();
        for client in clients {
            if let Ok(got) = client.join().unwrap() {
                assert!(!got.status.is_success(), "a clean end of wrong bytes: {got:?}");
            }
        }
    });
    world.wait_tidy();
    let hex = layer.digest.trim_start_matches("sha256:");
    assert_eq!(world.files(hex), Vec::<std::path::PathBuf>::new(), "wrong bytes were kept");
    for state in ["ready", "unconvertible"] {
        let counted = world.stage.proxy.metrics().unwrap();
        let of_state = |key: &&String| key.starts_with("firstlight_conversions_total") && key.contains(state);
        assert_eq!(counted.keys().find(of_state), None, "a verdict on bytes that were never the layer's");
    }

    // Not in the catalog either: without an upstream there is nothing to serve, also after a restart.
    world.stage.relay.stop();
    world.stage.proxy.restart().unwrap();
    assert!(world.get(&world.path(0)).status.is_server_error());
    world.stage.relay.resume().unwrap();
    world.stage.relay.clear();
    world.link();
    world.wait("right bytes", || world.download(Pace::default()).is_ok_and(|got| got.digest == layer.digest));
    // The conversion that failed is made up for, now or by the next who asks.
    world.wait("twin", || {
        let path = format!("/v2/{}/manifests/latest", crate::world::REPOSITORY);
        let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "estargz")];
        world.stage.proxy.request("GET", &path, &headers).unwrap();
        world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}") == 1.0
    });
    world.wait_tidy();
    world.assert_calm();
}

fn packed() -> Blob {
    Blob::gzip(&tar(21, 8, 1 << 20))
}

#[test]
fn a_wrong_first_byte_never_ends_cleanly() {
    lie(packed(), |_| 0);
}

#[test]
fn a_wrong_byte_in_the_middle_never_ends_cleanly() {
    lie(packed(), |size| size / 2);
}

#[test]
fn a_wrong_last_byte_never_ends_cleanly() {
    lie(packed(), |size| size - 1);
}

/// No checksum inside the layer tells the converter: what it makes is a tar like any other, of another layer.
#[test]
fn a_wrong_byte_of_a_plain_tar_makes_no_twin() {
    lie(Blob::new(TAR, tar(22, 8, 1 << 20)), |size| size / 2);
}

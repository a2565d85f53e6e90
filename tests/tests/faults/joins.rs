//! Who may read what is still arriving.

use e2e::web::Pace;

use crate::layer::noise;
use crate::push::{self, Blob, TAR};
use crate::world::{World, blob_path};

pub(crate) const OTHER: &str = "team/b";

pub(crate) fn manifest_path(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// Asks for `path` in every way; all must be 404.
pub(crate) fn assert_hidden(world: &World, path: &str) {
    for (method, headers) in [
        ("GET", vec![]),
        ("HEAD", vec![]),
        ("GET", vec![("range", "bytes=0-9")]),
        ("GET", vec![("range", "bytes=5-")]),
        ("GET", vec![("if-none-match", "*")]),
    ] {
        let answer = world.send(method, path, &headers);
        assert_eq!(answer.status, 404, "{method} {path} {headers:?}");
    }
}

/// A running fill of a blob that only one repository holds is not there for another one, whose upstream lacks it.
#[test]
fn another_repository_cannot_join_a_fill() {
    let world = World::linked(vec![Blob::new(TAR, noise(101, 8 << 20))]);
    let other = push::image(&world.stage.registry, OTHER, "latest", vec![Blob::new(TAR, noise(102, 1000))]);
    assert_eq!(world.get(&manifest_path(OTHER, &other.digest)).status, 200);
    world.throttle(1_000_000);
    let digest = world.layer().digest.clone();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| world.download(Pace::default()).unwrap());
        world.wait_metric("firstlight_fills_running", 1.0);
        assert_hidden(&world, &blob_path(OTHER, &digest));
        assert_hidden(&world, &blob_path("team/nobody", &digest));
        assert_eq!(world.metric("firstlight_fills_running"), 1.0, "the fill was over too soon");
        world.stage.relay.clear();
        assert_eq!(reader.join().unwrap().digest, digest);
    });
    world.wait_tidy();
    assert_hidden(&world, &blob_path(OTHER, &digest));
    assert_hidden(&world, &manifest_path(OTHER, &world.image.digest));
    // A repository whose upstream does hold it may read it, without a second download, once the "not found" of a
    // moment ago is forgotten.
    push::upload(&world.stage.registry, OTHER, world.layer());
    world.wait("the blob in the other repository", || world.get(&blob_path(OTHER, &digest)).status == 200);
    assert_eq!(e2e::digest(&world.get(&blob_path(OTHER, &digest)).body), digest);
    world.assert_frugal();
}

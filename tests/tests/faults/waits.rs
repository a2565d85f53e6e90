//! Conversion never holds up a pull.

use e2e::web::Pace;

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// A tag whose twins will not be ready within `convert.wait` shows the original while the layer still arrives; the conversion
/// goes on by itself, and a layer that is asked for meanwhile comes as the upstream sends it.
#[test]
fn a_pull_does_not_wait_for_a_slow_conversion() {
    let layer = Blob::new(TAR, tar(161, 6, 1 << 20));
    let world = World::start(vec![layer], |options| options.view("estargz").config("[convert]\nwait = \"500ms\"\n"));
    world.throttle(1_000_000);
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("original"));
    assert_eq!(answer.header("docker-content-digest"), Some(world.image.digest.clone()));
    assert_eq!(world.metric("firstlight_fills_total"), 0.0, "the answer waited for the layer");
    assert_eq!(world.download(Pace::default()).unwrap().digest, world.layer().digest);
    world.wait_metric("firstlight_conversions_total", 1.0);
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
    world.assert_frugal();
}

/// What converts within the wait is shown at once by the first GET.
#[test]
fn a_quick_conversion_is_shown_by_the_first_get() {
    let layer = Blob::new(TAR, tar(162, 2, 1 << 20));
    let world = World::start(vec![layer], |options| options.view("estargz").config("[convert]\nwait = \"60s\"\n"));
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("estargz"));
    assert_eq!(answer.header("firstlight-source-digest"), Some(world.image.digest.clone()));
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let old =
        world.stage.proxy.request("GET", &format!("/v2/{REPOSITORY}/manifests/latest"), &[("accept", docker)]).unwrap();
    assert_eq!(old.header("firstlight-view").as_deref(), Some("original"), "a client that cannot read OCI manifests");
    let packed = [("accept-encoding", "gzip, zstd")];
    let plain = world.send("GET", &format!("/v2/{REPOSITORY}/manifests/latest"), &packed);
    assert_eq!((plain.header("content-encoding"), plain.body), (None, answer.body), "packed on the way");
}

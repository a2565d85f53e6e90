//! How long a tag goes on showing the original.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::layer::tar;
use crate::push::{self, Blob, TAR};
use crate::world::{REPOSITORY, World};

/// A tag that has shown the original keeps to it for a minute, by GET and HEAD, though its twins are ready and the proxy is
/// started anew; then it shows them. Another tag of the same image, never asked for before, shows them all along.
#[test]
fn a_tag_shows_the_twins_when_its_hold_is_over() {
    let layer = Blob::new(TAR, tar(163, 4, 1 << 20));
    let mut world =
        World::start(vec![layer], |options| options.view("estargz").config("[convert]\nwait = \"500ms\"\n"));
    push::image(&world.stage.registry, REPOSITORY, "other", world.image.layers.clone());
    world.throttle(2_000_000);
    assert_eq!(shown(&world, "latest"), "original");
    world.wait("the converted manifest", || world.stage.proxy.sql("SELECT count(*) FROM converted").unwrap() == "1");
    assert_eq!(shown(&world, "latest"), "original", "held");
    assert_eq!(shown(&world, "other"), "estargz");
    answered_ago(&mut world, Duration::from_secs(30));
    assert_eq!(shown(&world, "latest"), "original", "held across a restart");
    answered_ago(&mut world, Duration::from_secs(63));
    assert_eq!(shown(&world, "latest"), "estargz");
    assert_eq!(shown(&world, "other"), "estargz");
}

/// Returns the view of a tag, in which GET and HEAD must agree.
fn shown(world: &World, tag: &str) -> String {
    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
    let [get, head] = ["GET", "HEAD"].map(|method| world.send(method, &path, &[]));
    for name in ["firstlight-view", "docker-content-digest"] {
        assert_eq!(get.header(name), head.header(name), "{tag}: {name} of GET and HEAD");
    }
    let (view, digest) = (get.header("firstlight-view").unwrap(), get.header("docker-content-digest").unwrap());
    assert_eq!(view == "original", digest == world.image.digest, "{tag}: {view} {digest}");
    view
}

/// Restarts the proxy on a catalog that says that `latest` was last answered with the original so long ago.
fn answered_ago(world: &mut World, ago: Duration) {
    let proxy = &mut world.stage.proxy;
    assert!(proxy.proc().stop().unwrap(), "{}", proxy.log());
    let at = (SystemTime::now() - ago).duration_since(UNIX_EPOCH).unwrap().as_millis();
    let update =
        format!("UPDATE tags SET original_answered_at = {at} WHERE tag = 'latest' AND original_answered_at > {at}");
    assert_eq!(proxy.sql(&format!("{update}; SELECT changes()")).unwrap(), "1");
    proxy.start_again().unwrap();
}

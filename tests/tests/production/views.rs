//! Which view a tag shows, at every replica.

use e2e::web;

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// A tag that one replica has answered with the original keeps to it at all of them, by GET and HEAD, though its converted form is
/// ready and they are started anew; when the hold is over, all show that form.
#[test]
fn a_hold_is_every_replicas() {
    let mut world = World::start(vec![Blob::new(TAR, tar(321, 4, 1 << 20))], |options| {
        options.view("estargz").config("[cache]\ntag_ttl = \"1h\"\n[convert]\nwait = \"0s\"\n")
    });
    assert_eq!(shown(&world, 0), "original");
    world.wait("the converted form", || world.stage.proxy.sql("SELECT count(*) FROM converted").unwrap() == "1");
    for replica in [1, 2, 0] {
        assert_eq!(shown(&world, replica), "original", "held at replica {replica}");
    }
    world.stage.proxy.restart(1).unwrap();
    assert_eq!(shown(&world, 1), "original", "held across a restart");
    let over = "UPDATE tags SET original_answered_at = original_answered_at - 63000 RETURNING tag";
    assert!(world.stage.proxy.sql(over).unwrap().contains("latest"));
    for replica in [2, 1, 0] {
        assert_eq!(shown(&world, replica), "estargz", "at replica {replica}");
    }
}

/// Returns the view of the tag at a replica, in which GET and HEAD must agree.
fn shown(world: &World, replica: usize) -> String {
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let [get, head] = ["HEAD", "GET"].map(|method| {
        let answer = world.stage.proxy.replica(replica).request(method, &path, &[("accept", web::MANIFEST_TYPES)]);
        let answer = answer.unwrap();
        (answer.header("firstlight-view").unwrap(), answer.header("docker-content-digest").unwrap())
    });
    assert_eq!(get, head, "GET and HEAD at replica {replica}");
    assert_eq!(get.0 == "original", get.1 == world.image.digest, "{get:?}");
    get.0
}

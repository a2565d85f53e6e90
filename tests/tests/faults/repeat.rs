//! The same input gives the same bytes.

use e2e::{Node, Proxy, ProxyOptions};
use serde_json::Value;

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// Three proxies with 1, 2 and 8 compressing threads make the same twins, and so the same converted manifest.
#[test]
fn twins_do_not_depend_on_the_number_of_threads() {
    let layers =
        vec![Blob::new(TAR, tar(91, 40, 300_000)), Blob::gzip(&tar(92, 3000, 700)), Blob::zstd(&tar(93, 2, 5 << 20))];
    let world = World::start(layers, |options| options.config("[convert]\nworkers = 1\nwait = \"5m\"\n"));
    let more = [2, 8].map(|workers| {
        let options = ProxyOptions::new(world.stage.registry.at())
            .config(&format!("[convert]\nworkers = {workers}\nwait = \"5m\"\n"));
        Proxy::start(&Node::Machine, options).unwrap()
    });
    let made: Vec<_> = [&world.stage.proxy].into_iter().chain(&more).map(|proxy| made(proxy, &world)).collect();
    assert_eq!(made[0], made[1], "1 and 2 threads");
    assert_eq!(made[0], made[2], "1 and 8 threads");
    assert_eq!(made[0].1.len(), 3);
    for (layer, twin) in world.image.layers.iter().zip(&made[0].1) {
        assert_ne!(&layer.digest, twin);
    }
}

/// Converts the image and returns the converted digest and the digests of the twins.
fn made(proxy: &Proxy, world: &World) -> (String, Vec<String>) {
    let digest = proxy.convert(REPOSITORY, "latest", &world.image.digest).unwrap();
    let manifest: Value =
        proxy.request("GET", &format!("/v2/{REPOSITORY}/manifests/{digest}"), &[]).unwrap().json().unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    (digest, layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect())
}

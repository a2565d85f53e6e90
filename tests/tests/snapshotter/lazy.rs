//! Images whose layers stay where they are until they are read.

use std::time::Duration;

use anyhow::Context;
use e2e::{Node, Proxy, ProxyOptions, Registry, RegistryOptions, Snapshotter, is_root, run, skip, wait};

/// No conversion of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);

use crate::bench::Bench;

/// A registry, a proxy before it, and a containerd whose snapshotter asks that proxy.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) proxy: Proxy,
    pub(crate) registry: Registry,
}

impl World {
    /// Starts a world with the test images.
    pub(crate) fn start() -> Self {
        Self::around(Registry::start(&Node::Machine).unwrap())
    }

    /// Starts a world without images.
    pub(crate) fn empty() -> Self {
        let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
        Self::around(Registry::start_with(&Node::Machine, &options).unwrap())
    }

    fn around(registry: Registry) -> Self {
        let proxy = Proxy::start(&Node::Machine, ProxyOptions::new(registry.at())).unwrap();
        let bench = Bench::start_with(&format!("convert_wait = '30s'\n[[proxy]]\nurl = 'http://{}'\n", proxy.at()));
        Self { bench, proxy, registry }
    }

    /// Has an image converted, and returns the reference of the original by its digest, and that.
    pub(crate) fn pinned(&self, repository: &str) -> (String, String) {
        let digest = self.registry.digest(repository, "latest").unwrap();
        let call = format!("/v2/{repository}/_firstlight/lazy/{digest}?wait=30");
        let is_ready = || {
            let answer = self.proxy.request("GET", &call, &[])?.json()?;
            let layers = answer["layers"].as_array().context("layers")?;
            Ok(layers.iter().all(|layer| layer["state"] == "ready").then_some(()))
        };
        wait::until("conversions", LIMIT, is_ready).unwrap();
        (format!("{}/{repository}@{digest}", self.proxy.at()), digest)
    }

    /// Checks that no layer was pulled in the ordinary way.
    pub(crate) fn assert_lazy(&self) {
        let log = self.bench.snapshotter.log();
        assert!(log.contains("before it is here") && !log.contains("ordinary way"), "{log}");
    }
}

/// Pulled by the digest of the original, an image runs with next to none of its bytes here, and goes without a trace.
#[test]
fn a_pinned_image_starts_before_it_is_here() {
    if !is_root() {
        return skip("a_pinned_image_starts_before_it_is_here", "not root");
    }
    let world = World::start();
    let (reference, digest) = world.pinned("library/python");
    let containerd = &world.bench.containerd;
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    assert_eq!(containerd.digest(&reference).unwrap(), digest);
    let said = containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", world.bench.snapshotter.log());
    world.assert_lazy();
    for entry in std::fs::read_dir(world.bench.snapshotter.layers()).unwrap() {
        let data = entry.unwrap().path().join("data");
        let found = std::fs::metadata(&data).unwrap();
        println!("{} {} of {}", data.display(), std::os::unix::fs::MetadataExt::blocks(&found) * 512, found.len());
    }
    run(containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    world.bench.wait_empty();
}

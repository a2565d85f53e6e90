//! The snapshotter under containerd 1.7 and 2, alone and under Docker and CRI.

use e2e::{
    Client, Containerd, Cri, Docker, Images, Node, Registry, RegistryOptions, Snapshotter, Stage, Transport, example,
    run, web,
};

use crate::{REPOSITORY, debian13, runs};

/// A proxy that has all twins of the test image, and a snapshotter that asks it.
#[derive(Debug)]
struct World {
    stage: Stage,
    snapshotter: Snapshotter,
    digest: String,
}

impl World {
    fn start() -> Self {
        let stage = Stage::start("original").unwrap();
        let digest = stage.registry.digest(REPOSITORY, "latest").unwrap();
        stage.proxy.wait_twins(REPOSITORY, &digest).unwrap();
        let config = format!("fill_after = '1h'\n[[proxy]]\nurl = 'http://{}'\n", stage.proxy.at());
        Self { snapshotter: Snapshotter::start_with(&config).unwrap(), stage, digest }
    }

    fn reference(&self) -> String {
        format!("{}/{REPOSITORY}@{}", self.stage.proxy.at(), self.digest)
    }

    /// Checks that no layer was pulled in the ordinary way.
    fn assert_lazy(&self) {
        let log = self.snapshotter.log();
        assert!(log.contains("before it is here") && !log.contains("ordinary way"), "{log}");
    }

    /// Checks that not much of the image was asked for.
    fn assert_thrifty(&self) {
        let path = format!("/v2/{REPOSITORY}/manifests/{}", self.digest);
        let manifest =
            self.stage.proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap().json().unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let all: u64 = layers.map(|layer| layer["size"].as_u64().unwrap()).sum();
        let fetched = self.stage.proxy.metric("firstlight_served_bytes_total").unwrap();
        assert!(fetched < all as f64 / 5.0, "{fetched} of {all} bytes");
    }

    /// Pulls by the original digest and runs.
    fn starts_under(&self, containerd: &Containerd) {
        let reference = self.reference();
        containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
        assert_eq!(containerd.digest(&reference).unwrap(), self.digest);
        let said = containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
        assert_eq!(said.unwrap(), "42", "{}", self.snapshotter.log());
        self.assert_lazy();
        self.assert_thrifty();
    }
}

#[test]
fn containerd_1_7_starts_lazily() {
    let world = World::start();
    let containerd = Containerd::start_with(&debian13(), Transport::Plain, &world.snapshotter.plugin()).unwrap();
    world.starts_under(&containerd);
}

#[test]
fn containerd_2_starts_lazily() {
    let world = World::start();
    let (programs, plugin) = (Images::containerd2().unwrap(), world.snapshotter.plugin());
    let containerd = Containerd::start_from(&Node::Machine, Transport::Plain, &plugin, Some(&programs)).unwrap();
    world.starts_under(&containerd);
}

#[test]
fn a_kubelet_on_containerd_2_starts_lazily() {
    let world = World::start();
    let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
    let pauses = Registry::start_with(&Node::Machine, &options).unwrap();
    let pause = Cri::push_pause(&pauses).unwrap();
    let cri = Cri::start_2(&world.snapshotter, &pause, &Images::containerd2().unwrap()).unwrap();
    let reference = world.reference();
    run(cri.crictl().args(["pull", &reference])).unwrap();
    let digests = cri.digests(&reference).unwrap();
    assert!(digests.iter().any(|known| known.ends_with(&world.digest)), "{digests:?}");
    let said = cri.run(&reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}\n{}", world.snapshotter.log(), cri.log());
    // Not the pause image: its registry has no proxy.
    let log = world.snapshotter.log();
    assert!(log.contains("before it is here"), "{log}");
    assert!(!log.lines().any(|line| line.contains("ordinary way") && line.contains(REPOSITORY)), "{log}");
    world.assert_thrifty();
    // The kubelet is told a place that there is.
    assert_eq!(cri.images_on_disk().unwrap().0, world.snapshotter.root());
}

#[test]
fn docker_26_starts_lazily() {
    let world = World::start();
    let node = debian13();
    let containerd = Containerd::start_with(&node, Transport::Plain, &world.snapshotter.plugin()).unwrap();
    let daemon = example("snapshotter/docker.json", &[]).unwrap();
    let docker = Docker::start_on(&node, &daemon, Some(&containerd)).unwrap();
    assert_eq!(docker.pull(&world.reference()).unwrap(), world.digest);
    runs(&docker, &world.reference());
    world.assert_lazy();
    world.assert_thrifty();
}

//! The snapshotter under containerd 1.7 and 2, alone and under Docker, CRI and nerdctl.

use e2e::{
    Client, Containerd, Cri, Docker, Images, Nerdctl, Node, Registry, RegistryOptions, Snapshotter, Stage, Transport,
    example, run, web,
};

use crate::{REPOSITORY, debian13, runs};

const SERVED: &str = "firstlight_served_bytes_total";

/// A proxy that has all twins of the test image, and a snapshotter that asks it.
#[derive(Debug)]
struct World {
    stage: Stage,
    snapshotter: Snapshotter,
    digest: String,
    /// Bytes that the proxy had served before anything was pulled.
    before: f64,
    /// How many layers the proxy leaves as they are, and nobody has a twin of.
    plain: usize,
}

impl World {
    /// With an image that is pulled by its original digest.
    fn start() -> Self {
        let stage = Stage::start("original").unwrap();
        let digest = stage.registry.digest(REPOSITORY, "latest").unwrap();
        stage.proxy.wait_twins(REPOSITORY, &digest).unwrap();
        Self::of(stage, digest)
    }

    /// With the estargz view of that image.
    fn view() -> Self {
        let stage = Stage::start("estargz").unwrap();
        let source = stage.registry.digest(REPOSITORY, "latest").unwrap();
        let digest = stage.proxy.convert(REPOSITORY, "latest", &source).unwrap();
        Self::of(stage, digest)
    }

    /// With that view as an eStargz image like any other: the snapshotter knows no proxy. One layer of it is none.
    fn alone() -> Self {
        let config = "fill_after = '1h'\n[[registry]]\nhost = '*'\ntrusted = ['*']\n";
        Self { snapshotter: Snapshotter::start_with(config).unwrap(), plain: 1, ..Self::view() }
    }

    fn of(stage: Stage, digest: String) -> Self {
        let config = format!("fill_after = '1h'\n[[proxy]]\nurl = 'http://{}'\n", stage.proxy.at());
        let before = stage.proxy.metric(SERVED).unwrap_or_default();
        Self { snapshotter: Snapshotter::start_with(&config).unwrap(), stage, digest, before, plain: 0 }
    }

    /// Returns one of each kind.
    fn all() -> [Self; 3] {
        [Self::start(), Self::view(), Self::alone()]
    }

    fn reference(&self) -> String {
        format!("{}/{REPOSITORY}@{}", self.stage.proxy.at(), self.digest)
    }

    /// Checks that no layer was pulled in the ordinary way that could be lazy.
    fn assert_lazy(&self) {
        let log = self.snapshotter.log();
        assert!(log.contains("before it is here") && log.matches("ordinary way").count() == self.plain, "{log}");
    }

    /// Checks that not much of the image was asked for.
    fn assert_thrifty(&self) {
        let path = format!("/v2/{REPOSITORY}/manifests/{}", self.digest);
        let manifest =
            self.stage.proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap().json().unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let all: u64 = layers.map(|layer| layer["size"].as_u64().unwrap()).sum();
        let fetched = self.stage.proxy.metric(SERVED).unwrap() - self.before;
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
    for world in World::all() {
        let containerd =
            Containerd::start_with(&debian13(), Transport::Plain, &world.snapshotter.plugin().unwrap()).unwrap();
        world.starts_under(&containerd);
    }
}

#[test]
fn containerd_2_starts_lazily() {
    let programs = Images::containerd2().unwrap();
    for world in World::all() {
        let plugin = world.snapshotter.plugin().unwrap();
        let containerd = Containerd::start_from(&Node::Machine, Transport::Plain, &plugin, Some(&programs)).unwrap();
        world.starts_under(&containerd);
    }
}

#[test]
fn a_kubelet_on_containerd_1_7_starts_lazily() {
    starts_under_cri(|snapshotter, pause| Cri::start_on(&debian13(), snapshotter, pause).unwrap());
}

#[test]
fn a_kubelet_on_containerd_2_starts_lazily() {
    let programs = Images::containerd2().unwrap();
    starts_under_cri(|snapshotter, pause| Cri::start_2(snapshotter, pause, &programs).unwrap());
}

/// Pulls by the original digest and runs, as a kubelet does.
fn starts_under_cri(start: impl FnOnce(&Snapshotter, &str) -> Cri) {
    let world = World::start();
    let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
    let pauses = Registry::start_with(&Node::Machine, &options).unwrap();
    let pause = Cri::push_pause(&pauses).unwrap();
    let cri = start(&world.snapshotter, &pause);
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

/// Under the name that nerdctl wants of a lazy snapshotter.
#[test]
fn nerdctl_starts_lazily() {
    const NAME: &str = "stargz";
    let programs = Images::containerd2().unwrap();
    for world in World::all() {
        let plugin =
            world.snapshotter.plugin().unwrap().replace("proxy_plugins.firstlight", &format!("proxy_plugins.{NAME}"));
        let containerd = Containerd::start_from(&Node::Machine, Transport::Plain, &plugin, Some(&programs)).unwrap();
        let nerdctl = Nerdctl::new(&containerd, NAME).unwrap();
        assert_eq!(nerdctl.pull(&world.reference()).unwrap(), world.digest);
        runs(&nerdctl, &world.reference());
        world.assert_lazy();
        world.assert_thrifty();
        nerdctl.clear().unwrap();
    }
}

#[test]
fn docker_26_starts_lazily() {
    for world in World::all() {
        let node = debian13();
        let containerd = Containerd::start_with(&node, Transport::Plain, &world.snapshotter.plugin().unwrap()).unwrap();
        let daemon = example("snapshotter/docker.json", &[]).unwrap();
        let docker = Docker::start_on(&node, &daemon, Some(&containerd)).unwrap();
        assert_eq!(docker.pull(&world.reference()).unwrap(), world.digest);
        runs(&docker, &world.reference());
        world.assert_lazy();
        world.assert_thrifty();
    }
}

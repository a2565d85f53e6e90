//! The proxy as a transparent mirror of Docker Hub: with the documented files every client gets the original digest, while names
//! that begin with the proxy get the estargz view.

use e2e::{Client, Containerd, Docker, Node, Podman, Transport, example, is_root, skip};

use crate::Stage;

const REPOSITORY: &str = "library/tiny";
const NAME: &str = "docker.io/library/tiny:latest";

/// A proxy whose estargz view of the image is ready; the source's digest and the converted one.
fn converted() -> (Stage, String, String) {
    let stage = Stage::start("estargz").unwrap();
    let source = stage.registry.digest(REPOSITORY, "latest").unwrap();
    let converted = stage.proxy.convert(REPOSITORY, "latest", &source).unwrap();
    (stage, source, converted)
}

#[test]
fn containerd_by_hosts_toml() {
    if !is_root() {
        return skip("containerd_by_hosts_toml", "not root");
    }
    let (stage, source, converted) = converted();
    let at = stage.proxy.at().to_string();
    let mut containerd = Containerd::start(&Node::Machine, Transport::Plain).unwrap();
    let own_name = format!("{at}/{REPOSITORY}:latest");
    assert_eq!(containerd.pull(&own_name).unwrap(), converted);

    let hosts = example("containerd/docker.io/hosts.toml", &[("127.0.0.1:5080", &at)]).unwrap();
    containerd.set_hosts("docker.io", &hosts).unwrap();
    assert_eq!(containerd.pull(NAME).unwrap(), source);
    assert_eq!(containerd.run(NAME, &["echo", "mirrored"]).unwrap(), "mirrored");

    let hosts = example("containerd/docker.io/hosts-estargz.toml", &[("127.0.0.1:5080", &at)]).unwrap();
    containerd.set_hosts("docker.io", &hosts).unwrap();
    assert_eq!(containerd.pull(NAME).unwrap(), converted, "the header asks for the estargz view");
}

#[test]
fn docker_by_registry_mirrors() {
    if !is_root() {
        return skip("docker_by_registry_mirrors", "not root");
    }
    let (stage, source, converted) = converted();
    let mirror = stage.proxy.mirror_at().to_string();
    let docker =
        Docker::start_with(&Node::Machine, &example("docker/daemon.json", &[("127.0.0.1:5082", &mirror)]).unwrap());
    let docker = docker.unwrap();
    assert_eq!(docker.pull("tiny").unwrap(), source);
    assert_eq!(docker.run("tiny", &["echo", "mirrored"]).unwrap(), "mirrored");
    assert_eq!(docker.pull(&format!("{}/{REPOSITORY}", stage.proxy.at())).unwrap(), converted);
}

#[test]
fn podman_by_registries_conf() {
    if !is_root() {
        return skip("podman_by_registries_conf", "not root");
    }
    let (stage, source, converted) = converted();
    let mirror = stage.proxy.mirror_at().to_string();
    let mut podman = Podman::new(&Node::Machine, Transport::Plain).unwrap();
    assert_eq!(podman.pull(&format!("{}/{REPOSITORY}:latest", stage.proxy.at())).unwrap(), converted);
    podman.set_registries(&example("podman/registries.conf", &[("127.0.0.1:5082", &mirror)]).unwrap()).unwrap();
    assert_eq!(podman.pull(NAME).unwrap(), source);
    assert_eq!(podman.run(NAME, &["echo", "mirrored"]).unwrap(), "mirrored");
}

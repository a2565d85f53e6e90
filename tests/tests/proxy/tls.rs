//! `docker pull proxy.local/library/python`, as a user types it: port 443, a name, a private authority in the clients' own folders, and
//! nothing declared insecure.

use e2e::{
    Authority, Client, Containerd, Docker, Node, Podman, ProxyOptions, Registry, Skopeo, Transport, example, is_root,
    skip,
};

use crate::Program;

/// A namespace with a registry and a TLS proxy `proxy.local` in it.
struct Site {
    // Dropped in this order: the namespace last.
    _proxy: Program,
    registry: Registry,
    node: Node,
}

impl Site {
    fn start() -> Self {
        let node = Node::namespace("proxy.local").unwrap();
        let authority = Authority::new().unwrap();
        authority.trust(&node, "proxy.local").unwrap();
        let registry = Registry::start(&node).unwrap();
        let mut options = ProxyOptions::new(registry.at());
        options.port = Some(443);
        options.tls = Some(authority.sign("proxy.local", node.address()).unwrap());
        let proxy = Program::start(&node, options).unwrap();
        Self { _proxy: proxy, registry, node }
    }

    /// Pulls and runs; also checks that the client does verify: the same server under another name is refused.
    fn check(&self, client: &dyn Client, reference: &str) {
        let digest = self.registry.digest("library/python", "latest").unwrap();
        assert_eq!(client.pull(reference).unwrap(), digest);
        assert_eq!(client.run(reference, &["python3", "-c", "print(6 * 7)"]).unwrap(), "42");
        let unknown = reference.replace("proxy.local", &self.node.address().to_string());
        assert!(client.pull(&unknown).is_err(), "{} trusts a server it has no authority for", client.name());
    }
}

#[test]
fn docker_over_tls() {
    if !is_root() {
        return skip("docker_over_tls", "not root");
    }
    let site = Site::start();
    site.check(&Docker::start(&site.node).unwrap(), "proxy.local/library/python");
}

#[test]
fn containerd_over_tls() {
    if !is_root() {
        return skip("containerd_over_tls", "not root");
    }
    let site = Site::start();
    let mut containerd = Containerd::start(&site.node, Transport::Tls).unwrap();
    containerd.set_hosts("proxy.local", &example("containerd/proxy.local/hosts.toml", &[]).unwrap()).unwrap();
    site.check(&containerd, "proxy.local/library/python:latest");
}

#[test]
fn podman_over_tls() {
    if !is_root() {
        return skip("podman_over_tls", "not root");
    }
    let site = Site::start();
    site.check(&Podman::new(&site.node, Transport::Tls).unwrap(), "proxy.local/library/python");
}

#[test]
fn skopeo_over_tls() {
    if !is_root() {
        return skip("skopeo_over_tls", "not root");
    }
    let site = Site::start();
    site.check(&Skopeo::new(&site.node, Transport::Tls).unwrap(), "proxy.local/library/python");
}

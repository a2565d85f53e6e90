//! Docker 26 with the containerd image store, podman 5 and skopeo 1.18 (a Debian 13 tree) pull and run both views.
//!
//! Run by `make test-clients`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lazy;

use e2e::{Client, Docker, Images, Node, Podman, Registry, Skopeo, Stage, Transport};

const REPOSITORY: &str = "library/python";
const CONTAINERD_STORE: &str = r#"{"features": {"containerd-snapshotter": true}}"#;

fn debian13() -> Node {
    Node::root(&Images::debian13().unwrap()).unwrap()
}

/// Both views by tag (the original by digest once the image is converted), and a container of each.
fn both_views(client: &dyn Client) {
    let stage = Stage::start("original").unwrap();
    let source = stage.registry.digest(REPOSITORY, "latest").unwrap();
    let tag = format!("{}/{REPOSITORY}:latest", stage.proxy.at());
    assert_eq!(client.pull(&tag).unwrap(), source, "{}", stage.proxy.log());
    runs(client, &tag);
    client.clear().unwrap();

    let stage = Stage::start("estargz").unwrap();
    let converted = stage.proxy.convert(REPOSITORY, "latest", &source).unwrap();
    let tag = format!("{}/{REPOSITORY}:latest", stage.proxy.at());
    assert_eq!(client.pull(&tag).unwrap(), converted, "{}", stage.proxy.log());
    runs(client, &tag);
    client.clear().unwrap();
    let pinned = format!("{}/{REPOSITORY}@{source}", stage.proxy.at());
    assert_eq!(client.pull(&pinned).unwrap(), source, "{}", stage.proxy.log());
    runs(client, &pinned);
}

fn runs(client: &dyn Client, reference: &str) {
    assert_eq!(client.run(reference, &["python3", "-c", "print(6 * 7)"]).unwrap(), "42", "{}", client.name());
}

#[test]
fn the_clients_work_without_the_proxy() {
    let registry = Registry::start(&Node::Machine).unwrap();
    let digest = registry.digest(REPOSITORY, "latest").unwrap();
    let node = debian13();
    let clients: Vec<Box<dyn Client>> = vec![
        Box::new(Docker::start_with(&node, CONTAINERD_STORE).unwrap()),
        Box::new(Podman::new(&node, Transport::Plain).unwrap()),
        Box::new(Skopeo::new(&node, Transport::Plain).unwrap()),
    ];
    for client in clients {
        let tag = format!("{}/{REPOSITORY}:latest", registry.at());
        assert_eq!(client.pull(&tag).unwrap(), digest, "{}", client.name());
        if client.name() != "skopeo" {
            runs(client.as_ref(), &tag);
        }
    }
}

#[test]
fn docker_26_with_the_containerd_store() {
    both_views(&Docker::start_with(&debian13(), CONTAINERD_STORE).unwrap());
}

#[test]
fn docker_26_with_the_graph_driver() {
    both_views(&Docker::start(&debian13()).unwrap());
}

#[test]
fn podman_5() {
    both_views(&Podman::new(&debian13(), Transport::Plain).unwrap());
}

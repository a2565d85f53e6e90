//! Every client pulls through the proxy, by tag and by digest, cold and warm, in both views, and runs a container.

use e2e::{Client, Containerd, Docker, Node, Podman, Skopeo, Transport, is_root, skip};

use crate::Stage;

const REPOSITORY: &str = "library/python";
const SCRIPT: &str = "import ssl, json, email, http.client; print(json.dumps({'sum': sum(range(10))}))";

/// Pulls and runs in the original view: first from an empty proxy, then from its store alone.
fn original(test: &str, client: impl FnOnce() -> anyhow::Result<Box<dyn Client>>) {
    if !is_root() {
        return skip(test, "not root");
    }
    let stage = Stage::start("original").unwrap();
    let client = client().unwrap();
    let digest = stage.registry.digest(REPOSITORY, "latest").unwrap();
    let tag = format!("{}/{REPOSITORY}:latest", stage.proxy.at());
    let pinned = format!("{}/{REPOSITORY}@{digest}", stage.proxy.at());

    assert_eq!(client.pull(&tag).unwrap(), digest, "cold, by tag\n{}", stage.proxy.log());
    runs(client.as_ref(), &tag);
    client.clear().unwrap();
    let cold = stage.relay.bytes("/blobs/");

    assert_eq!(client.pull(&pinned).unwrap(), digest, "warm, by digest\n{}", stage.proxy.log());
    runs(client.as_ref(), &pinned);
    client.clear().unwrap();
    assert_eq!(client.pull(&tag).unwrap(), digest, "warm, by tag\n{}", stage.proxy.log());
    assert_eq!(stage.relay.bytes("/blobs/"), cold, "a warm pull asked upstream for a blob");
    assert!(stage.relay.seen().iter().all(|seen| seen.status < 500), "{:?}", stage.relay.seen());
}

/// Pulls and runs in the estargz view: the tag leads to the twins' manifest, the original digest to the original.
fn estargz(test: &str, client: impl FnOnce() -> anyhow::Result<Box<dyn Client>>) {
    if !is_root() {
        return skip(test, "not root");
    }
    let stage = Stage::start("estargz").unwrap();
    let client = client().unwrap();
    let source = stage.registry.digest(REPOSITORY, "latest").unwrap();
    let tag = format!("{}/{REPOSITORY}:latest", stage.proxy.at());

    let converted = stage.proxy.convert(REPOSITORY, "latest", &source).unwrap();
    let blobs = stage.relay.bytes("/blobs/");
    assert_eq!(stage.proxy.tag(REPOSITORY, "latest").unwrap(), (converted.clone(), "estargz".to_owned()));
    assert_ne!(converted, source);

    assert_eq!(client.pull(&tag).unwrap(), converted, "by tag\n{}", stage.proxy.log());
    runs(client.as_ref(), &tag);
    client.clear().unwrap();
    let pinned = format!("{}/{REPOSITORY}@{converted}", stage.proxy.at());
    assert_eq!(client.pull(&pinned).unwrap(), converted, "by converted digest\n{}", stage.proxy.log());
    runs(client.as_ref(), &pinned);
    client.clear().unwrap();
    let pinned = format!("{}/{REPOSITORY}@{source}", stage.proxy.at());
    assert_eq!(client.pull(&pinned).unwrap(), source, "by source digest\n{}", stage.proxy.log());
    assert_eq!(stage.relay.bytes("/blobs/"), blobs, "a pull after the conversion asked upstream for a blob");
}

/// Pulls by tag from an empty proxy in the estargz view: whatever view answers first, the image runs, and the tag's digest stays
/// available.
fn cold_estargz(test: &str, client: impl FnOnce() -> anyhow::Result<Box<dyn Client>>) {
    if !is_root() {
        return skip(test, "not root");
    }
    let stage = Stage::start_with(|options| options.view("estargz")).unwrap();
    let client = client().unwrap();
    let tag = format!("{}/{REPOSITORY}:latest", stage.proxy.at());
    let digest = client.pull(&tag).unwrap();
    runs(client.as_ref(), &tag);
    client.clear().unwrap();
    let pinned = format!("{}/{REPOSITORY}@{digest}", stage.proxy.at());
    assert_eq!(client.pull(&pinned).unwrap(), digest);
}

fn runs(client: &dyn Client, reference: &str) {
    let output = client.run(reference, &["python3", "-c", SCRIPT]).unwrap();
    assert_eq!(output, "{\"sum\": 45}", "{}", client.name());
}

fn docker() -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Docker::start(&Node::Machine)?))
}

fn containerd() -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Containerd::start(&Node::Machine, Transport::Plain)?))
}

fn podman() -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Podman::new(&Node::Machine, Transport::Plain)?))
}

fn skopeo() -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Skopeo::new(&Node::Machine, Transport::Plain)?))
}

#[test]
fn docker_pulls_originals() {
    original("docker_pulls_originals", docker);
}

#[test]
fn containerd_pulls_originals() {
    original("containerd_pulls_originals", containerd);
}

#[test]
fn podman_pulls_originals() {
    original("podman_pulls_originals", podman);
}

#[test]
fn skopeo_pulls_originals() {
    original("skopeo_pulls_originals", skopeo);
}

#[test]
fn docker_pulls_converted() {
    estargz("docker_pulls_converted", docker);
}

#[test]
fn containerd_pulls_converted() {
    estargz("containerd_pulls_converted", containerd);
}

#[test]
fn podman_pulls_converted() {
    estargz("podman_pulls_converted", podman);
}

#[test]
fn skopeo_pulls_converted() {
    estargz("skopeo_pulls_converted", skopeo);
}

#[test]
fn docker_pulls_from_an_empty_proxy() {
    cold_estargz("docker_pulls_from_an_empty_proxy", docker);
}

#[test]
fn containerd_pulls_from_an_empty_proxy() {
    cold_estargz("containerd_pulls_from_an_empty_proxy", containerd);
}

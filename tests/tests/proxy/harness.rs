//! The harness itself: what the other tests take for granted.

use std::path::Path;
use std::process::Command;

use e2e::tree::Kind;
use e2e::{
    Authority, Client, Containerd, Docker, Fault, Node, Podman, Registry, RegistryOptions, Relay, Rule, Skopeo,
    Transport, Tree, example, is_root, run, skip, web,
};

/// Every client pulls and runs straight from the registry: when this fails, the proxy is not to blame.
#[test]
fn clients_work_without_the_proxy() {
    if !is_root() {
        return skip("clients_work_without_the_proxy", "not root");
    }
    let registry = Registry::start(&Node::Machine).unwrap();
    let reference = format!("{}/library/tiny:latest", registry.at());
    let digest = registry.digest("library/tiny", "latest").unwrap();
    let clients: Vec<Box<dyn Client>> = vec![
        Box::new(Docker::start(&Node::Machine).unwrap()),
        Box::new(Containerd::start(&Node::Machine, Transport::Plain).unwrap()),
        Box::new(Podman::new(&Node::Machine, Transport::Plain).unwrap()),
        Box::new(Skopeo::new(&Node::Machine, Transport::Plain).unwrap()),
    ];
    for client in clients {
        assert_eq!(client.pull(&reference).unwrap(), digest, "{}", client.name());
        assert_eq!(client.run(&reference, &["echo", "hello"]).unwrap(), "hello", "{}", client.name());
        client.clear().unwrap();
    }
}

/// In a namespace every client finds a registry by name on port 443 and checks its certificate; without the authority it refuses.
#[test]
fn clients_check_certificates_without_the_proxy() {
    if !is_root() {
        return skip("clients_check_certificates_without_the_proxy", "not root");
    }
    let node = Node::namespace("proxy.local").unwrap();
    let authority = Authority::new().unwrap();
    let tls = authority.sign("proxy.local", node.address()).unwrap();
    let options = RegistryOptions { port: Some(443), tls: Some(tls), ..RegistryOptions::default() };
    let _registry = Registry::start_with(&node, &options).unwrap();
    let mut containerd = Containerd::start(&node, Transport::Tls).unwrap();
    containerd.set_hosts("proxy.local", &example("containerd/proxy.local/hosts.toml", &[]).unwrap()).unwrap();
    let clients: Vec<Box<dyn Client>> = vec![
        Box::new(Docker::start(&node).unwrap()),
        Box::new(containerd),
        Box::new(Podman::new(&node, Transport::Tls).unwrap()),
        Box::new(Skopeo::new(&node, Transport::Tls).unwrap()),
    ];
    for client in &clients {
        assert!(client.pull("proxy.local/library/tiny:latest").is_err(), "{} did not check", client.name());
    }
    authority.trust(&node, "proxy.local").unwrap();
    for client in &clients {
        client.pull("proxy.local/library/tiny:latest").unwrap();
        assert_eq!(client.run("proxy.local/library/tiny:latest", &["echo", "hello"]).unwrap(), "hello");
    }
}

/// Trees: an unpacked image equals itself, and a difference of every kind is seen.
#[test]
fn trees_differ_where_they_do() {
    if !is_root() {
        return skip("trees_differ_where_they_do", "not root");
    }
    let registry = Registry::start(&Node::Machine).unwrap();
    let skopeo = Skopeo::new(&Node::Machine, Transport::Plain).unwrap();
    let reference = format!("{}/library/python:latest", registry.at());
    skopeo.copy(&reference).unwrap();
    let root = skopeo.unpack(&reference).unwrap().join("rootfs");
    let before = Tree::read(&root).unwrap();
    assert!(before.entries.len() > 3000);
    assert!(before.entries[Path::new("usr/bin/ping")].attributes.contains_key("security.capability"));
    assert!(before.entries.values().any(|entry| matches!(entry.kind, Kind::Block(_))));
    assert!(before.entries.iter().any(|(path, entry)| path != &entry.first_link), "no hardlinks");
    assert_eq!(before.differences(&Tree::read(&root).unwrap()), Vec::<String>::new());

    let odd = root.join("srv/odd");
    let before = Tree::read(&odd).unwrap();
    let changes = [
        "chmod 4711 ./zeros",
        "chown 5:6 ./random",
        "touch -h -d @5.5 ./symlink",
        "setfattr -n user.more -v x ./attributes",
        "rm ./char && mknod ./char c 1 5",
        "ln ./empty ./empty-too",
        "rm ./fifo",
        "printf X | dd of=./capable bs=1 seek=99 conv=notrunc status=none",
    ];
    for change in changes {
        run(Command::new("sh").args(["-ec", change]).current_dir(&odd)).unwrap();
        let paths: Vec<_> = change.split([' ', '=']).filter_map(|word| word.strip_prefix("./")).collect();
        let differences = before.differences(&Tree::read(&odd).unwrap());
        assert!(
            paths.iter().any(|path| differences.iter().any(|line| line.starts_with(path))),
            "{change}: {differences:?}"
        );
    }
}

/// The relay counts, cuts, corrupts, refuses and hides ranges, and is gone while stopped.
#[test]
fn relay_breaks_what_it_is_told_to() {
    let registry = Registry::start(&Node::Machine).unwrap();
    let mut relay = Relay::start(registry.at()).unwrap();
    let get = |path: &str, range: Option<&str>, relay: &Relay| {
        let mut headers = vec![("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
        headers.extend(range.map(|range| ("range".to_owned(), range.to_owned())));
        web::request(&Node::Machine, relay.at(), "GET", path, &headers)
    };
    let manifest = get("/v2/library/tiny/manifests/latest", None, &relay).unwrap().json().unwrap();
    let layer = manifest["layers"][0].clone();
    let (digest, size) = (layer["digest"].as_str().unwrap(), layer["size"].as_u64().unwrap());
    let path = format!("/v2/library/tiny/blobs/{digest}");

    assert_eq!(e2e::digest(&get(&path, None, &relay).unwrap().body), digest);
    assert_eq!(relay.bytes(digest), size);

    relay.add(Rule::new("/blobs/", Fault::Cut(size / 2)).times(1));
    assert!(get(&path, None, &relay).is_err());
    assert_eq!(relay.bytes(digest), size + size / 2);
    relay.add(Rule::new("/blobs/", Fault::Cut(100)).times(1));
    assert_eq!(get(&path, Some("bytes=100-199"), &relay).unwrap().body.len(), 100, "the range begins behind the cut");
    assert!(get(&path, Some("bytes=50-149"), &relay).is_err());
    let whole = get(&path, None, &relay).unwrap().body;

    relay.add(Rule::new(digest, Fault::Corrupt(size - 1)));
    let broken = get(&path, None, &relay).unwrap().body;
    assert_eq!(broken.len() as u64, size);
    assert_eq!(whole.iter().zip(&broken).filter(|(a, b)| a != b).count(), 1);
    relay.clear();

    assert_eq!(get(&path, Some("bytes=5-9"), &relay).unwrap().body, whole.slice(5..10));
    relay.add(Rule::new("/blobs/", Fault::NoRange));
    let answer = get(&path, Some("bytes=5-9"), &relay).unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len() as u64), (200, size));
    relay.clear();

    relay.add(Rule::new("/manifests/", Fault::Status(429, vec![("retry-after".into(), "1".into())])));
    let answer = get("/v2/library/tiny/manifests/latest", None, &relay).unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_deref()), (429, Some("1")));
    relay.clear();

    relay.stop();
    assert!(get("/v2/", None, &relay).is_err());
    relay.resume().unwrap();
    assert!(get("/v2/", None, &relay).unwrap().status.is_success());
    let seen = relay.seen_at("/blobs/");
    assert_eq!(seen.last().unwrap().headers.get("range").unwrap(), "bytes=5-9");
}

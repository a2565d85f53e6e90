//! A client's pulls, and what is left of them when the machine that served them is gone.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use e2e::{Node, Postgres, Proxy, ProxyOptions, Registry, Relay, Seaweed, Skopeo, Transport, wait};

use crate::backing::Backing;

const REPOSITORY: &str = "library/python";
/// Smaller than the image, so that the disk cache is used and has to let go.
const CACHE: &str = "16MiB";

/// Cold and warm in both views, to the byte; then all of it again from a proxy that starts with an empty folder, without upstream.
#[test]
fn what_was_pulled_needs_no_folder_and_no_upstream() {
    let (postgres, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let backing = Backing::new(&postgres, seaweed);
    let registry = Registry::start(&Node::Machine).unwrap();
    let mut relay = Relay::start(registry.at()).unwrap();
    let source = registry.digest(REPOSITORY, "latest").unwrap();
    let original = pull(registry.at(), &source);
    let (converted, twins) = embedded(&registry, &source);

    let mut proxy = backing.proxy(&relay, CACHE);
    assert!(pull(proxy.at(), &source) == original, "the original, cold\n{}", proxy.log());
    assert_eq!(proxy.convert(REPOSITORY, "latest", &source).unwrap(), converted);
    let cold = relay.bytes("/blobs/");
    assert!(pull(proxy.at(), &converted) == twins, "the estargz view\n{}", proxy.log());
    assert!(pull(proxy.at(), &source) == original, "the original, warm\n{}", proxy.log());
    assert_eq!(relay.bytes("/blobs/"), cold, "a warm pull asked upstream for a blob");

    let stored = || Ok((proxy.metric("firstlight_fills_running")? == 0.0).then_some(()));
    wait::until("the last fill", Duration::from_secs(300), stored).unwrap();
    assert!(proxy.proc().stop().unwrap(), "the proxy had to be killed\n{}", proxy.log());
    drop(proxy);
    relay.stop();
    let reads = seaweed.requests(backing.bucket(), "GET").unwrap();
    let proxy = backing.proxy(&relay, CACHE);
    assert!(pull(proxy.at(), &converted) == twins, "the estargz view, elsewhere\n{}", proxy.log());
    assert!(pull(proxy.at(), &source) == original, "the original, elsewhere\n{}", proxy.log());
    assert_eq!(proxy.tag(REPOSITORY, "latest").unwrap(), (converted, "estargz".to_owned()));
    assert!(seaweed.requests(backing.bucket(), "GET").unwrap() > reads, "nothing came out of the bucket");
    let count = |what: &str| proxy.metric(&format!("firstlight_disk_cache_{what}")).unwrap();
    assert!(count("misses_total") > 0.0 && count("fetched_bytes_total") > 0.0 && count("evicted_bytes_total") > 0.0);
    assert!((1.0..=f64::from(16 << 20)).contains(&count("held_bytes")), "{}", count("held_bytes"));
}

/// Returns the converted image that a proxy on SQLite and files makes: the production's must be the same.
fn embedded(registry: &Registry, source: &str) -> (String, BTreeMap<String, Bytes>) {
    let options = ProxyOptions::new(registry.at()).view("estargz").config("[convert]\nwait = \"120s\"\n");
    let proxy = Proxy::start(&Node::Machine, options).unwrap();
    let converted = proxy.convert(REPOSITORY, "latest", source).unwrap();
    let files = pull(proxy.at(), &converted);
    (converted, files)
}

/// Has skopeo copy an image by digest and returns every file it got: the manifest, the config and the layers.
fn pull(at: SocketAddrV4, digest: &str) -> BTreeMap<String, Bytes> {
    let skopeo = Skopeo::new(&Node::Machine, Transport::Plain).unwrap();
    let folder = skopeo.copy(&format!("{at}/{REPOSITORY}@{digest}")).unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, Bytes::from(std::fs::read(path).unwrap()))
    });
    let files: BTreeMap<_, _> = files.collect();
    assert!(files.len() > 4 && e2e::digest(&files["manifest.json"]) == digest, "{digest}: {:?}", files.keys());
    files
}

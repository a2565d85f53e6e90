//! The store keeps within its cap, and what left it comes back as it was.

use std::time::Duration;

use e2e::web::{self, Download, Pace};
use e2e::{Fault, Node, Postgres, Proxy, Registry, RegistryOptions, Relay, Rule, Seaweed, wait};

use crate::backing::Backing;
use crate::layer::tar;
use crate::push::{self, Blob, TAR};

/// 2 GB in images of 100 MB, each as large again in the estargz view.
const IMAGES: u64 = 20;
const SIZE: usize = 100_000_000;
const CAP: u64 = 500_000_000;
/// One image in both views, with what is not its file's bytes.
const ONE_IMAGE: u64 = 2 * SIZE as u64 + 1_000_000;
/// Bytes a second that come from upstream.
const RATE: u64 = SIZE as u64 * 4 / 10;
const LIMIT: Duration = Duration::from_secs(300);
/// With all that the servers write, the machine's disk may come near its end.
const ROOM: (&str, &str) = ("FIRSTLIGHT_STORAGE_MIN_FREE", "1GiB");
const LIMITS: [(&str, &str); 3] = [("FIRSTLIGHT_CACHE_MAX_SIZE", "500MB"), ("FIRSTLIGHT_CACHE_GRACE", "1s"), ROOM];

/// An image in the estargz view, every byte of which was read: the digests of its manifest and of its parts.
#[derive(Debug, PartialEq)]
struct Pulled {
    converted: String,
    parts: Vec<String>,
}

/// Four times the cap is pulled. The bucket keeps to it at every look, a pinned image stays, and what was evicted is made
/// again to the same bytes; in the end rows and bucket agree to the byte.
#[test]
fn a_store_keeps_to_its_cap_and_forgets_nothing() {
    let (postgres, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let backing = Backing::new(&postgres, seaweed);
    let registry = Registry::start_with(&Node::Machine, &RegistryOptions { empty: true, ..RegistryOptions::default() });
    let registry = registry.unwrap();
    let relay = Relay::start(registry.at()).unwrap();
    // By what arrives during the grace the cap may be passed.
    relay.add(Rule::new("/blobs/", Fault::Throttle(RATE)));
    let options = LIMITS.iter().fold(backing.options(&relay, "0"), |options, (name, value)| options.env(name, value));
    let proxy = Proxy::start(&Node::Machine, options).unwrap();

    store(&registry, "team/pinned", 100, SIZE);
    let pinned = pull(&proxy, "team/pinned");
    let said = backing.run(&LIMITS, &["pin", "add", "team/pinned:v1"]);
    assert!(said.contains("pinned docker.io/team/pinned:v1"), "{said}");
    let mut first = None;
    for image in 1..IMAGES {
        let name = format!("team/{image}");
        store(&registry, &name, 100 + image, SIZE);
        let pulled = pull(&proxy, &name);
        first.get_or_insert(pulled);
        let kept: u64 = backing.listing().iter().map(|(_, size)| size).sum();
        assert!(kept <= CAP + ONE_IMAGE, "{kept} bytes after image {image}\n{}", proxy.log());
    }
    let evicted = proxy.metric("firstlight_evicted_bytes_total").unwrap();
    assert!(evicted > IMAGES as f64 * SIZE as f64 / 2.0, "only {evicted} bytes went\n{}", proxy.log());
    agree(&proxy, &backing);

    // The pinned image was not asked for since the first of all.
    let before = relay.bytes("/team/pinned/blobs/");
    assert_eq!(read(&proxy, "team/pinned", &pinned.converted), pinned);
    assert_eq!(relay.bytes("/team/pinned/blobs/"), before, "the pinned image was fetched again");

    let first = first.unwrap();
    let before = relay.bytes("/team/1/blobs/");
    assert_eq!(proxy.tag("team/1", "v1").unwrap(), (first.converted.clone(), "estargz".to_owned()));
    assert_eq!(read(&proxy, "team/1", &first.converted), first);
    assert!(relay.bytes("/team/1/blobs/") > before + SIZE as u64, "the first image was never evicted");
    agree(&proxy, &backing);
    collect_by_command(&backing);
    agree(&proxy, &backing);
}

/// A repository that has a twin as a blob of its own, and nothing of its source, gets it again after an eviction: from its
/// upstream, and where that has it no more, made again of the source that another repository has.
#[test]
fn a_twin_that_is_held_by_itself_comes_back() {
    let (postgres, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let backing = Backing::new(&postgres, seaweed);
    let registry = Registry::start_with(&Node::Machine, &RegistryOptions { empty: true, ..RegistryOptions::default() });
    let registry = registry.unwrap();
    let relay = Relay::start(registry.at()).unwrap();
    let options = LIMITS.iter().fold(backing.options(&relay, "0"), |options, (name, value)| options.env(name, value));
    let proxy = Proxy::start(&Node::Machine, options).unwrap();
    store(&registry, "team/source", 7, 1_000_000);
    let twin = pull(&proxy, "team/source").parts.remove(0);
    let path = |name: &str| format!("/v2/{name}/blobs/{twin}");
    let bytes = proxy.request("GET", &path("team/source"), &[]).unwrap().body;
    push::upload(&registry, "team/holder", &push::Blob::new(push::GZIP, bytes));

    let read = || {
        let whole = download(&proxy, &path("team/holder"));
        assert!(whole.status == 200 && whole.digest == twin, "{whole:?}\n{}", proxy.log());
    };
    let rows = format!("SELECT count(*) FROM blobs WHERE digest = '{twin}' AND store_key <> ''");
    let evict = || {
        let limits = [("FIRSTLIGHT_CACHE_MAX_AGE", "1s"), ("FIRSTLIGHT_CACHE_GRACE", "1s")];
        // Its readers have its bytes before the store has them.
        let stored =
            wait::until("the twin in the store", LIMIT, || Ok((backing.sql(&rows).trim() == "1").then_some(())));
        stored.unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
        let gone = wait::until("eviction", LIMIT, || {
            backing.run(&limits, &["gc"]);
            // The proxy keeps what it has opened for half the grace; after it the bytes are gone, too.
            let left = format!("SELECT ({rows}) + (SELECT count(*) FROM deletions)");
            Ok((backing.sql(&left).trim() == "0").then_some(()))
        });
        gone.unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
    };
    read();
    evict();
    let (own, others) = (relay.bytes("/team/holder/blobs/"), relay.bytes("/team/source/blobs/"));
    read();
    assert!(relay.bytes("/team/holder/blobs/") > own, "it was not fetched");
    assert_eq!(relay.bytes("/team/source/blobs/"), others, "it was made although it could be fetched");

    evict();
    relay.add(Rule::new("/team/holder/blobs/", Fault::Status(404, Vec::new())));
    read();
    assert!(relay.bytes("/team/source/blobs/") > others, "it was not made again");
}

/// The command with a smaller cap: says what would go, and does it.
fn collect_by_command(backing: &Backing) {
    let smaller = [("FIRSTLIGHT_CACHE_MAX_SIZE", "300MB"), ("FIRSTLIGHT_CACHE_GRACE", "1s")];
    let before = backing.listing();
    let collect = |more: &[&str]| {
        let said = backing.run(&smaller, &[&["gc", "--output", "json"], more].concat());
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    let large = |report: &serde_json::Value| {
        let gone = report["gone"].as_array().unwrap().iter();
        let large = gone.filter(|gone| gone["bytes"].as_u64().is_some_and(|bytes| bytes > SIZE as u64));
        large.map(|gone| gone["names"].clone()).collect::<Vec<_>>()
    };
    // What was read a moment ago does not go yet; and small blobs become old enough from one second to the next.
    let would = wait::until("an image that may go", LIMIT, || {
        let would = collect(&["--dry-run"]);
        Ok((!large(&would).is_empty()).then_some(would))
    });
    let would = would.unwrap();
    assert_eq!(before, backing.listing(), "a dry run changed something");
    let went = collect(&[]);
    assert_eq!(large(&would), large(&went));
    assert!(!large(&went).is_empty(), "{went:#}");
}

/// Pushes an image of one layer with a file that nothing makes smaller.
fn store(registry: &Registry, name: &str, seed: u64, size: usize) {
    push::image(registry, name, "v1", vec![Blob::new(TAR, tar(seed, 1, size))]);
}

/// Pulls an image as a lazy client does, by its tag, and returns what it got.
fn pull(proxy: &Proxy, name: &str) -> Pulled {
    let path = format!("/v2/{name}/manifests/v1");
    let answer = proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap();
    let view = answer.header("firstlight-view");
    assert_eq!(view.as_deref(), Some("estargz"), "{path}: {}\n{}", answer.text(), proxy.log());
    read(proxy, name, &answer.header("docker-content-digest").unwrap())
}

/// Downloads a blob, as often as the proxy says that it is made again and to come back later.
fn download(proxy: &Proxy, path: &str) -> Download {
    let whole = wait::until(path, LIMIT, || {
        let whole = web::download(proxy.at(), path, &[], Pace::default())?;
        Ok((whole.status != 503).then_some(whole))
    });
    whole.unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()))
}

/// Reads a converted manifest and all it names, and checks each against its digest.
fn read(proxy: &Proxy, name: &str, converted: &str) -> Pulled {
    let path = format!("/v2/{name}/manifests/{converted}");
    let answer = proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap();
    assert_eq!(e2e::digest(&answer.body), converted, "{}", answer.text());
    let manifest = answer.json().unwrap();
    let parts = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let parts = parts.map(|part| {
        let digest = part["digest"].as_str().unwrap().to_owned();
        let path = format!("/v2/{name}/blobs/{digest}");
        let whole = download(proxy, &path);
        assert!(whole.status == 200 && whole.digest == digest, "{path}: {whole:?}\n{}", proxy.log());
        digest
    });
    Pulled { converted: converted.to_owned(), parts: parts.collect() }
}

/// Waits until what was evicted is deleted, and checks that the rows name exactly the objects of the bucket, which are
/// within the cap, and that the metric says so too.
fn agree(proxy: &Proxy, backing: &Backing) {
    let rows = || {
        let rows = backing.sql("SELECT store_key, size FROM blobs WHERE store_key <> '' ORDER BY store_key");
        let row = |line: &str| line.split_once('|').map(|(key, size)| (key.to_owned(), size.parse::<u64>().unwrap()));
        rows.lines().filter_map(row).collect::<Vec<_>>()
    };
    let mut last = String::new();
    let settled = || {
        let idle = proxy.metric("firstlight_conversions_running")? + proxy.metric("firstlight_fills_running")? == 0.0;
        let deletions = backing.sql("SELECT count(*) FROM deletions");
        let (rows, listing) = (rows(), backing.listing());
        let kept: u64 = rows.iter().map(|(_, size)| size).sum();
        let said = proxy.metric("firstlight_store_bytes")?;
        last =
            format!("idle: {idle}, {deletions} deletions, {kept} bytes, {said} by the metric\n{rows:?}\n{listing:?}");
        let agreed = idle && deletions.trim() == "0" && rows == listing && kept <= CAP && said == kept as f64;
        Ok(agreed.then_some(()))
    };
    let agreed = wait::until("agreement", LIMIT, settled);
    agreed.unwrap_or_else(|error| panic!("{error}: {last}\n{}", proxy.log()));
}

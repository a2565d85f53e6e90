//! Images whose layers stay where they are until they are read.

use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use e2e::web;
use e2e::{
    Authority, Fault, Node, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Rule, Scratch, Snapshotter, is_root,
    noise, run, skip, wait,
};
use serde_json::json;

/// No conversion and no proof of all layers of a healthy test takes longer, whatever runs beside it.
const LIMIT: Duration = Duration::from_secs(600);

use crate::bench::Bench;
use crate::row::Outcome;
use crate::tar::Tar;
use crate::{push, rows};

/// The repository of [`World::push_bulky`]'s image.
pub(crate) const BULKY: &str = "team/bulky";

/// Pushes the test image with a layer more that its programs do not look at, as most images have.
pub(crate) fn push_bulky(registry: &Registry) {
    registry.push("python", BULKY, "base").unwrap();
    let base = registry.digest(BULKY, "base").unwrap();
    let mut manifest = registry.document(BULKY, &format!("manifests/{base}")).unwrap();
    let config = format!("blobs/{}", manifest["config"]["digest"].as_str().unwrap());
    let mut config = registry.document(BULKY, &config).unwrap();
    let mut bulk = Tar::new().dir("bulk/");
    for number in 0..100 {
        bulk = bulk.file(&format!("bulk/{number}"), &noise(number, 1 << 20));
    }
    let plain = bulk.end();
    let layer = push::layer(registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(layer.diff_id.clone().into());
    let config = config.to_string();
    let digest = push::blob(registry, BULKY, config.clone().into());
    manifest["config"] = push::descriptor(push::CONFIG, &digest, config.len());
    manifest["layers"].as_array_mut().unwrap().push(layer.descriptor());
    manifest["mediaType"] = push::MANIFEST.into();
    push::manifest(registry, BULKY, "latest", push::MANIFEST, &manifest);
}

/// A registry, a proxy before it, and a containerd whose snapshotter asks that proxy.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) bench: Bench,
    /// On the snapshotter's way to the proxy.
    pub(crate) relay: Relay,
    pub(crate) proxy: Proxy,
    pub(crate) registry: Registry,
}

impl World {
    /// Starts a world with the test images.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a world with the test images, and more lines in the snapshotter's configuration.
    pub(crate) fn start_with(config: &str) -> Self {
        Self::around(Registry::start(&Node::Machine).unwrap(), config)
    }

    /// Starts a world without images.
    pub(crate) fn empty() -> Self {
        Self::around(Self::bare(), "")
    }

    pub(crate) fn bare() -> Registry {
        let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
        Registry::start_with(&Node::Machine, &options).unwrap()
    }

    /// Pushes [`BULKY`].
    pub(crate) fn push_bulky(&self) {
        push_bulky(&self.registry);
    }

    pub(crate) fn around(registry: Registry, config: &str) -> Self {
        Self::on_disk(registry, None, config)
    }

    /// Starts a world whose snapshotter has a disk of its own of so many bytes.
    pub(crate) fn on_disk(registry: Registry, disk: Option<u64>, config: &str) -> Self {
        let mut options = ProxyOptions::new(registry.at());
        // So that what was pulled from the registry itself is asked of the proxy, too.
        options.upstream_keys += &format!("aliases = ['{}']\n", registry.at());
        let proxy = Proxy::start(&Node::Machine, options).unwrap();
        let relay = Relay::start(proxy.at()).unwrap();
        let wait = if config.contains("convert_wait") { "" } else { "convert_wait = '30s'\n" };
        let config = format!("{wait}{config}[[proxy]]\nurl = 'http://{}'\n", relay.at());
        Self { bench: Bench::start_on(disk, &config), relay, proxy, registry }
    }

    /// Returns the proxy's address for clients of the node.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.relay.at()
    }

    /// Has an image converted, and returns the reference of the original by its digest, and that.
    pub(crate) fn pinned(&self, repository: &str) -> (String, String) {
        self.pinned_tag(repository, "latest")
    }

    /// Does so with another tag.
    pub(crate) fn pinned_tag(&self, repository: &str, tag: &str) -> (String, String) {
        let digest = self.registry.digest(repository, tag).unwrap();
        self.proxy.wait_twins(repository, &digest).unwrap();
        (format!("{}/{repository}@{digest}", self.at()), digest)
    }

    /// Returns the size of an image's layers, as they are pulled.
    pub(crate) fn size(&self, repository: &str, digest: &str) -> u64 {
        let path = format!("/v2/{repository}/manifests/{digest}");
        let manifest = self.proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap().json().unwrap();
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap()).sum()
    }

    /// Waits until every lazy layer is here and proven.
    pub(crate) fn wait_proven(&self) {
        self.bench.wait_proven();
    }

    /// Checks that no layer was pulled in the ordinary way.
    pub(crate) fn assert_lazy(&self) {
        self.bench.assert_lazy();
    }
}

/// Pulled by the digest of the original, an image runs with next to none of its bytes here, and goes without a trace.
#[test]
fn a_pinned_image_starts_before_it_is_here() {
    if !is_root() {
        return skip("a_pinned_image_starts_before_it_is_here", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '1h'\n");
    world.push_bulky();
    let (reference, digest) = world.pinned(BULKY);
    let containerd = &world.bench.containerd;
    let before = world.relay.bytes("/");
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    assert_eq!(containerd.digest(&reference).unwrap(), digest);
    let said = containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", world.bench.snapshotter.log());
    world.assert_lazy();
    // The proxy keeps what is not here yet.
    let held = || Ok((world.proxy.sql("SELECT count(*) FROM holds").unwrap().trim() == "7").then_some(()));
    wait::until("the holds", LIMIT, held).unwrap();
    // With TOCs, lazy index and all.
    let (fetched, all) = (world.relay.bytes("/") - before, world.size(BULKY, &digest));
    assert!(fetched * 20 < all, "{fetched} of {all} bytes");
    run(containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    world.bench.wait_empty();
}

/// Returns the reference of an image's estargz view, and the digest of that.
fn estargz_view(world: &World, repository: &str) -> (String, String) {
    let (_, digest) = world.pinned(repository);
    let converted = world.proxy.convert(repository, "latest", &digest).unwrap();
    (format!("{}/{repository}@{converted}", world.at()), converted)
}

/// The estargz view is mounted in the same way.
#[test]
fn the_estargz_view_is_lazy_too() {
    if !is_root() {
        return skip("the_estargz_view_is_lazy_too", "not root");
    }
    let world = World::around(World::bare(), "fill_after = '1h'\n");
    world.push_bulky();
    let (reference, converted) = estargz_view(&world, BULKY);
    let containerd = &world.bench.containerd;
    let before = world.relay.bytes("/");
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    assert_eq!(containerd.digest(&reference).unwrap(), converted);
    let said = containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", world.bench.snapshotter.log());
    world.assert_lazy();
    let (fetched, all) = (world.relay.bytes("/") - before, world.size(BULKY, &converted));
    assert!(fetched * 20 < all, "{fetched} of {all} bytes");
}

/// The layers of the estargz view are twins, and the tars that they are proven by are the twins' own.
#[test]
fn the_estargz_view_is_proven() {
    if !is_root() {
        return skip("the_estargz_view_is_proven", "not root");
    }
    let world = World::start_with("fill_after = '0s'\n");
    let (reference, _) = estargz_view(&world, "library/tiny");
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.assert_lazy();
    world.wait_proven();
}

/// The status says of every layer how it got here and how far it is, or why it is ordinary; and so do the metrics.
#[test]
fn the_status_tells_how_far_every_layer_is() {
    if !is_root() {
        return skip("the_status_tells_how_far_every_layer_is", "not root");
    }
    let metrics_at = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, wait::free_port());
    let world = World::around(World::bare(), &format!("metrics_listen = '{metrics_at}'\n"));
    let plain = Tar::new().file("a", b"some bytes").end();
    let good = push::layer(&world.registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
    // A tar whose twin the proxy refuses to make.
    let odd = rows::all().into_iter().find(|row| row.outcome == Outcome::Stays("not_utf8")).unwrap();
    let odd = push::layer(&world.registry, BULKY, odd.media_type, odd.blob, odd.diff_id);
    let image = push::image(&world.registry, BULKY, "odd", &[good.clone(), odd.clone()]);
    let reference = format!("{}/{BULKY}@{image}", world.at());
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let told = || {
        let status = world.bench.snapshotter.status()?;
        let layers = status["images"][0]["layers"].as_array().cloned().unwrap_or_default();
        Ok((layers.len() == 2 && layers[0]["proof"] == "proven").then_some((status, layers)))
    };
    let (status, layers) = wait::until("the proof", LIMIT, told).unwrap();
    assert_eq!(status["images"][0]["image"], format!("{}/{BULKY}", world.at()));
    assert_eq!((&layers[0]["layer"], &layers[0]["mode"]), (&json!(good.digest), &json!("lazy")));
    assert_eq!(layers[1]["layer"], odd.digest);
    assert_eq!((&layers[1]["mode"], &layers[1]["reason"]), (&json!("ordinary"), &json!("unconvertible")));
    assert!(layers[1]["detail"].as_str().unwrap().contains("not_utf8"), "{status}");
    assert_eq!(status["reads"]["failed"], 0);
    assert!(status["reads"]["background_bytes"].as_u64().unwrap() > 0, "{status}");
    let metrics = web::request(&Node::Machine, metrics_at, "GET", "/metrics", &[]).unwrap().text();
    for line in
        ["lazy_layers{proof=\"proven\"} 1", "ordinary_layers{reason=\"unconvertible\"} 1", "failed_reads_total 0"]
    {
        let line = format!("firstlight_snapshotter_{line}");
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}

/// An image that is pulled from its own registry is mounted lazily by the twins of the proxy that stands for that registry.
#[test]
fn an_image_of_another_registry_is_asked_of_its_proxy() {
    if !is_root() {
        return skip("an_image_of_another_registry_is_asked_of_its_proxy", "not root");
    }
    let world = World::start();
    let reference = format!("{}/library/tiny:latest", world.registry.at());
    let containerd = &world.bench.containerd;
    containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let said = containerd.run_with(Snapshotter::NAME, &reference, &["echo", "here"]);
    assert_eq!(said.unwrap(), "here", "{}", world.bench.snapshotter.log());
    world.assert_lazy();
}

/// Who does not want to wait for a conversion does not, and is told so; the next pull finds the twin.
#[test]
fn a_conversion_is_waited_for_as_long_as_is_said() {
    if !is_root() {
        return skip("a_conversion_is_waited_for_as_long_as_is_said", "not root");
    }
    let world = World::around(World::bare(), "convert_wait = '0s'\n");
    let mut plain = Tar::new();
    for number in 0..30 {
        plain = plain.file(&number.to_string(), &noise(number, 1 << 20));
    }
    let plain = plain.end();
    let layer = push::layer(&world.registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
    let image = push::image(&world.registry, BULKY, "latest", std::slice::from_ref(&layer));
    let reference = format!("{}/{BULKY}@{image}", world.at());
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.bench.wait_log("reason=\"converting\"");
    run(world.bench.containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    world.bench.wait_empty();
    world.proxy.wait_twins(BULKY, &image).unwrap();
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    world.bench.wait_log("before it is here");
}

/// And no longer, where it takes longer than that.
#[test]
fn a_conversion_that_takes_too_long_is_left_alone() {
    if !is_root() {
        return skip("a_conversion_that_takes_too_long_is_left_alone", "not root");
    }
    let world = World::around(World::bare(), "convert_wait = '3s'\n");
    let plain = Tar::new().file("a", b"some bytes").end();
    let layer = push::layer(&world.registry, BULKY, push::TAR, plain.clone().into(), e2e::digest(&plain));
    let image = push::image(&world.registry, BULKY, "latest", std::slice::from_ref(&layer));
    let goes_on = json!({"manifest": image, "layers": [{"source": layer.digest, "state": "converting"}]});
    let goes_on = Fault::Document("application/json".to_owned(), goes_on.to_string().into());
    world.relay.add(Rule::new("/_firstlight/l", goes_on));
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &format!("{}/{BULKY}@{image}", world.at())).unwrap();
    world.bench.wait_log("reason=\"converting\"");
    let asked = world.relay.seen_at("/_firstlight/l");
    let waits: Vec<u64> =
        asked.iter().filter_map(|seen| seen.path.split_once("wait=")?.1.split('&').next()?.parse().ok()).collect();
    // It is asked at once, then for as long as is left, and not for a moment.
    assert!(waits.len() >= 2 && waits.len() < 40, "{asked:?}");
    assert!(waits.iter().all(|wait| *wait <= 3) && waits.is_sorted_by(|a, b| *a == 0 || a >= b), "{waits:?}");
}

/// A proxy that is asked over TLS, by a private authority, and with a password, like any other one.
#[test]
fn a_proxy_may_want_tls_and_a_password() {
    if !is_root() {
        return skip("a_proxy_may_want_tls_and_a_password", "not root");
    }
    let (registry, files, authority) =
        (Registry::start(&Node::Machine).unwrap(), Scratch::new().unwrap(), Authority::new().unwrap());
    let users = run(Command::new("htpasswd").args(["-nbB", "-C", "5", "ann", "secret"])).unwrap();
    let users = files.write("htpasswd", &users).unwrap();
    let password = files.write("password", "secret").unwrap();
    let mut options = ProxyOptions::new(registry.at());
    options.upstream_keys += &format!("aliases = ['{}']\n", registry.at());
    options = options.config(&format!("[server]\nhtpasswd = '{}'\n", users.display()));
    options.tls = Some(authority.sign("localhost", std::net::Ipv4Addr::LOCALHOST).unwrap());
    let proxy = Proxy::start(&Node::Machine, options).unwrap();
    let config = format!(
        "convert_wait = '30s'\n[[proxy]]\nurl = 'https://{}'\nca_file = '{}'\nusername = 'ann'\npassword_file = '{}'\n",
        proxy.at(),
        authority.certificate().display(),
        password.display(),
    );
    let bench = Bench::start_with(&config);
    let reference = format!("{}/library/tiny:latest", registry.at());
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let said = bench.containerd.run_with(Snapshotter::NAME, &reference, &["echo", "here"]);
    assert_eq!(said.unwrap(), "here", "{}", bench.snapshotter.log());
    bench.assert_lazy();
    bench.wait_proven();
}

/// A layer whose tree has no room in the memory for them is pulled in the ordinary way, and it is said why.
#[test]
fn trees_take_no_more_memory_than_they_may() {
    if !is_root() {
        return skip("trees_take_no_more_memory_than_they_may", "not root");
    }
    let world = World::start_with("tree_memory = '100KB'\n");
    let (reference, _) = world.pinned("library/python");
    world.bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let log = world.bench.snapshotter.log();
    assert!(log.contains("reason=\"memory\""), "{log}");
    let said = world.bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{log}");
    let told = || {
        let status = world.bench.snapshotter.status()?;
        let layers = status["images"][0]["layers"].as_array().cloned().unwrap_or_default();
        let told = layers.iter().find(|layer| layer["reason"] == "memory").map(|layer| layer["detail"].to_string());
        Ok(told)
    };
    let why = wait::until("the reason", LIMIT, told).unwrap();
    assert!(why.contains("tree_memory (97.7 KiB)"), "{why}");
}

/// A proxy that takes connections and says nothing hinders no pull: it is asked once, and the layers are unpacked.
#[test]
fn a_silent_proxy_hinders_no_pull() {
    if !is_root() {
        return skip("a_silent_proxy_hinders_no_pull", "not root");
    }
    let world = World::start();
    let reference = format!("{}/library/python:latest", world.registry.at());
    world.proxy.freeze().unwrap();
    let containerd = &world.bench.containerd;
    let pulled = containerd.pull_lazily(Snapshotter::NAME, &reference);
    let ran = pulled.and_then(|_| containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(1)"]));
    world.proxy.thaw().unwrap();
    let log = world.bench.snapshotter.log();
    assert_eq!(ran.unwrap(), "1", "{log}");
    assert_eq!(log.matches("reason=\"unreachable\"").count(), 6, "{log}");
    assert!(!log.contains("before it is here"), "{log}");
}

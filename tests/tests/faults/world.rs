//! What every test here stands on: an empty registry, the relay, the proxy, and an image of the test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::web::{self, Answer, Download, Pace};
use e2e::{Fault, Node, ProxyOptions, Registry, RegistryOptions, Relay, Rule, wait};

use crate::push::{self, Blob, Image};
use crate::{Program, Stage};

/// Nothing of a healthy test takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);
/// The repository of [`World::start`]'s image.
pub(crate) const REPOSITORY: &str = "team/a";

/// Registry, relay and proxy with one image, `team/a:latest`, whose manifest nobody has read yet.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) image: Image,
}

impl World {
    /// Starts a world whose image has these layers.
    pub(crate) fn start(layers: Vec<Blob>, options: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Self {
        Self::around(layers, |upstream| Program::start(&Node::Machine, options(upstream)))
    }

    /// Starts a world around a program that the test starts itself, from options that name the upstream.
    pub(crate) fn around(layers: Vec<Blob>, program: impl FnOnce(ProxyOptions) -> anyhow::Result<Program>) -> Self {
        let registry =
            Registry::start_with(&Node::Machine, &RegistryOptions { empty: true, ..RegistryOptions::default() });
        let registry = registry.unwrap();
        let image = push::image(&registry, REPOSITORY, "latest", layers);
        let relay = Relay::start(registry.at()).unwrap();
        let proxy = program(ProxyOptions::new(relay.at())).unwrap();
        Self { stage: Stage { proxy, relay, registry }, image }
    }

    /// Starts a world that converts nothing, and has the proxy read the manifest, which links the layers.
    pub(crate) fn linked(layers: Vec<Blob>) -> Self {
        let world = Self::start(layers, |options| options.config("[convert]\nenabled = false\n"));
        world.link();
        world
    }

    /// Reads the manifest by digest.
    pub(crate) fn link(&self) {
        let answer = self.get(&format!("/v2/{REPOSITORY}/manifests/{}", self.image.digest));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    pub(crate) fn layer(&self) -> &Blob {
        &self.image.layers[0]
    }

    /// Returns the path of a layer.
    pub(crate) fn path(&self, layer: usize) -> String {
        blob_path(REPOSITORY, &self.image.layers[layer].digest)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[])
    }

    /// Sends a request with the manifest types in `Accept` before `headers`.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("accept", web::MANIFEST_TYPES)];
        all.extend(headers);
        self.stage.proxy.request(method, path, &all).unwrap()
    }

    /// Downloads the first layer; an error is a body that was cut off.
    pub(crate) fn download(&self, pace: Pace) -> anyhow::Result<Download> {
        web::download(self.stage.proxy.at(), &self.path(0), &[], pace)
    }

    /// Asks for a range of the first layer and returns the whole answer.
    pub(crate) fn range(&self, range: &str) -> Answer {
        self.send("GET", &self.path(0), &[("range", range)])
    }

    /// Limits what upstream sends of the layers to `rate` bytes a second (per answer).
    pub(crate) fn throttle(&self, rate: u64) {
        self.stage.relay.add(Rule::new("/blobs/", Fault::Throttle(rate)));
    }

    /// All bytes that upstream sent of the first layer.
    pub(crate) fn upstream(&self) -> u64 {
        self.stage.relay.bytes(&self.layer().digest)
    }

    /// Checks that upstream sent no layer more than once, to a hundredth.
    pub(crate) fn assert_frugal(&self) {
        for layer in &self.image.layers {
            let (sent, most) = (self.stage.relay.bytes(&layer.digest), layer.size() + layer.size() / 100);
            assert!(sent <= most, "upstream sent {sent} of {} bytes: {:#?}", layer.size(), self.requests());
        }
    }

    /// What upstream was asked for, one line a request.
    pub(crate) fn requests(&self) -> Vec<String> {
        let line = |seen: &e2e::Seen| {
            let range = seen.headers.get("range").and_then(|range| range.to_str().ok()).unwrap_or("whole");
            format!("{} {} {range}: {} and {} bytes", seen.method, seen.path, seen.status, seen.bytes)
        };
        self.stage.relay.seen_at("/blobs/").iter().map(line).collect()
    }

    /// Waits until upstream has sent `bytes` of the first layer.
    pub(crate) fn wait_upstream(&self, bytes: u64) {
        self.wait("upstream", || self.upstream() >= bytes);
    }

    /// Waits until a metric, summed over its labels, is at least `least`.
    pub(crate) fn wait_metric(&self, name: &str, least: f64) {
        self.wait(name, || self.metric(name) >= least);
    }

    /// Waits until no fill and no conversion runs.
    pub(crate) fn wait_idle(&self) {
        let running = |name| self.metric(name) > 0.0;
        self.wait("idle", || !running("firstlight_fills_running") && !running("firstlight_conversions_running"));
    }

    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let waited = wait::until(what, LIMIT, || Ok(done().then_some(())));
        if let Err(error) = waited {
            panic!("{error}\n{:#?}\n{}", self.requests(), self.stage.proxy.log());
        }
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.stage.proxy.metric(name).unwrap()
    }

    /// Returns one series of a metric, 0 when it is not there.
    pub(crate) fn series(&self, series: &str) -> f64 {
        self.stage.proxy.metrics().unwrap().get(series).copied().unwrap_or_default()
    }

    /// The files of the data folders whose path contains `text`, the catalog's own left out.
    pub(crate) fn files(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        self.stage.proxy.stores().iter().for_each(|store| walk(store, &mut found));
        let of_catalog = |path: &Path| path.to_string_lossy().contains("catalog.db");
        found.retain(|path| !of_catalog(path) && path.to_string_lossy().contains(text));
        found
    }

    /// Waits until a journal says that some of a spool is there.
    pub(crate) fn wait_journal(&self) {
        let notes = |path: &PathBuf| {
            let text = std::fs::read(path).unwrap_or_default();
            let journal: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            journal["have"].as_array().is_some_and(|have| !have.is_empty())
        };
        self.wait("journal", || self.files(".journal").iter().any(notes));
    }

    /// Waits until nothing is left over in `spool/` and `partial/`.
    pub(crate) fn wait_tidy(&self) {
        self.wait_idle();
        self.wait("tidy folders", || self.files("/spool/").is_empty() && self.files("/partial/").is_empty());
    }

    /// Checks that nothing in the proxy panicked.
    pub(crate) fn assert_calm(&self) {
        let log = self.stage.proxy.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Returns the path of a blob.
pub(crate) fn blob_path(repository: &str, digest: &str) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Returns the code of an OCI error body.
pub(crate) fn code(answer: &Answer) -> String {
    let body = answer.json().unwrap_or_default();
    body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    // What vanishes while it is looked at is not there.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

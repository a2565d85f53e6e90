//! An empty registry and a proxy in front of it, for images of a test's own.

use std::time::Duration;

use e2e::{Node, Proxy, ProxyOptions, Registry, RegistryOptions, wait};
use serde_json::Value;

use crate::compressed::gzip;
use crate::converted;
use crate::push::{self, Layer};
use crate::tar::Tar;

/// No conversion of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// The repository of every image.
pub(crate) const REPOSITORY: &str = "team/images";

/// A registry that can be pushed to, and a proxy in the estargz view. Dropped in this order.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) registry: Registry,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a world with more keys of `[convert]`, as TOML lines.
    pub(crate) fn start_with(convert: &str) -> Self {
        let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
        let registry = Registry::start_with(&Node::Machine, &options).unwrap();
        let config = format!("[convert]\nwait = \"5m\"\n{convert}");
        let options = ProxyOptions::new(registry.at()).view("estargz").config(&config);
        Self { proxy: Proxy::start(&Node::Machine, options).unwrap(), registry }
    }

    /// Pushes a small layer whose one file has this content.
    pub(crate) fn layer(&self, contents: &str) -> Layer {
        let plain = Tar::new().dir("./").file("./file", contents.as_bytes()).end();
        push::layer(&self.registry, REPOSITORY, push::GZIP, gzip(&plain).into(), e2e::digest(&plain))
    }

    /// Pushes an image of layers and returns its digest.
    pub(crate) fn image(&self, tag: &str, layers: &[Layer]) -> String {
        push::image(&self.registry, REPOSITORY, tag, layers)
    }

    /// Pushes a manifest or an index and returns its digest.
    pub(crate) fn manifest(&self, tag: &str, document: &Value) -> String {
        push::manifest(&self.registry, REPOSITORY, tag, document["mediaType"].as_str().unwrap(), document)
    }

    /// Returns what a tag shows in the estargz view once all that its digest names is converted.
    pub(crate) fn shown(&self, tag: &str, digest: &str) -> (String, Value) {
        converted::manifest(&self.proxy, REPOSITORY, digest, "estargz");
        let idle = wait::until("conversions", LIMIT, || {
            Ok((self.proxy.metric("firstlight_conversions_running")? == 0.0).then_some(()))
        });
        idle.unwrap();
        converted::manifest(&self.proxy, REPOSITORY, tag, "estargz")
    }

    /// Returns how many conversions have ended, in whatever way.
    pub(crate) fn conversions(&self) -> f64 {
        self.proxy.metric("firstlight_conversions_total").unwrap()
    }
}

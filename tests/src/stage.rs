//! Registry, relay and proxy, the set-up of most tests.

use std::ops::Deref;

use anyhow::{Context, Result};

use crate::{Fleet, Front, Node, Proxy, ProxyOptions, Registry, Relay, web};

/// A [`Staged`] proxy: one process, which keeps everything in its data folder.
pub type Stage = Staged<Proxy>;

/// A registry with the test images, a relay in front of it, and the program, whose `docker.io` is the relay.
#[derive(Debug)]
pub struct Staged<P> {
    /// The program under test. Dropped first.
    pub proxy: P,
    /// Between proxy and registry.
    pub relay: Relay,
    /// The upstream.
    pub registry: Registry,
}

/// A way to run the program: as one process, or as a fleet.
pub trait Served: Deref<Target = Front> + Sized {
    /// Starts it on a node and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready after a minute.
    fn serve(node: &Node, options: ProxyOptions) -> Result<Self>;
}

impl Served for Proxy {
    fn serve(node: &Node, options: ProxyOptions) -> Result<Self> {
        Self::start(node, options)
    }
}

impl Served for Fleet {
    fn serve(node: &Node, options: ProxyOptions) -> Result<Self> {
        Self::start(node, options)
    }
}

impl<P: Served> Staged<P> {
    /// Starts all three on this machine, the proxy in the given view; a request waits two minutes for a conversion.
    ///
    /// # Errors
    /// One of them did not start.
    pub fn start(view: &str) -> Result<Self> {
        Self::start_with(|options| options.view(view).config("[convert]\nwait = \"120s\"\n"))
    }

    /// Starts all three on this machine, the proxy with options of the test's choice.
    ///
    /// # Errors
    /// One of them did not start.
    pub fn start_with(options: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Result<Self> {
        let registry = Registry::start(&Node::Machine)?;
        let relay = Relay::start(registry.at())?;
        let proxy = P::serve(&Node::Machine, options(ProxyOptions::new(relay.at())))?;
        Ok(Self { proxy, relay, registry })
    }

    /// Reads an image manifest through the proxy, which links its blobs to the repository, and returns digest and size of a layer.
    ///
    /// # Errors
    /// The proxy refused, or the image has no such layer.
    pub fn layer(&self, repository: &str, digest: &str, layer: usize) -> Result<(String, u64)> {
        let path = format!("/v2/{repository}/manifests/{digest}");
        let manifest = self.proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)])?.json()?;
        let layer = &manifest["layers"][layer];
        let digest = layer["digest"].as_str().with_context(|| format!("{path}: no such layer in {manifest}"))?;
        Ok((digest.to_owned(), layer["size"].as_u64().context("size")?))
    }
}

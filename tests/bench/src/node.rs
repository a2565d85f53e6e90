//! [`World`] and [`Cold`]: a proxy that has all twins of an image, and a node that has nothing of it.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::{Containerd, Node, Proxy, ProxyOptions, Snapshotter, Stargz, Transport, drop_caches, wait};

use crate::layout::Layout;
use crate::measured::settle;
use crate::upstream::{Upstream, repository};

/// containerd's own snapshotter.
pub(crate) const ORDINARY: &str = "overlayfs";
/// No conversion takes longer.
const LIMIT: Duration = Duration::from_secs(1200);

/// A proxy that has all twins of an image.
#[derive(Debug)]
pub(crate) struct World {
    proxy: Proxy,
    repository: String,
    digest: String,
    _upstream: Upstream,
}

impl World {
    /// Starts a registry and a proxy, and has the image converted.
    ///
    /// # Errors
    /// A server did not start, or a layer was not converted.
    pub(crate) fn start(image: &Layout) -> Result<Self> {
        let upstream = Upstream::start(&[image])?;
        let proxy = Proxy::start(&Node::Machine, ProxyOptions::new(upstream.at()))?;
        let (repository, digest) = (repository(image), image.digest()?);
        let call = format!("/v2/{repository}/_firstlight/lazy/{digest}?wait=30");
        wait::until("conversions", LIMIT, || {
            let answer = proxy.request("GET", &call, &[])?.json()?;
            let layers = answer["layers"].as_array().context("layers")?;
            Ok(layers.iter().all(|layer| layer["state"] == "ready").then_some(()))
        })?;
        Ok(Self { proxy, repository, digest, _upstream: upstream })
    }

    /// Returns the address of the proxy.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.proxy.at()
    }

    /// Returns the image's reference at an address, by its original digest.
    pub(crate) fn reference(&self, at: SocketAddrV4) -> String {
        self.reference_to(at, &self.digest)
    }

    /// Returns the digest of its estargz view, for clients that mount no other.
    ///
    /// # Errors
    /// The proxy has none.
    pub(crate) fn estargz(&self) -> Result<String> {
        self.proxy.convert(&self.repository, "latest", &self.digest)
    }

    /// Returns a reference of it by another digest.
    pub(crate) fn reference_to(&self, at: SocketAddrV4, digest: &str) -> String {
        format!("{at}/{}@{digest}", self.repository)
    }
}

/// A node that has nothing yet.
#[derive(Debug)]
pub(crate) struct Cold {
    pub(crate) containerd: Containerd,
    pub(crate) snapshotter: Snapshotter,
    _reference: Stargz,
}

impl Cold {
    /// Starts a containerd with the reference's snapshotter and ours, which asks a proxy at `proxy` and has more lines in its configuration.
    ///
    /// # Errors
    /// One of them did not start.
    pub(crate) fn start(proxy: SocketAddrV4, config: &str) -> Result<Self> {
        let snapshotter = Snapshotter::start_with(&format!("{config}[[proxy]]\nurl = 'http://{proxy}'\n"))?;
        let reference = Stargz::start()?;
        let plugins = snapshotter.plugin()? + &reference.plugin();
        let containerd = Containerd::start_with(&Node::Machine, Transport::Plain, &plugins)?;
        Ok(Self { containerd, snapshotter, _reference: reference })
    }

    /// Waits until all bytes are here and proven.
    ///
    /// # Errors
    /// They do not come.
    pub(crate) fn wait_proven(&self) -> Result<()> {
        wait::until("the proof", LIMIT, || {
            let status = self.snapshotter.status()?;
            let Some(layers) = status["images"][0]["layers"].as_array() else { return Ok(None) };
            Ok(layers.iter().all(|layer| layer["proof"] == "proven").then_some(()))
        })
    }

    /// Runs a command of bash in a container on a snapshotter of this node, and returns the seconds that it says it took.
    ///
    /// # Errors
    /// The container failed.
    pub(crate) fn seconds(&self, snapshotter: &str, reference: &str, script: &str) -> Result<f64> {
        let timed = format!("{{ TIMEFORMAT=%R; time {{ {script}; }} >/dev/null 2>/dev/null; }} 2>&1");
        let said = self.containerd.run_with(snapshotter, reference, &["bash", "-c", &timed])?;
        said.trim().parse().with_context(|| format!("{script}: {said}"))
    }
}

/// Has nothing cached and nothing left to write, does something, and returns how many seconds it took.
///
/// # Errors
/// Those of `work`.
pub(crate) fn cold_seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    settle();
    drop_caches()?;
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

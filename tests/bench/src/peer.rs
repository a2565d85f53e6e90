//! [`Peer`]: the reference converter, `ctr-remote image convert` in a containerd of its own.

use std::process::Command;

use anyhow::{Context, Result};
use e2e::{Containerd, Node, Transport, run};
use serde_json::Value;

use crate::layout::{Layer, Layout, layers};
use crate::measured::{Cost, measure, settle};
use crate::upstream::{Upstream, repository};

/// The converted image's name.
const CONVERTED: &str = "bench.local/converted:latest";

/// A containerd whose content store holds one image.
#[derive(Debug)]
pub(crate) struct Peer {
    containerd: Containerd,
    image: String,
}

impl Peer {
    /// Starts a containerd and fetches an image, without unpacking it.
    ///
    /// # Errors
    /// It did not start, or the image could not be fetched.
    pub(crate) fn start(upstream: &Upstream, image: &Layout) -> Result<Self> {
        let containerd = Containerd::start(&Node::Machine, Transport::Plain)?;
        let image = format!("{}/{}:latest", upstream.at(), repository(image));
        run(containerd.ctr().args(["content", "fetch", "--plain-http", "--platform", "linux/amd64", &image]))?;
        Ok(Self { containerd, image })
    }

    /// Converts the image and returns what that cost, and the layers that came of it.
    ///
    /// # Errors
    /// The conversion failed.
    pub(crate) fn convert(&self) -> Result<(Cost, Vec<Layer>)> {
        settle();
        let mut command: Command = self.containerd.ctr_remote();
        command.args(["images", "convert", "--oci", "--estargz", &self.image, CONVERTED]);
        let cost = measure(&command)?;
        let mut document = self.document(&self.containerd.digest(CONVERTED)?)?;
        if let Some(child) = document["manifests"][0]["digest"].as_str().map(str::to_owned) {
            document = self.document(&child)?;
        }
        Ok((cost, layers(&document)?))
    }

    fn document(&self, digest: &str) -> Result<Value> {
        let text = run(self.containerd.ctr().args(["content", "get", digest]))?;
        serde_json::from_str(&text).with_context(|| digest.to_owned())
    }
}

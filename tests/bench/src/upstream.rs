//! [`Upstream`]: a registry that holds images.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Node, Registry, RegistryOptions, run};

use crate::layout::{Layer, Layout};

/// A `docker-registry` that holds some images as `library/TAG:latest`.
#[derive(Debug)]
pub(crate) struct Upstream(Registry);

impl Upstream {
    /// Starts a registry and copies the images to it.
    ///
    /// # Errors
    /// The registry did not start, or a copy failed or has another digest.
    pub(crate) fn start(images: &[&Layout]) -> Result<Self> {
        let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
        let registry = Registry::start_with(&Node::Machine, &options)?;
        let upstream = Self(registry);
        for image in images {
            let mut copy = Command::new("skopeo");
            copy.args(["copy", "-q", "--dest-tls-verify=false"]).arg(image.location());
            run(copy.arg(format!("docker://{}/{}:latest", upstream.at(), repository(image))))?;
            let (theirs, ours) = (upstream.0.digest(&repository(image), "latest")?, image.digest()?);
            ensure!(theirs == ours, "{} became {theirs}, not {ours}", image.tag());
        }
        Ok(upstream)
    }

    /// Returns its address.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.0.at()
    }
}

/// Returns the repository of an image in an [`Upstream`].
pub(crate) fn repository(image: &Layout) -> String {
    format!("library/{}", image.tag())
}

/// Returns the path of a layer in an [`Upstream`], or in a proxy before it.
pub(crate) fn blob(image: &Layout, layer: &Layer) -> String {
    format!("/v2/{}/blobs/{}", repository(image), layer.digest)
}

/// Returns the command that copies an image by digest to a folder, from a registry or proxy that speaks plain HTTP.
///
/// # Errors
/// The image is not there.
pub(crate) fn pull(from: SocketAddrV4, image: &Layout, to: &std::path::Path) -> Result<Command> {
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "-q", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{from}/{}@{}", repository(image), image.digest()?)).arg(format!("dir:{}", to.display()));
    Ok(copy)
}

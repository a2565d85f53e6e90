//! skopeo, with umoci and runc to unpack and run what it copied.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Client, Node, Scratch, Transport, run};

/// skopeo with a folder of its own to copy to.
#[derive(Debug)]
pub struct Skopeo {
    node: Node,
    transport: Transport,
    scratch: Scratch,
}

impl Skopeo {
    /// Makes an empty folder.
    ///
    /// # Errors
    /// The folder could not be made.
    pub fn new(node: &Node, transport: Transport) -> Result<Self> {
        Ok(Self { node: node.clone(), transport, scratch: Scratch::new()? })
    }

    /// Copies an image from a registry, byte for byte, to a `dir:` folder and returns that.
    ///
    /// # Errors
    /// The copy failed.
    pub fn copy(&self, reference: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(&format!("dir-{}", file_name(reference)));
        run(self
            .command("copy")
            .arg("-q")
            .arg(format!("docker://{reference}"))
            .arg(format!("dir:{}", folder.display())))?;
        Ok(folder)
    }

    /// Unpacks a copied image with `umoci unpack` and returns the bundle, whose tree is `rootfs`.
    ///
    /// # Errors
    /// The image is not there, or umoci refused it.
    pub fn unpack(&self, reference: &str) -> Result<PathBuf> {
        let name = file_name(reference);
        let folder = self.scratch.join(&format!("dir-{name}"));
        let layout = format!("{}:image", self.scratch.join(&format!("oci-{name}")).display());
        let mut copy = self.node.command("skopeo");
        copy.args(["copy", "-q"]).arg(format!("dir:{}", folder.display()));
        run(copy.arg(format!("oci:{layout}")))?;
        let bundle = self.scratch.join(&format!("bundle-{name}"));
        run(self.node.command("umoci").args(["unpack", "--image", &layout]).arg(&bundle))?;
        Ok(bundle)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.node.command("skopeo");
        command.args(["--override-os", "linux", "--override-arch", "amd64", verb]);
        if self.transport == Transport::Plain {
            command.arg(if verb == "copy" { "--src-tls-verify=false" } else { "--tls-verify=false" });
        }
        command
    }
}

fn file_name(reference: &str) -> String {
    reference.replace(['/', ':', '@'], "_")
}

impl Client for Skopeo {
    fn name(&self) -> &'static str {
        "skopeo"
    }

    fn pull(&self, reference: &str) -> Result<String> {
        self.copy(reference)?;
        run(self.command("inspect").args(["--no-tags", "--format", "{{.Digest}}", &format!("docker://{reference}")]))
    }

    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let bundle = self.unpack(reference)?;
        let config = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
        spec["process"]["args"] = arguments.into();
        spec["process"]["terminal"] = false.into();
        spec["process"]["rlimits"] = serde_json::json!([]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().context("namespaces")?;
        namespaces.retain(|namespace| namespace["type"] != "network");
        std::fs::write(&config, spec.to_string())?;
        let name = format!("firstlight-skopeo-{}", bundle_id(&bundle));
        run(self
            .node
            .command("runc")
            .arg("--root")
            .arg(self.scratch.join("runc"))
            .args(["run", "-b"])
            .arg(&bundle)
            .arg(name))
    }

    fn clear(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.scratch.path())? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        Ok(())
    }
}

/// The scratch folder's name, which is unique on the machine.
fn bundle_id(bundle: &Path) -> String {
    let parent = bundle.parent().and_then(Path::file_name);
    parent.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

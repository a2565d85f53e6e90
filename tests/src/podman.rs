//! podman.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cgroup::Cgroup;
use crate::{Client, Node, Scratch, Transport, run};

/// podman with storage of its own.
#[derive(Debug)]
pub struct Podman {
    node: Node,
    transport: Transport,
    registries: Option<PathBuf>,
    cgroup: Cgroup,
    scratch: Scratch,
}

impl Podman {
    /// Makes an empty storage.
    ///
    /// # Errors
    /// Its files could not be written.
    pub fn new(node: &Node, transport: Transport) -> Result<Self> {
        let scratch = Scratch::new()?;
        let dir = scratch.path().display();
        let engine = format!(
            "[engine]\ncgroup_manager = 'cgroupfs'\nruntime = 'runc'\nevents_logger = 'none'\nlock_type = 'file'\n\
             tmp_dir = '{dir}/libpod'\n[containers]\ndefault_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']\n",
        );
        scratch.write("containers.conf", &engine)?;
        let storage = format!("[storage]\ndriver = 'overlay'\ngraphroot = '{dir}/graph'\nrunroot = '{dir}/run'\n");
        scratch.write("storage.conf", &storage)?;
        scratch.folder("tmp")?;
        scratch.write("auth.json", "{}")?;
        let cgroup = Cgroup::new(&scratch);
        Ok(Self { node: node.with_mounts()?, transport, registries: None, cgroup, scratch })
    }

    /// Uses a `registries.conf` from now on.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn set_registries(&mut self, registries_conf: &str) -> Result<()> {
        self.registries = Some(self.scratch.write("registries.conf", registries_conf)?);
        Ok(())
    }

    /// Returns a podman command on this storage.
    pub fn cli(&self) -> Command {
        let mut command = self.node.command("podman");
        command.env("CONTAINERS_CONF", self.scratch.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.scratch.join("storage.conf"));
        command.env("TMPDIR", self.scratch.join("tmp")).env("REGISTRY_AUTH_FILE", self.scratch.join("auth.json"));
        if let Some(registries) = &self.registries {
            command.env("CONTAINERS_REGISTRIES_CONF", registries);
        }
        command
    }
}

impl Client for Podman {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn pull(&self, reference: &str) -> Result<String> {
        let mut command = self.cli();
        command.args(["pull", "-q"]);
        if self.transport == Transport::Plain && self.registries.is_none() {
            command.arg("--tls-verify=false");
        }
        run(command.arg(reference))?;
        run(self.cli().args(["image", "inspect", "--format", "{{.Digest}}", reference]))
    }

    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.cli();
        command.args(["run", "--rm", "--network", "host", "--pull", "never", "--cgroup-parent", &self.cgroup.path()]);
        run(command.arg(reference).args(arguments))
    }

    fn clear(&self) -> Result<()> {
        run(self.cli().args(["rmi", "--all", "--force"]))?;
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // podman keeps its storage mounted on itself; the folder's removal reports what this leaves.
        let _ = run(self.cli().args(["system", "reset", "--force"]));
    }
}

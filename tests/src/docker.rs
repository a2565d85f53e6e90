//! Docker Engine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::{Client, Containerd, Node, Proc, Scratch, run};

/// A `dockerd` with folders and socket of its own and no bridge; containers use the node's network.
///
/// Plain HTTP is allowed for loopback only, which is Docker's own rule: nothing is set as insecure.
#[derive(Debug)]
pub struct Docker {
    _proc: Proc,
    _cgroup: Cgroup,
    node: Node,
    socket: PathBuf,
    scratch: Scratch,
}

impl Docker {
    /// Starts a daemon with an empty `daemon.json`.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start(node: &Node) -> Result<Self> {
        Self::start_with(node, "{}")
    }

    /// Starts a daemon with the given `daemon.json`.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_with(node: &Node, daemon_json: &str) -> Result<Self> {
        Self::start_on(node, daemon_json, None)
    }

    /// Starts a daemon with the given `daemon.json` on a containerd of the same node; without one it starts its own.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_on(node: &Node, daemon_json: &str, containerd: Option<&Containerd>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.join("d.sock");
        let config = scratch.write("daemon.json", daemon_json)?;
        // It would leave a key file in /etc/docker.
        let node = node.with_mounts()?;
        let mut command = node.command("dockerd");
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        command.arg("--config-file").arg(config).arg("--data-root").arg(scratch.join("data"));
        command.arg("--exec-root").arg(scratch.join("x")).arg("--pidfile").arg(scratch.join("pid"));
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        if let Some(containerd) = containerd {
            command.arg("--containerd").arg(containerd.address());
        }
        let cgroup = Cgroup::new(&scratch);
        command.arg("--cgroup-parent").arg(cgroup.path());
        let mut proc = Proc::start(&command, &scratch.join("dockerd.log"))?;
        proc.ready(|| run(cli(&node, &socket, scratch.path()).arg("version")).is_ok())?;
        Ok(Self { _proc: proc, _cgroup: cgroup, node, socket, scratch })
    }

    /// Returns a command of the client for this daemon.
    pub fn cli(&self) -> Command {
        cli(&self.node, &self.socket, self.scratch.path())
    }
}

fn cli(node: &Node, socket: &Path, home: &Path) -> Command {
    let mut command = node.command("docker");
    command.env("DOCKER_CONFIG", home).arg("-H").arg(format!("unix://{}", socket.display()));
    command
}

impl Client for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn pull(&self, reference: &str) -> Result<String> {
        let output = run(self.cli().args(["pull", reference]))?;
        let digest = output.lines().find_map(|line| line.strip_prefix("Digest: "));
        digest.map(str::to_owned).with_context(|| format!("no digest in {output}"))
    }

    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        run(self.cli().args(["run", "--rm", "--network", "host", "--pull", "never", reference]).args(arguments))
    }

    fn clear(&self) -> Result<()> {
        run(self.cli().args(["system", "prune", "--all", "--force"]))?;
        Ok(())
    }
}

//! containerd, driven by `ctr`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::{Client, Node, Proc, Scratch, Transport, run};

/// A `containerd` with folders and socket of its own.
#[derive(Debug)]
pub struct Containerd {
    _proc: Proc,
    cgroup: Cgroup,
    node: Node,
    socket: PathBuf,
    transport: Transport,
    hosts: Option<PathBuf>,
    programs: Option<PathBuf>,
    scratch: Scratch,
}

impl Containerd {
    /// Starts a daemon.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start(node: &Node, transport: Transport) -> Result<Self> {
        Self::start_with(node, transport, "")
    }

    /// Starts a daemon with more lines in its `config.toml`.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_with(node: &Node, transport: Transport, more: &str) -> Result<Self> {
        Self::start_from(node, transport, more, None)
    }

    /// Starts a daemon of the programs in a folder, the node's own without one.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_from(node: &Node, transport: Transport, more: &str, programs: Option<&Path>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.join("c.sock");
        let dir = scratch.path().display();
        let config = format!(
            "version = 2\nroot = '{dir}/root'\nstate = '{dir}/state'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt']\n\
             [grpc]\naddress = '{}'\n{more}\n",
            socket.display(),
        );
        let config = scratch.write("config.toml", &config)?;
        // It keeps the sockets of its shims in /run/containerd, wherever its state is.
        let node = node.with_mounts()?;
        let mut command = program(&node, programs, "containerd");
        command.arg("-c").arg(config);
        let mut proc = Proc::start(&command, &scratch.join("containerd.log"))?;
        proc.ready(|| run(ctr(&node, programs, &socket).arg("version")).is_ok())?;
        let cgroup = Cgroup::new(&scratch);
        let programs = programs.map(Path::to_owned);
        Ok(Self { _proc: proc, cgroup, node, socket, transport, hosts: None, programs, scratch })
    }

    /// Uses a `hosts.toml` for a registry host in every later pull.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn set_hosts(&mut self, host: &str, hosts_toml: &str) -> Result<()> {
        self.scratch.write(&format!("hosts/{host}/hosts.toml"), hosts_toml)?;
        self.hosts = Some(self.scratch.join("hosts"));
        Ok(())
    }

    /// Returns where it runs.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Returns a `ctr` command for this daemon.
    pub fn ctr(&self) -> Command {
        ctr(&self.node, self.programs.as_deref(), &self.socket)
    }

    /// Returns the path of its socket.
    pub fn address(&self) -> &Path {
        &self.socket
    }

    /// Returns a `ctr-remote` command for this daemon: the reference converter and lazy client.
    pub fn ctr_remote(&self) -> Command {
        let mut command = self.node.command("ctr-remote");
        command.arg("-a").arg(&self.socket);
        command
    }

    /// Returns a `ctr snapshots` command for a snapshotter of this daemon.
    pub fn snapshots(&self, snapshotter: &str) -> Command {
        let mut command = self.ctr();
        command.args(["snapshots", "--snapshotter", snapshotter]);
        command
    }

    /// Pulls an image for linux/amd64 and unpacks it with a snapshotter.
    ///
    /// # Errors
    /// The pull failed; the error carries the client's output.
    pub fn pull_with(&self, snapshotter: &str, reference: &str) -> Result<String> {
        let pull = ["images", "pull", "--plain-http", "--platform", "linux/amd64", "--snapshotter", snapshotter];
        run(self.ctr().args(pull).arg(reference))
    }

    /// Pulls an image for linux/amd64 lazily, with a snapshotter that can.
    ///
    /// # Errors
    /// The pull failed; the error carries the client's output.
    pub fn pull_lazily(&self, snapshotter: &str, reference: &str) -> Result<String> {
        run(self.ctr_remote().args(["images", "rpull", "--plain-http", "--snapshotter", snapshotter, reference]))
    }

    /// Runs a command in a container of an image that a snapshotter has unpacked, and returns its output.
    ///
    /// # Errors
    /// The container failed; the error carries its output.
    pub fn run_with(&self, snapshotter: &str, reference: &str, arguments: &[&str]) -> Result<String> {
        let name = self.next_name();
        let cgroup = format!("{}/{name}", self.cgroup.path());
        let run_it = ["run", "--rm", "--net-host", "--snapshotter", snapshotter, "--cgroup", &cgroup, reference, &name];
        run(self.ctr().args(run_it).args(arguments))
    }

    /// Returns a container's name. runc keeps its state by name for all daemons of a machine.
    fn next_name(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("firstlight-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the digest an image's name points to.
    ///
    /// # Errors
    /// There is no such image.
    pub fn digest(&self, reference: &str) -> Result<String> {
        let list = run(self.ctr().args(["images", "ls", &format!("name=={reference}")]))?;
        let digest = list.split_whitespace().find(|word| word.starts_with("sha256:"));
        digest.map(str::to_owned).with_context(|| format!("no digest in {list}"))
    }
}

/// Returns a command of a program of a folder, which finds its like there.
pub(crate) fn program(node: &Node, programs: Option<&Path>, name: &str) -> Command {
    let mut command = node.command(name);
    if let Some(programs) = programs {
        command.env(
            "PATH",
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()),
        );
    }
    command
}

fn ctr(node: &Node, programs: Option<&Path>, socket: &Path) -> Command {
    let mut command = program(node, programs, "ctr");
    command.arg("-a").arg(socket);
    command
}

impl Client for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn pull(&self, reference: &str) -> Result<String> {
        let mut command = self.ctr();
        command.args(["images", "pull", "--platform", "linux/amd64"]);
        match &self.hosts {
            Some(hosts) => {
                command.arg("--hosts-dir").arg(hosts);
            }
            None if self.transport == Transport::Plain => {
                command.arg("--plain-http");
            }
            None => {}
        }
        run(command.arg(reference))?;
        self.digest(reference)
    }

    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let name = self.next_name();
        let cgroup = format!("{}/{name}", self.cgroup.path());
        run(self.ctr().args(["run", "--rm", "--net-host", "--cgroup", &cgroup, reference, &name]).args(arguments))
    }

    fn clear(&self) -> Result<()> {
        let images = run(self.ctr().args(["images", "ls", "-q"]))?;
        for image in images.lines() {
            run(self.ctr().args(["images", "rm", "--sync", image]))?;
        }
        Ok(())
    }
}

//! nerdctl.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::{Client, Containerd, Images, Scratch, run};

/// nerdctl on a containerd, with one of its snapshotters.
#[derive(Debug)]
pub struct Nerdctl<'a> {
    containerd: &'a Containerd,
    snapshotter: String,
    cgroup: Cgroup,
    scratch: Scratch,
}

impl<'a> Nerdctl<'a> {
    /// Makes a client of a daemon.
    ///
    /// # Errors
    /// It could not be built, or its folder not be made.
    pub fn new(containerd: &'a Containerd, snapshotter: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let cgroup = Cgroup::new(&scratch);
        Ok(Self { containerd, snapshotter: snapshotter.to_owned(), cgroup, scratch })
    }

    /// Returns a command of the client.
    ///
    /// # Errors
    /// It could not be built.
    pub fn cli(&self) -> Result<Command> {
        let program = Images::nerdctl()?.join("nerdctl");
        let mut command = self.containerd.node().command(&program.display().to_string());
        // No file of the machine's own is read.
        command.env("NERDCTL_TOML", "/dev/null").env("DOCKER_CONFIG", self.scratch.path());
        command.arg("--address").arg(self.containerd.address());
        command.arg("--data-root").arg(self.scratch.join("data"));
        command.args(["--namespace", "default", "--cgroup-manager", "cgroupfs", "--insecure-registry"]);
        command.args(["--snapshotter", &self.snapshotter]);
        Ok(command)
    }
}

impl Client for Nerdctl<'_> {
    fn name(&self) -> &'static str {
        "nerdctl"
    }

    fn pull(&self, reference: &str) -> Result<String> {
        run(self.cli()?.args(["pull", "--quiet", reference]))?;
        self.containerd.digest(reference)
    }

    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("firstlight-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = self.cli()?;
        command.args(["run", "--rm", "--network", "host", "--pull", "never", "--name", &name]);
        command.args(["--cgroup-parent", &self.cgroup.path(), reference]);
        run(command.args(arguments))
    }

    fn clear(&self) -> Result<()> {
        run(self.cli()?.args(["system", "prune", "--all", "--force"])).context("prune")?;
        Ok(())
    }
}

//! The snapshotter, for containerds to use.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::proxy::built;
use crate::{Proc, Scratch};

/// A running `firstlight-snapshotter` with a folder and a socket of its own.
#[derive(Debug)]
pub struct Snapshotter {
    proc: Proc,
    scratch: Scratch,
}

impl Snapshotter {
    /// The name under which containerd knows it.
    pub const NAME: &str = "firstlight";

    /// Starts one.
    ///
    /// # Errors
    /// It is not built, or not ready after a minute; the error carries its log.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let proc = launch(&scratch)?;
        Ok(Self { proc, scratch })
    }

    /// Kills it (SIGKILL) and starts it again on the same folder and socket.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.proc.kill()?;
        self.proc = launch(&self.scratch)?;
        Ok(())
    }

    /// Returns the lines of containerd's configuration that name it.
    pub fn plugin(&self) -> String {
        let address = self.scratch.join("s.sock");
        format!("[proxy_plugins.{}]\ntype = 'snapshot'\naddress = '{}'\n", Self::NAME, address.display())
    }

    /// Returns the folder that holds the folders of all snapshots.
    pub fn folders(&self) -> PathBuf {
        self.scratch.join("root/snapshots")
    }

    /// Returns its process.
    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }
}

fn launch(scratch: &Scratch) -> Result<Proc> {
    let config =
        format!("root = '{}'\naddress = '{}'\n", scratch.join("root").display(), scratch.join("s.sock").display());
    let config = scratch.write("config.toml", &config)?;
    let mut command = Command::new(built("firstlight-snapshotter")?);
    command.arg("--config").arg(config).arg("serve");
    let mut proc = Proc::start(&command, &scratch.join("snapshotter.log"))?;
    let address = scratch.join("s.sock");
    proc.ready(|| std::os::unix::net::UnixStream::connect(&address).is_ok())?;
    Ok(proc)
}

//! The reference's own snapshotter, for containerds to use: `tests/stargz` serves it with the reference's library.

use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::Result;

use crate::snapshotter::mount_root;
use crate::{Proc, Scratch, go_built};

/// A running stargz snapshotter with a folder and a socket of its own.
#[derive(Debug)]
pub struct Stargz {
    // Ends before its folder.
    _proc: Proc,
    scratch: Scratch,
}

impl Stargz {
    /// The name under which containerd knows it.
    pub const NAME: &str = "stargz";

    /// Starts one.
    ///
    /// # Errors
    /// It cannot be built, or is not ready after a minute; the error carries its log.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let (root, socket) = (mount_root(&scratch, None)?, scratch.join("s.sock"));
        let mut command = Command::new(go_built("stargz")?);
        let mut proc = Proc::start(command.arg(root).arg(&socket), &scratch.join("stargz.log"))?;
        proc.ready(|| UnixStream::connect(&socket).is_ok())?;
        Ok(Self { _proc: proc, scratch })
    }

    /// Returns the lines of containerd's configuration that name it.
    pub fn plugin(&self) -> String {
        let address = self.scratch.join("s.sock");
        format!("[proxy_plugins.{}]\ntype = 'snapshot'\naddress = '{}'\n", Self::NAME, address.display())
    }
}

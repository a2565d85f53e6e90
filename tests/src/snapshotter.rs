//! The snapshotter, for containerds to use.

use std::ffi::CString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::proxy::built;
use crate::{Proc, Scratch, example, run};

const PROGRAM: &str = "firstlight-snapshotter";

/// A running `firstlight-snapshotter` with a folder and a socket of its own.
#[derive(Debug)]
pub struct Snapshotter {
    proc: Proc,
    holder: Proc,
    scratch: Scratch,
}

impl Snapshotter {
    /// The name under which containerd knows it.
    pub const NAME: &str = "firstlight";

    /// Starts one that asks nobody for twins.
    ///
    /// # Errors
    /// It is not built, or not ready after a minute; the error carries its log.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// Starts one with more lines in its configuration.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_with(config: &str) -> Result<Self> {
        Self::start_on(None, config)
    }

    /// Starts one whose folder is on a disk of its own of so many bytes.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_on(disk: Option<u64>, config: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let root = mount_root(&scratch, disk)?;
        let [socket, holder] = ["s.sock", "h.sock"].map(|name| scratch.join(name));
        let (root, socket, holder) = (root.display(), socket.display(), holder.display());
        // See `Self::knows`.
        let containerd = scratch.join("c.sock").display().to_string();
        let config =
            format!("root = '{root}'\nsocket = '{socket}'\nholder = '{holder}'\ncontainerd = '{containerd}'\n{config}");
        scratch.write("config.toml", &config)?;
        let holder = hold(&scratch)?;
        let proc = launch(&scratch)?;
        Ok(Self { proc, holder, scratch })
    }

    /// Tells it the socket of the containerd that uses it.
    ///
    /// # Errors
    /// The system's.
    pub fn knows(&self, containerd: &Path) -> Result<()> {
        let link = self.scratch.join("c.sock");
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(containerd, &link).with_context(|| link.display().to_string())
    }

    /// Runs `fetch-content` for an image of the default namespace, and returns what it prints for machines.
    ///
    /// # Errors
    /// It failed; the error carries both its outputs.
    pub fn fetch_content(&self, image: &str) -> Result<serde_json::Value> {
        let said = run(self.command()?.args(["fetch-content", "--output", "json", image]))?;
        serde_json::from_str(&said).context(said)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(built(PROGRAM)?);
        command.arg("--config").arg(self.scratch.join("config.toml"));
        Ok(command)
    }

    /// Kills it (SIGKILL) and starts it again on the same folder and socket.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Stops it (SIGTERM) and starts it again on the same folder and socket, as an upgrade does.
    ///
    /// # Errors
    /// It did not end by itself, or as for [`Snapshotter::start`].
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.proc.stop()?, "the snapshotter had to be killed:\n{}", self.log());
        self.start_again()
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<()> {
        self.proc.kill()
    }

    /// Starts it again after a kill, on the same folder and socket.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.proc = launch(&self.scratch)?;
        Ok(())
    }

    /// Leaves what a machine has after its power was cut: neither process nor mounts; `meanwhile` comes next, and then both
    /// processes start again.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn reboot(&mut self, meanwhile: impl FnOnce()) -> Result<()> {
        self.proc.kill()?;
        self.holder.kill()?;
        for mounted in ["root/lazy", "root/bare"] {
            rustix::mount::unmount(self.scratch.join(mounted), UnmountFlags::DETACH).context(mounted)?;
        }
        meanwhile();
        self.holder = hold(&self.scratch)?;
        self.start_again()
    }

    /// Kills its holder and starts another one, which has nothing yet.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn replace_holder(&mut self) -> Result<()> {
        self.holder.kill()?;
        self.holder = hold(&self.scratch)?;
        Ok(())
    }

    /// Returns the tables of the documented configuration of containerd that name it.
    ///
    /// # Errors
    /// The example is not as it was.
    pub fn plugin(&self) -> Result<String> {
        let address = self.address().display().to_string();
        let lies_in = self.root().display().to_string();
        let replaced = [
            ("/run/firstlight-snapshotter/snapshotter.sock", address.as_str()),
            ("/var/lib/firstlight-snapshotter", lies_in.as_str()),
        ];
        let config = example("snapshotter/containerd.toml", &replaced)?;
        let start = config.find("[proxy_plugins.").context("the plug-in")?;
        let end = config.find("[plugins.").context("Kubernetes")?;
        Ok(config[start..end].to_owned())
    }

    /// Returns the path of its socket.
    pub fn address(&self) -> PathBuf {
        self.scratch.join("s.sock")
    }

    /// Returns its folder.
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Returns the folder that holds the folders of all snapshots.
    pub fn folders(&self) -> PathBuf {
        self.scratch.join("root/snapshots")
    }

    /// Returns the folder that holds the folders of all layers.
    pub fn layers(&self) -> PathBuf {
        self.scratch.join("root/layers")
    }

    /// Returns what it has logged, and its holder.
    pub fn log(&self) -> String {
        let log = |name| std::fs::read_to_string(self.scratch.join(name)).unwrap_or_default();
        log("snapshotter.log") + &log("holder.log")
    }

    /// Returns what `status --output json` says.
    ///
    /// # Errors
    /// It failed; the error carries both its outputs.
    pub fn status(&self) -> Result<serde_json::Value> {
        let said = run(self.command()?.args(["status", "--output", "json"]))?;
        serde_json::from_str(&said).context(said)
    }

    /// Returns its process.
    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }
}

/// Makes a folder that is a mount of its own, of so many bytes if that is said: what is mounted in it is seen by a containerd in a
/// namespace of its own, even where this machine shares nothing.
pub(crate) fn mount_root(scratch: &Scratch, disk: Option<u64>) -> Result<PathBuf> {
    let root = scratch.folder("root")?;
    match disk {
        Some(bytes) => {
            let size = CString::new(format!("size={bytes}"))?;
            rustix::mount::mount("tmpfs", &root, "tmpfs", MountFlags::empty(), size.as_c_str())
        }
        None => rustix::mount::mount_bind(&root, &root),
    }
    .context("a mount of its own for the root")?;
    rustix::mount::mount_change(&root, MountPropagationFlags::SHARED).context("a shared root")?;
    Ok(root)
}

/// Has the kernel forget what of files, names and inodes nobody uses.
///
/// # Errors
/// Not root.
pub fn drop_caches() -> Result<()> {
    forget("3")
}

/// Has the kernel forget names and inodes that nobody uses, and no more of the bytes than go with them.
///
/// # Errors
/// Not root.
pub fn drop_inodes() -> Result<()> {
    forget("2")
}

/// See proc(5), "drop_caches".
fn forget(what: &str) -> Result<()> {
    let _nobody_needs_it = CACHES.write().unwrap_or_else(PoisonError::into_inner);
    std::fs::write("/proc/sys/vm/drop_caches", what).context("drop_caches")
}

/// Held by who makes the kernel forget, and by those who need what it knows.
static CACHES: RwLock<()> = RwLock::new(());

/// Has no test of this process make the kernel forget anything, as long as what is returned lives.
pub fn keep_caches() -> RwLockReadGuard<'static, ()> {
    CACHES.read().unwrap_or_else(PoisonError::into_inner)
}

/// Returns what one of the documented systemd units starts, with our own program and configuration.
fn unit(scratch: &Scratch, file: &str) -> Result<Command> {
    let text = example(&format!("snapshotter/{file}"), &[])?;
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("ExecStart")?;
    let mut command = Command::new(built(PROGRAM)?);
    for word in line.split_whitespace().skip(1) {
        match word {
            "/etc/firstlight-snapshotter/config.toml" => command.arg(scratch.join("config.toml")),
            word => command.arg(word),
        };
    }
    Ok(command)
}

fn hold(scratch: &Scratch) -> Result<Proc> {
    let mut holder = Proc::start(&unit(scratch, "firstlight-holder.service")?, &scratch.join("holder.log"))?;
    holder.ready(|| UnixStream::connect(scratch.join("h.sock")).is_ok())?;
    Ok(holder)
}

fn launch(scratch: &Scratch) -> Result<Proc> {
    let mut proc = Proc::start(&unit(scratch, "firstlight-snapshotter.service")?, &scratch.join("snapshotter.log"))?;
    let address = scratch.join("s.sock");
    proc.ready(|| UnixStream::connect(&address).is_ok())?;
    Ok(proc)
}

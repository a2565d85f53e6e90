//! What every test here stands on: a containerd with our snapshotter, and the mounts a test makes itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Containerd, Node, Scratch, Snapshotter, Transport, Tree, run, wait};
use rustix::mount::UnmountFlags;

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// No proof of all layers of a healthy test takes longer, whatever runs beside it.
const LONG: Duration = Duration::from_secs(600);

/// A containerd and its snapshotter.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) containerd: Containerd,
    pub(crate) snapshotter: Snapshotter,
    scratch: Scratch,
}

/// A mount that ends with this.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Bench {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a bench whose snapshotter has more lines in its configuration.
    pub(crate) fn start_with(config: &str) -> Self {
        Self::start_on(None, config)
    }

    /// Starts a bench whose snapshotter has a disk of its own of so many bytes.
    pub(crate) fn start_on(disk: Option<u64>, config: &str) -> Self {
        let snapshotter = Snapshotter::start_on(disk, config).unwrap();
        let containerd =
            Containerd::start_with(&Node::Machine, Transport::Plain, &snapshotter.plugin().unwrap()).unwrap();
        snapshotter.knows(containerd.address()).unwrap();
        Self { containerd, snapshotter, scratch: Scratch::new().unwrap() }
    }

    /// Kills the snapshotter and starts it again; returns when containerd has found it.
    pub(crate) fn kill_and_start(&mut self) {
        self.snapshotter.kill_and_start().unwrap();
        wait_found(&self.containerd);
    }

    /// Runs `ctr snapshots` with these arguments on our snapshotter.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Result<String> {
        self.ctr_of(Snapshotter::NAME, arguments)
    }

    pub(crate) fn ctr_of(&self, snapshotter: &str, arguments: &[&str]) -> Result<String> {
        run(self.containerd.snapshots(snapshotter).args(arguments))
    }

    /// Mounts a snapshot as containerd is told to.
    pub(crate) fn mount(&self, key: &str) -> Mounted {
        self.mount_of(Snapshotter::NAME, key).unwrap()
    }

    pub(crate) fn mount_of(&self, snapshotter: &str, key: &str) -> Result<Mounted> {
        let folder = format!("{snapshotter}-{}", key.replace(['/', ':'], "-"));
        let target = self.scratch.folder(&folder).unwrap();
        let told = self.ctr_of(snapshotter, &["mounts", &target.display().to_string(), key])?;
        mount(&told, &target).with_context(|| told.clone())?;
        Ok(Mounted(target))
    }

    /// Reads the tree of a committed snapshot, as a container on it would see it.
    pub(crate) fn tree(&self, snapshotter: &str, top: &str) -> Result<Tree> {
        let key = format!("tree-{snapshotter}-{top}");
        // Not a view, which containerd may collect at any time.
        self.ctr_of(snapshotter, &["prepare", &key, top])?;
        let tree = self.mount_of(snapshotter, &key).and_then(|mounted| Tree::read(mounted.path()));
        self.ctr_of(snapshotter, &["rm", &key])?;
        tree
    }

    /// Waits until every lazy layer is here and proven.
    pub(crate) fn wait_proven(&self) {
        let proven = || {
            let status = self.snapshotter.status()?;
            let images = status["images"].as_array().context("images")?;
            let layers = images.iter().filter_map(|image| image["layers"].as_array()).flatten();
            let mut lazy = layers.filter(|layer| layer["mode"] == "lazy").peekable();
            let has_some = lazy.peek().is_some();
            Ok((has_some && lazy.all(|layer| layer["proof"] == "proven")).then_some(()))
        };
        if let Err(error) = wait::until("the proof", LONG, proven) {
            panic!("{error}\n{}", self.snapshotter.log());
        }
    }

    /// Waits until the snapshotter has logged something.
    pub(crate) fn wait_log(&self, text: &str) {
        let said = || Ok(self.snapshotter.log().contains(text).then_some(()));
        if let Err(error) = wait::until(text, LIMIT, said) {
            panic!("{error}\n{}", self.snapshotter.log());
        }
    }

    /// Checks that no layer was pulled in the ordinary way.
    pub(crate) fn assert_lazy(&self) {
        let log = self.snapshotter.log();
        assert!(log.contains("before it is here") && !log.contains("ordinary way"), "{log}");
    }

    /// Waits until containerd, which collects a while after a removal, has had everything removed: names and folders.
    pub(crate) fn wait_empty(&self) {
        let is_empty = || {
            let entries = std::fs::read_dir(self.snapshotter.folders())?;
            // Of the list only its head.
            Ok((entries.count() == 0 && self.ctr(&["ls"])?.lines().count() == 1).then_some(()))
        };
        wait::until("the end of all snapshots", LIMIT, is_empty).unwrap();
    }
}

/// Waits until containerd, which tries now and then, has found a snapshotter that was started again.
pub(crate) fn wait_found(containerd: &Containerd) {
    let found = || Ok(run(containerd.snapshots(Snapshotter::NAME).arg("ls")).is_ok().then_some(()));
    wait::until("containerd's way back", LIMIT, found).unwrap();
}

/// Does what a line such as `mount -t overlay overlay /target -o index=off,…` says.
fn mount(told: &str, target: &Path) -> Result<()> {
    let words: Vec<&str> = told.split_whitespace().collect();
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
    let (kind, options) = (after("-t").context("type")?, after("-o").context("options")?);
    let mut command = Command::new("mount");
    if *kind != "bind" {
        run(command.args(["-t", kind, words.get(3).context("source")?, "-o", options]).arg(target))?;
        return Ok(());
    }
    run(command.arg("--bind").arg(words.get(3).context("source")?).arg(target))?;
    if options.split(',').any(|option| option == "ro") {
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(target))?;
    }
    Ok(())
}

impl Mounted {
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached: a process that another thread starts at this moment holds what was open here until it runs.
        let unmounted = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

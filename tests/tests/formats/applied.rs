//! What containerd's own applier makes of an image.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use api::Digest;
use e2e::{Client, Containerd, Node, Scratch, Transport, Tree, run};
use rustix::mount::{UnmountFlags, unmount};

/// A containerd whose overlayfs snapshotter unpacks images.
#[derive(Debug)]
pub(crate) struct Applier {
    containerd: Containerd,
    mounts: Scratch,
    next: AtomicU32,
}

impl Applier {
    pub(crate) fn start() -> Self {
        let containerd = Containerd::start(&Node::Machine, Transport::Plain).unwrap();
        Self { containerd, mounts: Scratch::new().unwrap(), next: AtomicU32::new(0) }
    }

    /// Pulls an image, which unpacks it, and reads the tree.
    ///
    /// # Errors
    /// containerd refused the image.
    pub(crate) fn tree(&self, reference: &str, diff_ids: &[String]) -> Result<Tree> {
        self.containerd.pull(reference)?;
        let key = format!("view-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let folder = self.mounts.folder(&key)?;
        let mut view = self.containerd.ctr();
        view.args(["snapshots", "view", "--target"]).arg(&folder).args([&key, &chain_id(diff_ids)]);
        let mount = run(&mut view)?;
        run(Command::new("sh").args(["-ec", &mount])).context("mount")?;
        let tree = Tree::read(&folder);
        // Detached: a process that another thread starts at this moment holds what was open here until it runs.
        unmount(&folder, UnmountFlags::DETACH)?;
        tree
    }
}

/// Returns containerd's name for the snapshot of some layers.
fn chain_id(diff_ids: &[String]) -> String {
    let chained = diff_ids
        .iter()
        .cloned()
        .reduce(|below, diff_id| Digest::of(format!("{below} {diff_id}").as_bytes()).to_string());
    chained.unwrap_or_default()
}

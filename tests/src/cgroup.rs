//! A control group of a client's own.

use std::fs;
use std::path::Path;

use crate::Scratch;

/// A name for the control groups of one client's containers; when dropped, the empty groups of that name are removed.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Takes its name from a client's folder, which is unique on the machine.
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self { name: scratch.path().file_name().unwrap_or_default().to_string_lossy().into_owned() }
    }

    /// Returns the path of the group, as container runtimes take it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        remove(&root.join(&self.name));
        // Version 1 has a hierarchy for each controller.
        for hierarchy in fs::read_dir(root).into_iter().flatten().flatten() {
            remove(&hierarchy.path().join(&self.name));
        }
    }
}

/// Removes a group and those below it; one that still has a process stays.
fn remove(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
        }
    }
    let _ = fs::remove_dir(group);
}

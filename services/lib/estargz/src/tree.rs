//! [`Tree`]: what a plain unpack of a tar leaves behind. It replays the tar's entries the way containerd's applier
//! does: a later entry replaces an earlier one of the same name with all below it, a directory merges with a
//! directory, a hard link gives its own attributes to the file it names.
//!
//! Holds about 100 bytes for each entry, so that a million entries fit.

use std::collections::HashMap;

use api::UnconvertibleReason;

use crate::entry::EntryType;
use crate::tar::TarError;

mod names;
mod plan;

use names::Names;
pub use plan::{Plan, Role};

/// No node, no entry.
const NONE: u32 = u32::MAX;
/// The file of a hard link whose target has not been seen yet.
const PENDING: u32 = u32::MAX - 1;
const ROOT: u32 = 0;
/// How the name of a whiteout begins.
const WHITEOUT: &str = ".wh.";
/// The most symlinks followed on the way to a hard link's target; containerd's number.
const MAX_HOPS: u32 = 255;
/// Path components, for each entry of the limit, that are looked at on the way to all hard links' targets.
const STEPS: u64 = 64;

/// The entries of a tar, replayed.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    names: Names,
    entries: Vec<Placed>,
    /// Entries that are hard links to something later.
    pending: Vec<u32>,
    max_nodes: usize,
    /// Path components that may still be looked at on the way to hard links' targets.
    steps: u64,
}

/// One name. A name that is given again after a replacement is a new node, so nodes below the old one are lost with it.
#[derive(Debug)]
struct Node {
    parent: u32,
    /// The entry that put the name here; [`NONE`] for a directory that is only implied.
    entry: u32,
    /// The entry that made the file that is here; for directories the first entry.
    file: u32,
    is_dir: bool,
    replaced: bool,
}

/// One entry.
#[derive(Debug)]
struct Placed {
    /// The node it made; [`NONE`] if it leaves nothing behind.
    node: u32,
    /// The entry applied before this one to the same file.
    previous: u32,
    /// On an entry that made a file: the last entry applied to the file.
    last: u32,
    kind: EntryType,
}

impl Tree {
    /// Returns the tree of no entries, which will take at most `entries`.
    pub fn new(entries: u32) -> Self {
        let root = Node { parent: NONE, entry: NONE, file: NONE, is_dir: true, replaced: false };
        Self {
            nodes: vec![root],
            names: Names::default(),
            entries: Vec::new(),
            pending: Vec::new(),
            max_nodes: entries as usize * 2,
            steps: u64::from(entries) * STEPS,
        }
    }

    /// Applies the tar's next entry and returns its number.
    ///
    /// # Errors
    /// Entries below a non-directory, hard links to themselves or to a directory, trees and ways beyond the limits.
    pub fn add(&mut self, name: &str, kind: EntryType, link_name: &str) -> Result<u32, TarError> {
        let number = self.entries.len() as u32;
        self.entries.push(Placed { node: NONE, previous: NONE, last: number, kind });
        let path = clean(name);
        let Some((leaf, parents)) = path.split_last() else {
            // Only a directory can be the root; an unpack ignores anything else there.
            if kind == EntryType::Dir {
                self.apply_dir(ROOT, number);
            }
            return Ok(number);
        };
        let mut parent = ROOT;
        for component in parents {
            parent = match self.names.find(parent, component) {
                None => self.insert(parent, component, NONE, true)?,
                Some(node) if self.nodes[node as usize].is_dir => node,
                Some(_) => {
                    let detail = format!("{name:?} lies below {component:?}, which is no directory");
                    return Err(TarError::new(UnconvertibleReason::BelowNonDirectory, detail));
                }
            };
        }
        if let Some(node) = self.names.find(parent, leaf) {
            if kind == EntryType::Dir && self.nodes[node as usize].is_dir {
                self.apply_dir(node, number);
                return Ok(number);
            }
            self.nodes[node as usize].replaced = true;
            self.names.remove(parent, leaf);
        }
        let file = if kind == EntryType::Hardlink { self.link_target(name, &path, link_name, number)? } else { number };
        let node = self.insert(parent, leaf, number, kind == EntryType::Dir)?;
        self.nodes[node as usize].file = file;
        self.entries[number as usize].node = node;
        if kind == EntryType::Symlink {
            self.names.set_target(node, link_name).ok_or_else(too_long)?;
        }
        Ok(number)
    }

    /// Takes note of a pax global header. containerd's applier treats its name like an entry's until it has made the
    /// folders and cleared the place, and then puts nothing there.
    ///
    /// # Errors
    /// A name for which that changes the tree: no TOC says so.
    pub fn add_global(&self, name: &str) -> Result<(), TarError> {
        let path = clean(name);
        let Some((leaf, parents)) = path.split_last() else { return Ok(()) };
        let is_dir = |node: &u32| self.nodes[*node as usize].is_dir;
        let folder = parents.iter().try_fold(ROOT, |at, part| self.names.find(at, part).filter(is_dir));
        match folder {
            Some(folder) if self.names.find(folder, leaf).is_none() && !leaf.starts_with(WHITEOUT) => Ok(()),
            _ => Err(TarError::corrupt(format!("the pax global header {name:?} makes a folder or removes a file"))),
        }
    }

    fn apply_dir(&mut self, node: u32, number: u32) {
        let dir = &mut self.nodes[node as usize];
        if dir.file == NONE {
            dir.file = number;
            dir.entry = number;
            self.entries[number as usize].node = node;
        } else {
            let file = dir.file;
            self.apply(file, number);
        }
    }

    /// Notes that entry `number` gives its attributes to the file that entry `file` made.
    fn apply(&mut self, file: u32, number: u32) {
        let previous = std::mem::replace(&mut self.entries[file as usize].last, number);
        self.entries[number as usize].previous = previous;
    }

    fn link_target(&mut self, name: &str, path: &[&str], link: &str, number: u32) -> Result<u32, TarError> {
        let target = clean(link);
        if target == path {
            let detail = format!("{name:?} is a hard link to itself");
            return Err(TarError::new(UnconvertibleReason::HardlinkCycle, detail));
        }
        let node = self.lookup(&target)?.map(|node| &self.nodes[node as usize]);
        match node {
            Some(node) if node.is_dir => Err(link_to_dir(name, link)),
            Some(node) if node.file != PENDING => {
                let file = node.file;
                // An unpack knows a whiteout by its name, and makes no link of one.
                if !path.last().is_some_and(|leaf| leaf.starts_with(WHITEOUT)) {
                    self.apply(file, number);
                }
                Ok(file)
            }
            Some(_) | None => {
                self.pending.push(number);
                Ok(PENDING)
            }
        }
    }

    /// Returns the node at `path`, following symlinks of the layer on the way but not at its end, as link(2) does.
    fn lookup(&mut self, path: &[&str]) -> Result<Option<u32>, TarError> {
        let Self { names, steps, .. } = self;
        let mut left: Vec<&str> = path.iter().rev().copied().collect();
        let mut trail = vec![ROOT];
        let mut hops = 0;
        spend(steps, left.len())?;
        while let Some(component) = left.pop() {
            match component {
                "" | "." => continue,
                ".." => {
                    trail.truncate(trail.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let parent = trail.last().copied().unwrap_or(ROOT);
            let Some(node) = names.find(parent, component) else { return Ok(None) };
            match names.target(node).filter(|_| !left.is_empty()) {
                None => trail.push(node),
                Some(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Ok(None);
                    }
                    if target.starts_with('/') {
                        trail.truncate(1);
                    }
                    let before = left.len();
                    left.extend(target.split('/').rev());
                    spend(steps, left.len() - before)?;
                }
            }
        }
        Ok(trail.last().copied())
    }

    fn insert(&mut self, parent: u32, name: &str, entry: u32, is_dir: bool) -> Result<u32, TarError> {
        if self.nodes.len() >= self.max_nodes {
            let detail = format!("tree has more than {} names", self.max_nodes);
            return Err(TarError::new(UnconvertibleReason::Limit, detail));
        }
        let node = self.names.insert(parent, name).ok_or_else(too_long)?;
        self.nodes.push(Node { parent, entry, file: NONE, is_dir, replaced: false });
        debug_assert_eq!(node as usize, self.nodes.len() - 1);
        Ok(node)
    }

    /// Ends the replay. `link_name` returns the link target of an entry by number.
    ///
    /// # Errors
    /// Hard links whose target is missing or that form a cycle, and those of `link_name`.
    pub fn finish<E: From<TarError>>(mut self, mut link_name: impl FnMut(u32) -> Result<String, E>) -> Result<Plan, E> {
        // Parents come before their children.
        for node in 1..self.nodes.len() {
            let parent = self.nodes[node].parent as usize;
            self.nodes[node].replaced |= self.nodes[parent].replaced;
        }
        self.resolve_pending(&mut link_name)?;
        Ok(Plan::new(self)?)
    }

    /// Resolves hard links to later entries, which may be such links themselves.
    fn resolve_pending<E: From<TarError>>(
        &mut self,
        link_name: &mut impl FnMut(u32) -> Result<String, E>,
    ) -> Result<(), E> {
        let mut next: HashMap<u32, u32> = HashMap::new();
        for &number in &std::mem::take(&mut self.pending) {
            let node = self.entries[number as usize].node;
            if self.nodes[node as usize].replaced {
                continue;
            }
            let link = link_name(number)?;
            let target = self.lookup(&clean(&link))?.ok_or_else(|| {
                let detail = format!("a hard link to {link:?}, which is not in the layer");
                TarError::new(UnconvertibleReason::HardlinkMissing, detail)
            })?;
            if self.nodes[target as usize].is_dir {
                return Err(link_to_dir("an entry", &link).into());
            }
            next.insert(node, target);
        }
        let mut starts: Vec<u32> = next.keys().copied().collect();
        starts.sort_unstable();
        for start in starts {
            let (mut chain, mut node) = (Vec::new(), start);
            while self.nodes[node as usize].file == PENDING {
                chain.push(node);
                // A chain longer than all links has met itself.
                if chain.len() > next.len() {
                    let detail = "hard links that form a cycle".to_owned();
                    return Err(TarError::new(UnconvertibleReason::HardlinkCycle, detail).into());
                }
                node = next[&node];
            }
            let file = self.nodes[node as usize].file;
            for link in chain {
                self.nodes[link as usize].file = file;
            }
        }
        Ok(())
    }
}

/// Takes `count` path components from what may still be looked at.
fn spend(steps: &mut u64, count: usize) -> Result<(), TarError> {
    *steps = steps.checked_sub(count as u64).ok_or_else(|| {
        TarError::new(UnconvertibleReason::Limit, "the ways to the targets of all hard links together are too long")
    })?;
    Ok(())
}

fn too_long() -> TarError {
    TarError::new(UnconvertibleReason::Limit, "names of all entries together are too long")
}

fn link_to_dir(name: &str, link: &str) -> TarError {
    TarError::corrupt(format!("{name:?} is a hard link to {link:?}, which is a directory"))
}

/// Returns the components of the cleaned path; none for the root. `..` does not lead above it.
fn clean(name: &str) -> Vec<&str> {
    let mut path = Vec::new();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            _ => path.push(component),
        }
    }
    path
}

/// Returns the cleaned path without a leading slash; empty for the root.
pub fn clean_path(name: &str) -> String {
    // Nearly all are.
    if name.split('/').all(|component| !matches!(component, "" | "." | "..")) {
        return name.to_owned();
    }
    clean(name).join("/")
}

#[cfg(test)]
mod tests;

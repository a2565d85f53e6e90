//! [`Plan`]: which entries of a tar belong in its TOC, under what name and with whose attributes.

use api::UnconvertibleReason;

use super::{NONE, ROOT, Tree};
use crate::entry::EntryType;
use crate::tar::TarError;

/// The most bytes of implied directories' paths: they are kept with the twin, and one long name implies megabytes.
const MAX_IMPLIED: usize = 1 << 20;

/// A finished [`Tree`].
#[derive(Debug)]
pub struct Plan {
    tree: Tree,
    /// By entry that made a file: the entry under whose name the TOC lists the file.
    primary: Vec<u32>,
    /// Hard links that stand before their file in the tar: (file, link), sorted. The TOC lists them after it, because
    /// some readers go through it once.
    early: Vec<(u32, u32)>,
    implied: Vec<String>,
}

/// What becomes of a tar's entry in the TOC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is not listed: replaced, merged into another, or listed elsewhere.
    Absent,
    /// It is listed with its own type and payload, under the name of entry `name`.
    File {
        /// The entry whose name it has; itself unless its own name was given to something else.
        name: u32,
    },
    /// It is a hard link to the file that is listed under the name of entry `to`.
    Link {
        /// The entry whose name is the target.
        to: u32,
    },
}

impl Plan {
    pub(super) fn new(tree: Tree) -> Result<Self, TarError> {
        let mut plan = Self { primary: vec![NONE; tree.entries.len()], early: Vec::new(), implied: Vec::new(), tree };
        let count = plan.len();
        for number in 0..count {
            if plan.file_of(number) == number {
                plan.primary[number as usize] = number;
            }
        }
        for number in 0..count {
            let file = plan.file_of(number);
            if file != NONE && plan.primary[file as usize] == NONE {
                plan.primary[file as usize] = number;
            }
        }
        for number in 0..count {
            let file = plan.file_of(number);
            if file != NONE && file > number && plan.primary[file as usize] != number {
                plan.early.push((file, number));
            }
        }
        plan.early.sort_unstable();
        plan.implied = plan.implied()?;
        Ok(plan)
    }

    /// Returns the number of entries in the tar.
    pub fn len(&self) -> u32 {
        self.tree.entries.len() as u32
    }

    /// Tells whether the tar has no entries.
    pub fn is_empty(&self) -> bool {
        self.tree.entries.is_empty()
    }

    /// Returns what becomes of an entry at its place in the order of the tar.
    pub fn role(&self, number: u32) -> Role {
        // A file whose name is gone may live on under a link's, at the place where its payload is.
        if self.tree.entries[number as usize].kind != EntryType::Hardlink {
            return match self.primary[number as usize] {
                NONE => Role::Absent,
                name => Role::File { name },
            };
        }
        match self.file_of(number) {
            NONE => Role::Absent,
            file if file > number || self.primary[file as usize] == number => Role::Absent,
            file => Role::Link { to: self.primary[file as usize] },
        }
    }

    /// Returns the hard links to be listed directly after the file that entry `file` made.
    pub fn early_links(&self, file: u32) -> impl Iterator<Item = u32> + '_ {
        let from = self.early.partition_point(|&(owner, _)| owner < file);
        self.early[from..].iter().take_while(move |&&(owner, _)| owner == file).map(|&(_, link)| link)
    }

    /// Returns the entries that gave their attributes to the file that entry `file` made, last first; `file` itself is
    /// the last of them.
    pub fn applied(&self, file: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.tree.entries[file as usize].last;
        std::iter::successors(Some(first), move |&number| {
            let previous = self.tree.entries[number as usize].previous;
            (number != file && previous != NONE).then_some(previous)
        })
    }

    /// Returns the directories that have entries but no entry of their own, cleaned and sorted; the root as "".
    pub fn implied_dirs(&self) -> &[String] {
        &self.implied
    }

    /// Returns the entry that made the file which entry `number` put under its name, or [`NONE`] if it left none there.
    fn file_of(&self, number: u32) -> u32 {
        let node = self.tree.entries[number as usize].node;
        match self.tree.nodes.get(node as usize) {
            Some(node) if !node.replaced && node.entry == number => node.file,
            Some(_) | None => NONE,
        }
    }

    fn implied(&self) -> Result<Vec<String>, TarError> {
        let (mut dirs, mut bytes) = (Vec::new(), 0);
        for (number, node) in self.tree.nodes.iter().enumerate() {
            if node.entry == NONE && !node.replaced {
                let path = self.path(number as u32);
                bytes += path.len();
                dirs.push(path);
            }
            if bytes > MAX_IMPLIED {
                return Err(TarError::new(UnconvertibleReason::Limit, "paths of implied directories are too long"));
            }
        }
        dirs.sort_unstable();
        Ok(dirs)
    }

    fn path(&self, mut node: u32) -> String {
        let mut path = Vec::new();
        while node != ROOT {
            path.push(self.tree.names.name(node));
            node = self.tree.nodes[node as usize].parent;
        }
        path.reverse();
        path.join("/")
    }
}

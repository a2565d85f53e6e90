//! [`Names`]: finds a node by its parent and its name. A hash table of node numbers over one string of all names: a
//! map with owned keys would need four times the memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// A slot that was never used.
const FREE: u32 = u32::MAX;
/// A slot whose node was removed.
const REMOVED: u32 = u32::MAX - 1;
/// All names together.
const MAX_TEXT: usize = 512 << 20;

/// Nodes by parent and name. Node 0 is the root and has no name.
#[derive(Debug)]
pub(super) struct Names {
    text: Vec<u8>,
    keys: Vec<Key>,
    /// Where symlinks lead.
    targets: HashMap<u32, (u32, u32)>,
    /// Open addressing; a power of two long.
    slots: Vec<u32>,
    used: usize,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    parent: u32,
    from: u32,
    len: u32,
}

impl Default for Names {
    fn default() -> Self {
        let root = Key { parent: u32::MAX, from: 0, len: 0 };
        Self {
            text: Vec::new(),
            keys: vec![root],
            targets: HashMap::new(),
            slots: vec![FREE; 64],
            used: 0,
            hasher: RandomState::new(),
        }
    }
}

impl Names {
    /// Returns the node `name` below `parent`.
    pub(super) fn find(&self, parent: u32, name: &str) -> Option<u32> {
        self.slot(parent, name.as_bytes()).map(|slot| self.slots[slot])
    }

    /// Adds a node that is not there and returns its number, or `None` if all names together are too long.
    pub(super) fn insert(&mut self, parent: u32, name: &str) -> Option<u32> {
        if self.text.len() + name.len() > MAX_TEXT {
            return None;
        }
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let node = self.keys.len() as u32;
        self.keys.push(Key { parent, from: self.text.len() as u32, len: name.len() as u32 });
        self.text.extend_from_slice(name.as_bytes());
        self.place(node);
        Some(node)
    }

    /// Forgets the node `name` below `parent`.
    pub(super) fn remove(&mut self, parent: u32, name: &str) {
        if let Some(slot) = self.slot(parent, name.as_bytes()) {
            self.slots[slot] = REMOVED;
        }
    }

    /// Returns the name of a node.
    pub(super) fn name(&self, node: u32) -> &str {
        // Names come in as `str`, so this never falls back.
        std::str::from_utf8(self.bytes(self.keys[node as usize])).unwrap_or_default()
    }

    /// Notes where a symlink leads; returns `None` if all names together are too long.
    pub(super) fn set_target(&mut self, node: u32, target: &str) -> Option<()> {
        if self.text.len() + target.len() > MAX_TEXT {
            return None;
        }
        self.targets.insert(node, (self.text.len() as u32, target.len() as u32));
        self.text.extend_from_slice(target.as_bytes());
        Some(())
    }

    /// Returns where a symlink leads; `None` for anything else.
    pub(super) fn target(&self, node: u32) -> Option<&str> {
        let &(from, len) = self.targets.get(&node)?;
        std::str::from_utf8(self.bytes(Key { parent: 0, from, len })).ok()
    }

    fn bytes(&self, key: Key) -> &[u8] {
        &self.text[key.from as usize..(key.from + key.len) as usize]
    }

    fn slot(&self, parent: u32, name: &[u8]) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut slot = self.hash(parent, name) & mask;
        loop {
            match self.slots[slot] {
                FREE => return None,
                REMOVED => {}
                node => {
                    let key = self.keys[node as usize];
                    if key.parent == parent && self.bytes(key) == name {
                        return Some(slot);
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    fn hash(&self, parent: u32, name: &[u8]) -> usize {
        self.hasher.hash_one((parent, name)) as usize
    }

    /// Puts a node in the first free slot; there always is one.
    fn place(&mut self, node: u32) {
        let key = self.keys[node as usize];
        let mask = self.slots.len() - 1;
        let mut slot = self.hash(key.parent, self.bytes(key)) & mask;
        while self.slots[slot] != FREE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = node;
        self.used += 1;
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![FREE; size]);
        self.used = 0;
        for node in old {
            if node != FREE && node != REMOVED {
                self.place(node);
            }
        }
    }
}

//! How blocks make room for others.

use super::{Block, FileId, Index, MAX_FILES, space};

impl Index {
    /// Reserves the space of `count` blocks from `first` on, of a blob of `size` bytes, and returns the blocks that
    /// must leave before it is written to: for each [`Index::left`] is to be called. `None`: there is no room.
    pub(in crate::cached) fn reserve(&mut self, size: u64, first: u32, count: u32) -> Option<Vec<(FileId, u32)>> {
        let wanted = (first..first + count).map(|n| space(size, n)).sum::<u64>();
        if wanted > self.cap {
            return None;
        }
        let mut victims = Vec::new();
        // Each ready block is looked at once at most: those that may not leave go to the end.
        let mut looks = self.order.len();
        let files_too_many = self.ids.len().saturating_sub(MAX_FILES);
        while self.held + wanted > self.cap || victims.len() < files_too_many {
            if looks == 0 {
                break;
            }
            looks -= 1;
            let Some((tick, (id, n))) = self.order.pop_first() else { break };
            let now = self.tick();
            let Some(entry) = self.files.get_mut(&id) else { continue };
            let Some(block) = entry.blocks.get_mut(n as usize) else { continue };
            match block {
                Block::Ready { readers: 0, .. } if entry.handed_out == 0 && entry.handed_out_at < tick => {
                    *block = Block::Leaving;
                    self.held -= space(entry.size, n);
                    victims.push((id, n));
                }
                Block::Ready { tick, .. } => {
                    *tick = now;
                    self.order.insert(now, (id, n));
                }
                _ => {}
            }
        }
        if self.held + wanted > self.cap {
            for (id, n) in victims {
                self.stay(id, n);
            }
            return None;
        }
        self.held += wanted;
        Some(victims)
    }

    /// Takes the choice of a block back.
    fn stay(&mut self, id: FileId, n: u32) {
        let now = self.tick();
        let Some(entry) = self.files.get_mut(&id) else { return };
        if let Some(block @ Block::Leaving) = entry.blocks.get_mut(n as usize) {
            *block = Block::Ready { tick: now, readers: 0 };
            self.held += space(entry.size, n);
            self.order.insert(now, (id, n));
        }
    }

    /// Says that a block has left. Returns whether the file is of no more use and is to be removed.
    pub(in crate::cached) fn left(&mut self, id: FileId, n: u32) -> bool {
        let Some(entry) = self.files.get_mut(&id) else { return false };
        if let Some(block @ Block::Leaving) = entry.blocks.get_mut(n as usize) {
            *block = Block::Absent;
            entry.present -= 1;
        }
        self.drop_if_empty(id)
    }
}

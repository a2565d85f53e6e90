//! How blocks make room for others.

use super::{Block, FileId, Index, MAX_FILES, space};

/// What [`Index::reserve`] decided. What is to leave leaves before anything is written, and in any case.
#[derive(Debug, Default)]
pub(in crate::cached) struct Room {
    /// The space is reserved.
    pub(in crate::cached) is_there: bool,
    /// Blocks to be cut out of their files; for each [`Index::left`] is to be called.
    pub(in crate::cached) blocks: Vec<(FileId, u32)>,
    /// Files to be removed, already forgotten, and the space of each.
    pub(in crate::cached) files: Vec<(FileId, u64)>,
}

impl Index {
    /// Reserves the space of `count` blocks from `first` on, of a blob of `size` bytes, if there can be room.
    pub(in crate::cached) fn reserve(&mut self, size: u64, first: u32, count: u32) -> Room {
        let wanted = (first..first + count).map(|n| space(size, n)).sum::<u64>();
        let mut room = Room::default();
        if wanted > self.cap {
            return room;
        }
        // Those that may not leave go to the end, and so do those that are younger than they look; once.
        let mut looks = 2 * self.order.len();
        let files_too_many = self.ids.len().saturating_sub(MAX_FILES);
        while looks > 0 && (self.held + wanted > self.cap || room.blocks.len() + room.files.len() < files_too_many) {
            looks -= 1;
            self.choose(&mut room);
        }
        room.is_there = self.held + wanted <= self.cap;
        if room.is_there {
            self.held += wanted;
        } else {
            for (id, n) in room.blocks.drain(..) {
                self.stay(id, n);
            }
        }
        room
    }

    /// Looks at the least recently used block and chooses it, or with it its whole file, if it may leave.
    fn choose(&mut self, room: &mut Room) {
        let Some((tick, (id, n))) = self.order.pop_first() else { return };
        let now = self.tick();
        let Some(entry) = self.files.get_mut(&id) else { return };
        let Some(block) = entry.blocks.get_mut(n as usize) else { return };
        let Block::Ready { tick: place, readers } = block else { return };
        if *readers > 0 || entry.handed_out > 0 || entry.used_at > tick {
            *place = now;
            self.order.insert(now, (id, n));
        } else if entry.is_foreign {
            // Back in its place, for its space to be counted with that of the others.
            self.order.insert(tick, (id, n));
            let held = self.held;
            self.forget_file(id);
            room.files.push((id, held - self.held));
        } else {
            *block = Block::Leaving;
            self.held -= space(entry.size, n);
            room.blocks.push((id, n));
        }
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

//! The invariants of the index.

use super::{Block, Index, space};

impl Index {
    /// Checks the invariants, at a moment when nothing is on its way or leaving.
    pub(in crate::cached) fn check(&self) {
        let mut held = 0;
        for (id, entry) in &self.files {
            assert_eq!(self.ids.get(&entry.key), Some(id));
            let mut present = 0;
            for (n, block) in (0..).zip(&entry.blocks) {
                match block {
                    Block::Absent => {}
                    Block::Ready { tick, readers } => {
                        assert_eq!((self.order.get(tick), *readers), (Some(&(*id, n)), 0));
                        held += space(entry.size, n);
                        present += 1;
                    }
                    Block::Coming(_) | Block::Leaving => panic!("block {n} of {id} is neither here nor there"),
                }
            }
            assert_eq!(entry.present, present);
            assert!(present > 0 || entry.handles > 0, "{id} is of no use");
        }
        assert_eq!(self.files.len(), self.ids.len());
        let ready = self.files.values().map(|entry| entry.present as usize).sum::<usize>();
        assert_eq!((self.order.len(), self.held), (ready, held));
        assert!(held <= self.cap, "{held} of {} bytes", self.cap);
    }
}

//! [`Sums`]: what the pages of a layer's data are, so that what changes on the disk under this process is found out.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use flate2::Crc;

use crate::tree::PAGE;

/// Pages of which the sums lie together: a mebibyte of data.
const TOGETHER: usize = 256;

/// CRC-32 of every page of the chunks that this process has verified, counted from where the chunk begins. They are for accidents: whoever
/// can write to the cache can write to the memory of who reads it.
#[derive(Debug, Default)]
pub(super) struct Sums(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By the place on the disk: most chunks are small, and have their pages for themselves.
    pages: HashMap<u64, Box<[u32; TOGETHER]>>,
    /// By the chunk, where it begins in the middle of a page: a stranger cut it.
    odd: HashMap<u32, Box<[u32]>>,
}

/// The sums, to be looked up.
pub(super) struct Known<'a>(RwLockReadGuard<'a, Table>);

impl Sums {
    /// Notes the bytes of the chunk `number`, which were verified and lie at `at`.
    pub(super) fn note(&self, number: u32, at: u64, bytes: &[u8]) {
        let sums: Vec<u32> = bytes.chunks(PAGE as usize).map(sum).collect();
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !at.is_multiple_of(PAGE) {
            table.odd.insert(number, sums.into());
            return;
        }
        for (page, sum) in (at / PAGE..).zip(sums) {
            let (segment, place) = (page / TOGETHER as u64, page as usize % TOGETHER);
            table.pages.entry(segment).or_insert_with(|| Box::new([0; TOGETHER]))[place] = sum;
        }
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known<'_> {
    /// Tells whether the page at `start` of the chunk `number`, which lies at `at`, is what was noted.
    pub(super) fn agree(&self, number: u32, at: u64, start: u64, bytes: &[u8]) -> bool {
        let noted = if at.is_multiple_of(PAGE) {
            let page = start / PAGE;
            self.0.pages.get(&(page / TOGETHER as u64)).map(|sums| sums[page as usize % TOGETHER])
        } else {
            self.0.odd.get(&number).and_then(|sums| sums.get(((start - at) / PAGE) as usize).copied())
        };
        noted == Some(sum(bytes))
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_of_any_page_is_found() {
        let sums = Sums::default();
        let even = 3 * PAGE * TOGETHER as u64 - PAGE;
        for at in [even, even + 5 * PAGE + 1] {
            let mut bytes = vec![7; 2 * PAGE as usize + 100];
            sums.note(4, at, &bytes);
            let agree = |bytes: &[u8]| -> Vec<bool> {
                let pages = bytes.chunks(PAGE as usize).zip(0..);
                pages.map(|(page, number)| sums.known().agree(4, at, at + number * PAGE, page)).collect()
            };
            assert_eq!(agree(&bytes), [true, true, true]);
            bytes[PAGE as usize] = 8;
            assert_eq!(agree(&bytes), [true, false, true]);
        }
        let page = [0; PAGE as usize];
        assert!(!sums.known().agree(0, 0, 0, &page) && !sums.known().agree(5, 1, 1, &page), "nobody noted them");
    }
}

//! [`Sums`]: what the pages of a layer's data are, so that what changes on the disk under this process is found out.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use flate2::Crc;

use crate::tree::PAGE;

/// Pages of which the sums lie together: a mebibyte of data.
const TOGETHER: usize = 256;

/// CRC-32 of every page of the chunks that this process has verified. They are for accidents: whoever can write to the cache can write
/// to the memory of who reads it.
#[derive(Debug, Default)]
pub(super) struct Sums(RwLock<HashMap<u64, Box<[u32; TOGETHER]>>>);

/// The sums, to be looked up.
pub(super) struct Known<'a>(RwLockReadGuard<'a, HashMap<u64, Box<[u32; TOGETHER]>>>);

impl Sums {
    /// Notes a chunk's bytes, which were verified and lie at `at`, where a page begins.
    pub(super) fn note(&self, at: u64, bytes: &[u8]) {
        let sums: Vec<u32> = bytes.chunks(PAGE as usize).map(sum).collect();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (page, sum) in (at / PAGE..).zip(sums) {
            let (segment, place) = (page / TOGETHER as u64, page as usize % TOGETHER);
            known.entry(segment).or_insert_with(|| Box::new([0; TOGETHER]))[place] = sum;
        }
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known<'_> {
    /// Tells whether what a chunk has of the page that begins at `at` is what was noted.
    pub(super) fn agree(&self, at: u64, bytes: &[u8]) -> bool {
        let page = at / PAGE;
        let noted = self.0.get(&(page / TOGETHER as u64)).map(|sums| sums[page as usize % TOGETHER]);
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
        let (at, mut bytes) = (3 * PAGE * TOGETHER as u64 - PAGE, vec![7; 2 * PAGE as usize + 100]);
        sums.note(at, &bytes);
        let agree = |bytes: &[u8]| -> Vec<bool> {
            let pages = bytes.chunks(PAGE as usize).zip(0..);
            pages.map(|(page, number)| sums.known().agree(at + number * PAGE, page)).collect()
        };
        assert_eq!(agree(&bytes), [true, true, true]);
        bytes[PAGE as usize] = 8;
        assert_eq!(agree(&bytes), [true, false, true]);
        assert!(!sums.known().agree(0, &[0; PAGE as usize]), "nobody noted it");
    }
}

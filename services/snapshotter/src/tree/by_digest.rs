//! [`ByDigest`]: finds a layer's chunks by what they are.

use std::ops::Range;

use super::{Chunk, REGULAR, TYPE, Tree};

/// The chunks of a tree in the order of their digests.
#[derive(Debug)]
pub(crate) struct ByDigest {
    order: Box<[u32]>,
    /// A bit for each chunk behind which its file goes on, in another gzip member.
    goes_on: Box<[u64]>,
}

impl ByDigest {
    /// Returns how many bytes of memory it takes for so many chunks.
    pub(crate) const fn bytes(chunks: usize) -> u64 {
        (chunks * size_of::<u32>() + chunks.div_ceil(64) * size_of::<u64>()) as u64
    }

    /// Puts the chunks of a tree in order. Takes a moment: half a second for a million.
    pub(crate) fn of(tree: &Tree) -> Self {
        let chunks = tree.chunks();
        let mut order: Box<[u32]> = (0..chunks.len() as u32).collect();
        order.sort_unstable_by_key(|&number| chunks[number as usize].digest);
        let mut goes_on = vec![0; chunks.len().div_ceil(64)].into_boxed_slice();
        for file in tree.inodes.iter().filter(|inode| inode.mode & TYPE == REGULAR) {
            for number in file.first as usize..(file.first + file.count.saturating_sub(1)) as usize {
                if chunks[number].inner == 0 && chunks[number].offset != chunks[number + 1].offset {
                    goes_on[number / 64] |= 1 << (number % 64);
                }
            }
        }
        Self { order, goes_on }
    }

    /// Returns the chunks of its tree, `tree`, that have the same bytes as `wanted`.
    pub(crate) fn find<'a>(&'a self, tree: &'a Tree, wanted: &Chunk) -> impl Iterator<Item = u32> + 'a {
        let of = |number: &u32| tree.chunks()[*number as usize].digest;
        let Range { start, end } = {
            let start = self.order.partition_point(|number| of(number) < wanted.digest);
            start..start + self.order[start..].partition_point(|number| of(number) == wanted.digest)
        };
        let size = wanted.size;
        self.order[start..end].iter().copied().filter(move |number| tree.chunks()[*number as usize].size == size)
    }

    /// Tells whether nothing lies between a chunk and the next one in the tar, and all of its member is the chunk.
    pub(crate) fn goes_on(&self, chunk: u32) -> bool {
        self.goes_on.get(chunk as usize / 64).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }
}

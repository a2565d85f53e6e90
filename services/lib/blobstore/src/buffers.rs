//! Memory for pieces of blobs that are read from files: kept and used again, where a fresh piece for each read would be
//! asked for, zeroed and given back tens of thousands of times a second.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The two sizes that are kept: what clients of lazy images ask for, and what whole blobs are read in.
static KEPT: [Kept; 2] = [Kept::new(64 << 10, 128), Kept::new(256 << 10, 32)];

/// Buffers of one size that nobody uses now.
#[derive(Debug)]
struct Kept {
    size: usize,
    /// How many are kept at most; 8 MiB of each size.
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// Memory for one piece. Its bytes are whatever they were before; the caller writes all of them.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    len: usize,
    from: Option<&'static Kept>,
}

impl Kept {
    const fn new(size: usize, most: usize) -> Self {
        Self { size, most, free: Mutex::new(Vec::new()) }
    }

    /// Tells whether a piece of `len` bytes uses most of a buffer.
    fn suits(&self, len: usize) -> bool {
        len <= self.size && len > self.size / 4
    }
}

impl Buffer {
    /// Returns memory for a piece of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let Some(kept) = KEPT.iter().find(|kept| kept.suits(len)) else {
            return Self { memory: vec![0; len], len, from: None };
        };
        let free = kept.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { memory: free.unwrap_or_else(|| vec![0; kept.size]), len, from: Some(kept) }
    }

    /// Returns the bytes to write to.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Returns what was written. The memory is kept once the last part of it is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.from {
            Some(_) => Bytes::from_owner(self),
            None => {
                let mut buffer = self;
                std::mem::take(&mut buffer.memory).into()
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(kept) = self.from else { return };
        let mut free = kept.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < kept.most {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece has the length that was asked for and the bytes that were written, whatever its memory held before; two at a
    /// time share nothing.
    #[test]
    fn pieces_are_apart() {
        for len in [0, 1, 5000, 20_000, 64 << 10, 70_000, 256 << 10, 300_000] {
            let mut pieces: Vec<_> = (0..4u8).map(|n| (n, Buffer::new(len))).collect();
            for (n, piece) in &mut pieces {
                piece.as_mut().fill(*n);
            }
            let pieces: Vec<_> = pieces.into_iter().map(|(n, piece)| (n, piece.into_bytes())).collect();
            for (n, piece) in &pieces {
                assert_eq!(*piece, vec![*n; len]);
            }
        }
    }

    /// However many pieces were in use at once, no more than a few stay.
    #[test]
    fn few_stay() {
        let pieces: Vec<_> = (0..1000).map(|_| Buffer::new(64 << 10)).collect();
        drop(pieces);
        for kept in &KEPT {
            let free = kept.free.lock().unwrap();
            assert!(free.len() <= kept.most && free.iter().all(|memory| memory.len() == kept.size));
            assert_eq!(kept.size * kept.most, 8 << 20);
        }
    }
}

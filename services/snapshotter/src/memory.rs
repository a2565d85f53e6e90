//! [`Memory`]: how much of the node's memory the trees of lazy layers may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;

/// How much of the node's memory the trees of lazy layers may take together, and how much they do.
#[derive(Debug)]
pub(crate) struct Memory {
    most: u64,
    used: AtomicU64,
}

/// What one tree takes of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: u64,
    /// Whether there is a layer that cannot do without it.
    is_needed: bool,
}

/// There is no memory left for one more tree.
#[derive(Debug, thiserror::Error)]
#[error("the trees of all lazy layers would take more than tree_memory ({most}): raise it, or remove images")]
pub(crate) struct Full {
    most: ByteSize,
}

impl Memory {
    /// Makes one of so many bytes; 0: without a bound.
    pub(crate) fn new(most: ByteSize) -> Arc<Self> {
        let most = if most.as_u64() == 0 { u64::MAX } else { most.as_u64() };
        Arc::new(Self { most, used: AtomicU64::new(0) })
    }

    /// Returns a share for the tree of a layer that may be pulled in another way.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), bytes: 0, is_needed: false }
    }

    /// Returns a share for the tree of a layer that is mounted: it counts, and is not refused.
    pub(crate) fn needed(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), bytes: 0, is_needed: true }
    }
}

impl Share {
    /// Tells whether there is a layer that cannot do without it.
    pub(crate) const fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// Returns another one of the same kind, of nothing yet.
    pub(crate) fn another(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), bytes: 0, is_needed: self.is_needed }
    }

    /// Has it be so many bytes, as the tree grows and when it is done.
    ///
    /// # Errors
    /// All together would be more than there may be; it stays as it was.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), Full> {
        let Memory { most, used } = &*self.memory;
        let resize = |used: u64| {
            let new = used - self.bytes + bytes;
            (self.is_needed || bytes <= self.bytes || new <= *most).then_some(new)
        };
        match used.fetch_update(Ordering::AcqRel, Ordering::Acquire, resize) {
            Ok(_) => self.bytes = bytes,
            Err(_) => return Err(Full { most: ByteSize::b(*most) }),
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_counts_and_is_not_refused() {
        let memory = Memory::new(ByteSize::b(100));
        let (mut one, mut two) = (memory.share(), memory.share());
        one.resize(60).unwrap();
        let refused = two.resize(50).unwrap_err().to_string();
        assert!(refused.contains("tree_memory"), "{refused}");
        one.resize(50).unwrap();
        two.resize(50).unwrap();
        let mut needed = memory.needed();
        needed.resize(80).unwrap();
        drop(one);
        assert!(two.resize(51).is_err());
        two.resize(20).unwrap();
        drop(needed);
        two.resize(100).unwrap();
        Memory::new(ByteSize::b(0)).share().resize(1 << 60).unwrap();
    }
}

//! [`Kin`]: the layers of a node that one proxy made: what one of them has on the disk need not be fetched for another.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::inflate::Unpacked;
use super::{Layer, Wanted};
use crate::tree::{ByDigest, Chunk};

/// The layers that are looked through for a chunk, the youngest first.
const MOST: usize = 64;
/// The smallest chunk that is worth another request for what lies behind it.
const SPARED: u32 = 256 << 10;

/// All layers of a node that are open.
#[derive(Debug, Default)]
pub(crate) struct Kin(RwLock<Vec<Weak<Layer>>>);

impl Kin {
    /// Adds a layer, for as long as it lives.
    pub(crate) fn add(&self, layer: &Arc<Layer>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), &raw const **layer));
        all.push(Arc::downgrade(layer));
    }

    /// Returns other layers that the same proxy made.
    fn of(&self, layer: &Layer) -> Vec<Arc<Layer>> {
        if layer.maker.is_none() {
            return Vec::new();
        }
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().rev().filter_map(Weak::upgrade);
        others
            .filter(|other| !std::ptr::eq(&raw const **other, layer) && other.maker == layer.maker)
            .take(MOST)
            .collect()
    }
}

/// Other layers that the same proxy made as one of them.
pub(super) struct Lenders(Vec<Arc<Layer>>);

impl Lenders {
    pub(super) fn of(layer: &Layer) -> Self {
        Self(layer.common.kin.of(layer))
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether one of them has a chunk that is large enough to end a request before it.
    pub(super) fn spare(&self, layer: &Layer, number: u32, wanted: Wanted) -> bool {
        let chunk = &layer.tree.chunks()[number as usize];
        let is_whole = wanted != Wanted::Tar || layer.by_digest().goes_on(number);
        let is_worth_it = chunk.size >= SPARED && layer.first_of_member(number) == number;
        is_worth_it && is_whole && self.0.iter().any(|lender| lender.has(chunk))
    }

    /// Returns a chunk as if it had come, if one of them has it; `None` where it would have to come all the same. May take its time.
    pub(super) fn copy(&self, layer: &Layer, number: u32, wanted: Wanted) -> Option<Unpacked> {
        let goes_on = layer.by_digest().goes_on(number);
        // What lies behind the last chunk of a file is in nobody else's.
        if wanted == Wanted::Tar && !goes_on {
            return None;
        }
        let chunk = &layer.tree.chunks()[number as usize];
        let payload = self.0.iter().find_map(|lender| lender.lend(chunk))?;
        layer.common.counts.copied_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        // That there is nothing more in its member is the TOC's word, which the proof checks.
        let rest = (goes_on && !layer.sources.is_one_alone()).then(Vec::new);
        Some(Unpacked { before: Vec::new(), payload, rest, is_broken: false })
    }
}

impl Layer {
    fn by_digest(&self) -> &ByDigest {
        self.by_digest.get_or_init(|| ByDigest::of(&self.tree))
    }

    fn has(&self, wanted: &Chunk) -> bool {
        self.by_digest().find(&self.tree, wanted).any(|number| self.data.is_present(number))
    }

    /// Returns the bytes of another layer's chunk, if they are here; they are verified.
    fn lend(&self, wanted: &Chunk) -> Option<Vec<u8>> {
        self.by_digest().find(&self.tree, wanted).find_map(|number| {
            let copied = self.data.copy_of(number, &self.tree.chunks()[number as usize]);
            copied.inspect_err(|error| self.tell_failed(error)).ok().flatten()
        })
    }
}

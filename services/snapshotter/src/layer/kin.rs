//! [`Kin`]: the layers of a node that one proxy made: what one of them has on the disk need not be fetched for another.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::inflate::Unpacked;
use super::{Layer, Wanted};
use crate::tree::{ByDigest, Chunk};

/// The layers that are looked through for a chunk, the youngest first.
const MOST: usize = 64;
/// The smallest chunk that is worth another request for what lies behind it.
const SPARED: u32 = 1 << 20;
/// Chunks of one layer with the same bytes that are looked at.
const CANDIDATES: usize = 8;

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

    /// Returns other layers that the same proxy made. They are not kept: they may be removed.
    fn of(&self, layer: &Layer) -> Vec<Weak<Layer>> {
        if layer.maker.is_none() {
            return Vec::new();
        }
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_kin = |other: &Layer| !std::ptr::eq(other, layer) && other.maker == layer.maker;
        all.iter()
            .rev()
            .filter(|other| other.upgrade().is_some_and(|other| is_kin(&other)))
            .take(MOST)
            .cloned()
            .collect()
    }
}

/// Other layers that the same proxy made as one of them.
pub(super) struct Lenders(Vec<Weak<Layer>>);

impl Lenders {
    pub(super) fn of(layer: &Layer) -> Self {
        Self(layer.common.kin.of(layer))
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether one of them has a chunk that is large enough to end a request before it.
    pub(super) fn spare(&self, layer: &Arc<Layer>, number: u32, wanted: Wanted) -> bool {
        let chunk = &layer.tree.chunks()[number as usize];
        let is_worth_it = chunk.size >= SPARED && layer.first_of_member(number) == number;
        is_worth_it && rest_of(layer, number, wanted).is_some() && self.alive().any(|lender| lender.has(chunk, wanted))
    }

    /// Returns a chunk as if it had come, if one of them has it; `None` where it would have to come all the same. May take its time.
    pub(super) fn copy(&self, layer: &Arc<Layer>, number: u32, wanted: Wanted) -> Option<Unpacked> {
        let rest = rest_of(layer, number, wanted)?;
        let chunk = &layer.tree.chunks()[number as usize];
        let payload = self.alive().find_map(|lender| lender.lend(chunk, wanted))?;
        layer.common.counts.copied_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        Some(Unpacked { before: Vec::new(), payload, rest, is_broken: false, _turn: None })
    }

    fn alive(&self) -> impl Iterator<Item = Arc<Layer>> {
        self.0.iter().filter_map(Weak::upgrade)
    }
}

/// Returns what is known of what lies behind a chunk in its member. `None` where that is wanted and nobody but who has the member knows:
/// it is in no other layer, or all of the tar is to come from one place.
fn rest_of(layer: &Arc<Layer>, number: u32, wanted: Wanted) -> Option<Option<Vec<u8>>> {
    let is_empty =
        !layer.sources.is_one_alone() && layer.by_digest_for(wanted).is_some_and(|by_digest| by_digest.goes_on(number));
    // That there is nothing more in its member is the TOC's word, which the proof checks.
    let rest = is_empty.then(Vec::new);
    (rest.is_some() || wanted != Wanted::Tar).then_some(rest)
}

impl Layer {
    /// Returns the chunks by their digests. Who is waited for does without them until they are in order.
    fn by_digest_for(self: &Arc<Self>, wanted: Wanted) -> Option<&ByDigest> {
        if wanted == Wanted::Tar {
            return Some(self.by_digest.get_or_init(|| ByDigest::of(&self.tree)));
        }
        let known = self.by_digest.get();
        if known.is_none() && !self.is_ordering.swap(true, Ordering::AcqRel) {
            let layer = Arc::clone(self);
            let order = move || {
                layer.by_digest.get_or_init(|| ByDigest::of(&layer.tree));
            };
            if std::thread::Builder::new().name("by-digest".to_owned()).spawn(order).is_err() {
                self.is_ordering.store(false, Ordering::Release);
            }
        }
        known
    }

    /// Returns the chunks here that have the same bytes as another layer's.
    fn same_as<'a>(self: &'a Arc<Self>, wanted: &Chunk, by: Wanted) -> impl Iterator<Item = u32> + 'a {
        let found = self.by_digest_for(by).map(|by_digest| by_digest.find(&self.tree, wanted).take(CANDIDATES));
        found.into_iter().flatten().filter(|number| self.data.is_present(*number))
    }

    fn has(self: &Arc<Self>, wanted: &Chunk, by: Wanted) -> bool {
        self.same_as(wanted, by).next().is_some()
    }

    /// Returns the bytes of another layer's chunk, if they are here; they are verified.
    fn lend(self: &Arc<Self>, wanted: &Chunk, by: Wanted) -> Option<Vec<u8>> {
        self.same_as(wanted, by).find_map(|number| {
            let chunk = &self.tree.chunks()[number as usize];
            let copied = self.data.copy_of(number, chunk).and_then(|copied| match copied {
                Some(payload) if !chunk.is(&payload) => self.check(number).map(|_| None),
                copied => Ok(copied),
            });
            let told =
                |error: &std::io::Error| tracing::warn!(blob.digest = %self.blob, %error, "a chunk cannot be copied");
            copied.inspect_err(told).ok().flatten()
        })
    }
}

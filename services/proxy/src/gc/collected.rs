//! [`Collected`]: what a collection took away.

use std::collections::BTreeMap;

use blobstore::Listed;
use catalog::{Unit, Usage};
use serde::Serialize;

use super::orphans;
use crate::clock::now_ms;
use crate::metrics::Reason;

/// Units that are listed one by one; of further ones only the sums are told.
const LISTED: usize = 10_000;
/// Keys that could not be deleted that are named.
const NAMED: usize = 100;

/// What a collection took away, or would take.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// What goes, in this order; not all of it when it is very much.
    pub(crate) gone: Vec<Gone>,
    /// How many units and bytes go, by the reason.
    pub(crate) sums: BTreeMap<Reason, (u64, u64)>,
    /// How many keys and bytes, evicted earlier, were deleted from the store.
    pub(crate) deleted: (u64, u64),
    /// Keys whose bytes could not be deleted, the first ones of each collection; and how many there were.
    pub(crate) undeleted: (Vec<Undeleted>, u64),
    /// What the store holds afterwards.
    pub(crate) usage: Usage,
}

/// A key whose bytes could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Undeleted {
    /// The key's text.
    pub(crate) key: String,
    /// What the store says.
    pub(crate) why: String,
}

/// One unit that goes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Gone {
    /// Why.
    pub(crate) why: Reason,
    /// The source layers, or the one blob; of an orphan its key.
    pub(crate) names: Vec<String>,
    /// How many blobs it has: a layer's twins and TOCs belong to it.
    pub(crate) blobs: usize,
    /// How many bytes they have together.
    pub(crate) bytes: u64,
    /// Milliseconds since it was last used; of an orphan since it was put.
    pub(crate) unused_ms: i64,
}

impl Collected {
    pub(super) fn add_unit(&mut self, why: Reason, unit: Unit) {
        let names = unit.names.iter().map(ToString::to_string).collect();
        let unused_ms = now_ms().saturating_sub(unit.used_at).max(0);
        self.add(Gone { why, names, blobs: unit.members.len(), bytes: unit.size(), unused_ms });
    }

    pub(super) fn add_orphan(&mut self, orphan: &Listed) {
        let (names, unused_ms) = (vec![orphan.key.to_string()], orphans::age_ms(orphan));
        self.add(Gone { why: Reason::Orphan, names, blobs: 1, bytes: orphan.size, unused_ms });
    }

    fn add(&mut self, gone: Gone) {
        let (units, bytes) = self.sums.entry(gone.why).or_default();
        *units += 1;
        *bytes = bytes.saturating_add(gone.bytes);
        if self.gone.len() < LISTED {
            self.gone.push(gone);
        }
    }

    pub(super) fn add_deleted(&mut self, keys: usize, bytes: u64) {
        self.deleted.0 += keys as u64;
        self.deleted.1 = self.deleted.1.saturating_add(bytes);
    }

    pub(super) fn add_undeleted(&mut self, key: Undeleted) {
        self.undeleted.1 += 1;
        if self.undeleted.0.len() < NAMED {
            self.undeleted.0.push(key);
        }
    }

    /// Returns the bytes of all units that go.
    pub(super) fn evicted_bytes(&self) -> u64 {
        self.sums.values().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

//! [`Waiting`]: what nobody waits for yields to a read.

use std::sync::atomic::Ordering;

use super::Layer;

/// A read that waits, while this lives.
pub(super) struct Waiting<'a> {
    layer: &'a Layer,
    is_yielded_to: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn begin(layer: &'a Layer) -> Self {
        layer.waiting.fetch_add(1, Ordering::AcqRel);
        layer.yielded_to.fetch_add(1, Ordering::AcqRel);
        Self { layer, is_yielded_to: true }
    }

    /// Has what nobody waits for go on.
    pub(super) fn hold_nobody_up(&mut self) {
        if std::mem::take(&mut self.is_yielded_to) {
            self.layer.yielded_to.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hold_nobody_up();
        self.layer.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

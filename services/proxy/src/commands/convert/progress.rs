//! [`Progress`]: bars at a terminal, plain lines otherwise; always on standard error.

use std::io::Write;

use api::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::commands::table::short;

/// Shows how far the layers are.
#[derive(Debug)]
pub(super) struct Progress {
    bars: MultiProgress,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new() }
    }

    /// Adds a bar for a layer of `size` bytes.
    pub(super) fn bar(&self, layer: &Digest, size: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(size).with_message(short(layer)));
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>11} of {total_bytes:>11} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }

    /// Says what came of a layer, in place of its bar.
    pub(super) fn done(&self, bar: &ProgressBar, line: &str) {
        bar.finish_and_clear();
        self.bars.suspend(|| {
            // Nobody reads it; the result says it too.
            let _unread = writeln!(std::io::stderr().lock(), "{line}");
        });
    }
}

//! [`Progress`]: one moving line at a terminal, a line now and then otherwise; always on standard error.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Says how far the rebuild is. How much there is in all is not known before it ends.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    said: Mutex<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self { bar, said: Mutex::new(Instant::now()) }
    }

    pub(super) fn blobs(&self, count: u64, bytes: u64) {
        self.say(|| format!("{count} blobs read, {}", HumanBytes(bytes)));
    }

    pub(super) fn objects(&self, count: u64) {
        self.say(|| format!("{count} meta objects read"));
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(line());
            bar.tick();
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.elapsed() >= EVERY {
            *said = Instant::now();
            // Nobody reads it; the result says it too.
            let _unread = writeln!(std::io::stderr().lock(), "{}", line());
        }
    }
}

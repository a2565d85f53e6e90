//! What this machine cannot test, said loudly.

use std::io::Write;

/// Returns whether the tests run as root; daemons, mounts and namespaces need it.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says on the real standard error (the test harness shows it also for a test that passes) that a test did not run.
pub fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

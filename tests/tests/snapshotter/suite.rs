//! The tests that containerd has for snapshotters.

use std::process::Command;

use e2e::{Scratch, built, go_built, is_root, run, skip};

#[test]
fn containerds_own_suite_passes() {
    if !is_root() {
        return skip("containerds_own_suite_passes", "not root");
    }
    let scratch = Scratch::new().unwrap();
    let mut suite = Command::new(go_built("suite").unwrap());
    suite.args(["-test.root", "-test.v", "-program"]).arg(built("firstlight-snapshotter").unwrap());
    let said = run(suite.env("TMPDIR", scratch.path()).current_dir(scratch.path())).unwrap();
    let passed = said.lines().filter(|line| line.starts_with("    --- PASS")).count();
    assert!(passed >= 21 && !said.contains("--- SKIP"), "{said}");
}

//! The tests that containerd has for snapshotters.

use std::process::Command;

use e2e::{Scratch, built, example, go_built, is_root, run, skip};

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

/// systemd has nothing to say against the documented units.
#[test]
fn the_units_are_understood() {
    let scratch = Scratch::new().unwrap();
    let program = built("firstlight-snapshotter").unwrap().display().to_string();
    let replaced = [("/usr/local/bin/firstlight-snapshotter", program.as_str())];
    let units = ["firstlight-holder.service", "firstlight-snapshotter.service"].map(|unit| {
        let text = example(&format!("snapshotter/{unit}"), &replaced).unwrap();
        scratch.write(unit, &text).unwrap()
    });
    let said = run(Command::new("systemd-analyze").arg("verify").args(units)).unwrap();
    assert_eq!(said, "");
}

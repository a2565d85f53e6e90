//! What containerd expects of any snapshotter.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use e2e::{is_root, skip};
use serde_json::Value;

use crate::bench::Bench;

impl Bench {
    fn info(&self, key: &str) -> Value {
        serde_json::from_str(&self.ctr(&["info", key]).unwrap()).unwrap()
    }

    /// Checks that a call is refused, with these words.
    fn refuses(&self, arguments: &[&str], words: &str) {
        let said = format!("{:#}", self.ctr(arguments).unwrap_err());
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    /// Commits a base with a file, a folder of folders, and a root of its own mode.
    fn base(&self) {
        self.ctr(&["prepare", "first"]).unwrap();
        let mounted = self.mount("first");
        assert_eq!(fs::metadata(mounted.path()).unwrap().mode() & 0o7777, 0o755);
        fs::write(mounted.join("file"), "one").unwrap();
        fs::create_dir_all(mounted.join("a/b/c")).unwrap();
        fs::set_permissions(mounted.path(), Permissions::from_mode(0o2750)).unwrap();
        std::os::unix::fs::chown(mounted.path(), Some(7), Some(8)).unwrap();
        drop(mounted);
        self.ctr(&["commit", "base", "first"]).unwrap();
    }
}

/// Layers on each other show what they should: changes, removals, owner and mode of the root; a view cannot be written to.
#[test]
fn layers_show_what_they_should() {
    if !is_root() {
        return skip("layers_show_what_they_should", "not root");
    }
    let bench = Bench::start();
    bench.base();
    bench.ctr(&["prepare", "second", "base"]).unwrap();
    let mounted = bench.mount("second");
    assert_eq!(fs::read_to_string(mounted.join("file")).unwrap(), "one");
    fs::write(mounted.join("file"), "two").unwrap();
    fs::remove_dir_all(mounted.join("a/b")).unwrap();
    fs::rename(mounted.join("file"), mounted.join("moved")).unwrap();
    drop(mounted);
    bench.ctr(&["commit", "top", "second"]).unwrap();

    for (key, parent) in [("view of top", "top"), ("view of base", "base")] {
        bench.ctr(&["view", key, parent]).unwrap();
        let mounted = bench.mount(key);
        let root = fs::metadata(mounted.path()).unwrap();
        assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o2750, 7, 8), "{key}");
        let names = |path: &str| {
            let mut names: Vec<_> = fs::read_dir(mounted.join(path)).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let expected: [&[&str]; 2] = if parent == "top" { [&["a", "moved"], &[]] } else { [&["a", "file"], &["b"]] };
        assert_eq!(
            [names("."), names("a")],
            expected.map(|names| names.iter().map(std::ffi::OsString::from).collect::<Vec<_>>())
        );
        let refused = fs::write(mounted.join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{key}");
    }
    assert_eq!(fs::read_to_string(bench.mount("view of top").join("moved")).unwrap(), "two");
}

/// Names, kinds, parents, labels and usage are as containerd's own snapshotters have them, and what makes no sense is refused.
#[test]
fn calls_that_make_no_sense_are_refused() {
    if !is_root() {
        return skip("calls_that_make_no_sense_are_refused", "not root");
    }
    let bench = Bench::start();
    bench.base();
    bench.refuses(&["info", "first"], "not found");
    assert_eq!((&bench.info("base")["Kind"], bench.info("base").get("Parent")), (&"Committed".into(), None));
    bench.ctr(&["prepare", "active", "base"]).unwrap();
    bench.ctr(&["view", "view", "base"]).unwrap();
    assert_eq!((&bench.info("active")["Kind"], &bench.info("active")["Parent"]), (&"Active".into(), &"base".into()));
    assert_eq!(bench.info("view")["Kind"], "View");
    for (arguments, words) in [
        (&["prepare", "active", "base"][..], "already exists"),
        (&["view", "active", "base"], "already exists"),
        (&["prepare", "view", "base"], "already exists"),
        (&["view", "view", "base"], "already exists"),
        (&["prepare", "new", "nothing"], "not found"),
        (&["prepare", "new", "active"], "only a committed snapshot can be a parent"),
        (&["view", "new", "view"], "only a committed snapshot can be a parent"),
        (&["commit", "base", "active"], "already exists"),
        (&["commit", "new", "view"], "is view: it cannot be committed"),
        (&["commit", "new", "base"], "is committed: it cannot be committed"),
        (&["commit", "new", "nothing"], "not found"),
        (&["rm", "base"], "cannot remove snapshot with child"),
        (&["mounts", "/tmp", "base"], "cannot be mounted"),
        (&["mounts", "/tmp", "nothing"], "not found"),
        (&["usage", "nothing"], "not found"),
    ] {
        bench.refuses(arguments, words);
    }
    let listed = bench.ctr(&["ls"]).unwrap();
    assert_eq!(listed.lines().count(), 4, "a refused call left something:\n{listed}");

    bench.ctr(&["label", "base", "color=green"]).unwrap();
    assert_eq!(bench.info("base")["Labels"]["color"], "green");
    bench.ctr(&["label", "base", "color="]).unwrap();
    assert_eq!(bench.info("base")["Labels"].get("color"), None);
    fs::write(bench.mount("active").join("large"), vec![1; 1 << 20]).unwrap();
    let usage = |key: &str| {
        let said = bench.ctr(&["usage", "-b", key]).unwrap();
        let words: Vec<String> = said.lines().last().unwrap().split_whitespace().map(str::to_owned).collect();
        (words[1].parse::<u64>().unwrap(), words[2].parse::<u64>().unwrap())
    };
    let (bytes, inodes) = usage("active");
    assert!((1 << 20..2 << 20).contains(&bytes) && inodes == 2, "{bytes} bytes in {inodes} inodes");
    let (bytes, inodes) = usage("base");
    assert!(bytes < 1 << 20 && inodes == 5, "{bytes} bytes in {inodes} inodes");

    // After each, containerd collects what nobody refers to, such as views.
    for key in ["view", "active", "base"] {
        bench.ctr(&["rm", key]).unwrap();
        bench.refuses(&["rm", key], "not found");
    }
    bench.wait_empty();
}

/// Killed and started again, everything is there and goes on; what belongs to no snapshot goes.
#[test]
fn a_kill_loses_nothing() {
    if !is_root() {
        return skip("a_kill_loses_nothing", "not root");
    }
    let mut bench = Bench::start();
    bench.base();
    bench.ctr(&["prepare", "active", "base"]).unwrap();
    fs::write(bench.mount("active").join("kept"), "kept").unwrap();
    let before = bench.ctr(&["ls"]).unwrap();
    let left = bench.snapshotter.folders().join("4711");
    fs::create_dir_all(left.join("fs")).unwrap();
    bench.kill_and_start();
    assert_eq!(bench.ctr(&["ls"]).unwrap(), before);
    assert!(!left.try_exists().unwrap());
    assert_eq!(fs::read_to_string(bench.mount("active").join("kept")).unwrap(), "kept");
    bench.ctr(&["commit", "top", "active"]).unwrap();
    bench.kill_and_start();
    bench.ctr(&["view", "view", "top"]).unwrap();
    assert_eq!(fs::read_to_string(bench.mount("view").join("kept")).unwrap(), "kept");
    assert!(bench.snapshotter.proc().stop().unwrap(), "it had to be killed");
}

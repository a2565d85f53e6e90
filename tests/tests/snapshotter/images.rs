//! Images that are pulled, unpacked and run.

use std::time::SystemTime;

use e2e::{Node, Registry, Snapshotter, Tree, TreeKind as Kind, is_root, run, skip};

use crate::bench::Bench;

/// An image is unpacked to the same tree as by containerd's own snapshotter, runs, and leaves nothing when it is removed.
#[test]
fn an_image_is_unpacked_runs_and_goes() {
    if !is_root() {
        return skip("an_image_is_unpacked_runs_and_goes", "not root");
    }
    let bench = Bench::start();
    let registry = Registry::start(&Node::Machine).unwrap();
    let reference = format!("{}/library/python:latest", registry.at());
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let trees = [Snapshotter::NAME, "overlayfs"].map(|snapshotter| {
        bench.containerd.pull_with(snapshotter, &reference).unwrap();
        let key = format!("tree-{snapshotter}");
        let top = top_of(&bench, snapshotter);
        // Not a view, which containerd may collect at any time.
        bench.ctr_of(snapshotter, &["prepare", &key, &top]).unwrap();
        let mut tree = Tree::read(bench.mount_of(snapshotter, &key).path()).unwrap();
        // A folder into which a layer was unpacked, and that is not one of its entries, has that moment's time.
        for entry in tree.entries.values_mut() {
            if entry.kind == Kind::Directory && entry.modified.0.cast_unsigned() >= begun {
                entry.modified = (0, 0);
            }
        }
        bench.ctr_of(snapshotter, &["rm", &key]).unwrap();
        tree
    });
    let differences = trees[1].differences(&trees[0]);
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));

    let said = bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]).unwrap();
    assert_eq!(said, "42");
    run(bench.containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    bench.wait_empty();
}

/// Returns the snapshot on which nothing stands: that of the whole image.
fn top_of(bench: &Bench, snapshotter: &str) -> String {
    let listed = bench.ctr_of(snapshotter, &["ls"]).unwrap();
    let rows: Vec<Vec<&str>> = listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let top = rows.iter().find(|row| !rows.iter().any(|other| other.len() == 3 && other[1] == row[0]));
    top.unwrap()[0].to_owned()
}

//! Images that are pulled, unpacked and run.

use e2e::{Node, Registry, Snapshotter, is_root, run, skip};

use crate::bench::Bench;
use crate::trees::{self, Moment};

/// An image is unpacked to the same tree as by containerd's own snapshotter, runs, and leaves nothing when it is removed.
#[test]
fn an_image_is_unpacked_runs_and_goes() {
    if !is_root() {
        return skip("an_image_is_unpacked_runs_and_goes", "not root");
    }
    let bench = Bench::start();
    let registry = Registry::start(&Node::Machine).unwrap();
    let reference = format!("{}/library/python:latest", registry.at());
    let begun = Moment::now();
    let trees = [Snapshotter::NAME, "overlayfs"].map(|snapshotter| {
        bench.containerd.pull_with(snapshotter, &reference).unwrap();
        bench.tree(snapshotter, &trees::top_of(&bench, snapshotter)).unwrap()
    });
    let [ours, theirs] = trees;
    begun.assert_same(&theirs, &ours).unwrap();

    let said = bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]).unwrap();
    assert_eq!(said, "42");
    run(bench.containerd.ctr().args(["images", "rm", "--sync", &reference])).unwrap();
    bench.wait_empty();
}

//! overlayfs on our mounts, while the kernel forgets all it can: what stays in use stays what it is (golang/go#30829).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::{Snapshotter, drop_inodes, is_root, skip};

use crate::lazy::World;
use crate::trees::top_of;

/// How long it goes on.
const WHILE: Duration = Duration::from_secs(60);
/// How often the kernel forgets.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// A minute of stat, open, rename, copy-up by chmod and reads by hard links: no error, and every file and folder of the image keeps
/// its inode number, copied up or not, also across a restart of the snapshotter.
#[test]
fn files_keep_their_numbers() {
    if !is_root() {
        return skip("files_keep_their_numbers", "not root");
    }
    let mut world = World::start_with("fill_after = '1h'\n");
    let (reference, _) = world.pinned("library/python");
    let bench = &mut world.bench;
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let top = top_of(bench, Snapshotter::NAME);
    bench.ctr(&["prepare", "busy", &top]).unwrap();
    let mounted = bench.mount("busy");
    let root = mounted.path().to_owned();

    let files = files_below(&root);
    assert!(files.len() > 5000, "{} files", files.len());
    let is_linked = |(path, (_, links)): &(&PathBuf, &(u64, u64))| *links > 1 && path.is_file();
    let linked: Vec<&PathBuf> = files.iter().filter(is_linked).map(|(path, _)| path).collect();
    assert!(!linked.is_empty());
    let (begun, mut forgotten, mut restarted) = (Instant::now(), Instant::now(), false);
    let mut copied = BTreeSet::new();
    'all: loop {
        for (step, (path, (inode, _))) in files.iter().enumerate() {
            if begun.elapsed() > WHILE {
                break 'all;
            }
            if begun.elapsed() > WHILE / 2 && !restarted {
                bench.snapshotter.kill_and_start().unwrap();
                restarted = true;
            }
            if forgotten.elapsed() > FORGET_EVERY {
                drop_inodes().unwrap();
                forgotten = Instant::now();
            }
            let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(found.ino(), *inode, "{}", path.display());
            if !found.is_file() {
                continue;
            }
            match step % 40 {
                0 => read_some(path),
                // Copied up, it is the same file.
                20 if found.nlink() == 1 && copied.len() < 500 => {
                    fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o7777 ^ 0o001)).unwrap();
                    let after = fs::symlink_metadata(path).unwrap();
                    assert_eq!(after.ino(), found.ino(), "{}", path.display());
                    copied.insert(path.clone());
                }
                30 if found.nlink() == 1 => {
                    let other = path.with_extension("moved");
                    fs::rename(path, &other).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    assert_eq!(fs::symlink_metadata(&other).unwrap().ino(), found.ino(), "{}", path.display());
                    fs::rename(&other, path).unwrap();
                    copied.insert(path.clone());
                }
                _ => {}
            }
        }
        linked.iter().for_each(|path| read_some(path));
    }
    assert!(restarted && !copied.is_empty());
    drop(mounted);
    bench.ctr(&["rm", "busy"]).unwrap();
}

/// Returns what is below a folder, with its inode number and how many names it has.
fn files_below(root: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let (mut files, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // overlayfs lists the whiteouts of a folder that it does not merge.
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                open.push(path.clone());
            }
            files.insert(path, (found.ino(), found.nlink()));
        }
    }
    files
}

fn read_some(path: &Path) {
    let mut some = [0; 4096];
    let read = File::open(path).and_then(|mut file| file.read(&mut some));
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

//! A disk that is soon full: 32 MiB of memory.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use e2e::run;

/// Mounts an empty disk over a folder; it goes with the test's scratch folder.
pub(crate) fn mount(folder: &Path) {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(folder)).unwrap();
}

/// Writes zeros until the disk takes no more.
pub(crate) fn fill_up(path: &Path) {
    let mut file = File::create(path).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[0; 64 << 10]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

//! Measures what a folder takes of the disk.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Usage;

/// What `st_blocks` counts in (stat(2)).
const BLOCK: u64 = 512;

/// Returns what is allocated below `folder`, itself included; a file with several names counts once. What goes while it is
/// looked at does not count.
///
/// # Errors
/// The file system's.
pub(crate) fn measure(folder: &Path) -> io::Result<Usage> {
    let (mut usage, mut seen) = (Usage::default(), HashSet::new());
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path);
        let Some(found) = unless_gone(found)? else { continue };
        if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
            continue;
        }
        usage.bytes += found.blocks() * BLOCK;
        usage.inodes += 1;
        if found.is_dir()
            && let Some(entries) = unless_gone(fs::read_dir(&path))?
        {
            for entry in entries {
                open.push(entry?.path());
            }
        }
    }
    Ok(usage)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_are_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), vec![1; 100_000]).unwrap();
        let one = measure(folder.path()).unwrap();
        assert!(one.bytes >= 100_000 && one.inodes == 2, "{one:?}");
        fs::hard_link(path("file"), path("link")).unwrap();
        fs::File::create(path("hole")).unwrap().set_len(1 << 30).unwrap();
        let more = measure(folder.path()).unwrap();
        assert!(more.bytes < one.bytes + 100_000 && more.inodes == 3, "{more:?}");
        assert_eq!(measure(&path("nothing")).unwrap(), Usage::default());
    }
}

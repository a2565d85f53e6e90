//! [`free_fraction`]: how full the disk is.

use std::path::Path;

use crate::StoreError;

/// Returns `(free, total)` of the file system that `path` lies on, in bytes. Free is what this user may still take.
///
/// # Errors
/// [`StoreError::Io`] when `path` cannot be asked.
pub fn free_fraction(path: &Path) -> Result<(u64, u64), StoreError> {
    let stat =
        rustix::fs::statvfs(path).map_err(|errno| StoreError::io("ask for the free space of", path, errno.into()))?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_and_a_missing_path_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (free, total) = free_fraction(dir.path()).unwrap();
        assert!(free <= total && total > 0, "{free} of {total}");
        assert!(free_fraction(&dir.path().join("none")).is_err());
    }
}

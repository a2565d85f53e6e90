//! A temporary folder that takes its mounts with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// A temporary folder. When dropped, mounts below it are detached and it is removed; a rest that stays fails the test.
///
/// Short paths: unix sockets lie in it.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty folder.
    ///
    /// # Errors
    /// The folder could not be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("fl-e2e-").tempdir().context("temporary folder")?;
        let path = dir.path().canonicalize()?;
        Ok(Self { dir: Some(dir), path })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a path below the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a folder below this one and returns it.
    ///
    /// # Errors
    /// The folder could not be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file below the folder, with its parents, and returns its path.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| format!("file {}", path.display()))?;
        Ok(path)
    }

    /// Mount points below the folder, the deepest first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut below: Vec<_> = points.filter(|point| point.starts_with(&self.path)).collect();
        below.reverse();
        below
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for point in self.mounts() {
            // A mount that stays makes the removal below fail, which is reported.
            let _ = unmount(&point, UnmountFlags::DETACH);
        }
        let removed = self.dir.take().map_or(Ok(()), TempDir::close);
        if let Err(error) = removed
            && !std::thread::panicking()
        {
            panic!("{} was left behind: {error}", self.path.display());
        }
    }
}

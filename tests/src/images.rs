//! The test images.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, workspace};

/// The images of `tests/images.sh`, built at most once for each version of that script and shared by all tests.
#[derive(Debug)]
pub struct Images {
    root: PathBuf,
}

impl Images {
    /// Returns the images, built if they are not there; a lock file lets one process build and the others wait.
    ///
    /// # Errors
    /// The build failed; the error carries its output.
    pub fn get() -> Result<Self> {
        Ok(Self { root: built("images.sh", "target/e2e-images")? })
    }

    /// Returns a Debian 13 tree with newer clients (`tests/debian13.sh`), built if it is not there.
    ///
    /// # Errors
    /// The build failed; the error carries its output.
    pub fn debian13() -> Result<PathBuf> {
        built("debian13.sh", "target/e2e-debian13")
    }

    /// Returns the folder of the programs of containerd 2 (`tests/containerd2.sh`), built if it is not there.
    ///
    /// # Errors
    /// The build failed; the error carries its output.
    pub fn containerd2() -> Result<PathBuf> {
        built("containerd2.sh", "target/e2e-containerd2")
    }

    /// Returns the folder with nerdctl (`tests/nerdctl.sh`), built if it is not there.
    ///
    /// # Errors
    /// The build failed; the error carries its output.
    pub fn nerdctl() -> Result<PathBuf> {
        built("nerdctl.sh", "target/e2e-nerdctl")
    }

    /// Returns the storage tree of a registry that holds the images as `library/NAME`.
    pub fn registry(&self) -> PathBuf {
        self.root.join("registry")
    }

    /// Returns the OCI layout with the tags `tiny`, `base` and `python`.
    pub fn layout(&self) -> PathBuf {
        self.root.join("oci")
    }

    /// Returns where the images lie.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Returns what a script of `tests/` builds, below `parent`; a new version of the script builds anew.
fn built(script: &str, parent: &str) -> Result<PathBuf> {
    let script = workspace("tests").join(script);
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(&script).with_context(|| script.display().to_string())?);
    let parent = workspace(parent);
    std::fs::create_dir_all(&parent)?;
    let root = parent.join(format!("{:016x}", hasher.finish()));
    let lock = File::create(parent.join("lock"))?;
    lock.lock()?;
    if !root.try_exists()? {
        run(Command::new(&script).arg(&root))?;
    }
    Ok(root)
}

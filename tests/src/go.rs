//! Programs of the tests that are written in Go.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, workspace};

/// Builds the program of a folder of `tests/`, or the tests in it, and returns its path. Quick where nothing changed; a lock lets one
/// process build and the others wait.
///
/// # Errors
/// There is no Go, or the build failed; the error carries its output.
pub fn go_built(name: &str) -> Result<PathBuf> {
    let source = workspace("tests").join(name);
    let folder = workspace("target").join(name);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let lock = File::create(folder.join("lock")).context("the lock of a build")?;
    lock.lock().context("the lock of a build")?;
    let program = folder.join(name);
    let has_main = source.join("main.go").try_exists().with_context(|| source.display().to_string())?;
    let how: &[&str] = if has_main { &["build"] } else { &["test", "-c"] };
    run(Command::new("go").args(how).arg("-o").arg(&program).arg(".").current_dir(&source))?;
    Ok(program)
}

//! Sockets that only root may use.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, bail};

/// Listens on the socket `path`, in place of one that a process which died left.
///
/// # Errors
/// Somebody listens there, or the system's.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another process listens on {}: stop it, or give each its own socket", path.display());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    keep_to_ourselves(path)?;
    Ok(listener)
}

/// Has only root read and write a file.
///
/// # Errors
/// The system's.
pub(crate) fn keep_to_ourselves(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who listens keeps its socket; what a process that died left is replaced.
    #[test]
    fn a_socket_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/socket");
        let first = listen(&path).unwrap();
        let told = listen(&path).unwrap_err().to_string();
        assert!(told.contains("another process listens"), "{told}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
        listen(&path).unwrap();
    }
}

//! [`BlobFile`]: a blob's local file, proven while it is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use api::{Digest, Hasher, VerifyError};
use indicatif::ProgressBar;

const BUFFER: usize = 256 << 10;

/// Why a local file is not the blob it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobFileError {
    /// It cannot be read, or its copy not written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It has another size than its descriptor says.
    #[error("{} has {found} bytes instead of {expected}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// By the descriptor.
        expected: u64,
        /// By the file.
        found: u64,
    },
    /// It has other bytes than its digest says.
    #[error("{} is damaged", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Both digests.
        source: VerifyError,
    },
}

/// A blob's local file as the source of a conversion: hashed as its front is first read.
#[derive(Debug)]
pub(super) struct BlobFile {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    front: Mutex<Front>,
    bar: ProgressBar,
}

struct Front {
    at: u64,
    hasher: Hasher,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("at", &self.at).finish_non_exhaustive()
    }
}

impl BlobFile {
    /// Opens the file at `path`, which should be the blob `digest` of `size` bytes; `bar` shows how far it was read.
    pub(super) fn open(path: &Path, digest: &Digest, size: u64, bar: ProgressBar) -> Result<Self, BlobFileError> {
        let failed = |source| BlobFileError::Io { path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found != size {
            return Err(BlobFileError::Size { path: path.into(), expected: size, found });
        }
        let front = Mutex::new(Front { at: 0, hasher: Hasher::new(digest.algorithm()) });
        Ok(Self { file, path: path.into(), digest: digest.clone(), size, front, bar })
    }

    /// Reads what was not read yet and checks that the bytes are the blob's.
    pub(super) fn prove(self) -> Result<(), BlobFileError> {
        let mut rest = estargz::read_at::Section::new(&self.file, self.front_at(), self.size);
        let mut front = self.front.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| BlobFileError::Io { path: self.path.clone(), source };
        let mut buffer = vec![0; BUFFER];
        loop {
            match rest.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => front.hasher.update(&buffer[..n]),
            }
        }
        check(&self.path, self.digest, front.hasher)
    }

    fn front_at(&self) -> u64 {
        self.front.lock().unwrap_or_else(PoisonError::into_inner).at
    }
}

impl convert::Source for BlobFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = FileExt::read_at(&self.file, buffer, offset)?;
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + n as u64;
        if (offset..end).contains(&front.at) {
            let new = &buffer[(front.at - offset) as usize..n];
            front.hasher.update(new);
            front.at = end;
            self.bar.set_position(end);
        }
        Ok(n)
    }
}

/// Copies the blob `digest` of `size` bytes from `from` to the new file `to`. After an error `to` is to be removed.
pub(super) fn copy(from: &Path, to: &Path, digest: &Digest, size: u64) -> Result<(), BlobFileError> {
    let broken = |source| BlobFileError::Io { path: from.into(), source };
    let unwritable = |source| BlobFileError::Io { path: to.into(), source };
    let mut input = File::open(from).map_err(broken)?;
    let found = input.metadata().map_err(broken)?.len();
    if found != size {
        return Err(BlobFileError::Size { path: from.into(), expected: size, found });
    }
    let mut output = File::create(to).map_err(unwritable)?;
    let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; BUFFER]);
    loop {
        match input.read(&mut buffer).map_err(broken)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                output.write_all(&buffer[..n]).map_err(unwritable)?;
            }
        }
    }
    check(from, digest.clone(), hasher)
}

/// Tells whether the file at `path` is there and is the blob `digest` of `size` bytes.
pub(super) fn is_whole(path: &Path, digest: &Digest, size: u64) -> Result<bool, BlobFileError> {
    match BlobFile::open(path, digest, size, ProgressBar::hidden()).and_then(BlobFile::prove) {
        Ok(()) => Ok(true),
        Err(BlobFileError::Size { .. } | BlobFileError::Digest { .. }) => Ok(false),
        Err(BlobFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check(path: &Path, expected: Digest, hasher: Hasher) -> Result<(), BlobFileError> {
    let found = hasher.finish();
    if found == expected {
        return Ok(());
    }
    Err(BlobFileError::Digest { path: path.into(), source: VerifyError { expected, found } })
}

#[cfg(test)]
mod tests {
    use convert::Source as _;

    use super::*;

    #[test]
    fn a_file_is_proven_however_it_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let open = |digest: &Digest| BlobFile::open(&path, digest, size, ProgressBar::hidden());
        let file = open(&digest).unwrap();
        let mut buffer = vec![0; 70_000];
        for offset in [0, 50_000, 399_000, 10] {
            assert!(file.read_at(&mut buffer, offset).unwrap() > 0);
        }
        file.prove().unwrap();
        assert!(matches!(open(&Digest::of(b"other")).unwrap().prove(), Err(BlobFileError::Digest { .. })));
        assert!(matches!(
            BlobFile::open(&path, &digest, 1, ProgressBar::hidden()),
            Err(BlobFileError::Size { expected: 1, .. })
        ));
        assert!(is_whole(&path, &digest, size).unwrap());
        assert!(!is_whole(&folder.path().join("none"), &digest, size).unwrap());
        let to = folder.path().join("copy");
        copy(&path, &to, &digest, size).unwrap();
        assert_eq!(std::fs::read(to).unwrap(), bytes);
    }
}

//! [`Hasher`]: computes a [`Digest`] of either algorithm piece by piece.

use sha2::{Digest as _, Sha256, Sha512};

use crate::{Algorithm, Digest};

/// A running hash.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// Returns a hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        })
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    /// Returns the digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hash) => Digest::from_sha256(&hash.finalize().into()),
            State::Sha512(hash) => Digest::from_sha512(&hash.finalize().into()),
        }
    }
}

/// Bytes that do not have the digest they were asked for by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("content has digest {found} instead of {expected}")]
pub struct VerifyError {
    /// The digest asked for.
    pub expected: Digest,
    /// The digest of the bytes.
    pub found: Digest,
}

/// Checks that `bytes` have `expected` as their digest.
///
/// # Errors
/// Names both digests.
pub fn verify(expected: &Digest, bytes: &[u8]) -> Result<(), VerifyError> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *expected { Ok(()) } else { Err(VerifyError { expected: expected.clone(), found }) }
}

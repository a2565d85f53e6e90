//! [`Digest`]: the only parser of `sha256:…` and `sha512:…`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hash algorithm that a digest may name (OCI image-spec, descriptor.md, "Registered algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hex digits.
    Sha256,
    /// SHA-512, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// Returns the name as it stands in front of the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the length of the hash in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A content digest.
///
/// Invariants: the algorithm is a registered one, the hash has exactly its length, and the text
/// form is lower case. Every way in (text, JSON, SQL, path) goes through [`Digest::parse`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("digest has no algorithm prefix")]
    NoAlgorithm,
    /// The algorithm is not one of the registered ones.
    #[error("digest algorithm is not supported, use sha256 or sha512")]
    UnknownAlgorithm,
    /// The hash has the wrong number of digits.
    #[error("{algorithm} digest has {found} digits instead of {expected}")]
    Length {
        /// The algorithm named.
        algorithm: &'static str,
        /// The digits it needs.
        expected: usize,
        /// The digits given.
        found: usize,
    },
    /// The hash has a character that is not a lower-case hex digit.
    #[error("digest has a character that is not a lower-case hex digit")]
    NotHex,
}

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// Says what is wrong with the text; upper-case hex is refused, as the specification demands.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        let expected = algorithm.hash_len() * 2;
        if hex.len() != expected {
            return Err(DigestError::Length { algorithm: algorithm.name(), expected, found: hex.len() });
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::NotHex);
        }
        Ok(Self { algorithm, hex: hex.into() })
    }

    /// Returns the digest whose SHA-256 hash is `hash`.
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex::encode(hash).into() }
    }

    /// Returns the digest whose SHA-512 hash is `hash`.
    pub fn from_sha512(hash: &[u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hex: hex::encode(hash).into() }
    }

    /// Returns the SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = crate::Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash as lower-case hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_display_agree() {
        for text in [format!("sha256:{}", "0a".repeat(32)), format!("sha512:{}", "f1".repeat(64))] {
            assert_eq!(Digest::parse(&text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_digests_are_refused() {
        let upper = format!("sha256:{}", "0A".repeat(32));
        let traversal = format!("sha256:../{}", "0".repeat(61));
        let long = format!("sha256:{}", "0".repeat(65));
        for text in ["", "sha256", "sha256:", "sha256:baddigeststring", "md5:00", &upper, &traversal, &long] {
            assert!(Digest::parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn json_goes_through_the_parser() {
        assert!(serde_json::from_str::<Digest>("\"sha256:../x\"").is_err());
    }

    #[test]
    fn of_hashes_the_bytes() {
        assert_eq!(
            Digest::of(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}

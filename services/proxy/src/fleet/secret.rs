//! [`Secret`]: what the replicas know each other by.

use std::path::{Path, PathBuf};

use api::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::reloaded::read_small_file;

/// The user name that goes with the secret.
pub(super) const USER: &str = "firstlight";
/// The shortest secret that is accepted, in bytes.
const SHORTEST: usize = 16;

/// What the replicas of one fleet know each other by, sent as a Basic password (RFC 7617).
#[derive(Debug, Clone)]
pub(crate) struct Secret {
    text: upstream::Secret,
    /// The digest of the credentials: comparing digests tells nothing of how much of a guess was right.
    expected: Digest,
}

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The system's answer.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Too short, too long a line, or not text.
    #[error("{} must hold one line of at least {SHORTEST} printable characters without blanks; `openssl rand -hex 32` makes one", path.display())]
    Useless { path: PathBuf },
}

impl Secret {
    /// Reads the file; white space around the secret does not count.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub(crate) fn load(path: &Path) -> Result<Self, SecretError> {
        let bytes = read_small_file(path).map_err(|source| SecretError::Read { path: path.into(), source })?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        let text = text.trim();
        if text.len() < SHORTEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Useless { path: path.into() });
        }
        let expected = Digest::of(format!("{USER}:{text}").as_bytes());
        Ok(Self { text: upstream::Secret::new(text), expected })
    }

    /// Returns the credentials to send.
    pub(super) fn credentials(&self) -> upstream::Credentials {
        upstream::Credentials { username: USER.into(), password: self.text.clone() }
    }

    /// Tells whether a request knows the secret.
    pub(crate) fn is_known_by(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let encoded = value.to_str().ok().and_then(|text| text.strip_prefix("Basic "));
        let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
        decoded.is_some_and(|credentials| Digest::of(&credentials) == self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Secret, SecretError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Secret::load(file.path())
    }

    #[test]
    fn only_who_knows_the_secret_is_known() {
        let secret = load("0123456789abcdef\n").unwrap();
        let knows = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            secret.is_known_by(&headers)
        };
        let basic = |credentials: &str| format!("Basic {}", STANDARD.encode(credentials));
        let right = basic("firstlight:0123456789abcdef");
        assert!(knows(std::slice::from_ref(&right)));
        for wrong in [
            vec![],
            vec![right.clone(), right.clone()],
            vec![right.replace("Basic", "Bearer")],
            vec![basic("firstlight:0123456789abcdeF")],
            vec![basic("0123456789abcdef")],
            vec![basic("firstlight:")],
            vec!["Basic".into()],
        ] {
            assert!(!knows(&wrong), "{wrong:?} was let in");
        }
    }

    #[test]
    fn a_secret_is_long_enough_and_one_word() {
        for useless in ["", "short", "0123456789abcde", "01234567 89abcdef", "0123456789abcdeé"] {
            assert!(matches!(load(useless), Err(SecretError::Useless { .. })), "{useless:?}");
        }
    }
}

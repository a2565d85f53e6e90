//! [`Users`]: the lines of an htpasswd file.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// The most users of a file.
const MAX_USERS: usize = 10_000;
/// The highest bcrypt cost accepted: about five seconds of one core. Each step doubles it.
const MAX_COST: u32 = 16;
/// How long a password that was right is remembered.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// How many are remembered. When that many are, all are forgotten and checked again.
const MAX_REMEMBERED: usize = 1024;

/// The users of a file, and which passwords were right lately. A new file starts with nothing remembered.
pub(super) struct Users {
    hashes: HashMap<String, String>,
    /// Checked when the name is unknown, so that the time taken does not tell which names are known.
    decoy: Option<String>,
    /// Mixed into what is remembered, so that it cannot be told from memory alone.
    salt: [u8; 32],
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
}

/// Why an htpasswd file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system gives no random bytes.
    #[error("no random bytes from the system")]
    Random,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}

impl Users {
    /// Parses `USER:HASH` lines; empty ones and those that begin with `#` are skipped.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, HtpasswdError> {
        let mut hashes = HashMap::new();
        for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let error = |problem| HtpasswdError::Line { path: path.into(), line: n + 1, problem };
            let line = std::str::from_utf8(line).map_err(|_| error("not UTF-8"))?.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line.split_once(':').ok_or_else(|| error("expected USER:HASH"))?;
            if user.is_empty() {
                return Err(error("the user name is empty"));
            }
            check_hash(hash).map_err(error)?;
            if hashes.len() == MAX_USERS {
                return Err(error("more than 10000 users"));
            }
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(error("the user is there twice"));
            }
        }
        let decoy = hashes.values().next().cloned();
        Ok(Self { hashes, decoy, salt: random_bytes()?, remembered: Mutex::default() })
    }

    /// Tells whether these credentials were right a short while ago. Cheap.
    pub(super) fn remembers(&self, user: &str, password: &[u8]) -> bool {
        let digest = self.digest(user, password);
        self.lock().get(&digest).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    /// Checks the password, and remembers it when it is right. Takes a core for as long as the hash's
    /// cost says, for unknown users too.
    pub(super) fn verify(&self, user: &str, password: &[u8]) -> bool {
        let (hash, known) = match (self.hashes.get(user), &self.decoy) {
            (Some(hash), _) => (hash, true),
            (None, Some(decoy)) => (decoy, false),
            (None, None) => return false,
        };
        let right = bcrypt::verify(password, hash).unwrap_or(false) && known;
        if right {
            let digest = self.digest(user, password);
            let mut remembered = self.lock();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(digest, Instant::now());
        }
        right
    }

    /// The key of what is remembered. The length keeps `a` + `b:c` apart from `a:b` + `c`.
    fn digest(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update((user.len() as u64).to_le_bytes());
        hash.update(user.as_bytes());
        hash.update(password);
        hash.finalize().into()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        // A map of timestamps is right however a panic left it.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is wrong with a hash: `$2a$`, `$2b$` or `$2y$`, two digits of cost, `$`, 53 characters.
fn check_hash(hash: &str) -> Result<(), &'static str> {
    let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|prefix| hash.strip_prefix(prefix));
    let rest = rest.ok_or("only bcrypt is known; make the line with htpasswd -B")?;
    let (cost, salt_and_sum) = rest.split_once('$').ok_or("broken bcrypt hash")?;
    let cost = cost.parse::<u32>().map_err(|_| "broken bcrypt hash")?;
    let letters = salt_and_sum.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'));
    if salt_and_sum.len() != 53 || !letters {
        return Err("broken bcrypt hash");
    }
    if (4..=MAX_COST).contains(&cost) { Ok(()) } else { Err("the bcrypt cost must be from 4 to 16") }
}

/// Returns bytes that nobody can guess.
fn random_bytes() -> Result<[u8; 32], HtpasswdError> {
    let mut bytes = [0; 32];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(HtpasswdError::Random),
    }
}

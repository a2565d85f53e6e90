//! [`Locations`]: where blobs were redirected to, for a short time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use api::{Digest, RepositoryName};
use reqwest::Url;
use tokio::time::{Duration, Instant};

/// How long a target is used again. Registries sign theirs for minutes at least; one that ends
/// earlier costs a round trip, because a refused target starts over at the registry.
const TTL: Duration = Duration::from_secs(60);
/// The most targets kept; a fill needs one.
const CAPACITY: usize = 1024;

type Key = (RepositoryName, Digest);

/// The targets of redirects, by repository and digest.
#[derive(Default)]
pub(crate) struct Locations(Mutex<HashMap<Key, (Url, Instant)>>);

impl fmt::Debug for Locations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The targets are signed: who has one can read the blob.
        f.write_str("Locations")
    }
}

impl Locations {
    /// Returns the target of `key`, unless it is too old.
    pub(crate) fn get(&self, key: &Key) -> Option<Url> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).filter(|(_, until)| *until > Instant::now()).map(|(url, _)| url.clone())
    }

    /// Remembers the target of `key`.
    pub(crate) fn put(&self, key: Key, url: Url) {
        let now = Instant::now();
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= CAPACITY {
            map.retain(|_, (_, until)| *until > now);
        }
        if map.len() >= CAPACITY {
            map.clear();
        }
        map.insert(key, (url, now + TTL));
    }

    /// Forgets the target of `key`.
    pub(crate) fn remove(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

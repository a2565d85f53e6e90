//! [`Uses`]: what was asked for lately and is not recorded yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Digest;
use catalog::{Catalog, CatalogError};
use tokio::time::Instant;

/// Digests kept until they are recorded. Further ones are dropped: they count as used a little earlier than they were.
const MOST: usize = 100_000;
/// Uses within this time are recorded as one.
const STEP: Duration = Duration::from_millis(500);

/// Digests that were asked for, and when. Reading a blob costs no write: they are recorded together from time to time.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    noted: Mutex<HashMap<Digest, Instant>>,
}

impl Uses {
    fn noted(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `digest` is asked for now.
    pub(crate) fn note(&self, digest: &Digest) {
        self.note_at(digest, Instant::now());
    }

    fn note_at(&self, digest: &Digest, at: Instant) {
        let mut noted = self.noted();
        if let Some(before) = noted.get_mut(digest) {
            *before = at.max(*before);
        } else if noted.len() < MOST {
            noted.insert(digest.clone(), at);
        }
    }

    /// Records what was noted. What could not be recorded is noted again.
    ///
    /// # Errors
    /// The catalog's.
    pub(super) async fn record(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        let noted = std::mem::take(&mut *self.noted());
        let now = Instant::now();
        let mut steps: BTreeMap<u128, Vec<Digest>> = BTreeMap::new();
        for (digest, at) in &noted {
            let ago = now.saturating_duration_since(*at).as_millis();
            steps.entry(ago / STEP.as_millis()).or_default().push(digest.clone());
        }
        for (step, mut used) in steps {
            // In one order, so that processes that record at once wait for each other and do not get in a knot.
            used.sort_unstable();
            let ago = STEP * u32::try_from(step).unwrap_or(u32::MAX);
            if let Err(error) = catalog.note_use(&used, ago).await {
                noted.iter().for_each(|(digest, at)| self.note_at(digest, *at));
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_notes_is_bounded() {
        let uses = Uses::default();
        for n in 0..MOST + 10 {
            uses.note(&Digest::of(&n.to_le_bytes()));
            uses.note(&Digest::of(b"the same"));
        }
        assert_eq!(uses.noted().len(), MOST);
    }
}

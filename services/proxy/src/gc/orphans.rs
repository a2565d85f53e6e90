//! Keys of the store that neither a row nor a deletion names.

use std::time::{Duration, SystemTime};

use api::Digest;
use blobstore::{BlobStore, Listed};
use catalog::Catalog;

use super::GcError;

/// Keys listed together.
const PAGE: usize = 1000;
/// Orphans found at a time; the next search finds more.
const MOST: usize = 10_000;
/// So many may be orphans even if little else is in the store: what crashes leave.
const FEW: usize = 10;
/// Of more orphans than [`FEW`], the store must hold this many times as much that is known.
const KNOWN_FOR_EACH: usize = 9;

/// Returns keys of at least `age`, by the store's clock, that no row names and no deletion: what a process that died
/// left, or bytes that a row has lost. The whole store is listed, so that the first keys do not speak for all.
///
/// # Errors
/// [`GcError::Strange`] when much of the store is like that, or nothing of it is known: then it is the catalog that is
/// wrong, or another one's store.
pub(super) async fn find(catalog: &Catalog, store: &dyn BlobStore, age: Duration) -> Result<Vec<Listed>, GcError> {
    let (mut orphans, mut unknown, mut seen) = (Vec::new(), 0, 0);
    let mut last = None;
    loop {
        let page = store.list(last.as_ref(), PAGE).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.key.clone());
        // A time in the future counts as new, but for a search that takes all.
        let is_old = |listed: &Listed| listed.put_at.elapsed().unwrap_or_default() >= age;
        let old: Vec<Listed> = page.into_iter().filter(is_old).collect();
        seen += old.len();
        let found = still_orphans(catalog, old).await?;
        unknown += found.len();
        orphans.extend(found.into_iter().take(MOST - orphans.len()));
    }
    let known = seen - unknown;
    if unknown > 0 && (known == 0 || (unknown > FEW && unknown * KNOWN_FOR_EACH > known)) {
        return Err(GcError::Strange { orphans: unknown, seen });
    }
    Ok(orphans)
}

/// Returns those of `listed` that no row names and no deletion.
pub(super) async fn still_orphans(catalog: &Catalog, listed: Vec<Listed>) -> Result<Vec<Listed>, GcError> {
    let keys: Vec<(Digest, String)> =
        listed.iter().map(|listed| (listed.key.digest().clone(), listed.key.to_string())).collect();
    let unknown = catalog.unknown_keys(&keys).await?;
    Ok(unknown.into_iter().map(|place| listed[place].clone()).collect())
}

/// Returns the age of a key in milliseconds, by this machine's clock.
pub(super) fn age_ms(listed: &Listed) -> i64 {
    let age = SystemTime::now().duration_since(listed.put_at).unwrap_or_default();
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

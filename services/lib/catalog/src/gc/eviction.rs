//! [`Eviction`]: what comes of evicting a unit.

use std::time::Duration;

use super::unit::{Family, Unit, values};
use super::{Candidate, milliseconds};
use crate::query::query;
use crate::session::Session;
use crate::{Catalog, CatalogError};

/// What comes of evicting the unit of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// It goes, with these blobs.
    Evicted(Unit),
    /// It was used later than the candidate was, or is gone.
    Newer,
    /// It stays.
    Kept(Keeper),
}

/// Why a unit is not evicted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keeper {
    /// It has a part in a converted manifest that stays answerable for ever: the manifest itself, or its config.
    View,
    /// Somebody holds it.
    Hold,
    /// A fill or a conversion works on it.
    Work,
    /// A pinned image has it.
    Pin,
    /// It hangs together with too many other blobs (more than 10 000).
    Entangled,
}

/// Tells what keeps any of `members`: 0 nothing, else see [`Keeper::of`].
const KEPT: &str = "\
, pinned (digest) AS (
    SELECT digest FROM pins
    UNION SELECT c.child FROM pinned p JOIN manifest_children c ON c.manifest = p.digest
)
SELECT CAST(CASE
    WHEN EXISTS (SELECT 1 FROM members m JOIN converted c ON c.manifest = m.digest) THEN 1
    WHEN EXISTS (SELECT 1 FROM members m JOIN converted c ON c.config = m.digest) THEN 1
    WHEN EXISTS (SELECT 1 FROM members m JOIN holds h ON h.digest = m.digest AND h.expires_at > {now}) THEN 2
    WHEN EXISTS (SELECT 1 FROM members m JOIN fills f ON f.digest = m.digest) THEN 3
    WHEN EXISTS (SELECT 1 FROM members m JOIN leases l ON l.subject = m.digest AND l.expires_at > {now}) THEN 3
    WHEN EXISTS (SELECT 1 FROM members m JOIN pinned p ON p.digest = m.digest) THEN 4
    ELSE 0
END AS BIGINT)";

impl Keeper {
    fn of(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::View),
            2 => Some(Self::Hold),
            3 => Some(Self::Work),
            4 => Some(Self::Pin),
            _ => None,
        }
    }
}

/// A unit as a transaction finds it, its rows locked.
enum Found {
    Evictable(Family, Unit),
    Newer(Family, Unit),
    Kept(Keeper),
}

impl Catalog {
    /// Evicts the unit of `candidate`, unless something keeps it or a part of it was used later: its rows lose their
    /// keys, which may be deleted from the store once `grace` has passed, and its twins go back to converting, to end
    /// with the same twin only. All or nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn evict(&self, candidate: &Candidate, grace: Duration) -> Result<Eviction, CatalogError> {
        let mut tx = self.begin("evict").await?;
        match look(&mut tx, candidate).await? {
            Found::Evictable(family, unit) => {
                take(&mut tx, &family, grace).await?;
                tx.commit().await?;
                Ok(Eviction::Evicted(unit))
            }
            Found::Newer(family, unit) => {
                // So that a later look does not meet its older parts first.
                date(&mut tx, &family, unit.used_at).await?;
                tx.commit().await?;
                Ok(Eviction::Newer)
            }
            Found::Kept(keeper) => {
                tx.rollback().await?;
                Ok(Eviction::Kept(keeper))
            }
        }
    }

    /// Tells what [`Catalog::evict`] would do, and changes nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn would_evict(&self, candidate: &Candidate) -> Result<Eviction, CatalogError> {
        let mut tx = self.begin("look what would be evicted").await?;
        let found = look(&mut tx, candidate).await?;
        tx.rollback().await?;
        Ok(match found {
            Found::Evictable(_, unit) => Eviction::Evicted(unit),
            Found::Newer(..) => Eviction::Newer,
            Found::Kept(keeper) => Eviction::Kept(keeper),
        })
    }
}

async fn look(tx: &mut Session, candidate: &Candidate) -> Result<Found, CatalogError> {
    let Some(family) = Family::of(tx, &candidate.digest).await? else { return Ok(Found::Kept(Keeper::Entangled)) };
    // Locked first and looked at then: whatever begins to need these blobs later finds them gone.
    let unit = family.stored(tx).await?;
    if unit.members.is_empty() || unit.used_at > candidate.used_at {
        return Ok(Found::Newer(family, unit));
    }
    Ok(match keeper(tx, &family).await? {
        Some(keeper) => Found::Kept(keeper),
        None => Found::Evictable(family, unit),
    })
}

async fn keeper(tx: &mut Session, family: &Family) -> Result<Option<Keeper>, CatalogError> {
    for page in family.pages() {
        let members = query("WITH RECURSIVE members (digest) AS (VALUES ")
            .push_rows(values(&page).map(|digest| [digest]))
            .push(")");
        let (number,): (i64,) = tx.one(tx.clocked(members, KEPT)).await?;
        if let Some(keeper) = Keeper::of(number) {
            return Ok(Some(keeper));
        }
    }
    Ok(None)
}

/// Takes the keys of a family's blobs from their rows and notes them for deletion.
async fn take(tx: &mut Session, family: &Family, grace: Duration) -> Result<(), CatalogError> {
    for page in family.pages() {
        let deletions = tx.timed(
            "INSERT INTO deletions (store_key, digest, size, delete_after) \
             SELECT store_key, digest, size, {now} + $1 FROM blobs WHERE store_key <> '' AND digest IN ",
        );
        let deletions = deletions.bind(milliseconds(grace)).push_list(values(&page));
        tx.run(deletions.push(" ON CONFLICT (store_key) DO UPDATE SET delete_after = excluded.delete_after")).await?;
        tx.run(query("UPDATE blobs SET store_key = '' WHERE digest IN ").push_list(values(&page))).await?;
    }
    for page in family.pages_of_sources() {
        let twins = query(
            "UPDATE twins SET state = 'converting', attempts = 0, failures = 0, retry_at = 0 \
             WHERE state = 'ready' AND source IN ",
        );
        tx.run(twins.push_list(values(&page))).await?;
    }
    Ok(())
}

/// Lets all of a family count as used at `used_at`.
async fn date(tx: &mut Session, family: &Family, used_at: i64) -> Result<(), CatalogError> {
    for page in family.pages() {
        let update = query("UPDATE blobs SET used_at = $1 WHERE used_at < $1 AND digest IN ");
        tx.run(update.bind(used_at).push_list(values(&page))).await?;
    }
    Ok(())
}

//! Work that was begun and that no process does: its process died, or it failed and is to be tried again.

use std::time::Duration;

use api::{Digest, Repository};

use crate::lease::milliseconds;
use crate::query::query;
use crate::{Catalog, CatalogError, FillRow};

/// After so many failures in a row for passing reasons a conversion is begun again only when somebody asks for it.
const MAX_FAILURES: i64 = 8;

impl Catalog {
    /// Returns up to `limit` fills that were begun and have not ended, and that no process has or had the lease for within
    /// the last `idle`, sorted by digest and upstream. A lease that was given back leaves no trace.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn abandoned_fills(&self, idle: Duration, limit: u32) -> Result<Vec<FillRow>, CatalogError> {
        let mut session = self.reading("list abandoned fills").await?;
        let select = session.timed(
            "SELECT digest, repository, size FROM fills f WHERE NOT EXISTS (\
                 SELECT 1 FROM leases l WHERE l.kind = 'fill' AND l.subject = f.digest AND l.scope = f.upstream \
                 AND l.expires_at > {now} - $1\
             ) ORDER BY digest, upstream LIMIT $2",
        );
        let select = select.bind(milliseconds(idle)).bind(i64::from(limit));
        let found: Vec<(String, String, i64)> = session.all(select).await?;
        found.iter().map(|(digest, repository, size)| FillRow::from_columns(digest, repository, *size)).collect()
    }

    /// Returns up to `limit` sources whose conversion under `profile` was begun and has not ended, whose time to be
    /// tried again has come, and that no process has or had the lease for within the last `idle`: who has the bytes of a
    /// dead process has the time to claim it first. Sorted, those behind `after` only, each with the repository to fill it from. Twins
    /// whose bytes were lost are left out: they are made again when somebody asks for them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn abandoned_conversions(
        &self,
        profile: &str,
        idle: Duration,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, Repository)>, CatalogError> {
        let mut session = self.reading("list abandoned conversions").await?;
        let select = session.timed(
            "SELECT source, repository FROM twins t \
             WHERE profile = $1 AND state = 'converting' AND twin IS NULL AND retry_at <= {now} AND failures < $2 \
             AND source > $3 AND NOT EXISTS (\
                 SELECT 1 FROM leases l \
                 WHERE l.kind = 'conversion' AND l.subject = t.source AND l.scope = t.profile \
                 AND l.expires_at > {now} - $4\
             ) ORDER BY source LIMIT $5",
        );
        let after = after.map_or_else(String::new, Digest::to_string);
        let select = select.bind(profile).bind(MAX_FAILURES).bind(after).bind(milliseconds(idle));
        let select = select.bind(i64::from(limit));
        let found: Vec<(String, String)> = session.all(select).await?;
        found
            .iter()
            .map(|(source, repository)| {
                Ok((
                    crate::row::digest("twins.source", source)?,
                    crate::row::repository("twins.repository", repository)?,
                ))
            })
            .collect()
    }

    /// Records that a conversion failed for a passing reason: no process begins it again by itself for 30 s, and twice
    /// as long after each further failure, up to an hour. The attempt that failed no longer counts as one that never
    /// ended. Nothing changes for a conversion that has ended. Who watches it is woken.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn postpone_conversion(&self, source: &Digest, profile: &str) -> Result<(), CatalogError> {
        let mut tx = self.begin("postpone a conversion").await?;
        let update = tx.timed(
            "UPDATE twins SET failures = failures + 1, \
                 attempts = CASE WHEN attempts > 0 THEN attempts - 1 ELSE 0 END, \
                 retry_at = {now} + CASE WHEN failures >= 7 THEN 3600000 ELSE 30000 * (1 << CAST(failures AS INT)) END \
             WHERE source = $1 AND profile = $2 AND state = 'converting'",
        );
        if tx.run(update.bind(source).bind(profile)).await? == 1 {
            tx.tell_ended(source).await?;
        }
        tx.commit().await
    }

    /// Records that the process which has the lease of a conversion gives it up although nothing failed: none begins it by
    /// itself for `pause`. Nothing changes for a conversion that has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defer_conversion(&self, source: &Digest, profile: &str, pause: Duration) -> Result<(), CatalogError> {
        let mut session = self.writing("defer a conversion").await?;
        let update = session.timed(
            "UPDATE twins SET retry_at = {now} + $3 \
             WHERE source = $1 AND profile = $2 AND state = 'converting' AND retry_at < {now} + $3",
        );
        session.run(update.bind(source).bind(profile).bind(milliseconds(pause))).await?;
        Ok(())
    }

    /// Takes back an attempt of a conversion that ended for a reason that is not the layer's: its process was told to stop,
    /// or another one took the work over. Nothing changes for a conversion that has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forgive_attempt(&self, source: &Digest, profile: &str) -> Result<(), CatalogError> {
        let update = query(
            "UPDATE twins SET attempts = attempts - 1 \
             WHERE source = $1 AND profile = $2 AND state = 'converting' AND attempts > 0",
        );
        self.writing("take back an attempt to convert").await?.run(update.bind(source).bind(profile)).await?;
        Ok(())
    }

    /// Tells whether a conversion failed for a passing reason and its time to be tried again has not come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_postponed(&self, source: &Digest, profile: &str) -> Result<bool, CatalogError> {
        let mut session = self.reading("look up a postponed conversion").await?;
        let select = session.timed(
            "SELECT source FROM twins \
             WHERE source = $1 AND profile = $2 AND state = 'converting' AND failures > 0 AND retry_at > {now}",
        );
        let found: Option<(String,)> = session.optional(select.bind(source).bind(profile)).await?;
        Ok(found.is_some())
    }

    /// Removes the leases that ran out at least `age` ago: nobody will claim them again. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sweep_leases(&self, age: Duration) -> Result<u64, CatalogError> {
        let mut session = self.writing("remove old leases").await?;
        let delete = session.timed("DELETE FROM leases WHERE expires_at <= {now} - $1");
        session.run(delete.bind(milliseconds(age))).await
    }
}

//! [`Usage`]: what the store holds by its rows, and which of it was used when.
//!
//! Evicting takes a [`Unit`]'s keys from its rows and notes them for deletion, in one transaction; the bytes are deleted
//! after a grace period, exactly under these keys. Whoever stores the same digest again meanwhile does so under a key of
//! its own, so a row that has a key has its bytes, whatever happens at once and wherever a process dies.

mod candidate;
mod deletion;
mod eviction;
mod hold;
mod pin;
mod unit;

use std::time::Duration;

use api::Digest;

use crate::query::{Value, query};
use crate::{Catalog, CatalogError, row};
pub use candidate::{Candidate, Scope};
pub use deletion::Deletion;
pub use eviction::{Eviction, Keeper};
pub use pin::PinRow;
pub use unit::{Member, Unit};

/// Digests in one statement, far below SQLite's limit of 32 766 values.
const DIGESTS_PER_QUERY: usize = 500;
/// Rows that one statement changes at most, so that none runs into the server's time limit.
const ROWS_PER_UPDATE: i64 = 5000;
/// A use is noted once in this many milliseconds, however many processes see it.
const USE_RESOLUTION: i64 = 1000;

/// What the store holds, by the catalog's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes that rows name.
    pub stored_bytes: u64,
    /// Bytes of keys that no row names any more, which wait to be deleted.
    pub leaving_bytes: u64,
}

impl Usage {
    /// Returns all bytes that should be in the store.
    pub const fn total(&self) -> u64 {
        self.stored_bytes.saturating_add(self.leaving_bytes)
    }
}

impl Catalog {
    /// Returns what the store holds by the rows. Reads all of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn usage(&self) -> Result<Usage, CatalogError> {
        let select = query(
            "SELECT CAST((SELECT COALESCE(SUM(size), 0) FROM blobs WHERE store_key <> '') AS BIGINT), \
                    CAST((SELECT COALESCE(SUM(size), 0) FROM deletions) AS BIGINT)",
        );
        let (stored, leaving): (i64, i64) = self.reading("sum up the store").await?.one(select).await?;
        Ok(Usage {
            stored_bytes: row::unsigned("the sum of blobs.size", stored)?,
            leaving_bytes: row::unsigned("the sum of deletions.size", leaving)?,
        })
    }

    /// Records that `digests` were used `ago`; to a second. Those that are not stored are passed over.
    ///
    /// # Errors
    /// Those of the database; some of them may be recorded then.
    pub async fn note_use(&self, digests: &[Digest], ago: Duration) -> Result<(), CatalogError> {
        let mut session = self.writing("note what was used").await?;
        for chunk in digests.chunks(DIGESTS_PER_QUERY) {
            let update = session
                .timed("UPDATE blobs SET used_at = {now} - $1 WHERE used_at < {now} - $1 - $2 AND digest IN ")
                .bind(milliseconds(ago))
                .bind(USE_RESOLUTION)
                .push_list(chunk.iter().map(Value::from));
            session.run(update).await?;
        }
        Ok(())
    }

    /// Lets the blobs of which it is not known when they were used, as earlier versions wrote them, count as used now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn date_undated(&self) -> Result<(), CatalogError> {
        let mut session = self.writing("date blobs").await?;
        loop {
            let update = session.timed(
                "UPDATE blobs SET used_at = {now} \
                 WHERE digest IN (SELECT digest FROM blobs WHERE used_at = 0 LIMIT $1)",
            );
            if session.run(update.bind(ROWS_PER_UPDATE)).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Tells whether the chore `name` was last done longer than `every` ago, or never. Whoever does it calls
    /// [`Catalog::end_chore`] then, and has a lease from before this call until after that one, so that it is done once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_due(&self, name: &str, every: Duration) -> Result<bool, CatalogError> {
        let mut session = self.reading("look up a chore").await?;
        let select = session.timed("SELECT name FROM chores WHERE name = $1 AND done_at > {now} - $2");
        let done: Option<(String,)> = session.optional(select.bind(name).bind(milliseconds(every))).await?;
        Ok(done.is_none())
    }

    /// Records that the chore `name` was done, now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_chore(&self, name: &str) -> Result<(), CatalogError> {
        let mut session = self.writing("end a chore").await?;
        let insert = session.timed(
            "INSERT INTO chores (name, done_at) VALUES ($1, {now}) \
             ON CONFLICT (name) DO UPDATE SET done_at = excluded.done_at",
        );
        session.run(insert.bind(name)).await?;
        Ok(())
    }

    /// Returns those of `digests` that were stored and are not: lost or evicted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lost_of(&self, digests: &[Digest]) -> Result<Vec<Digest>, CatalogError> {
        let mut session = self.reading("look up lost blobs").await?;
        let mut lost = Vec::new();
        for chunk in digests.chunks(DIGESTS_PER_QUERY) {
            let select = query("SELECT digest FROM blobs WHERE store_key = '' AND digest IN ");
            let found: Vec<(String,)> = session.all(select.push_list(chunk.iter().map(Value::from))).await?;
            for (digest,) in found {
                lost.push(row::digest("blobs.digest", &digest)?);
            }
        }
        Ok(lost)
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

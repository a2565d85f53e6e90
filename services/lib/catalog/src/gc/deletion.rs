//! [`Deletion`]: a key whose bytes are to be deleted from the store.

use std::collections::HashSet;
use std::time::Duration;

use api::Digest;

use super::{DIGESTS_PER_QUERY, milliseconds};
use crate::query::{Value, query};
use crate::{Catalog, CatalogError, row};

/// A key that no row names any more, whose bytes are to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The text form of the store key.
    pub key: String,
    /// How many bytes lie under it.
    pub size: u64,
}

impl Catalog {
    /// Returns up to `limit` keys whose grace has passed. The caller deletes exactly these from the store, and calls
    /// [`Catalog::end_deletions`] then, or, of those that cannot be deleted, [`Catalog::postpone_deletions`].
    ///
    /// # Errors
    /// Those of the database.
    pub async fn due_deletions(&self, limit: usize) -> Result<Vec<Deletion>, CatalogError> {
        let mut session = self.reading("look for what is to be deleted").await?;
        // A row that names such a key again would be one whose commit was repeated late; its bytes stay.
        let select = session.timed(
            "SELECT d.store_key, d.size FROM deletions d WHERE d.delete_after <= {now} \
             AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = d.digest AND b.store_key = d.store_key) \
             ORDER BY d.delete_after, d.store_key LIMIT $1",
        );
        let found: Vec<(String, i64)> = session.all(select.bind(i64::try_from(limit).unwrap_or(i64::MAX))).await?;
        found
            .into_iter()
            .map(|(key, size)| Ok(Deletion { key, size: row::unsigned("deletions.size", size)? }))
            .collect()
    }

    /// Records that the bytes of `deletions` are gone from the store.
    ///
    /// # Errors
    /// Those of the database; some of them may be recorded then.
    pub async fn end_deletions(&self, deletions: &[Deletion]) -> Result<(), CatalogError> {
        let mut session = self.writing("end deletions").await?;
        for chunk in deletions.chunks(DIGESTS_PER_QUERY) {
            let keys = chunk.iter().map(|deletion| Value::from(&deletion.key));
            session.run(query("DELETE FROM deletions WHERE store_key IN ").push_list(keys)).await?;
        }
        Ok(())
    }

    /// Leaves `deletions` for `pause` from now: their bytes could not be deleted, and others come first.
    ///
    /// # Errors
    /// Those of the database; some of them may be left then.
    pub async fn postpone_deletions(&self, deletions: &[Deletion], pause: Duration) -> Result<(), CatalogError> {
        let mut session = self.writing("postpone deletions").await?;
        for chunk in deletions.chunks(DIGESTS_PER_QUERY) {
            let update = session.timed("UPDATE deletions SET delete_after = {now} + $1 WHERE store_key IN ");
            let keys = chunk.iter().map(|deletion| Value::from(&deletion.key));
            session.run(update.bind(milliseconds(pause)).push_list(keys)).await?;
        }
        Ok(())
    }

    /// Drops the deletions of keys that a row names again: their bytes stay.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_back_deletions(&self) -> Result<(), CatalogError> {
        let delete = query(
            "DELETE FROM deletions WHERE EXISTS (\
                 SELECT 1 FROM blobs b WHERE b.digest = deletions.digest AND b.store_key = deletions.store_key\
             )",
        );
        self.writing("take back deletions").await?.run(delete).await?;
        Ok(())
    }

    /// Returns in how many milliseconds the next key may be deleted; `None` when there is no key to delete.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next_deletion(&self) -> Result<Option<u64>, CatalogError> {
        let mut session = self.reading("look when to delete").await?;
        let select = session.timed("SELECT MIN(delete_after) - {now} FROM deletions");
        let (left,): (Option<i64>,) = session.one(select).await?;
        Ok(left.map(|left| u64::try_from(left).unwrap_or(0)))
    }

    /// Returns the places of those of `keys`, each with the digest it is of, that neither a row names nor a deletion.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unknown_keys(&self, keys: &[(Digest, String)]) -> Result<Vec<usize>, CatalogError> {
        let mut session = self.reading("look up keys").await?;
        let mut known = HashSet::new();
        for chunk in keys.chunks(DIGESTS_PER_QUERY) {
            let digests = || chunk.iter().map(|(digest, _)| Value::from(digest));
            let select = query("SELECT store_key FROM blobs WHERE digest IN ")
                .push_list(digests())
                .push(" UNION ALL SELECT store_key FROM deletions WHERE store_key IN ")
                .push_list(chunk.iter().map(|(_, key)| Value::from(key)));
            let found: Vec<(String,)> = session.all(select).await?;
            known.extend(found.into_iter().map(|(key,)| key));
        }
        Ok((0..keys.len()).filter(|&place| !known.contains(&keys[place].1)).collect())
    }
}

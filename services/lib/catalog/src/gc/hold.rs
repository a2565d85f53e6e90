//! Holds: blobs that somebody reads bit by bit, and that stay while it says so.

use std::time::Duration;

use api::Digest;

use super::milliseconds;
use crate::query::{Value, query};
use crate::{Catalog, CatalogError};

impl Catalog {
    /// Keeps the units of `digests` from being evicted until `ttl` from now by the database's clock. `holder` names who
    /// holds them; its later holds take the place of its earlier ones.
    ///
    /// # Errors
    /// Those of the database; some of them may be held then.
    pub async fn hold(&self, digests: &[Digest], holder: &str, ttl: Duration) -> Result<(), CatalogError> {
        let mut session = self.writing("hold blobs").await?;
        for digest in digests {
            let insert = session.timed(
                "INSERT INTO holds (digest, holder, expires_at) VALUES ($1, $2, {now} + $3) \
                 ON CONFLICT (digest, holder) DO UPDATE SET expires_at = excluded.expires_at",
            );
            session.run(insert.bind(digest).bind(holder).bind(milliseconds(ttl))).await?;
        }
        Ok(())
    }

    /// Ends the holds of `holder` on `digests`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn let_go(&self, digests: &[Digest], holder: &str) -> Result<(), CatalogError> {
        let mut session = self.writing("end holds").await?;
        for chunk in digests.chunks(super::DIGESTS_PER_QUERY) {
            let delete = query("DELETE FROM holds WHERE holder = $1 AND digest IN ").bind(holder);
            session.run(delete.push_list(chunk.iter().map(Value::from))).await?;
        }
        Ok(())
    }

    /// Removes the holds that have expired.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn drop_expired_holds(&self) -> Result<(), CatalogError> {
        let mut session = self.writing("remove expired holds").await?;
        let delete = session.timed("DELETE FROM holds WHERE expires_at <= {now}");
        session.run(delete).await?;
        Ok(())
    }
}

//! Bytes that are gone from the store although a row named them: somebody removed a file, or a disk lost it.

use api::Digest;

use crate::{Catalog, CatalogError, row};

impl Catalog {
    /// Records that nothing is stored under `key`, and tells whether it was the key of `digest`. From then on the
    /// digest counts as not stored, until it is recorded anew; what refers to it stays. Twins whose bytes or TOC it
    /// was go back to converting, and end only with the same twin.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lose_blob(&self, digest: &Digest, key: &str) -> Result<bool, CatalogError> {
        const ACTION: &str = "drop a lost blob";
        let failed = CatalogError::of(ACTION);
        let mut tx = self.begin(ACTION).await?;
        let lost = sqlx::query("UPDATE blobs SET store_key = '' WHERE digest = $1 AND store_key = $2")
            .bind(digest.to_string())
            .bind(key)
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        if lost.rows_affected() == 0 {
            return Ok(false);
        }
        for column in [
            "UPDATE twins SET state = 'converting' WHERE state = 'ready' AND twin = $1",
            "UPDATE twins SET state = 'converting' WHERE state = 'ready' AND toc = $1",
        ] {
            sqlx::query(column).bind(digest.to_string()).execute(&mut *tx).await.map_err(&failed)?;
        }
        tx.commit().await.map_err(&failed)?;
        Ok(true)
    }

    /// Returns a source layer and a profile that `digest` was the twin or TOC of before bytes of that twin were lost;
    /// `None` when nothing of it is to be made again. Of several sources it is `linked`, if that is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lost_twin(&self, digest: &Digest, linked: &Digest) -> Result<Option<(Digest, String)>, CatalogError> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT source, profile FROM (\
                 SELECT source, profile FROM twins WHERE twin = $1 AND state = 'converting' \
                 UNION SELECT source, profile FROM twins WHERE toc = $1 AND state = 'converting'\
             ) found ORDER BY CASE WHEN source = $2 THEN 0 ELSE 1 END, source, profile LIMIT 1",
        )
        .bind(digest.to_string())
        .bind(linked.to_string())
        .fetch_optional(self.readers())
        .await
        .map_err(CatalogError::of("look up a lost twin"))?;
        found.map(|(source, profile)| Ok((row::digest("twins.source", &source)?, profile))).transpose()
    }
}

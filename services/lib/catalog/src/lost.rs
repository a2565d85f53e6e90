//! Bytes that are gone from the store although a row named them: somebody removed a file, or a disk lost it.

use api::{Digest, Repository};

use crate::query::query;
use crate::{Catalog, CatalogError, row};

impl Catalog {
    /// Records that nothing is stored under `key`, and tells whether it was the key of `digest`. From then on the
    /// digest counts as not stored, until it is recorded anew; what refers to it stays. Twins whose bytes or TOC it
    /// was go back to converting, at no attempts, and end only with the same twin.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lose_blob(&self, digest: &Digest, key: &str) -> Result<bool, CatalogError> {
        let mut tx = self.begin("drop a lost blob").await?;
        let lose = query("UPDATE blobs SET store_key = '' WHERE digest = $1 AND store_key = $2");
        if tx.run(lose.bind(digest).bind(key)).await? == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        // Who finishes a conversion takes these rows in the other order. PostgreSQL breaks such a tie by an error that
        // is transient; whoever asks next finds the bytes missing again.
        for column in [
            "UPDATE twins SET state = 'converting', attempts = 0 WHERE state = 'ready' AND twin = $1",
            "UPDATE twins SET state = 'converting', attempts = 0 WHERE state = 'ready' AND toc = $1",
        ] {
            tx.run(query(column).bind(digest)).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Tells whether `digest` was in the store and is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_lost(&self, digest: &Digest) -> Result<bool, CatalogError> {
        let select = query("SELECT digest FROM blobs WHERE digest = $1 AND store_key = ''").bind(digest);
        let found: Option<(String,)> = self.reading("look up a lost blob").await?.optional(select).await?;
        Ok(found.is_some())
    }

    /// Returns a source layer and a profile that `digest` was the twin or TOC of before bytes of that twin were lost;
    /// `None` when nothing of it is to be made again. Of several sources it is one that `repository` is linked to, or
    /// else one that a linked manifest names: that one it can be filled from. Its link to `digest` itself says nothing
    /// of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lost_twin(
        &self,
        digest: &Digest,
        repository: &Repository,
    ) -> Result<Option<(Digest, String)>, CatalogError> {
        let select = query(
            "SELECT source, profile FROM (\
                 SELECT source, profile FROM twins WHERE twin = $1 AND state = 'converting' \
                 UNION SELECT source, profile FROM twins WHERE toc = $1 AND state = 'converting'\
             ) found ORDER BY CASE \
                 WHEN EXISTS (SELECT 1 FROM links l WHERE l.repository = $2 AND l.digest = found.source) THEN 0 \
                 WHEN EXISTS (\
                     SELECT 1 FROM manifest_children c JOIN links l ON l.digest = c.manifest \
                     WHERE c.child = found.source AND l.repository = $2\
                 ) THEN 1 \
                 ELSE 2 END, found.source, found.profile LIMIT 1",
        );
        let mut session = self.reading("look up a lost twin").await?;
        let found: Option<(String, String)> = session.optional(select.bind(digest).bind(repository)).await?;
        found.map(|(source, profile)| Ok((row::digest("twins.source", &source)?, profile))).transpose()
    }

    /// Returns repositories that had layers converted whose twin or TOC `digest` was before bytes of that twin were lost:
    /// their sources can be filled from there. The first few, sorted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn homes_of_lost_twin(&self, digest: &Digest) -> Result<Vec<Repository>, CatalogError> {
        let select = query(
            "SELECT repository FROM twins WHERE twin = $1 AND state = 'converting' \
             UNION SELECT repository FROM twins WHERE toc = $1 AND state = 'converting' ORDER BY 1 LIMIT 16",
        );
        let found: Vec<(String,)> = self.reading("look up who had a twin made").await?.all(select.bind(digest)).await?;
        found.iter().map(|(repository,)| row::repository("twins.repository", repository)).collect()
    }
}

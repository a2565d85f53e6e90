//! [`FillRow`]: fills to take up again after a crash.

use api::{Digest, Repository};

use crate::query::query;
use crate::session::Session;
use crate::{Catalog, CatalogError, row};

/// A fill that was begun and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillRow {
    /// The blob being fetched.
    pub digest: Digest,
    /// The repository to fetch it from.
    pub repository: Repository,
    /// The size the upstream told, in bytes.
    pub size: u64,
}

impl Catalog {
    /// Records that a fill of `digest` from `repository` begins. For one that is recorded, the new repository and
    /// size stand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_fill(&self, digest: &Digest, repository: &Repository, size: u64) -> Result<(), CatalogError> {
        let insert = query(
            "INSERT INTO fills (digest, repository, size) VALUES ($1, $2, $3) \
             ON CONFLICT (digest) DO UPDATE SET repository = excluded.repository, size = excluded.size",
        )
        .bind(digest)
        .bind(repository)
        .bind(row::to_sql("a fill's size", size)?);
        self.writing("record a fill").await?.run(insert).await?;
        Ok(())
    }

    /// Records that the fill of `digest` ended, well or not; no error when there is none. [`Catalog::add_blob`] does
    /// this too.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_fill(&self, digest: &Digest) -> Result<(), CatalogError> {
        let mut session = self.writing("end a fill").await?;
        end(&mut session, digest).await
    }

    /// Returns the fills that were begun and have not ended, sorted by digest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unfinished_fills(&self) -> Result<Vec<FillRow>, CatalogError> {
        let select = query("SELECT digest, repository, size FROM fills ORDER BY digest");
        let found: Vec<(String, String, i64)> = self.reading("list fills").await?.all(select).await?;
        found
            .iter()
            .map(|(digest, repository, size)| {
                Ok(FillRow {
                    digest: row::digest("fills.digest", digest)?,
                    repository: row::repository("fills.repository", repository)?,
                    size: row::unsigned("fills.size", *size)?,
                })
            })
            .collect()
    }
}

/// Removes the row of a fill, if there is one.
pub(crate) async fn end(session: &mut Session, digest: &Digest) -> Result<(), CatalogError> {
    session.run(query("DELETE FROM fills WHERE digest = $1").bind(digest)).await?;
    Ok(())
}

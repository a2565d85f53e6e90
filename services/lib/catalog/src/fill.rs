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
    /// Records that a fill of `digest` from `repository` begins, and tells whether one from the same upstream was recorded
    /// already: one that never ended. The new repository and size stand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_fill(&self, digest: &Digest, repository: &Repository, size: u64) -> Result<bool, CatalogError> {
        let size = row::to_sql("a fill's size", size)?;
        let mut tx = self.begin("record a fill").await?;
        let upstream = repository.upstream();
        let update = query("UPDATE fills SET repository = $3, size = $4 WHERE digest = $1 AND upstream = $2");
        let was_there = tx.run(update.bind(digest).bind(upstream).bind(repository).bind(size)).await? == 1;
        if !was_there {
            // Another caller may have recorded it since; for the same upstream, there is nothing to choose.
            let insert = query(
                "INSERT INTO fills (digest, upstream, repository, size) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (digest, upstream) DO NOTHING",
            );
            tx.run(insert.bind(digest).bind(upstream).bind(repository).bind(size)).await?;
        }
        tx.commit().await?;
        Ok(was_there)
    }

    /// Records that the fill of `digest` from `upstream` ended, well or not; no error when there is none.
    /// [`Catalog::add_blob`] does this too. For a process that is alone: others end what they have the lease for
    /// ([`Holding::end_fill`](crate::Holding::end_fill)).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_fill(&self, digest: &Digest, upstream: &str) -> Result<(), CatalogError> {
        let mut session = self.writing("end a fill").await?;
        end(&mut session, digest, upstream).await
    }

    /// Returns the fills that were begun and have not ended, sorted by digest and upstream.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unfinished_fills(&self) -> Result<Vec<FillRow>, CatalogError> {
        let select = query("SELECT digest, repository, size FROM fills ORDER BY digest, upstream");
        let found: Vec<(String, String, i64)> = self.reading("list fills").await?.all(select).await?;
        found.iter().map(|(digest, repository, size)| FillRow::from_columns(digest, repository, *size)).collect()
    }
}

impl FillRow {
    /// Turns the columns into a row, through every type's parser.
    pub(crate) fn from_columns(digest: &str, repository: &str, size: i64) -> Result<Self, CatalogError> {
        Ok(Self {
            digest: row::digest("fills.digest", digest)?,
            repository: row::repository("fills.repository", repository)?,
            size: row::unsigned("fills.size", size)?,
        })
    }
}

/// Removes the row of the fill of `digest` from `upstream`, if there is one.
pub(crate) async fn end(session: &mut Session, digest: &Digest, upstream: &str) -> Result<(), CatalogError> {
    let delete = query("DELETE FROM fills WHERE digest = $1 AND upstream = $2");
    session.run(delete.bind(digest).bind(upstream)).await?;
    Ok(())
}

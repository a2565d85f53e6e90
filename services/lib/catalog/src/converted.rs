//! Converted manifests: one for each source manifest, for ever.

use api::Digest;
use sqlx::{Connection, SqliteConnection};

use crate::database::relax;
use crate::{BlobRow, Catalog, CatalogError, ManifestRow, blob, manifest, row};

impl Catalog {
    /// Returns the converted manifest or index of `source`, or `None` when none was committed. Once there is one it
    /// never changes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted(&self, source: &Digest) -> Result<Option<Digest>, CatalogError> {
        let mut connection = self.readers().acquire().await.map_err(CatalogError::of("look up a view"))?;
        find(&mut connection, source).await
    }

    /// Returns the profile that the converted manifest or index of `source` was made under, or `None` when none was
    /// committed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted_profile(&self, source: &Digest) -> Result<Option<String>, CatalogError> {
        let found: Option<(String,)> = sqlx::query_as("SELECT profile FROM converted WHERE source = $1")
            .bind(source.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(CatalogError::of("look up a view's profile"))?;
        Ok(found.map(|(profile,)| profile))
    }

    /// Commits `converted` as the converted manifest of `source`, with its config (none for an index) and what it
    /// names, all or nothing, and returns the digest that stands. The first commit of a source wins; who gets
    /// another digest than its own deletes the bytes it stored; a repeated one brings back what was lost. When this returns, a power cut does not undo it: the
    /// digest may be answered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn commit_converted(
        &self,
        source: &Digest,
        profile: &str,
        converted: &ManifestRow,
        config: Option<&BlobRow>,
        children: &[Digest],
    ) -> Result<Digest, CatalogError> {
        const ACTION: &str = "commit a view";
        let failed = CatalogError::of(ACTION);
        let mut connection = self.durable(ACTION).await?;
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let winner = find(&mut tx, source).await?;
        if let Some(winner) = &winner
            && *winner != converted.digest
        {
            tx.rollback().await.map_err(&failed)?;
            relax(connection, ACTION).await?;
            return Ok(winner.clone());
        }
        if let Some(config) = config {
            blob::insert(&mut tx, config).await?;
        }
        manifest::insert(&mut tx, converted, children, Some(source)).await?;
        if winner.is_some() {
            // Of the same form, bytes that were lost count again; else nothing has changed.
            tx.commit().await.map_err(&failed)?;
            relax(connection, ACTION).await?;
            return Ok(converted.digest.clone());
        }
        sqlx::query("INSERT INTO converted (source, profile, manifest, config) VALUES ($1, $2, $3, $4)")
            .bind(source.to_string())
            .bind(profile)
            .bind(converted.digest.to_string())
            .bind(config.map(|config| config.digest.to_string()))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        relax(connection, ACTION).await?;
        Ok(converted.digest.clone())
    }

    /// Returns a source manifest that `converted` is the converted manifest, index or config of, or `None` when it
    /// is none of these. A config may have several; [`Catalog::link_of`] finds the one that a repository is linked
    /// to.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn source_of_converted(&self, converted: &Digest) -> Result<Option<Digest>, CatalogError> {
        let found: Option<(String,)> = sqlx::query_as(
            "SELECT source FROM (\
                 SELECT source FROM converted WHERE manifest = $1 UNION SELECT source FROM converted WHERE config = $1\
             ) found ORDER BY source LIMIT 1",
        )
        .bind(converted.to_string())
        .fetch_optional(self.readers())
        .await
        .map_err(CatalogError::of("look up a view's source"))?;
        found.map(|(source,)| row::digest("converted.source", &source)).transpose()
    }
}

async fn find(connection: &mut SqliteConnection, source: &Digest) -> Result<Option<Digest>, CatalogError> {
    let found: Option<(String,)> = sqlx::query_as("SELECT manifest FROM converted WHERE source = $1")
        .bind(source.to_string())
        .fetch_optional(connection)
        .await
        .map_err(CatalogError::of("look up a view"))?;
    found.map(|(manifest,)| row::digest("converted.manifest", &manifest)).transpose()
}

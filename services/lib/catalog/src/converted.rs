//! Converted manifests: one for each source manifest, for ever.

use api::Digest;

use crate::query::query;
use crate::session::Session;
use crate::{BlobRow, Catalog, CatalogError, ManifestRow, blob, manifest, row};

impl Catalog {
    /// Returns the converted manifest or index of `source`, or `None` when none was committed. Once there is one it
    /// never changes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted(&self, source: &Digest) -> Result<Option<Digest>, CatalogError> {
        let mut session = self.reading("look up a view").await?;
        find(&mut session, source).await
    }

    /// Returns the converted manifest or index of `source`, and whether the store has the meta object that says so: only
    /// then may it be answered. `None` when none was committed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted_and_noted(&self, source: &Digest) -> Result<Option<(Digest, bool)>, CatalogError> {
        let select = query("SELECT manifest, noted FROM converted WHERE source = $1").bind(source);
        let found: Option<(String, i64)> = self.reading("look up a view").await?.optional(select).await?;
        found.map(|(manifest, noted)| Ok((row::digest("converted.manifest", &manifest)?, noted != 0))).transpose()
    }

    /// Records that the store has the meta object of the converted form of `source`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted_is_noted(&self, source: &Digest) -> Result<(), CatalogError> {
        let update = query("UPDATE converted SET noted = 1 WHERE source = $1 AND noted = 0").bind(source);
        self.writing("record a view's note").await?.run(update).await?;
        Ok(())
    }

    /// Returns the profile that the converted manifest or index of `source` was made under, or `None` when none was
    /// committed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted_profile(&self, source: &Digest) -> Result<Option<String>, CatalogError> {
        let select = query("SELECT profile FROM converted WHERE source = $1").bind(source);
        let found: Option<(String,)> = self.reading("look up a view's profile").await?.optional(select).await?;
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
        let mut tx = self.begin_synced("commit a view").await?;
        let winner = find(&mut tx, source).await?;
        if let Some(winner) = winner.as_ref().filter(|winner| **winner != converted.digest) {
            tx.rollback().await?;
            return Ok(winner.clone());
        }
        if let Some(config) = config {
            blob::insert(&mut tx, config).await?;
        }
        manifest::insert(&mut tx, converted, children, Some(source)).await?;
        if winner.is_some() {
            // Of the same form, bytes that were lost count again; else nothing has changed.
            tx.commit().await?;
            return Ok(converted.digest.clone());
        }
        let insert = query(
            "INSERT INTO converted (source, profile, manifest, config) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (source) DO NOTHING",
        );
        let config = config.map(|config| &config.digest);
        let inserted = tx.run(insert.bind(source).bind(profile).bind(&converted.digest).bind(config)).await?;
        if inserted == 0 {
            // On PostgreSQL another caller may commit between the look and the insert, which waited for it. All that
            // this caller wrote goes, and the other's row is there for good.
            let mut session = tx.rollback().await?;
            let (winner,): (String,) = session.one(query(FIND).bind(source)).await?;
            return row::digest("converted.manifest", &winner);
        }
        tx.commit().await?;
        Ok(converted.digest.clone())
    }

    /// Returns a source manifest that `converted` is the converted manifest, index or config of, or `None` when it
    /// is none of these. A config may have several; [`Catalog::link_of`] finds the one that a repository is linked
    /// to.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn source_of_converted(&self, converted: &Digest) -> Result<Option<Digest>, CatalogError> {
        let select = query(
            "SELECT source FROM (\
                 SELECT source FROM converted WHERE manifest = $1 UNION SELECT source FROM converted WHERE config = $1\
             ) found ORDER BY source LIMIT 1",
        )
        .bind(converted);
        let found: Option<(String,)> = self.reading("look up a view's source").await?.optional(select).await?;
        found.map(|(source,)| row::digest("converted.source", &source)).transpose()
    }
}

const FIND: &str = "SELECT manifest FROM converted WHERE source = $1";

async fn find(session: &mut Session, source: &Digest) -> Result<Option<Digest>, CatalogError> {
    let found: Option<(String,)> = session.optional(query(FIND).bind(source)).await?;
    found.map(|(manifest,)| row::digest("converted.manifest", &manifest)).transpose()
}

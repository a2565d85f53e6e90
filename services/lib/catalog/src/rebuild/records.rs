//! What the catalog knows, page by page, for who writes it down elsewhere. Pages are in the order of their keys.

use api::{Digest, MediaType, Repository, Tag};

use super::{ConvertedRecord, TwinRecord};
use crate::query::query;
use crate::{Catalog, CatalogError, row, twin};

impl Catalog {
    /// Returns up to `limit` links after `after` (from the first when `None`).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn links_after(
        &self,
        after: Option<&(Repository, Digest)>,
        limit: u32,
    ) -> Result<Vec<(Repository, Digest)>, CatalogError> {
        let (repository, digest) = texts(after);
        let select = query(
            "SELECT repository, digest FROM links WHERE (repository, digest) > ($1, $2) \
             ORDER BY repository, digest LIMIT $3",
        );
        let select = select.bind(repository).bind(digest).bind(i64::from(limit));
        let found: Vec<(String, String)> = self.reading("list links").await?.all(select).await?;
        found
            .iter()
            .map(|(repository, digest)| {
                Ok((row::repository("links.repository", repository)?, row::digest("links.digest", digest)?))
            })
            .collect()
    }

    /// Returns the names of up to `limit` tags after `after` (from the first when `None`).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tags_after(
        &self,
        after: Option<&(Repository, Tag)>,
        limit: u32,
    ) -> Result<Vec<(Repository, Tag)>, CatalogError> {
        let (repository, tag) = texts(after);
        let select = query(
            "SELECT repository, tag FROM tags WHERE (repository, tag) > ($1, $2) ORDER BY repository, tag LIMIT $3",
        );
        let select = select.bind(repository).bind(tag).bind(i64::from(limit));
        let found: Vec<(String, String)> = self.reading("list tags").await?.all(select).await?;
        found
            .iter()
            .map(|(repository, tag)| Ok((row::repository("tags.repository", repository)?, row::tag("tags.tag", tag)?)))
            .collect()
    }

    /// Returns up to `limit` manifests after `after` (from the first when `None`) with their media types, those whose
    /// bytes were lost too.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn manifests_after(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, MediaType)>, CatalogError> {
        let select = query("SELECT digest, media_type FROM manifests WHERE digest > $1 ORDER BY digest LIMIT $2");
        let select = select.bind(after.map(ToString::to_string).unwrap_or_default()).bind(i64::from(limit));
        let found: Vec<(String, String)> = self.reading("list manifests").await?.all(select).await?;
        found
            .iter()
            .map(|(digest, media_type)| Ok((row::digest("manifests.digest", digest)?, MediaType::parse(media_type))))
            .collect()
    }

    /// Returns up to `limit` sources and profiles after `after` (from the first when `None`) whose conversion ended,
    /// twins that were lost since included.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ended_conversions_after(
        &self,
        after: Option<&(Digest, String)>,
        limit: u32,
    ) -> Result<Vec<(Digest, String)>, CatalogError> {
        let (source, profile) = texts(after);
        let select = query(
            "SELECT source, profile FROM twins WHERE (source, profile) > ($1, $2) \
             AND (twin IS NOT NULL OR state = 'unconvertible') ORDER BY source, profile LIMIT $3",
        );
        let select = select.bind(source).bind(profile).bind(i64::from(limit));
        let found: Vec<(String, String)> = self.reading("list ended conversions").await?.all(select).await?;
        found.into_iter().map(|(source, profile)| Ok((row::digest("twins.source", &source)?, profile))).collect()
    }

    /// Returns what came of converting `source` under `profile`, or `None` when that has not ended. A twin that was
    /// lost since is still what comes of it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn twin_record(&self, source: &Digest, profile: &str) -> Result<Option<TwinRecord>, CatalogError> {
        let Some(repository) = self.asked_by(source, profile).await? else { return Ok(None) };
        let mut session = self.reading("look up what came of a conversion").await?;
        let outcome = twin::outcome(&mut session, source, profile).await?;
        Ok(outcome.map(|outcome| TwinRecord {
            source: source.clone(),
            profile: profile.to_owned(),
            repository,
            outcome,
        }))
    }

    /// Returns the repository that asked first for the conversion of `source` under `profile`, or `None` when none did.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn asked_by(&self, source: &Digest, profile: &str) -> Result<Option<Repository>, CatalogError> {
        let select = query("SELECT repository FROM twins WHERE source = $1 AND profile = $2");
        let mut session = self.reading("look up who asked for a conversion").await?;
        let found: Option<(String,)> = session.optional(select.bind(source).bind(profile)).await?;
        found.map(|(repository,)| row::repository("twins.repository", &repository)).transpose()
    }

    /// Returns up to `limit` sources after `after` (from the first when `None`) whose converted form is not noted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unnoted_after(&self, after: Option<&Digest>, limit: u32) -> Result<Vec<Digest>, CatalogError> {
        let select = query("SELECT source FROM converted WHERE source > $1 AND noted = 0 ORDER BY source LIMIT $2");
        let select = select.bind(after.map(ToString::to_string).unwrap_or_default()).bind(i64::from(limit));
        let found: Vec<(String,)> = self.reading("list views").await?.all(select).await?;
        found.iter().map(|(source,)| row::digest("converted.source", source)).collect()
    }

    /// Returns the converted form of `source` with what is known of its bytes, or `None` when none was committed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn converted_record(&self, source: &Digest) -> Result<Option<ConvertedRecord>, CatalogError> {
        type Columns = (String, String, String, i64, Option<String>, Option<i64>);
        let select = query(
            "SELECT v.profile, v.manifest, m.media_type, b.size, v.config, c.size FROM converted v \
             JOIN manifests m ON m.digest = v.manifest JOIN blobs b ON b.digest = v.manifest \
             LEFT JOIN blobs c ON c.digest = v.config WHERE v.source = $1",
        );
        let mut session = self.reading("look up a view's record").await?;
        let found: Option<Columns> = session.optional(select.bind(source)).await?;
        let Some((profile, manifest, media_type, size, config, config_size)) = found else { return Ok(None) };
        let config = config.zip(config_size).map(|(config, size)| {
            Ok::<_, CatalogError>((row::digest("converted.config", &config)?, row::unsigned("blobs.size", size)?))
        });
        Ok(Some(ConvertedRecord {
            source: source.clone(),
            profile,
            manifest: row::digest("converted.manifest", &manifest)?,
            media_type: MediaType::parse(&media_type),
            size: row::unsigned("blobs.size", size)?,
            config: config.transpose()?,
        }))
    }

    /// Returns every profile: its id and what it stands for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn profiles(&self) -> Result<Vec<(String, String)>, CatalogError> {
        // One for each version and setting that ever was: few.
        let select = query("SELECT id, description FROM profiles ORDER BY id");
        self.reading("list profiles").await?.all(select).await
    }
}

/// Returns a key of two parts as text; the first page begins after the empty one.
fn texts(after: Option<&(impl ToString, impl ToString)>) -> (String, String) {
    after.map(|(one, two)| (one.to_string(), two.to_string())).unwrap_or_default()
}

//! [`TagRow`]: what a tag pointed to when the upstream was last asked.

use api::{Digest, Repository, Tag};

use crate::query::query;
use crate::{Catalog, CatalogError, row};

/// What a tag pointed to when the upstream was last asked. Moments are milliseconds since 1970 (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// The manifest it pointed to.
    pub digest: Digest,
    /// When the upstream last said so.
    pub checked_at: i64,
    /// When a client last got the original view by this tag; kept when the tag moves.
    pub original_answered_at: Option<i64>,
}

impl Catalog {
    /// Returns what `tag` pointed to, or `None` when the upstream was never asked.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<TagRow>, CatalogError> {
        let select =
            query("SELECT digest, checked_at, original_answered_at FROM tags WHERE repository = $1 AND tag = $2")
                .bind(repository)
                .bind(tag.as_str());
        let found: Option<(String, i64, Option<i64>)> = self.reading("look up a tag").await?.optional(select).await?;
        found
            .map(|(digest, checked_at, original_answered_at)| {
                Ok(TagRow { digest: row::digest("tags.digest", &digest)?, checked_at, original_answered_at })
            })
            .transpose()
    }

    /// Records that the upstream said at `checked_at` (milliseconds since 1970) that `tag` points to `digest`. An
    /// answer older than the recorded one changes nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        checked_at: i64,
    ) -> Result<(), CatalogError> {
        let write = query(
            "INSERT INTO tags (repository, tag, digest, checked_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, checked_at = excluded.checked_at \
             WHERE excluded.checked_at >= tags.checked_at",
        )
        .bind(repository)
        .bind(tag.as_str())
        .bind(digest)
        .bind(checked_at);
        self.writing("record a tag").await?.run(write).await?;
        Ok(())
    }

    /// Records that the upstream said at `checked_at` that `tag` points where it did. Nothing changes for a tag that
    /// is not recorded, or was checked later.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tag_checked(&self, repository: &Repository, tag: &Tag, checked_at: i64) -> Result<(), CatalogError> {
        let write = query("UPDATE tags SET checked_at = $3 WHERE repository = $1 AND tag = $2 AND checked_at < $3")
            .bind(repository)
            .bind(tag.as_str())
            .bind(checked_at);
        self.writing("record a tag's check").await?.run(write).await?;
        Ok(())
    }

    /// Forgets `tag`: the upstream said at `checked_at` that it has no such tag. Nothing changes for a tag that was
    /// checked later.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_tag(&self, repository: &Repository, tag: &Tag, checked_at: i64) -> Result<(), CatalogError> {
        let delete = query("DELETE FROM tags WHERE repository = $1 AND tag = $2 AND checked_at <= $3")
            .bind(repository)
            .bind(tag.as_str())
            .bind(checked_at);
        self.writing("forget a tag").await?.run(delete).await?;
        Ok(())
    }

    /// Records that a client got the original view by `tag` at `answered_at`. Nothing changes for a tag that is not
    /// recorded, or was answered later.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tag_answered_original(
        &self,
        repository: &Repository,
        tag: &Tag,
        answered_at: i64,
    ) -> Result<(), CatalogError> {
        let write = query(
            "UPDATE tags SET original_answered_at = $3 WHERE repository = $1 AND tag = $2 \
             AND (original_answered_at IS NULL OR original_answered_at < $3)",
        )
        .bind(repository)
        .bind(tag.as_str())
        .bind(answered_at);
        self.writing("record a tag's answer").await?.run(write).await?;
        Ok(())
    }

    /// Returns the recorded tags of `repository`, sorted by bytes. These are the tags that were pulled, not all that
    /// the upstream has.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, CatalogError> {
        let select = query("SELECT tag FROM tags WHERE repository = $1 ORDER BY tag").bind(repository);
        let found: Vec<(String,)> = self.reading("list tags").await?.all(select).await?;
        found.iter().map(|(tag,)| row::tag("tags.tag", tag)).collect()
    }
}

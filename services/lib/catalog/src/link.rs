//! [`Link`]: whether a repository may read a digest.

use api::{Digest, Repository};

use crate::query::query;
use crate::session::Session;
use crate::{Catalog, CatalogError, row};

/// How far a repository is linked to a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkState {
    /// Nothing connects them.
    None,
    /// A manifest that the repository is linked to names the digest; whether that is enough is the upstream's to say.
    Named,
    /// The repository is linked to the digest.
    Linked,
}

/// The answer to "may this repository read this digest", and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// How far they are linked.
    pub state: LinkState,
    /// The digest that decides: the one asked for, or, for a twin, TOC, converted manifest or converted config, the
    /// source it inherits from. This is what the upstream can be asked about.
    pub decided_by: Digest,
}

/// The best link among the digest's own and those of all it was made from. A digest is often several of these at
/// once (an own twin, one config of two images), so all sources count and the best state wins.
pub(crate) const FIND: &str = "\
WITH asked (digest, made) AS (
    SELECT CAST($2 AS TEXT), 0
    UNION SELECT source, 1 FROM twins WHERE twin = $2
    UNION SELECT source, 1 FROM twins WHERE toc = $2
    UNION SELECT source, 1 FROM converted WHERE manifest = $2
    UNION SELECT source, 1 FROM converted WHERE config = $2
)
SELECT digest, state FROM (
    SELECT a.digest AS digest, a.made AS made,
        CASE
            WHEN EXISTS (SELECT 1 FROM links l WHERE l.repository = $1 AND l.digest = a.digest) THEN CAST(2 AS BIGINT)
            WHEN EXISTS (
                SELECT 1 FROM manifest_children c JOIN links l ON l.digest = c.manifest
                WHERE c.child = a.digest AND l.repository = $1
            ) THEN 1
            ELSE 0
        END AS state
    FROM asked a
) found
WHERE state > 0 ORDER BY state DESC, made, digest LIMIT 1";

impl Catalog {
    /// Links `repository` to `digest`: its upstream answered for it there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn link(&self, repository: &Repository, digest: &Digest) -> Result<(), CatalogError> {
        let mut session = self.writing("add a link").await?;
        insert(&mut session, repository, digest).await
    }

    /// Returns how far `repository` is linked to `digest`. Twins, TOCs, converted manifests and converted configs
    /// inherit from what they were made from.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<LinkState, CatalogError> {
        Ok(self.link_of(repository, digest).await?.state)
    }

    /// Tells whether any repository of the upstream called `upstream` is linked to `digest`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_linked_in_upstream(&self, upstream: &str, digest: &Digest) -> Result<bool, CatalogError> {
        // '0' is the character after '/'.
        let select =
            query("SELECT digest FROM links WHERE digest = $1 AND repository > $2 AND repository < $3 LIMIT 1")
                .bind(digest)
                .bind(format!("{upstream}/"))
                .bind(format!("{upstream}0"));
        let mut session = self.reading("look up the links of an upstream").await?;
        let found: Option<(String,)> = session.optional(select).await?;
        Ok(found.is_some())
    }

    /// Returns how far `repository` is linked to `digest`, as [`Catalog::is_linked`] does, and by what.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn link_of(&self, repository: &Repository, digest: &Digest) -> Result<Link, CatalogError> {
        let mut session = self.reading("look up a link").await?;
        // What almost every request asks about: one index look-up.
        let own = query("SELECT digest FROM links WHERE repository = $1 AND digest = $2").bind(repository).bind(digest);
        let own: Option<(String,)> = session.optional(own).await?;
        if own.is_some() {
            return Ok(Link { state: LinkState::Linked, decided_by: digest.clone() });
        }
        let found: Option<(String, i64)> = session.optional(query(FIND).bind(repository).bind(digest)).await?;
        let Some((decided_by, state)) = found else {
            return Ok(Link { state: LinkState::None, decided_by: digest.clone() });
        };
        let state = if state == 2 { LinkState::Linked } else { LinkState::Named };
        Ok(Link { state, decided_by: row::digest("twins.source or converted.source", &decided_by)? })
    }
}

/// Links `repository` to `digest`; nothing changes when it is.
pub(crate) async fn insert(
    session: &mut Session,
    repository: &Repository,
    digest: &Digest,
) -> Result<(), CatalogError> {
    let insert =
        query("INSERT INTO links (repository, digest) VALUES ($1, $2) ON CONFLICT (repository, digest) DO NOTHING");
    session.run(insert.bind(repository).bind(digest)).await?;
    Ok(())
}

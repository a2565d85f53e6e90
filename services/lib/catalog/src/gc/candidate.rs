//! [`Candidate`]: a stored blob that may be evicted, the longest unused first.

use std::time::Duration;

use api::Digest;

use super::milliseconds;
use crate::{Catalog, CatalogError, row};

/// Below this many bytes a blob is not worth evicting while there are larger ones: configs, manifests, tiny layers.
const SMALL: i64 = 64 << 10;

/// A stored blob that may be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The blob.
    pub digest: Digest,
    /// When it was last used: milliseconds since 1970 by the database's clock.
    pub used_at: i64,
}

/// Which blobs are candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of some size that are no manifests: what takes the room.
    Large,
    /// All.
    All,
}

impl Catalog {
    /// Returns up to `limit` blobs that were not used for `unused`, behind `after` in the order of their last use. What
    /// is never evicted whatever happens is left out; what may be kept now for another reason [`Catalog::evict`] tells.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn candidates(
        &self,
        scope: Scope,
        unused: Duration,
        after: Option<&Candidate>,
        limit: usize,
    ) -> Result<Vec<Candidate>, CatalogError> {
        let mut session = self.reading("look for the longest unused").await?;
        let select = session.timed(
            "SELECT b.digest, b.used_at FROM blobs b \
             WHERE b.store_key <> '' AND b.used_at <= {now} - $1 \
             AND (b.used_at > $2 OR (b.used_at = $2 AND b.digest > $3)) AND b.size >= $4 \
             AND ($4 = 0 OR NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = b.digest)) \
             AND NOT EXISTS (SELECT 1 FROM converted c WHERE c.manifest = b.digest) \
             AND NOT EXISTS (SELECT 1 FROM converted c WHERE c.config = b.digest) \
             ORDER BY b.used_at, b.digest LIMIT $5",
        );
        let select = select
            .bind(milliseconds(unused))
            .bind(after.map_or(-1, |after| after.used_at))
            .bind(after.map(|after| &after.digest))
            .bind(match scope {
                Scope::Large => SMALL,
                Scope::All => 0,
            })
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let found: Vec<(String, i64)> = session.all(select).await?;
        found
            .into_iter()
            .map(|(digest, used_at)| Ok(Candidate { digest: row::digest("blobs.digest", &digest)?, used_at }))
            .collect()
    }
}

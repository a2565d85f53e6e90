//! [`BlobRow`]: bytes that are in the store.

use api::{Digest, Repository};

use crate::query::query;
use crate::session::Session;
use crate::{Catalog, CatalogError, fill, link, row};

/// Bytes that are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// The text form of the store key they lie under.
    pub key: String,
}

impl Catalog {
    /// Returns where the bytes of `digest` lie, or `None` when they are not in the store.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<BlobRow>, CatalogError> {
        // A row without a key is one whose bytes were lost.
        let select = query("SELECT size, store_key FROM blobs WHERE digest = $1 AND store_key <> ''").bind(digest);
        let found: Option<(i64, String)> = self.reading("look up a blob").await?.optional(select).await?;
        found.map(|(size, key)| from_columns(digest, size, key)).transpose()
    }

    /// Records bytes that are in the store, links `links` to them, and ends their fills from the upstreams of these, all
    /// or nothing. Returns the row that stands: the first one recorded for the digest wins, and who gets another key
    /// than its own deletes the bytes it stored.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_blob(&self, blob: &BlobRow, links: &[&Repository]) -> Result<BlobRow, CatalogError> {
        let mut tx = self.begin("record a blob").await?;
        let standing = store(&mut tx, blob, links).await?;
        tx.commit().await?;
        Ok(standing)
    }
}

/// Records `blob`, links `links` to it, and ends its fills from their upstreams; returns the row that stands.
pub(crate) async fn store(
    session: &mut Session,
    blob: &BlobRow,
    links: &[&Repository],
) -> Result<BlobRow, CatalogError> {
    let standing = insert(session, blob).await?;
    for repository in links {
        link::insert(session, repository, &blob.digest).await?;
        // Who fills it from another upstream ends that by itself, or somebody for it: it may have an upload to remove.
        fill::end(session, &blob.digest, repository.upstream()).await?;
    }
    Ok(standing)
}

/// Records `blob` unless its digest has a row with a key, and returns the row that stands, which counts as used now.
///
/// Until the transaction ends nobody changes or deletes that row: an update locks it even if it changes nothing, where
/// `DO NOTHING` and a look afterwards would leave a gap for whoever deletes it.
pub(crate) async fn insert(session: &mut Session, blob: &BlobRow) -> Result<BlobRow, CatalogError> {
    let insert = session.timed(
        "INSERT INTO blobs (digest, size, store_key, used_at) VALUES ($1, $2, $3, {now}) \
         ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at, \
         store_key = CASE WHEN blobs.store_key = '' THEN excluded.store_key ELSE blobs.store_key END \
         RETURNING size, store_key",
    );
    let insert = insert.bind(&blob.digest).bind(row::to_sql("a blob's size", blob.size)?).bind(&blob.key);
    let (size, key) = session.one(insert).await?;
    let standing = from_columns(&blob.digest, size, key)?;
    if standing.key == blob.key {
        session.grew(blob.size);
    }
    Ok(standing)
}

fn from_columns(digest: &Digest, size: i64, key: String) -> Result<BlobRow, CatalogError> {
    Ok(BlobRow { digest: digest.clone(), size: row::unsigned("blobs.size", size)?, key })
}

//! [`BlobRow`]: bytes that are in the store.

use api::{Digest, Repository};
use sqlx::SqliteConnection;

use crate::{Catalog, CatalogError, row};

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
        let found: Option<(i64, String)> =
            sqlx::query_as("SELECT size, store_key FROM blobs WHERE digest = $1 AND store_key <> ''")
                .bind(digest.to_string())
                .fetch_optional(self.readers())
                .await
                .map_err(CatalogError::of("look up a blob"))?;
        found.map(|(size, key)| from_columns(digest, size, key)).transpose()
    }

    /// Records bytes that are in the store, links `links` to them, and ends their fill, all or nothing. Returns the
    /// row that stands: the first one recorded for the digest wins, and who gets another key than its own deletes
    /// the bytes it stored.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_blob(&self, blob: &BlobRow, links: &[&Repository]) -> Result<BlobRow, CatalogError> {
        const ACTION: &str = "record a blob";
        let failed = CatalogError::of(ACTION);
        let mut tx = self.begin(ACTION).await?;
        let standing = insert(&mut tx, blob).await?;
        for repository in links {
            crate::link::insert(&mut tx, repository, &blob.digest).await?;
        }
        sqlx::query("DELETE FROM fills WHERE digest = $1")
            .bind(blob.digest.to_string())
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(standing)
    }
}

/// Records `blob` unless its digest has a row with a key, and returns the row that stands.
pub(crate) async fn insert(connection: &mut SqliteConnection, blob: &BlobRow) -> Result<BlobRow, CatalogError> {
    let failed = CatalogError::of("record a blob");
    sqlx::query(
        "INSERT INTO blobs (digest, size, store_key) VALUES ($1, $2, $3) \
         ON CONFLICT (digest) DO UPDATE SET store_key = excluded.store_key WHERE blobs.store_key = ''",
    )
    .bind(blob.digest.to_string())
    .bind(row::to_sql("a blob's size", blob.size)?)
    .bind(&blob.key)
    .execute(&mut *connection)
    .await
    .map_err(&failed)?;
    let (size, key): (i64, String) = sqlx::query_as("SELECT size, store_key FROM blobs WHERE digest = $1")
        .bind(blob.digest.to_string())
        .fetch_one(connection)
        .await
        .map_err(&failed)?;
    from_columns(&blob.digest, size, key)
}

fn from_columns(digest: &Digest, size: i64, key: String) -> Result<BlobRow, CatalogError> {
    Ok(BlobRow { digest: digest.clone(), size: row::unsigned("blobs.size", size)?, key })
}

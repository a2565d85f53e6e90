//! [`ManifestRow`]: manifests and indexes that are in the store.

use api::{Digest, MediaType, Repository};

use crate::query::{Value, query};
use crate::session::Session;
use crate::{BlobRow, Catalog, CatalogError, blob, link, row};

/// Children written by one statement; two values each, far below SQLite's limit of 32 766 and PostgreSQL's of 65 535.
const CHILDREN_PER_INSERT: usize = 500;

/// A manifest or index that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRow {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its media type, as the upstream told it.
    pub media_type: MediaType,
    /// How many bytes it has.
    pub size: u64,
    /// The text form of the store key they lie under.
    pub key: String,
}

impl ManifestRow {
    /// Returns the row of its bytes.
    #[must_use]
    pub fn blob(&self) -> BlobRow {
        BlobRow { digest: self.digest.clone(), size: self.size, key: self.key.clone() }
    }
}

impl Catalog {
    /// Returns what is known of the manifest `digest`, or `None` when it is not in the store as a manifest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<ManifestRow>, CatalogError> {
        let select = query(
            "SELECT m.media_type, b.size, b.store_key FROM manifests m JOIN blobs b ON b.digest = m.digest \
             WHERE m.digest = $1 AND b.store_key <> ''",
        )
        .bind(digest);
        let found: Option<(String, i64, String)> = self.reading("look up a manifest").await?.optional(select).await?;
        found
            .map(|(media_type, size, key)| {
                let media_type = MediaType::parse(&media_type);
                Ok(ManifestRow { digest: digest.clone(), media_type, size: row::unsigned("blobs.size", size)?, key })
            })
            .transpose()
    }

    /// Returns up to `limit` manifests and indexes in the store that name `child`, sorted. Converted ones are left out:
    /// what they name was made here.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn manifests_naming(&self, child: &Digest, limit: u32) -> Result<Vec<Digest>, CatalogError> {
        let select = query(
            "SELECT c.manifest FROM manifest_children c JOIN blobs b ON b.digest = c.manifest \
             WHERE c.child = $1 AND b.store_key <> '' \
             AND NOT EXISTS (SELECT 1 FROM converted v WHERE v.manifest = c.manifest) ORDER BY c.manifest LIMIT $2",
        );
        let mut session = self.reading("look up what names a digest").await?;
        let found: Vec<(String,)> = session.all(select.bind(child).bind(i64::from(limit))).await?;
        found.iter().map(|(manifest,)| row::digest("manifest_children.manifest", manifest)).collect()
    }

    /// Records a manifest that is in the store, what it names, what it is about, and the link of `repository` to it,
    /// all or nothing. Returns the row that stands: the first one wins, and who gets another key than its own
    /// deletes the bytes it stored.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_manifest(
        &self,
        manifest: &ManifestRow,
        repository: Option<&Repository>,
        children: &[Digest],
        subject: Option<&Digest>,
    ) -> Result<ManifestRow, CatalogError> {
        let mut tx = self.begin("record a manifest").await?;
        let standing = insert(&mut tx, manifest, children, subject).await?;
        if let Some(repository) = repository {
            link::insert(&mut tx, repository, &manifest.digest).await?;
        }
        tx.commit().await?;
        Ok(standing)
    }
}

/// Records `manifest` unless it is, and what it names; returns the row that stands.
///
/// The row of its blob is locked first, so two callers with the same manifest do this one after the other.
pub(crate) async fn insert(
    session: &mut Session,
    manifest: &ManifestRow,
    children: &[Digest],
    subject: Option<&Digest>,
) -> Result<ManifestRow, CatalogError> {
    let blob = blob::insert(session, &manifest.blob()).await?;
    let insert = query(
        "INSERT INTO manifests (digest, media_type, subject) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING",
    );
    session.run(insert.bind(&manifest.digest).bind(manifest.media_type.as_str()).bind(subject)).await?;
    for chunk in children.chunks(CHILDREN_PER_INSERT) {
        let insert = query("INSERT INTO manifest_children (manifest, child) VALUES ")
            .push_rows(chunk.iter().map(|child| [Value::from(&manifest.digest), Value::from(child)]))
            .push(" ON CONFLICT (manifest, child) DO NOTHING");
        session.run(insert).await?;
    }
    let select = query("SELECT media_type FROM manifests WHERE digest = $1").bind(&manifest.digest);
    let (media_type,): (String,) = session.one(select).await?;
    Ok(ManifestRow { digest: blob.digest, media_type: MediaType::parse(&media_type), size: blob.size, key: blob.key })
}

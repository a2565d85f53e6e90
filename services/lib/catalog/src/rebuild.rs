//! Rows from what the store holds, after the database was lost. Every call may be repeated: what is recorded stays.

mod records;

use api::{Digest, MediaType, Repository, Twin, UnconvertibleReason};

use crate::query::query;
use crate::session::Session;
use crate::{BlobRow, Catalog, CatalogError, blob, link, row, twin};

/// What came of converting a source layer under a profile, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinRecord {
    /// The source layer.
    pub source: Digest,
    /// The id of the profile.
    pub profile: String,
    /// The repository that asked first.
    pub repository: Repository,
    /// What came of it.
    pub outcome: TwinOutcome,
}

/// What comes of a conversion, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinOutcome {
    /// This twin, whether its bytes are in the store or were lost.
    Twin(Twin),
    /// The layer stays as it is.
    Unconvertible {
        /// Why.
        reason: UnconvertibleReason,
        /// What and where, for people.
        detail: String,
    },
}

/// The converted manifest or index of a source manifest, and what is known of its bytes, in the store or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedRecord {
    /// The source manifest.
    pub source: Digest,
    /// The id of the profile.
    pub profile: String,
    /// The converted manifest.
    pub manifest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// How many bytes it has.
    pub size: u64,
    /// The converted config and how many bytes it has; none for an index.
    pub config: Option<(Digest, u64)>,
}

/// What a restored twin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// Recorded as it was, or it is there already.
    Whole,
    /// Recorded as one that is to be made again: bytes of it are not in the store.
    Lost,
}

impl Catalog {
    /// Tells whether any bytes are recorded.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_blobs(&self) -> Result<bool, CatalogError> {
        let select = query("SELECT digest FROM blobs WHERE store_key <> '' LIMIT 1");
        let found: Option<(String,)> = self.reading("look for blobs").await?.optional(select).await?;
        Ok(found.is_some())
    }

    /// Links repositories to digests, all or nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn restore_links(&self, links: &[(Repository, Digest)]) -> Result<(), CatalogError> {
        let mut tx = self.begin("restore links").await?;
        for (repository, digest) in links {
            link::insert(&mut tx, repository, digest).await?;
        }
        tx.commit().await
    }

    /// Records what came of a conversion. A twin of which bytes are not recorded is left as [`Catalog::lose_blob`] would
    /// leave it. What is recorded already stays, but for a conversion that was only begun.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn restore_twin(&self, record: &TwinRecord) -> Result<Restored, CatalogError> {
        let mut tx = self.begin("restore a twin").await?;
        let TwinRecord { source, profile, repository, outcome } = record;
        let begin = query(
            "INSERT INTO twins (source, profile, state, attempts, repository) VALUES ($1, $2, 'converting', 0, $3) \
             ON CONFLICT (source, profile) DO NOTHING",
        );
        tx.run(begin.bind(source).bind(profile).bind(repository)).await?;
        let restored = match outcome {
            TwinOutcome::Unconvertible { reason, detail } => {
                twin::refuse(&mut tx, source, profile, *reason, detail).await?;
                Restored::Whole
            }
            TwinOutcome::Twin(made) => restore_made(&mut tx, source, profile, made).await?,
        };
        tx.commit().await?;
        Ok(restored)
    }

    /// Records the one converted form of a source and that the store has its meta object, and returns the digest that
    /// stands: one that is recorded already, or this one. What of its bytes is not recorded counts as lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn restore_converted(&self, record: &ConvertedRecord) -> Result<Digest, CatalogError> {
        let ConvertedRecord { source, profile, manifest, media_type, size, config } = record;
        let mut tx = self.begin("restore a view").await?;
        lose(&mut tx, manifest, *size).await?;
        if let Some((config, size)) = config {
            lose(&mut tx, config, *size).await?;
        }
        let insert = query(
            "INSERT INTO manifests (digest, media_type, subject) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING",
        );
        tx.run(insert.bind(manifest).bind(media_type.as_str()).bind(source)).await?;
        let insert = query(
            "INSERT INTO converted (source, profile, manifest, config, noted) VALUES ($1, $2, $3, $4, 1) \
             ON CONFLICT (source) DO UPDATE SET noted = converted.noted RETURNING manifest",
        );
        let config = config.as_ref().map(|(config, _)| config);
        let insert = insert.bind(source).bind(profile).bind(manifest).bind(config);
        let (winner,): (String,) = tx.one(insert).await?;
        tx.commit().await?;
        row::digest("converted.manifest", &winner)
    }
}

/// Makes a row that is converting one of a twin: ready if its bytes are recorded, else converting to the same twin.
async fn restore_made(tx: &mut Session, source: &Digest, profile: &str, made: &Twin) -> Result<Restored, CatalogError> {
    if !twin::make_ready(tx, source, profile, made).await? {
        return Ok(Restored::Whole);
    }
    lose(tx, &made.digest, made.size).await?;
    lose(tx, &made.toc_digest, made.toc_size).await?;
    let update = query(
        "UPDATE twins SET state = 'converting', attempts = 0 WHERE source = $1 AND profile = $2 \
         AND EXISTS (SELECT 1 FROM blobs b WHERE b.digest IN (twins.twin, twins.toc) AND b.store_key = '')",
    );
    let lost = tx.run(update.bind(source).bind(profile)).await? == 1;
    Ok(if lost { Restored::Lost } else { Restored::Whole })
}

/// Records that `digest` was in the store and is lost, unless it is recorded.
async fn lose(tx: &mut Session, digest: &Digest, size: u64) -> Result<(), CatalogError> {
    let lost = BlobRow { digest: digest.clone(), size, key: String::new() };
    blob::insert(tx, &lost).await.map(drop)
}

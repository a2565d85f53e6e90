//! The meta objects: what is known of the bytes that are there.

use std::sync::Arc;

use anyhow::Context;
use api::{Digest, MediaType, Parsed, Repository};
use blobstore::{BlobKey, BlobStore, MetaKey, StoreError};
use catalog::{ConvertedRecord, ManifestRow, PinRow, Restored, TwinOutcome, TwinRecord};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Rebuild, Rebuilt};
use crate::records::{MetaObject, ObjectError};

/// Keys listed at a time, and links recorded in one transaction.
const PAGE: usize = 500;
/// Objects read at a time: small, and far away on S3.
const AT_ONCE: usize = 16;

impl Rebuild {
    /// Records what the meta objects say, as far as the bytes are there. After [`Rebuild::bytes`].
    pub(super) async fn objects(&self, report: &mut Rebuilt) -> anyhow::Result<()> {
        let (mut last, mut count) = (None, 0);
        loop {
            let page = self.store.list_meta(last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let mut links = Vec::new();
            let mut objects = stream::iter(page).map(|key| read(&self.store, key)).buffer_unordered(AT_ONCE);
            while let Some((key, bytes)) = objects.try_next().await? {
                // Deleted since it was listed.
                let Some(bytes) = bytes else { continue };
                match MetaObject::parse(&key, &bytes) {
                    Ok(object) => {
                        self.restore(&key, object, &mut links, report).await.with_context(|| key.to_string())?
                    }
                    Err(error @ ObjectError::Damaged { .. }) => report.leave_out(&key, error),
                    Err(error @ ObjectError::Version { .. }) => return Err(error.into()),
                }
                count += 1;
                self.progress.objects(count);
            }
            self.catalog.restore_links(&links).await?;
            report.links += links.len() as u64;
        }
    }

    async fn restore(
        &self,
        key: &MetaKey,
        object: MetaObject,
        links: &mut Vec<(Repository, Digest)>,
        report: &mut Rebuilt,
    ) -> anyhow::Result<()> {
        match object {
            MetaObject::Link { repository, digest } => links.push((repository, digest)),
            MetaObject::Tag { repository, tag, digest, checked_at } => {
                self.catalog.set_tag(&repository, &tag, &digest, checked_at).await?;
                report.tags += 1;
            }
            MetaObject::Manifest { digest, media_type } => match self.manifest(&digest, media_type).await? {
                None => report.manifests += 1,
                Some(why) => report.leave_out(key, why),
            },
            MetaObject::Twin { source, profile, repository, twin } => {
                let outcome = TwinOutcome::Twin(twin);
                match self.catalog.restore_twin(&TwinRecord { source, profile, repository, outcome }).await? {
                    Restored::Whole => report.twins += 1,
                    Restored::Lost => report.lost_twins += 1,
                }
            }
            MetaObject::Unconvertible { source, profile, repository, reason, detail } => {
                let outcome = TwinOutcome::Unconvertible { reason, detail };
                self.catalog.restore_twin(&TwinRecord { source, profile, repository, outcome }).await?;
                report.unconvertible += 1;
            }
            MetaObject::Converted { source, profile, manifest, media_type, size, config } => {
                let config = config.map(|config| (config.digest, config.size));
                let record = ConvertedRecord { source, profile, manifest, media_type, size, config };
                let stands = self.catalog.restore_converted(&record).await?;
                if stands == record.manifest {
                    report.converted += 1;
                } else {
                    report.leave_out(key, format!("the catalog has another converted form of its source: {stands}"));
                }
            }
            MetaObject::Pin { repository, reference, digest } => {
                self.catalog.add_pin(&PinRow { repository, reference, digest }).await?;
                report.pins += 1;
            }
            MetaObject::Profile { id, description } => {
                self.catalog.record_profile(&id, &description).await?;
                report.profiles += 1;
            }
            // The rebuild began with it.
            MetaObject::Store { .. } => {}
        }
        Ok(())
    }

    /// Records a manifest with what its bytes name, or returns why that cannot be.
    async fn manifest(&self, digest: &Digest, media_type: MediaType) -> anyhow::Result<Option<String>> {
        let Some(row) = self.catalog.blob(digest).await? else {
            return Ok(Some(format!("the store has no right bytes of {digest}")));
        };
        if row.size > api::manifest::MAX_MANIFEST_SIZE {
            return Ok(Some(format!("{digest} is too large for a manifest")));
        }
        let read = async {
            let blob = self.store.open(&row.key.parse::<BlobKey>()?).await?;
            blob.read(0, usize::try_from(row.size)?).await.map_err(anyhow::Error::from)
        };
        let bytes = match read.await {
            // A row of before, of which the store has nothing under that key.
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::NotFound { .. })) => {
                self.catalog.lose_blob(digest, &row.key).await?;
                return Ok(Some(format!("the store has no bytes of {digest}")));
            }
            bytes => bytes?,
        };
        if api::verify(digest, &bytes).is_err() {
            self.catalog.lose_blob(digest, &row.key).await?;
            return Ok(Some(format!("the bytes under {} are not those of {digest}", row.key)));
        }
        let parsed = match Parsed::parse(&bytes, &media_type) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Some(format!("{digest} is no {}: {error}", media_type.as_str()))),
        };
        let children: Vec<Digest> = parsed.children().into_iter().map(|child| child.digest.clone()).collect();
        let row = ManifestRow { digest: row.digest, media_type, size: row.size, key: row.key };
        self.catalog.add_manifest(&row, None, &children, parsed.subject()).await?;
        Ok(None)
    }
}

async fn read(store: &Arc<dyn BlobStore>, key: MetaKey) -> Result<(MetaKey, Option<bytes::Bytes>), StoreError> {
    let bytes = match store.meta(&key).await {
        // Read as one that is damaged.
        Err(StoreError::MetaTooLarge { .. }) => Some(bytes::Bytes::new()),
        bytes => bytes?,
    };
    Ok((key, bytes))
}

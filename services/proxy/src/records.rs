//! [`Records`]: what must outlive the database. Bytes are in the store first, then the meta object that says what they
//! are, then the row.
//!
//! Killed in between, a process leaves a meta object without a row: it tells the truth, and a rebuild believes it only
//! as far as the bytes are there. Nothing here is done where something is only read.

mod arrears;
mod object;

use std::sync::Arc;

use api::{Digest, MediaType, Reference, Repository, Tag};
use blobstore::BlobStore;
use catalog::{Catalog, LinkState, ManifestRow, PinRow, TwinOutcome, TwinRecord};

use crate::stock::StockError;

pub(crate) use arrears::catch_up;
pub(crate) use object::{MetaObject, ObjectError};

/// How often a tag's object is written again, at most, while the tag stays what it is (milliseconds): a rebuilt tag may
/// be served stale only for `cache.max_stale` after its last check.
const TAG_REFRESH: i64 = 24 * 60 * 60 * 1000;
/// How often a tag's object is written again because the tag moved meanwhile.
const TAG_TRIES: u32 = 3;

/// Writes the catalog and the meta objects that it can be rebuilt from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Records<'a> {
    catalog: &'a Catalog,
    store: &'a Arc<dyn BlobStore>,
}

impl<'a> Records<'a> {
    pub(crate) const fn new(catalog: &'a Catalog, store: &'a Arc<dyn BlobStore>) -> Self {
        Self { catalog, store }
    }

    async fn put(&self, object: &MetaObject) -> Result<(), StockError> {
        Ok(self.store.put_meta(&object.key(), object.to_bytes()).await?)
    }

    // --- links

    /// Writes the objects of links that the caller records next, together with the bytes.
    pub(crate) async fn note_links(&self, digest: &Digest, repositories: &[&Repository]) -> Result<(), StockError> {
        for repository in repositories {
            let known = self.catalog.link_of(repository, digest).await?;
            if known.state != LinkState::Linked || known.decided_by != *digest {
                self.put(&MetaObject::Link { repository: (*repository).clone(), digest: digest.clone() }).await?;
            }
        }
        Ok(())
    }

    /// Links `repository` to `digest`, as [`Catalog::link`] does.
    pub(crate) async fn link(&self, repository: &Repository, digest: &Digest) -> Result<(), StockError> {
        self.note_links(digest, &[repository]).await?;
        Ok(self.catalog.link(repository, digest).await?)
    }

    // --- manifests

    async fn note_manifest(&self, digest: &Digest, media_type: &MediaType) -> Result<(), StockError> {
        self.put(&MetaObject::Manifest { digest: digest.clone(), media_type: media_type.clone() }).await
    }

    /// Records a manifest and its link, as [`Catalog::add_manifest`] does.
    pub(crate) async fn manifest(
        &self,
        row: &ManifestRow,
        repository: &Repository,
        children: &[Digest],
        subject: Option<&Digest>,
    ) -> Result<ManifestRow, StockError> {
        self.note_manifest(&row.digest, &row.media_type).await?;
        self.note_links(&row.digest, &[repository]).await?;
        let kept = self.catalog.add_manifest(row, Some(repository), children, subject).await?;
        if kept.media_type != row.media_type {
            // The first type of a digest stands.
            self.note_manifest(&kept.digest, &kept.media_type).await?;
        }
        Ok(kept)
    }

    // --- tags

    /// Records what `tag` points to, as [`Catalog::set_tag`] does.
    pub(crate) async fn tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        checked_at: i64,
    ) -> Result<(), StockError> {
        let object =
            MetaObject::Tag { repository: repository.clone(), tag: tag.clone(), digest: digest.clone(), checked_at };
        self.put(&object).await?;
        self.catalog.set_tag(repository, tag, digest, checked_at).await?;
        let stands = self.catalog.tag(repository, tag).await?.is_some_and(|row| row.digest == *digest);
        // Another process heard a later answer, and what it did to the object may have come first.
        if stands { Ok(()) } else { self.note_tag(repository, tag).await }
    }

    /// Records that `tag` points where it did, as [`Catalog::tag_checked`] does; it was last checked at `before`.
    pub(crate) async fn tag_checked(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: i64,
        checked_at: i64,
    ) -> Result<(), StockError> {
        self.catalog.tag_checked(repository, tag, checked_at).await?;
        // The object is only about as old as the check; there is no need to look at it.
        if before / TAG_REFRESH == checked_at / TAG_REFRESH {
            return Ok(());
        }
        // The object that is there is right, only old; the tag's answer need not fail for it.
        if let Err(error) = self.note_tag(repository, tag).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(repo.name = %repository, tag = tag.as_str(), error, "a tag's meta object stays old");
        }
        Ok(())
    }

    /// Forgets `tag`, as [`Catalog::forget_tag`] does.
    pub(crate) async fn forget_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        checked_at: i64,
    ) -> Result<(), StockError> {
        if self.catalog.tag(repository, tag).await?.is_none() {
            return Ok(());
        }
        let key = MetaObject::tag_key(repository, tag);
        // Before the row, or a rebuild would bring back what the upstream has taken back; and after it, where another
        // process recorded the tag in between.
        self.store.delete_meta(&key).await?;
        self.catalog.forget_tag(repository, tag, checked_at).await?;
        if self.catalog.tag(repository, tag).await?.is_none() {
            self.store.delete_meta(&key).await?;
        }
        Ok(())
    }

    /// Writes or deletes the object of a tag as it is recorded now.
    async fn note_tag(&self, repository: &Repository, tag: &Tag) -> Result<(), StockError> {
        let mut written = None;
        for _ in 0..TAG_TRIES {
            let row = self.catalog.tag(repository, tag).await?;
            let now = row.as_ref().map(|row| row.digest.clone());
            if written.as_ref() == Some(&now) {
                break;
            }
            match row {
                Some(row) => {
                    let (repository, tag) = (repository.clone(), tag.clone());
                    let digest = row.digest;
                    self.put(&MetaObject::Tag { repository, tag, digest, checked_at: row.checked_at }).await?;
                }
                // Another process has forgotten it, perhaps before the object was written that is there.
                None => self.store.delete_meta(&MetaObject::tag_key(repository, tag)).await?,
            }
            written = Some(now);
        }
        Ok(())
    }

    // --- pins

    /// Pins an image, as [`Catalog::add_pin`] does.
    pub(crate) async fn pin(&self, pin: &PinRow) -> Result<(), StockError> {
        let PinRow { repository, reference, digest } = pin.clone();
        self.put(&MetaObject::Pin { repository, reference, digest }).await?;
        Ok(self.catalog.add_pin(pin).await?)
    }

    /// Removes a pin, as [`Catalog::remove_pin`] does.
    pub(crate) async fn unpin(&self, repository: &Repository, reference: &Reference) -> Result<bool, StockError> {
        // Before the row, or a rebuild would pin it again.
        self.store.delete_meta(&MetaObject::pin_key(repository, reference)).await?;
        Ok(self.catalog.remove_pin(repository, reference).await?)
    }

    // --- conversions

    /// Writes the object of what came of a conversion, which the caller records next. What had a twin once keeps it.
    pub(crate) async fn note_outcome(
        &self,
        source: &Digest,
        profile: &str,
        outcome: TwinOutcome,
    ) -> Result<(), StockError> {
        // Without a row there is nothing that the caller could record.
        let Some(repository) = self.catalog.asked_by(source, profile).await? else { return Ok(()) };
        let record = TwinRecord { source: source.clone(), profile: profile.to_owned(), repository, outcome };
        let object = MetaObject::from(record);
        let key = object.key();
        let before = match self.store.meta(&key).await? {
            Some(bytes) => MetaObject::parse(&key, &bytes).ok(),
            None => None,
        };
        if before.is_some_and(|before| matches!(before, MetaObject::Twin { .. })) {
            Ok(())
        } else {
            self.put(&object).await
        }
    }

    /// Writes the object of the converted form of `source` that is committed, and records that it is there: the digest
    /// may be answered from now on.
    ///
    /// Here the row comes before the object, because it decides which of several forms is the one.
    pub(crate) async fn note_converted(&self, source: &Digest) -> Result<(), StockError> {
        let Some(record) = self.catalog.converted_record(source).await? else { return Ok(()) };
        self.note_manifest(&record.manifest, &record.media_type).await?;
        self.put(&MetaObject::from(record)).await?;
        Ok(self.catalog.converted_is_noted(source).await?)
    }

    /// Returns the profile and the digest of the converted form of `source` that its object names. There is one without a
    /// row after the database was set back, and it may have been answered.
    pub(crate) async fn converted_before(&self, source: &Digest) -> Result<Option<(String, Digest)>, StockError> {
        let key = MetaObject::converted_key(source);
        let Some(bytes) = self.store.meta(&key).await? else { return Ok(None) };
        Ok(match MetaObject::parse(&key, &bytes) {
            Ok(MetaObject::Converted { profile, manifest, .. }) => Some((profile, manifest)),
            // What is damaged says nothing, and is written anew.
            Ok(_) | Err(_) => None,
        })
    }

    /// Records what the profile `id` stands for, as [`Catalog::record_profile`] does.
    pub(crate) async fn profile(&self, id: &str, description: &str) -> Result<(), StockError> {
        if self.catalog.profile(id).await?.is_none() {
            self.put(&MetaObject::Profile { id: id.to_owned(), description: description.to_owned() }).await?;
            self.catalog.record_profile(id, description).await?;
        }
        Ok(())
    }

    /// Returns what the profile `id` stands for. After the database was set back only the store may know it, and then the
    /// catalog learns it here: twins are to be made under it.
    pub(crate) async fn description_of(&self, id: &str) -> Result<Option<String>, StockError> {
        if let Some(description) = self.catalog.profile(id).await? {
            return Ok(Some(description));
        }
        let key = MetaObject::profile_key(id);
        let Some(bytes) = self.store.meta(&key).await? else { return Ok(None) };
        let Ok(MetaObject::Profile { description, .. }) = MetaObject::parse(&key, &bytes) else { return Ok(None) };
        self.catalog.record_profile(id, &description).await?;
        Ok(Some(description))
    }
}

#[cfg(test)]
mod tests {
    use blobstore::FsStore;
    use catalog::CatalogUrl;

    use super::*;

    /// A tag's object is as the row is: written where there is one, and gone where another process has forgotten the tag.
    #[tokio::test]
    async fn a_tags_object_follows_its_row() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
        let catalog = Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap();
        let store: Arc<dyn BlobStore> = Arc::new(FsStore::open(folder.path()).unwrap());
        let records = Records::new(&catalog, &store);
        let (repository, tag) = (Repository::parse("docker.io/library/a").unwrap(), Tag::parse("latest").unwrap());
        let key = MetaObject::tag_key(&repository, &tag);
        let digest = Digest::of(b"manifest");
        records.tag(&repository, &tag, &digest, 5).await.unwrap();
        let object = store.meta(&key).await.unwrap().unwrap();
        catalog.forget_tag(&repository, &tag, 6).await.unwrap();
        assert_eq!(store.meta(&key).await.unwrap(), Some(object));
        records.note_tag(&repository, &tag).await.unwrap();
        assert_eq!(store.meta(&key).await.unwrap(), None);
        catalog.set_tag(&repository, &tag, &digest, 7).await.unwrap();
        records.note_tag(&repository, &tag).await.unwrap();
        assert!(store.meta(&key).await.unwrap().is_some());
    }
}

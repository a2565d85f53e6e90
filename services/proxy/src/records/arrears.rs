//! Meta objects of what was recorded before there were any.

use std::future::Future;
use std::sync::Arc;

use api::{Digest, MediaType, Repository, Tag};
use blobstore::BlobStore;
use catalog::{Catalog, Mark};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{MetaObject, Records};
use crate::stock::StockError;

/// Rows read at a time.
const PAGE: u32 = 500;
/// Objects written at a time: little enough that clients do not notice.
const AT_ONCE: usize = 4;

/// Writes the meta objects that are missing for what an earlier version recorded, once for a catalog. May be broken off
/// at any point and begun anew, and run by many processes at once.
///
/// # Errors
/// Those of the catalog and the store; the next start tries again.
pub(crate) async fn catch_up(catalog: &Catalog, store: &Arc<dyn BlobStore>) -> Result<(), StockError> {
    if catalog.is_marked(Mark::Noted).await? {
        return Ok(());
    }
    let records = Records::new(catalog, store);
    let profiles = catalog.profiles().await?.into_iter();
    at_once(
        profiles.map(|(id, description)| async move { records.put(&MetaObject::Profile { id, description }).await }),
    )
    .await?;
    records.links().await?;
    records.manifests().await?;
    records.tags().await?;
    records.outcomes().await?;
    records.views().await?;
    catalog.mark(Mark::Noted).await?;
    tracing::info!("the store has a meta object for everything that was recorded before");
    Ok(())
}

impl Records<'_> {
    async fn links(&self) -> Result<(), StockError> {
        let mut last = None;
        loop {
            let page = self.catalog.links_after(last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let note = |(repository, digest)| async move { self.put(&MetaObject::Link { repository, digest }).await };
            at_once(page.into_iter().map(note)).await?;
        }
    }

    async fn manifests(&self) -> Result<(), StockError> {
        let mut last = None;
        loop {
            let page = self.catalog.manifests_after(last.as_ref(), PAGE).await?;
            let Some((end, _)) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let note = |(digest, media_type): (Digest, MediaType)| async move {
                self.note_manifest(&digest, &media_type).await
            };
            at_once(page.into_iter().map(note)).await?;
        }
    }

    async fn tags(&self) -> Result<(), StockError> {
        let mut last = None;
        loop {
            let page = self.catalog.tags_after(last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let note = |(repository, tag): (Repository, Tag)| async move { self.note_tag(&repository, &tag).await };
            at_once(page.into_iter().map(note)).await?;
        }
    }

    async fn outcomes(&self) -> Result<(), StockError> {
        let mut last = None;
        loop {
            let page = self.catalog.ended_conversions_after(last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let note = |(source, profile): (Digest, String)| async move {
                match self.catalog.twin_record(&source, &profile).await? {
                    Some(record) => self.put(&MetaObject::from(record)).await,
                    None => Ok(()),
                }
            };
            at_once(page.into_iter().map(note)).await?;
        }
    }

    async fn views(&self) -> Result<(), StockError> {
        let mut last = None;
        loop {
            let page = self.catalog.unnoted_after(last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            let note = |source: Digest| async move { self.note_converted(&source).await };
            at_once(page.into_iter().map(note)).await?;
        }
    }
}

/// Does the work, some of it at a time, until all is done or something fails.
async fn at_once(work: impl Iterator<Item = impl Future<Output = Result<(), StockError>>>) -> Result<(), StockError> {
    stream::iter(work).buffer_unordered(AT_ONCE).try_collect().await
}

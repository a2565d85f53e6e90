//! `firstlight pin`: images that are never evicted.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use api::{Digest, Reference};
use blobstore::BlobStore;
use catalog::{Catalog, PinRow};
use serde::Serialize;

use super::Report;
use super::image_ref::{ImageRef, Resolved, full_name};
use crate::app::open_store;
use crate::config::Config;
use crate::records::Records;
use crate::remotes::Remotes;
use crate::tie;

/// The pins, and what was done to them.
#[derive(Debug, Serialize)]
pub struct PinReport {
    /// What was added or removed.
    changed: Option<Change>,
    /// All pins, afterwards.
    pins: Vec<Pin>,
}

/// A pin that was added or removed.
#[derive(Debug, Serialize)]
struct Change {
    what: &'static str,
    name: String,
}

/// A pin.
#[derive(Debug, Serialize)]
struct Pin {
    name: String,
    digest: Digest,
}

/// Pins an image: what a tag means now, or a digest. No upstream is asked.
///
/// # Errors
/// When `text` means nothing here, its tag was never pulled, or the catalog cannot be used.
pub async fn add(config: &Config, text: &str) -> anyhow::Result<PinReport> {
    let (resolved, reference) = resolve(config, text)?;
    let catalog = open(config).await?;
    let repository = resolved.target.repository;
    let digest = match &reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(tag) => match catalog.tag(&repository, tag).await? {
            Some(row) => row.digest,
            None => bail!("{text} was never asked for here: pull it through the proxy first, or name its digest"),
        },
    };
    let pin = PinRow { repository, reference, digest };
    let store = store_of(config, &catalog).await?;
    Records::new(&catalog, &store).pin(&pin).await?;
    report(&catalog, Some(("pinned", &pin.repository, &pin.reference))).await
}

/// Removes the pin of an image.
///
/// # Errors
/// When there is none of that name, or the catalog cannot be used.
pub async fn remove(config: &Config, text: &str) -> anyhow::Result<PinReport> {
    let (resolved, reference) = resolve(config, text)?;
    let catalog = open(config).await?;
    let repository = resolved.target.repository;
    let store = store_of(config, &catalog).await?;
    if !Records::new(&catalog, &store).unpin(&repository, &reference).await? {
        let name = full_name(&repository, &reference);
        bail!("{name} is not pinned; `firstlight pin list` shows what is");
    }
    report(&catalog, Some(("unpinned", &repository, &reference))).await
}

/// Returns all pins.
///
/// # Errors
/// When the catalog cannot be used.
pub async fn list(config: &Config) -> anyhow::Result<PinReport> {
    report(&open(config).await?, None).await
}

fn resolve(config: &Config, text: &str) -> anyhow::Result<(Resolved, Reference)> {
    let image = ImageRef::parse(text).with_context(|| format!("{text:?} is not an image"))?;
    let resolved = image.resolve(&Remotes::build(config)?).with_context(|| text.to_owned())?;
    Ok((resolved, image.reference))
}

async fn open(config: &Config) -> anyhow::Result<Catalog> {
    let url = &config.catalog.url;
    Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))
}

/// Opens the store, which must be that of `catalog`.
async fn store_of(config: &Config, catalog: &Catalog) -> anyhow::Result<Arc<dyn BlobStore>> {
    let store = open_store(config).await.context("cannot open the blob store")?;
    tie::check(catalog, &store).await?;
    Ok(store)
}

async fn report(
    catalog: &Catalog,
    changed: Option<(&'static str, &api::Repository, &Reference)>,
) -> anyhow::Result<PinReport> {
    let changed = changed.map(|(what, repository, reference)| Change { what, name: full_name(repository, reference) });
    let pins = catalog
        .pins()
        .await?
        .into_iter()
        .map(|PinRow { repository, reference, digest }| Pin { name: full_name(&repository, &reference), digest });
    let report = PinReport { changed, pins: pins.collect() };
    catalog.close().await;
    Ok(report)
}

impl Report for PinReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(Change { what, name }) = &self.changed {
            return writeln!(out, "{what} {name}");
        }
        for Pin { name, digest } in &self.pins {
            writeln!(out, "{name} {digest}")?;
        }
        if self.pins.is_empty() { writeln!(out, "nothing is pinned") } else { Ok(()) }
    }
}

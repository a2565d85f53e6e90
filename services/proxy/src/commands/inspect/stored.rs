//! [`StoredReport`]: what the catalog and the store know of an image.

use std::io::{self, Write};

use anyhow::Context;
use api::{Digest, Reference};
use blobstore::BlobKey;
use estargz::Toc;
use serde::Serialize;

use super::files::TocReport;
use crate::choices::MAX_TOC;
use crate::commands::image_ref::{ImageRef, Resolved, full_name};
use crate::commands::known::{Knowledge, Known};
use crate::config::Config;
use crate::remotes::Remotes;

/// What the catalog and the store know of an image.
#[derive(Debug, Serialize)]
pub struct StoredReport {
    /// Upstream, repository and tag or digest.
    pub name: String,
    /// What was done to the name, and what is not known.
    pub notes: Vec<String>,
    /// What is known.
    #[serde(flatten)]
    pub image: Knowledge,
    /// The files of its twins, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tocs: Vec<TocReport>,
}

pub(super) async fn run(config: &Config, text: &str, toc: bool) -> anyhow::Result<StoredReport> {
    let reference = ImageRef::parse(text).with_context(|| {
        format!("{text:?} is not an image: use a reference such as library/python:3, or oci:DIR[:TAG]")
    })?;
    let remotes = Remotes::build(config)?;
    let Resolved { target, note } = reference.resolve(&remotes).with_context(|| text.to_owned())?;
    let name = full_name(&target.repository, &reference.reference);
    let mut report =
        StoredReport { name, notes: note.into_iter().collect(), image: Knowledge::default(), tocs: Vec::new() };
    let Some(known) = Known::open(config).await? else {
        report.notes.push(format!("nothing is stored at {} yet", config.storage.path.display()));
        return Ok(report);
    };
    let digest = match &reference.reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(_) => known.tag(&target.repository, &reference.reference).await?.map(|row| row.digest),
    };
    let Some(digest) = digest else {
        report.notes.push("nothing is known of this tag: pull it through the proxy first".into());
        return Ok(report);
    };
    report.image = known.image(&target.repository, &digest).await?;
    if !report.image.cached {
        report.notes.push("the manifest is not stored: pull it through the proxy first".into());
    }
    if toc {
        report.tocs = tocs(&known, &report.image).await?;
    }
    Ok(report)
}

async fn tocs(known: &Known, image: &Knowledge) -> anyhow::Result<Vec<TocReport>> {
    let mut tocs: Vec<TocReport> = Vec::new();
    for layer in image.images.iter().flat_map(|image| &image.layers) {
        let (Some(twin), Some(toc)) = (&layer.twin, &layer.toc) else { continue };
        if tocs.iter().any(|known| known.layer == *twin) {
            continue;
        }
        let toc = read_toc(known, toc).await.with_context(|| format!("TOC of {twin}"))?;
        tocs.push(TocReport::new(twin, toc));
    }
    Ok(tocs)
}

async fn read_toc(known: &Known, digest: &Digest) -> anyhow::Result<Toc> {
    let row = known.catalog.blob(digest).await?.context("it is not in the store")?;
    anyhow::ensure!(row.size <= MAX_TOC, "it has {} bytes, more than the {MAX_TOC} that are read", row.size);
    let blob = known.store.open(&row.key.parse::<BlobKey>()?).await?;
    let json = blob.read(0, usize::try_from(row.size)?).await?;
    api::verify(digest, &json)?;
    Ok(Toc::parse(&json)?)
}

impl StoredReport {
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "name      {}", self.name)?;
        if let Some(digest) = &self.image.digest {
            writeln!(out, "original  {digest}")?;
            match &self.image.estargz {
                Some(view) => writeln!(out, "estargz   {view}")?,
                None => writeln!(out, "estargz   not built yet")?,
            }
        }
        for note in &self.notes {
            writeln!(out, "note      {note}")?;
        }
        self.image.write_images(out)?;
        self.tocs.iter().try_for_each(|toc| toc.write_text(out))
    }
}

//! `firstlight inspect REF|oci:DIR[:TAG]`: an image's views, layers and twins; with `--toc` its files.

mod files;
mod layout;
mod stored;

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::location::Location;
use crate::config::Config;

pub use files::{FileReport, TocReport};
pub use layout::LayoutReport;
pub use stored::StoredReport;

/// What is known of an image.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum InspectReport {
    /// By the catalog and the store.
    Stored(StoredReport),
    /// By the blobs of a layout.
    Layout(LayoutReport),
}

/// Looks at the image `text`, from what is stored or in a layout; no upstream is contacted. With `toc` the files of
/// its twins are listed.
///
/// # Errors
/// When the reference is malformed or means nothing here, or what it names cannot be read.
pub async fn run(config: &Config, text: &str, toc: bool) -> anyhow::Result<InspectReport> {
    if !text.starts_with("oci:") {
        return stored::run(config, text, toc).await.map(InspectReport::Stored);
    }
    let Location::Layout { dir, tag } = Location::parse(text)? else { anyhow::bail!("{text:?} is no layout") };
    let name = text.to_owned();
    telemetry::blocking(move || layout::run(&name, &dir, tag.as_deref(), toc)).await.map(InspectReport::Layout)
}

impl Report for InspectReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Stored(report) => report.write_text(out),
            Self::Layout(report) => report.write_text(out),
        }
    }
}

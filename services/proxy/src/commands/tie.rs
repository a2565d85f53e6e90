//! `firstlight catalog tie`: a catalog and a store that belong together from now on.

use std::io::{self, Write};

use anyhow::Context;
use catalog::Catalog;
use serde::Serialize;

use super::Report;
use crate::app::open_store;
use crate::config::Config;
use crate::tie;

/// What belongs together now.
#[derive(Debug, Serialize)]
pub struct Tied {
    /// The catalog, without a password.
    pub catalog: String,
}

/// Ties the configured catalog to the configured store, whatever they were tied to before. What the rows name and is not in
/// the store is fetched or made again when it is asked for; what no row names stays unknown until a rebuild.
///
/// # Errors
/// When the catalog or the store cannot be used.
pub async fn run(config: &Config) -> anyhow::Result<Tied> {
    let url = &config.catalog.url;
    let catalog = Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))?;
    let store = open_store(config).await.context("cannot open the blob store")?;
    tie::renew(&catalog, &store).await?;
    catalog.close().await;
    Ok(Tied { catalog: url.to_string() })
}

impl Report for Tied {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "the catalog {} and the configured store belong together from now on", self.catalog)
    }
}

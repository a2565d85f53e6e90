//! `firstlight migrate`: brings the catalog's schema up to date.

use std::io::{self, Write};

use anyhow::Context;
use catalog::Catalog;
use serde::Serialize;

use super::Report;
use crate::config::Config;

/// What was done to a catalog's schema.
#[derive(Debug, Serialize)]
pub struct Migrated {
    /// The catalog, without a password.
    pub catalog: String,
    /// The steps it lacked, which are applied now, in order.
    pub applied: Vec<Step>,
}

/// A step of the schema.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
}

/// Brings the schema of the configured catalog up to date. Any number of processes may do so at once.
///
/// # Errors
/// Says why the catalog could not be reached or changed; what was applied before stays.
pub async fn run(config: &Config) -> anyhow::Result<Migrated> {
    let url = &config.catalog.url;
    let steps = Catalog::migrate(url).await.with_context(|| format!("cannot migrate the catalog {url}"))?;
    let applied = steps.into_iter().map(|step| Step { version: step.version, name: step.name }).collect();
    Ok(Migrated { catalog: url.to_string(), applied })
}

impl Report for Migrated {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Step { version, name } in &self.applied {
            writeln!(out, "applied {version:04} ({name})")?;
        }
        writeln!(out, "the schema of {} is up to date", self.catalog)
    }
}

//! `firstlight gc`: evicts what the limits leave no room for, deletes what was evicted, and removes what no row names.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::time::Instant;

use super::Report;
use super::known::Known;
use super::table::{Side, Table, age, size};
use crate::config::{ByteSize, Config};
use crate::gc::{Collected, Collector, Daily, GcError, Gone, Limits, ORPHANED, Undeleted};
use crate::metrics::{Metrics, Reason};
use crate::tie;

/// How long the command waits for a collection that another process is at.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often it looks whether that has ended.
const POLL: Duration = Duration::from_millis(500);

/// What was taken away, or would be.
#[derive(Debug, Serialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    dry_run: bool,
    /// `cache.max_size` in bytes; 0: none.
    max_size: u64,
    /// `cache.max_age` in milliseconds; 0: none.
    max_age_ms: u64,
    /// What goes, in this order; not all of it when it is very much.
    gone: Vec<Gone>,
    /// The sums, one for each reason.
    sums: Vec<Sum>,
    /// Keys that were evicted earlier and were deleted from the store now.
    deleted_keys: u64,
    /// Their bytes.
    deleted_bytes: u64,
    /// How many keys' bytes the store did not delete; they stay, to be tried again an hour later.
    undeleted_keys: u64,
    /// The first of these, each with why.
    undeleted: Vec<Undeleted>,
    /// Bytes in the store afterwards that rows name.
    stored_bytes: u64,
    /// Bytes in the store afterwards that are deleted once their grace has passed.
    leaving_bytes: u64,
}

/// What goes for one reason.
#[derive(Debug, Serialize)]
struct Sum {
    why: Reason,
    units: u64,
    bytes: u64,
}

/// Collects once, or says what a collection would take. Runs beside processes that serve from the same catalog and store.
///
/// # Errors
/// When the catalog or the store cannot be used, or another process goes on collecting.
pub async fn run(config: &Config, dry_run: bool) -> anyhow::Result<GcReport> {
    let Some(known) = Known::open(config).await? else {
        bail!("nothing is stored at {} yet", config.storage.path.display());
    };
    if !dry_run {
        tie::check(&known.catalog, &known.store).await?;
    }
    let limits = Limits::from(&config.cache);
    let collector = Collector::new(known.catalog.clone(), known.store, limits, Arc::new(Metrics::new()));
    let collected = if dry_run { collector.preview(ORPHANED).await? } else { collect(&collector).await? };
    known.catalog.close().await;
    Ok(GcReport::new(config, dry_run, collected))
}

async fn collect(collector: &Collector) -> Result<Collected, GcError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match collector.collect(Daily::Now { orphaned: ORPHANED }).await {
            Err(GcError::Busy(_)) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            collected => return collected,
        }
    }
}

impl GcReport {
    fn new(config: &Config, dry_run: bool, collected: Collected) -> Self {
        let sums = collected.sums.into_iter().map(|(why, (units, bytes))| Sum { why, units, bytes });
        Self {
            dry_run,
            max_size: config.cache.max_size.bytes(),
            max_age_ms: u64::try_from(config.cache.max_age.as_millis()).unwrap_or(u64::MAX),
            gone: collected.gone,
            sums: sums.collect(),
            deleted_keys: collected.deleted.0,
            deleted_bytes: collected.deleted.1,
            undeleted_keys: collected.undeleted.1,
            undeleted: collected.undeleted.0,
            stored_bytes: collected.usage.stored_bytes,
            leaving_bytes: collected.usage.leaving_bytes,
        }
    }
}

impl Report for GcReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = [("WHY", Side::Left), ("UNUSED", Side::Right), ("SIZE", Side::Right), ("BLOBS", Side::Right)];
        let mut table = Table::new(&[&columns[..], &[("WHAT", Side::Left)]].concat());
        for Gone { why, names, blobs, bytes, unused_ms } in &self.gone {
            let (blobs, what) = (blobs.to_string(), names.join(" "));
            table.row(vec![why.label().into(), age(*unused_ms), size(*bytes), blobs, what]);
        }
        if !self.gone.is_empty() {
            table.write(out)?;
            writeln!(out)?;
        }
        let goes = if self.dry_run { "would go" } else { "went" };
        for Sum { why, units, bytes } in &self.sums {
            writeln!(out, "{goes} ({}): {units} units, {}", why.label(), size(*bytes))?;
        }
        if self.sums.is_empty() {
            writeln!(out, "nothing {goes}")?;
        }
        if self.deleted_keys > 0 {
            writeln!(out, "deleted, evicted earlier: {} keys, {}", self.deleted_keys, size(self.deleted_bytes))?;
        }
        for Undeleted { key, why } in &self.undeleted {
            writeln!(out, "not deleted: {key}: {why}")?;
        }
        if self.undeleted_keys > 0 {
            writeln!(out, "not deleted, to be tried again in an hour: {} keys", self.undeleted_keys)?;
        }
        let cap = if self.max_size > 0 { format!(", cap {}", ByteSize(self.max_size)) } else { String::new() };
        let (stored, leaving) = (size(self.stored_bytes), size(self.leaving_bytes));
        writeln!(out, "in the store: {stored}, and {leaving} that are deleted after their grace{cap}")
    }
}

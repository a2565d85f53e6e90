//! [`Args`]: the command line.

use crate::rows::Row;
use clap::{Parser, ValueEnum};

/// Measures the product beside its peers.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Args {
    /// The rows to run; all without any.
    rows: Vec<Row>,
    /// Measures everything once, the reference converter on the smallest image only.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Builds the images and ends.
    #[arg(long)]
    pub(crate) images_only: bool,
}

impl Args {
    /// Returns the rows to run, in their own order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let is_asked = |row: &Row| self.rows.is_empty() || self.rows.contains(row);
        Row::value_variants().iter().copied().filter(is_asked).collect()
    }
}

//! [`Rebuilt`]: what came of a rebuild.

use std::fmt::Display;
use std::io::{self, Write};

use indicatif::HumanBytes;
use serde::Serialize;

use crate::commands::Report;

/// What is left out is named one by one up to here, and counted above.
const MAX_NAMED: usize = 1000;

/// What the catalog has now, as far as this rebuild found it in the store.
#[derive(Debug, Default, Serialize)]
pub struct Rebuilt {
    /// The catalog, without a password.
    pub catalog: String,
    /// Blobs and TOCs whose bytes are right.
    pub blobs: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Further copies of blobs that have one already. They are never read.
    pub spare: u64,
    /// Manifests and indexes.
    pub manifests: u64,
    /// Links of repositories to digests.
    pub links: u64,
    /// Tags.
    pub tags: u64,
    /// Twins whose bytes are there.
    pub twins: u64,
    /// Twins that are made again when they are next asked for.
    pub lost_twins: u64,
    /// Layers that stay as they are.
    pub unconvertible: u64,
    /// Converted manifests.
    pub converted: u64,
    /// Images that are never evicted.
    pub pins: u64,
    /// Conversion profiles.
    pub profiles: u64,
    /// How many things were left out; they lie where they were.
    pub left_out_count: u64,
    /// The first of these.
    pub left_out: Vec<LeftOut>,
}

/// Something in the store that became no row.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    /// Where it lies.
    pub key: String,
    /// Why it was left out.
    pub why: String,
}

impl Rebuilt {
    pub(super) fn leave_out(&mut self, key: &impl Display, why: impl Display) {
        let (key, why) = (key.to_string(), why.to_string());
        tracing::debug!(key, why, "left out");
        self.left_out_count += 1;
        if self.left_out.len() < MAX_NAMED {
            self.left_out.push(LeftOut { key, why });
        }
    }
}

impl Report for Rebuilt {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for LeftOut { key, why } in &self.left_out {
            writeln!(out, "left out: {key}: {why}")?;
        }
        if self.left_out_count > self.left_out.len() as u64 {
            writeln!(out, "left out: {} more", self.left_out_count - self.left_out.len() as u64)?;
        }
        writeln!(out, "blobs          {} ({})", self.blobs, HumanBytes(self.bytes))?;
        for (what, count) in [
            ("spare copies", self.spare),
            ("manifests", self.manifests),
            ("links", self.links),
            ("tags", self.tags),
            ("twins", self.twins),
            ("lost twins", self.lost_twins),
            ("unconvertible", self.unconvertible),
            ("converted", self.converted),
            ("pins", self.pins),
            ("profiles", self.profiles),
            ("left out", self.left_out_count),
        ] {
            writeln!(out, "{what:<14} {count}")?;
        }
        writeln!(out, "the catalog {} is rebuilt", self.catalog)
    }
}

//! [`Row`]: one comparison.

mod clients;
mod conversion;
mod download;
mod files;
mod heads;
mod idle;
mod lazy;
mod memory;
mod pulls;
mod s3;
mod serving;
mod streams;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use e2e::{Node, Proxy, ProxyOptions, wait};

use crate::images::Images;
use crate::report::Report;
use crate::wire::Wire;

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// `firstlight convert` against `ctr-remote image convert --oci --estargz`.
    Conversion,
    /// The converter's memory on one very large file and on very many small ones.
    Memory,
    /// A cold download through the proxy against one straight from upstream.
    Download,
    /// 200 clients of one cold image.
    Clients,
    /// 20 pulls of one cold image at once against one.
    Pulls,
    /// Memory and start of an idle proxy.
    Idle,
    /// Ranges of a warm blob, and whole blobs, against nginx.
    Serving,
    /// The same from S3 with a warm disk cache, against the directory store.
    S3,
    /// Memory while 100 clients stream 1 GiB each.
    Streams,
    /// HEADs of a warm tag.
    Heads,
    /// A cold node that pulls and runs lazily.
    Lazy,
    /// Files of a lazy image against the same unpacked.
    Files,
}

impl Row {
    /// Returns what is compared, for people.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Conversion => "firstlight convert against ctr-remote image convert --oci --estargz",
            Self::Memory => "firstlight convert on one file of 6 GiB and on 1 000 000 files",
            Self::Download => "a cold download by digest, 20 ms and 500 Mbit/s away: through the proxy, and straight",
            Self::Clients => "200 clients of one cold image at once, 20 ms and 500 Mbit/s from upstream",
            Self::Pulls => "20 pulls of one cold image at once, against one",
            Self::Idle => "start, and memory before any request",
            Self::Serving => {
                "random ranges of 64 KiB and whole blobs of the directory store, 16 connections, against nginx"
            }
            Self::S3 => "the same from S3 with a warm disk cache, against the directory store",
            Self::Streams => "100 clients that stream 1 GiB each of a warm blob",
            Self::Heads => "HEADs of a warm tag, 16 connections, at 5 000 requests/s and without a pause",
            Self::Lazy => "pull and run on a cold node, 20 ms and 500 Mbit/s from a warm proxy",
            Self::Files => "files of a lazy image that is here, against overlayfs; a layer of 1 000 000 files",
        }
    }

    /// Measures, and adds what came out to the report.
    ///
    /// # Errors
    /// Something did not work; a bar that is missed is no error.
    pub(crate) fn run(self, images: &Images, quick: bool, report: &mut Report) -> Result<()> {
        match self {
            Self::Conversion => conversion::run(images, quick, report),
            Self::Memory => memory::run(images, report),
            Self::Download => download::run(images, quick, report),
            Self::Clients => clients::run(images, quick, report),
            Self::Pulls => pulls::run(images, quick, report),
            Self::Idle => idle::run(quick, report),
            Self::Serving => serving::run(images, quick, report),
            Self::S3 => s3::run(images, quick, report),
            Self::Streams => streams::run(images, report),
            Self::Heads => heads::run(images, quick, report),
            Self::Lazy => lazy::run(images, quick, report),
            Self::Files => files::run(images, quick, report),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded as a text is, so that it fits a column.
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Returns how often a pair is measured.
fn turns(quick: bool) -> usize {
    if quick { 1 } else { 3 }
}

/// Starts a proxy with an empty store at the near end of a wire, its converter on.
fn proxy_behind(wire: &Wire) -> Result<Proxy> {
    Proxy::start(&Node::Machine, ProxyOptions::new(wire.at()).view("estargz"))
}

/// Waits until a proxy has nothing to convert any more.
fn until_converted(proxy: &Proxy) -> Result<()> {
    wait::until("conversions to end", Duration::from_secs(300), || {
        Ok((proxy.metric("firstlight_conversions_running")? == 0.0).then_some(()))
    })
}

//! Ranges and whole blobs from S3, the disk cache warm, against the directory store.

use anyhow::Result;

use super::Row;
use super::serving::{Wanted, compare};
use crate::figure::Bar;
use crate::images::Images;
use crate::report::Report;
use crate::upstream::Upstream;
use crate::warm::{Store, Warm};

/// What is answered each second, by the directory store's.
const BY_DIRECTORY: Bar = Bar::AtLeast(0.7);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let image = images.python();
    let wanted = Wanted::of(&image)?;
    let upstream = Upstream::start(&[&image])?;
    let directory = Warm::start(Store::Directory, &upstream, &image, &wanted.layers())?;
    let s3 = Warm::start(Store::S3, &upstream, &image, &wanted.layers())?;
    let before = s3.bucket_reads()?;
    for load in wanted.loads(&image) {
        let figure = compare(&load, ("s3", s3.at()), ("directory", directory.at()), quick)?;
        report.add(Row::S3, figure.bar(BY_DIRECTORY));
    }
    report.note(Row::S3, format!("{} reads of the bucket meanwhile", s3.bucket_reads()? - before));
    Ok(())
}

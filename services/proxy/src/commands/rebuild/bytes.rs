//! The bytes: every blob and TOC is read, and recorded when it has the digest of its key.

use std::sync::Arc;

use api::{Digest, Hasher};
use blobstore::{BlobKey, Listed, OpenBlob, StoreError};
use catalog::BlobRow;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Rebuild, Rebuilt};

/// Keys listed at a time.
const PAGE: usize = 1000;
/// How much of a blob is read at once.
const BUFFER: usize = 4 << 20;

/// All keys of one digest with their sizes: usually one.
pub(super) type Copies = Vec<(BlobKey, u64)>;

/// What came of looking at the copies of one digest.
#[derive(Debug)]
pub(super) struct Looked {
    /// The size of the right copy, if there is one.
    right: Option<u64>,
    /// The copies that were not looked at, because one before was right.
    spare: u64,
    /// The copies that were not right, and why.
    wrong: Vec<(BlobKey, String)>,
}

impl Rebuild {
    /// Records every digest that the store has right bytes of.
    pub(super) async fn bytes(&self, report: &mut Rebuilt) -> anyhow::Result<()> {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut page, mut rest) = (Vec::new(), Copies::new());
        loop {
            let is_last = self.next_page(&mut page, &mut rest).await?;
            let looked = stream::iter(std::mem::take(&mut page)).map(|copies| self.look(copies));
            let mut looked = looked.buffer_unordered(at_once);
            while let Some(Looked { right, spare, wrong }) = looked.try_next().await? {
                report.blobs += u64::from(right.is_some());
                report.bytes += right.unwrap_or_default();
                report.spare += spare;
                wrong.iter().for_each(|(key, why)| report.leave_out(key, why));
                self.progress.blobs(report.blobs, report.bytes);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Lists a page of keys and adds to `page` the digests of which all keys are listed now; `rest` keeps the others.
    /// Tells whether it was the last page.
    async fn next_page(&self, page: &mut Vec<Copies>, rest: &mut Copies) -> anyhow::Result<bool> {
        let after = rest.last().map(|(key, _)| key.clone());
        let listed = self.store.list(after.as_ref(), PAGE).await?;
        let is_last = listed.is_empty();
        for Listed { key, size, .. } in listed {
            // Keys of a digest are neighbours. A TOC that is a blob too is one digest after the other.
            if rest.last().is_some_and(|(last, _)| last.digest() != key.digest()) {
                page.push(std::mem::take(rest));
            }
            rest.push((key, size));
        }
        if is_last && !rest.is_empty() {
            page.push(std::mem::take(rest));
        }
        Ok(is_last)
    }

    /// Records the first right one of the copies of a digest.
    pub(super) async fn look(&self, copies: Copies) -> anyhow::Result<Looked> {
        let mut wrong = Vec::new();
        let count = copies.len();
        if let Some((key, _)) = copies.first() {
            self.lose_absent(key.digest(), &copies).await?;
        }
        for (nth, (key, size)) in copies.into_iter().enumerate() {
            let spare = u64::try_from(count - nth - 1).unwrap_or(u64::MAX);
            // Of an earlier run, or a row that was there before.
            if let Some(row) = self.catalog.blob(key.digest()).await? {
                let spare = if row.key == key.to_string() { spare } else { spare + 1 };
                return Ok(Looked { right: Some(row.size), spare, wrong });
            }
            match self.check(&key, size).await? {
                None => {
                    let row = BlobRow { digest: key.digest().clone(), size, key: key.to_string() };
                    self.catalog.add_blob(&row, &[]).await?;
                    return Ok(Looked { right: Some(size), spare, wrong });
                }
                Some(why) => wrong.push((key, why)),
            }
        }
        Ok(Looked { right: None, spare: 0, wrong })
    }

    /// Empties a row that was there before and names none of the `copies` of its digest, nor anything else that is there:
    /// an older backup does. What was stored since the listing is no copy and there.
    async fn lose_absent(&self, digest: &Digest, copies: &Copies) -> anyhow::Result<()> {
        if let Some(row) = self.catalog.blob(digest).await?
            && !copies.iter().any(|(key, _)| key.to_string() == row.key)
            && !self.is_there(&row).await?
        {
            self.catalog.lose_blob(digest, &row.key).await?;
        }
        Ok(())
    }

    async fn is_there(&self, row: &BlobRow) -> anyhow::Result<bool> {
        match self.store.open(&row.key.parse()?).await {
            Ok(blob) => Ok(blob.size() == row.size),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the bytes of `key` and returns what is wrong with them, if anything.
    async fn check(&self, key: &BlobKey, size: u64) -> anyhow::Result<Option<String>> {
        let found = match self.store.open(key).await {
            Ok(blob) if blob.size() != size => return Ok(Some("its size changed while it was read".to_owned())),
            Ok(blob) => digest_of(blob, key.digest()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) if found == *key.digest() => Ok(None),
            Ok(found) => Ok(Some(format!("its bytes have the digest {found}"))),
            // What another time will be no better is this file's own fault.
            Err(error @ (StoreError::NotFound { .. } | StoreError::Truncated { .. })) => Ok(Some(error.to_string())),
            Err(error @ StoreError::Io { .. }) if !error.is_transient() => {
                Ok(Some(format!("{:#}", anyhow::Error::new(error))))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the digest that a blob's bytes have, by the algorithm of `expected`.
async fn digest_of(blob: Arc<dyn OpenBlob>, expected: &Digest) -> Result<Digest, StoreError> {
    let mut hasher = Hasher::new(expected.algorithm());
    telemetry::blocking(move || {
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        loop {
            let count = blob.read_blocking(&mut buffer, offset)?;
            if count == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
    })
    .await
}

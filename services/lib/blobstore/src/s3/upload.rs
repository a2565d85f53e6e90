//! How bytes get into the bucket: in one request, or large files in parts.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{Algorithm, Digest};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::blob::S3Blob;
use super::bucket::Bucket;
use super::error::refusal;
use crate::error::Cause;
use crate::{BlobKey, StoreError};

/// The size of a part, and of the largest file that goes in one request.
const PART: u64 = 16 << 20;
/// The most parts that S3 allows in an upload.
const MAX_PARTS: u64 = 10_000;
/// How many parts of a file are sent at once.
const PARTS_AT_ONCE: usize = 4;
/// How much of a file is read at once, for each part that is being sent.
const BUFFER: usize = 256 << 10;
/// How long taking an upload away may take before that is left to the sweep.
const ABORT: Duration = Duration::from_secs(30);

/// Stores the file at `path`, which holds `size` bytes, under `key`.
pub(super) async fn put_file(bucket: &Arc<Bucket>, key: &BlobKey, path: &Path, size: u64) -> Result<(), StoreError> {
    if size <= PART {
        return put_whole(bucket, key, range_of(path, 0..size).await?).await;
    }
    let upload = Upload::begin(bucket, key).await?;
    let parts = stream::iter((1..).zip(parts(size)))
        .map(|(number, range)| upload.send(number, path, range))
        .buffer_unordered(PARTS_AT_ONCE)
        .try_collect::<Vec<_>>();
    let mut parts = parts.await?;
    parts.sort_unstable_by_key(CompletedPart::part_number);
    upload.complete(parts, size).await
}

/// Stores `body` under `key` in one request. The service checks it against the key's digest, where that is a SHA-256,
/// and else against the checksum that the client makes on the way.
pub(super) async fn put_whole(bucket: &Bucket, key: &BlobKey, body: ByteStream) -> Result<(), StoreError> {
    let put = bucket.client.put_object().bucket(&bucket.name).key(bucket.object(key));
    let put = put.set_checksum_sha256(checksum(key.digest())).body(body);
    put.send().await.map(drop).map_err(|error| refusal("put", bucket.place(key), error))
}

/// Returns the ranges of the parts of a file of `size` bytes: all of one size, whole MiB, but for the last.
fn parts(size: u64) -> impl Iterator<Item = Range<u64>> {
    let part = size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20).max(PART);
    (0..size.div_ceil(part)).map(move |n| n * part..size.min((n + 1) * part))
}

fn checksum(digest: &Digest) -> Option<String> {
    match digest.algorithm() {
        Algorithm::Sha256 => hex::decode(digest.hex()).ok().map(|hash| BASE64_STANDARD.encode(hash)),
        Algorithm::Sha512 => None,
    }
}

/// Returns a range of a file, to be read as it is sent.
async fn range_of(path: &Path, range: Range<u64>) -> Result<ByteStream, StoreError> {
    if range.is_empty() {
        return Ok(Bytes::new().into());
    }
    let body = ByteStream::read_from().path(path).buffer_size(BUFFER).offset(range.start);
    let body = body.length(Length::Exact(range.end - range.start)).build().await;
    body.map_err(|error| StoreError::io("read", path, std::io::Error::other(error)))
}

/// An upload in parts. Nothing of it is visible before it is completed; dropped before that, it is taken away.
#[derive(Debug)]
struct Upload {
    bucket: Arc<Bucket>,
    key: BlobKey,
    id: String,
    is_over: bool,
}

impl Upload {
    async fn begin(bucket: &Arc<Bucket>, key: &BlobKey) -> Result<Self, StoreError> {
        let begin = bucket.client.create_multipart_upload().bucket(&bucket.name).key(bucket.object(key));
        let begun = begin.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
        let begun = begun.map_err(|error| refusal("begin to put", bucket.place(key), error))?;
        let id = begun.upload_id.ok_or_else(|| StoreError::Unavailable {
            action: "begin to put",
            place: bucket.place(key),
            source: Cause::new("the service named no upload"),
        })?;
        Ok(Self { bucket: Arc::clone(bucket), key: key.clone(), id, is_over: false })
    }

    /// Sends one part. The service checks it against a checksum that follows it.
    async fn send(&self, number: i32, path: &Path, range: Range<u64>) -> Result<CompletedPart, StoreError> {
        let bucket = &self.bucket;
        let part = bucket.client.upload_part().bucket(&bucket.name).key(bucket.object(&self.key)).upload_id(&self.id);
        let part = part.part_number(number).checksum_algorithm(ChecksumAlgorithm::Crc32);
        let sent = part.body(range_of(path, range).await?).send().await;
        let sent = sent.map_err(|error| refusal("put a part of", bucket.place(&self.key), error))?;
        let part = CompletedPart::builder().part_number(number);
        Ok(part.set_e_tag(sent.e_tag).set_checksum_crc32(sent.checksum_crc32).build())
    }

    /// Makes the object of `size` bytes visible.
    async fn complete(mut self, parts: Vec<CompletedPart>, size: u64) -> Result<(), StoreError> {
        let bucket = Arc::clone(&self.bucket);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = bucket.client.complete_multipart_upload().bucket(&bucket.name).key(bucket.object(&self.key));
        let completed = complete.upload_id(&self.id).multipart_upload(parts).send().await;
        let Err(error) = completed else {
            self.is_over = true;
            return Ok(());
        };
        // A repeated request finds the upload gone when the first one was heard but its answer was lost.
        if error.code() == Some("NoSuchUpload")
            && S3Blob::open(&bucket, &self.key).await.is_ok_and(|blob| blob.has_size(size))
        {
            self.is_over = true;
            return Ok(());
        }
        Err(refusal("finish putting", bucket.place(&self.key), error))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // With too many of them at once, and with what fails here, the sweep deals.
        let Ok(permit) = Arc::clone(&self.bucket.aborts).try_acquire_owned() else { return };
        let abort = self.bucket.client.abort_multipart_upload().bucket(&self.bucket.name);
        let abort = abort.key(self.bucket.object(&self.key)).upload_id(&self.id);
        self.bucket.runtime.spawn(async move {
            let _ = tokio::time::timeout(ABORT, abort.send()).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file_and_are_never_too_many() {
        for size in [PART + 1, 3 * PART, 3 * PART + 1, PART * MAX_PARTS, PART * MAX_PARTS + 1, 48 << 40] {
            let ranges: Vec<_> = parts(size).collect();
            assert!(ranges.len() as u64 <= MAX_PARTS, "{size}: {} parts", ranges.len());
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{size}");
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, size));
            let (last, whole) = ranges.split_last().unwrap();
            assert!(whole.iter().all(|range| range.end - range.start >= PART), "{size}");
            assert!(!last.is_empty(), "{size}");
        }
    }

    #[test]
    fn a_checksum_is_the_digest_in_base64() {
        let digest = Digest::of(b"");
        assert_eq!(checksum(&digest).as_deref(), Some("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
        assert_eq!(checksum(&Digest::from_sha512(&[0; 64])), None);
    }
}

//! Takes away uploads that nobody will finish.

use std::time::{Duration, SystemTime};

use api::Digest;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::MultipartUpload;

use super::bucket::Bucket;
use super::error::{refusal, status};
use crate::{BlobKey, StoreError};

/// Aborts the uploads of our keys that began longer than `older_than` ago, and returns how many there were. The
/// service's clock says when they began, this machine's what time it is.
pub(super) async fn sweep(bucket: &Bucket, older_than: Duration) -> Result<usize, StoreError> {
    // Since the beginning of time: then nothing is as old as that.
    let before = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    let is_old = |upload: &MultipartUpload| {
        upload.initiated().and_then(|begun| SystemTime::try_from(*begun).ok()).is_some_and(|begun| begun <= before)
    };
    abort_all(bucket, &bucket.prefix, is_old).await
}

/// Aborts all uploads of blobs with `digest`, and returns how many there were.
pub(super) async fn sweep_of(bucket: &Bucket, digest: &Digest) -> Result<usize, StoreError> {
    abort_all(bucket, &format!("{}{}", bucket.prefix, BlobKey::blob_prefix(digest)), |_| true).await
}

async fn abort_all(
    bucket: &Bucket,
    prefix: &str,
    is_due: impl Fn(&MultipartUpload) -> bool,
) -> Result<usize, StoreError> {
    let mut swept = 0;
    let mut marker = (None, None);
    loop {
        let list = bucket.client.list_multipart_uploads().bucket(&bucket.name).prefix(prefix);
        let answer = list.set_key_marker(marker.0).set_upload_id_marker(marker.1).send().await;
        let place = || format!("s3://{}/{prefix}", bucket.name);
        let answer = answer.map_err(|error| refusal("list the uploads of", place(), error))?;
        for upload in answer.uploads() {
            if is_due(upload) && abort(bucket, upload).await? {
                swept += 1;
            }
        }
        marker = (answer.next_key_marker, answer.next_upload_id_marker);
        if answer.is_truncated != Some(true) || marker.0.is_none() {
            return Ok(swept);
        }
    }
}

/// Aborts an upload if it is for one of our keys, and returns whether it was there to be aborted.
async fn abort(bucket: &Bucket, upload: &MultipartUpload) -> Result<bool, StoreError> {
    let (Some(object), Some(id)) = (upload.key(), upload.upload_id()) else { return Ok(false) };
    let Some(key) = bucket.key(object) else { return Ok(false) };
    let aborted = bucket.client.abort_multipart_upload().bucket(&bucket.name).key(object).upload_id(id).send().await;
    match aborted {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("NoSuchUpload") || status(&error) == Some(404) => Ok(false),
        Err(error) => Err(refusal("take away an upload of", bucket.place(&key), error)),
    }
}

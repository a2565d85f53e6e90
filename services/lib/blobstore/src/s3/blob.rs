//! [`S3Blob`]: an open object.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;

use super::bucket::Bucket;
use super::error::{refusal, status};
use crate::bridge::wait_for;
use crate::error::Cause;
use crate::local::clamp;
use crate::{BlobKey, OpenBlob, StoreError};

/// How often a body that broke off is asked for, and the pause before the second time; it doubles.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How long a body may take: this, and a second for each MiB.
const BODY: Duration = Duration::from_secs(30);

/// An object as it was when it was opened; if it is replaced meanwhile, reads fail.
#[derive(Debug, Clone)]
pub(super) struct S3Blob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bucket: Arc<Bucket>,
    key: BlobKey,
    size: u64,
    etag: Option<String>,
}

impl S3Blob {
    pub(super) async fn open(bucket: &Arc<Bucket>, key: &BlobKey) -> Result<Self, StoreError> {
        let head = bucket.client.head_object().bucket(&bucket.name).key(bucket.object(key)).send().await;
        let head = match head {
            Ok(head) => head,
            Err(error) if status(&error) == Some(404) => {
                // The answer is the same when there is no bucket, and then the bytes may well be somewhere.
                bucket.check().await?;
                return Err(StoreError::NotFound { key: key.clone() });
            }
            Err(error) => return Err(refusal("open", bucket.place(key), error)),
        };
        let size = head.content_length.and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| unexpected("open", bucket.place(key), "the answer has no length".into()))?;
        Ok(Self { inner: Arc::new(Inner { bucket: Arc::clone(bucket), key: key.clone(), size, etag: head.e_tag }) })
    }

    pub(super) fn has_size(&self, size: u64) -> bool {
        self.inner.size == size
    }

    /// Reads `len` bytes at `offset`, which lie in the object. Asks again when a body breaks off.
    async fn fetch(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let limit = BODY + Duration::from_secs(len as u64 >> 20);
        let (mut attempt, mut pause) = (1, PAUSE);
        loop {
            let output = self.ask(offset, len).await?;
            let broke = match tokio::time::timeout(limit, collect(output, len)).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(cause)) => cause,
                Err(_) => Cause::new(format!("{len} bytes did not arrive within {limit:?}")),
            };
            if attempt == ATTEMPTS {
                let place = self.inner.bucket.place(&self.inner.key);
                return Err(StoreError::Unavailable { action: "read", place, source: broke });
            }
            tokio::time::sleep(pause).await;
            (attempt, pause) = (attempt + 1, pause * 2);
        }
    }

    async fn ask(&self, offset: u64, len: usize) -> Result<GetObjectOutput, StoreError> {
        let Inner { bucket, key, etag, .. } = &*self.inner;
        let last = offset + len as u64 - 1;
        let get = bucket.client.get_object().bucket(&bucket.name).key(bucket.object(key));
        let answer = get.set_if_match(etag.clone()).range(format!("bytes={offset}-{last}")).send().await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.code() == Some("NoSuchKey") => return Err(StoreError::NotFound { key: key.clone() }),
            Err(error) => return Err(refusal("read", bucket.place(key), error)),
        };
        let range = answer.content_range.as_deref().unwrap_or("none");
        if !range.starts_with(&format!("bytes {offset}-{last}/")) {
            let problem = format!("asked for bytes {offset}-{last}, the answer's range is {range}");
            return Err(unexpected("read", bucket.place(key), problem));
        }
        Ok(answer)
    }
}

/// Returns the body, which must be `len` bytes.
async fn collect(mut output: GetObjectOutput, len: usize) -> Result<Bytes, Cause> {
    let mut bytes = Vec::with_capacity(len);
    while let Some(piece) = output.body.next().await {
        let piece = piece.map_err(|error| Cause::of(&error))?;
        if piece.len() > len - bytes.len() {
            return Err(Cause::new(format!("the body has more than {len} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() < len {
        return Err(Cause::new(format!("the body ended after {} of {len} bytes", bytes.len())));
    }
    Ok(bytes.into())
}

fn unexpected(action: &'static str, place: String, problem: String) -> StoreError {
    let advice = "the service does not speak S3 as it should; is storage.endpoint right?";
    StoreError::Refused { action, place, advice, source: Cause::new(problem) }
}

#[async_trait]
impl OpenBlob for S3Blob {
    fn size(&self) -> u64 {
        self.inner.size
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        match clamp(self.inner.size, offset, len) {
            0 => Ok(Bytes::new()),
            len => self.fetch(offset, len).await,
        }
    }

    fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let (blob, len) = (self.clone(), buf.len());
        let bytes = wait_for(&self.inner.bucket.runtime, async move { blob.read(offset, len).await })?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn local_file(&self) -> Option<&File> {
        None
    }
}

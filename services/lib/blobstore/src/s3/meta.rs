//! Meta objects in a bucket: each a small object under its key.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::Object;
use bytes::Bytes;

use super::bucket::Bucket;
use super::error::refusal;
use super::list::pages;
use crate::error::Cause;
use crate::{MAX_META, MetaKey, MetaKind, StoreError};

/// Replaces the object of `key`, in one request: an object is replaced whole or not at all.
pub(super) async fn put(bucket: &Bucket, key: &MetaKey, bytes: Bytes) -> Result<(), StoreError> {
    let put = bucket.client.put_object().bucket(&bucket.name).key(object(bucket, key)).body(bytes.into());
    put.send().await.map(drop).map_err(|error| refusal("put", place(bucket, key), error))
}

pub(super) async fn read(bucket: &Bucket, key: &MetaKey) -> Result<Option<Bytes>, StoreError> {
    let get = bucket.client.get_object().bucket(&bucket.name).key(object(bucket, key)).send().await;
    let answer = match get {
        Ok(answer) => answer,
        Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
        Err(error) => return Err(refusal("read", place(bucket, key), error)),
    };
    if answer.content_length.is_none_or(|size| usize::try_from(size).is_ok_and(|size| size > MAX_META)) {
        return Err(StoreError::MetaTooLarge { key: key.clone() });
    }
    let body = answer.body.collect().await.map_err(|error| StoreError::Unavailable {
        action: "read",
        place: place(bucket, key),
        source: Cause::of(&error),
    })?;
    Ok(Some(body.into_bytes()))
}

pub(super) async fn delete(bucket: &Bucket, key: &MetaKey) -> Result<(), StoreError> {
    let deleted = bucket.client.delete_object().bucket(&bucket.name).key(object(bucket, key)).send().await;
    deleted.map(drop).map_err(|error| refusal("delete", place(bucket, key), error))
}

/// Returns up to `limit` keys after `after`. Objects that are not named by a key are passed over: they are not ours.
pub(super) async fn list(bucket: &Bucket, after: Option<&MetaKey>, limit: usize) -> Result<Vec<MetaKey>, StoreError> {
    let folders = MetaKind::ALL.map(MetaKind::folder);
    let parse = |name: &str, _object: &Object| MetaKey::parse(name).ok();
    pages(bucket, &folders, after.map(MetaKey::to_string), limit, parse).await
}

fn object(bucket: &Bucket, key: &MetaKey) -> String {
    format!("{}{key}", bucket.prefix)
}

fn place(bucket: &Bucket, key: &MetaKey) -> String {
    format!("s3://{}/{}", bucket.name, object(bucket, key))
}

//! Deleting objects, one or many.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::bucket::Bucket;
use super::error::{refusal, refusal_of_one};
use crate::error::Cause;
use crate::{BlobKey, StoreError};

/// The most objects that S3 deletes in one request.
const BATCH: usize = 1000;

pub(super) async fn delete(bucket: &Bucket, key: &BlobKey) -> Result<(), StoreError> {
    let deleted = bucket.client.delete_object().bucket(&bucket.name).key(bucket.object(key)).send().await;
    deleted.map(drop).map_err(|error| refusal("delete", bucket.place(key), error))
}

pub(super) async fn delete_many(bucket: &Bucket, keys: &[BlobKey]) -> Result<(), StoreError> {
    for batch in keys.chunks(BATCH) {
        delete_batch(bucket, batch).await?;
    }
    Ok(())
}

async fn delete_batch(bucket: &Bucket, keys: &[BlobKey]) -> Result<(), StoreError> {
    const ACTION: &str = "delete objects of";
    let place = || format!("s3://{}/{}", bucket.name, bucket.prefix);
    let unbuildable = |error: aws_sdk_s3::error::BuildError| StoreError::Refused {
        action: ACTION,
        place: place(),
        advice: "this is a fault of the program",
        source: Cause::of(&error),
    };
    let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(bucket.object(key)).build());
    let objects: Vec<_> = objects.collect::<Result<_, _>>().map_err(unbuildable)?;
    let batch = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(unbuildable)?;
    let answer = bucket.client.delete_objects().bucket(&bucket.name).delete(batch).send().await;
    let answer = answer.map_err(|error| refusal(ACTION, place(), error))?;
    let failed = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey"));
    failed.map_or(Ok(()), |error| {
        let place = format!("s3://{}/{}", bucket.name, error.key().unwrap_or_default());
        let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
        Err(refusal_of_one("delete", place, code, message))
    })
}

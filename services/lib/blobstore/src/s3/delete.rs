//! Deleting objects, one or many.

use aws_sdk_s3::types::{Delete, Error, ObjectIdentifier};

use super::bucket::Bucket;
use super::error::{refusal, refusal_of_one};
use crate::error::Cause;
use crate::{BlobKey, Refusal, StoreError};

/// The most objects that S3 deletes in one request.
const BATCH: usize = 1000;

pub(super) async fn delete(bucket: &Bucket, key: &BlobKey) -> Result<(), StoreError> {
    let deleted = bucket.client.delete_object().bucket(&bucket.name).key(bucket.object(key)).send().await;
    deleted.map(drop).map_err(|error| refusal("delete", bucket.place(key), error))
}

pub(super) async fn delete_many(bucket: &Bucket, keys: &[BlobKey]) -> Result<Vec<Refusal>, StoreError> {
    let mut refused = Vec::new();
    for batch in keys.chunks(BATCH) {
        refused.extend(delete_batch(bucket, batch).await?);
    }
    Ok(refused)
}

async fn delete_batch(bucket: &Bucket, keys: &[BlobKey]) -> Result<Vec<Refusal>, StoreError> {
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
    let failed = answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
    failed.map(|error| refused(bucket, error)).collect()
}

/// Returns which key an error of the answer is about; one that is about none of ours is the whole request's.
fn refused(bucket: &Bucket, error: &Error) -> Result<Refusal, StoreError> {
    let name = error.key().unwrap_or_default();
    let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
    let error = refusal_of_one("delete", format!("s3://{}/{name}", bucket.name), code, message);
    match bucket.key(name) {
        Some(key) => Ok(Refusal { key, error }),
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use api::Digest;

    use super::*;
    use crate::Generation;
    use crate::s3::tests::store;

    /// S3 answers that a request went well and names in it each key that it refused.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_refused_key_is_told_from_a_refused_request() {
        let bucket = store("refused-keys").await.bucket;
        let key = BlobKey::blob(&Digest::of(b"refused"), Generation::random());
        let about = |name: String| Error::builder().key(name).code("AccessDenied").message("Access Denied").build();
        let refusal = refused(&bucket, &about(bucket.object(&key))).unwrap();
        assert_eq!(refusal.key, key);
        assert!(matches!(refusal.error, StoreError::Refused { .. }), "{:?}", refusal.error);
        assert!(refused(&bucket, &about("nothing of ours".into())).is_err());
    }
}

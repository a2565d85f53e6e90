//! Lists the keys of a bucket in the order of their texts.

use super::bucket::Bucket;
use super::error::refusal;
use crate::{BlobKey, StoreError};

/// The most objects that S3 lists in one answer.
const PAGE: usize = 1000;

/// Returns up to `limit` keys after `after` with their sizes. Objects that are not named by a key are passed over:
/// they are not ours.
pub(super) async fn list(
    bucket: &Bucket,
    after: Option<&BlobKey>,
    limit: usize,
) -> Result<Vec<(BlobKey, u64)>, StoreError> {
    let mut found = Vec::new();
    let mut start = after.map(|key| bucket.object(key));
    while found.len() < limit {
        let page = i32::try_from((limit - found.len()).min(PAGE)).unwrap_or(i32::MAX);
        let list = bucket.client.list_objects_v2().bucket(&bucket.name).prefix(&bucket.prefix);
        let answer = list.set_start_after(start).max_keys(page).send().await;
        let place = || format!("s3://{}/{}", bucket.name, bucket.prefix);
        let answer = answer.map_err(|error| refusal("list", place(), error))?;
        for object in answer.contents() {
            let key = object.key().and_then(|name| bucket.key(name));
            let size = object.size().and_then(|size| u64::try_from(size).ok());
            found.extend(key.zip(size));
        }
        let last = answer.contents().last().and_then(|object| object.key());
        match last {
            Some(last) if answer.is_truncated() == Some(true) => start = Some(last.to_owned()),
            _ => break,
        }
    }
    Ok(found)
}

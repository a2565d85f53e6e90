//! Lists the keys of a bucket in the order of their texts.

use std::time::SystemTime;

use aws_sdk_s3::types::Object;

use super::bucket::Bucket;
use super::error::refusal;
use crate::key::Kind;
use crate::{BlobKey, Listed, StoreError};

/// The most objects that S3 lists in one answer.
const PAGE: usize = 1000;

/// Returns up to `limit` keys after `after`. Objects that are not named by a key are passed over:
/// they are not ours.
pub(super) async fn list(bucket: &Bucket, after: Option<&BlobKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let folders = Kind::ALL.map(Kind::folder);
    let parse = |name: &str, object: &Object| {
        let size = object.size().and_then(|size| u64::try_from(size).ok())?;
        let put_at = object.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
        // A service that does not say when has not said that it is old.
        Some(Listed { key: BlobKey::parse(name).ok()?, size, put_at: put_at.unwrap_or_else(SystemTime::now) })
    };
    pages(bucket, &folders, after.map(BlobKey::to_string), limit, parse).await
}

/// Returns up to `limit` of what `parse` makes of the names of objects in `folders`, which are in order, from
/// the first name after `after` on. What else the bucket holds is not looked at.
pub(super) async fn pages<T>(
    bucket: &Bucket,
    folders: &[&str],
    after: Option<String>,
    limit: usize,
    parse: impl Fn(&str, &Object) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    for folder in folders {
        let prefix = format!("{folder}/");
        let mut start = match &after {
            Some(after) if after.starts_with(&prefix) => Some(format!("{}{after}", bucket.prefix)),
            Some(after) if *after > prefix => continue,
            Some(_) | None => None,
        };
        while found.len() < limit {
            let page = i32::try_from((limit - found.len()).min(PAGE)).unwrap_or(i32::MAX);
            let within = format!("{}{prefix}", bucket.prefix);
            let list = bucket.client.list_objects_v2().bucket(&bucket.name).prefix(&within);
            let answer = list.set_start_after(start).max_keys(page).send().await;
            let place = || format!("s3://{}/{within}", bucket.name);
            let answer = answer.map_err(|error| refusal("list", place(), error))?;
            for object in answer.contents() {
                let name = object.key().and_then(|name| name.strip_prefix(&bucket.prefix));
                found.extend(name.and_then(|name| parse(name, object)));
            }
            let last = answer.contents().last().and_then(|object| object.key());
            match last {
                Some(last) if answer.is_truncated() == Some(true) => start = Some(last.to_owned()),
                _ => break,
            }
        }
    }
    Ok(found)
}

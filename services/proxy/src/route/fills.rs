//! `GET /fills/<upstream>/v2/<ask>/blobs/<digest>` on `server.internal_listen`: the bytes of a fill that this process
//! does, for another process of the fleet.
//!
//! The bytes of a running fill are not verified yet: who asks verifies them, and asks only for blobs that a client may
//! read ([`crate::fill`]).

use std::sync::Arc;

use api::{Digest, ErrorCode};
use axum::body::Body;
use axum::extract::{Path, State};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::blob::select;
use crate::app::App;
use crate::body::BlobBody;
use crate::error::{RegistryError, Subject};
use crate::fill::{FillReader, Joined};
use crate::fleet::{Ask, Secret};
use crate::metrics::Reader;
use crate::range::Selection;

/// Answers another process of the fleet.
pub(crate) async fn fill(
    State((app, secret)): State<(Arc<App>, Secret)>,
    Path((upstream, ask, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    if !secret.is_known_by(&headers) {
        return stranger();
    }
    answer(&app, &upstream, &ask, &digest, &headers).await.unwrap_or_else(RegistryError::into_answer)
}

async fn answer(
    app: &App,
    upstream: &str,
    ask: &str,
    digest: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let no_path = || RegistryError::unknown(Subject::Blob, "no such way to ask for a fill");
    let ask = Ask::parse(ask).ok_or_else(no_path)?;
    let digest = Digest::parse(digest).map_err(|_| no_path())?;
    let selection = |size| match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) => Selection::parse(range, size),
        None => Selection::Whole,
    };
    match app.blobs.fills().shared(upstream, &digest, ask).await {
        Ok(Some(Joined::Running(fill))) => {
            let size = fill.size();
            select(app, Reader::Replica, &digest, size, selection(size), |rest| {
                BlobBody::Filling(FillReader::for_peer(Arc::clone(&fill), rest, ask == Ask::Now))
            })
        }
        // It may have ended between the question and now. What is stored because of another upstream is not this one's.
        Ok(Some(Joined::Stored(_)) | None) if app.catalog.is_linked_in_upstream(upstream, &digest).await? => {
            match app.blobs.stored(&digest).await? {
                Some(blob) => {
                    let size = blob.size();
                    select(app, Reader::Replica, &digest, size, selection(size), |rest| BlobBody::Stored {
                        blob: Arc::clone(&blob),
                        rest,
                    })
                }
                None => Err(not_filled()),
            }
        }
        Ok(Some(Joined::Stored(_)) | None) => Err(not_filled()),
        Err(error) => Err(RegistryError::fill(&error, Subject::Blob)),
    }
}

fn not_filled() -> RegistryError {
    RegistryError::unknown(Subject::Blob, "this replica does not fill it")
}

/// Returns the answer to who does not know the secret.
fn stranger() -> Response<Body> {
    let message = "this listener is for the replicas of one fleet; they share server.internal_secret_file";
    let mut answer = RegistryError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message).into_answer();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"replicas\""));
    answer
}

#[cfg(test)]
mod tests {
    use api::Repository;
    use blobstore::{BlobKey, BlobStore, FsStore, Generation};
    use bytes::Bytes;
    use catalog::BlobRow;

    use super::*;
    use crate::config::Config;

    /// What is stored because one upstream gave it is not given for another one.
    #[tokio::test]
    async fn what_is_stored_is_its_upstreams() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display().to_string();
        let config = Config::load(None, [("FIRSTLIGHT_STORAGE_PATH".to_owned(), root)].into_iter()).unwrap();
        let app = App::open(config).await.unwrap();
        let bytes = Bytes::from_static(b"a blob");
        let digest = Digest::of(&bytes);
        let key = BlobKey::blob(&digest, Generation::random());
        FsStore::open(folder.path()).unwrap().put_bytes(&key, bytes.clone()).await.unwrap();
        let row = BlobRow { digest: digest.clone(), size: bytes.len() as u64, key: key.to_string() };
        let home = Repository::parse("docker.io/library/a").unwrap();
        app.catalog.add_blob(&row, &[&home]).await.unwrap();
        let status = async |upstream: &str| {
            let answered = answer(&app, upstream, "now", &digest.to_string(), &HeaderMap::new()).await;
            answered.unwrap_or_else(RegistryError::into_answer).status()
        };
        assert_eq!(status("docker.io").await, StatusCode::OK);
        assert_eq!(status("ghcr.io").await, StatusCode::NOT_FOUND);
    }
}

//! `GET /v2/<name>/referrers/<digest>`, with the fallback tag for upstreams without the API
//! (distribution-spec, "Listing Referrers").

use std::sync::Arc;

use api::{Digest, MediaType, Reference, Tag};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};
use serde_json::{Value, json};
use upstream::{Referrers, UpstreamError};

use crate::app::App;
use crate::error::{RegistryError, Subject};
use crate::remotes::Target;
use crate::route::Query;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Answers a referrers request. A digest nobody refers to, and one made here, have an empty list.
pub(crate) async fn answer(
    app: &Arc<App>,
    target: &Target,
    digest: &Digest,
    query: &Query,
) -> Result<Response<Body>, RegistryError> {
    let artifact_type = query.get("artifactType");
    if app.catalog.source_of_converted(digest).await?.is_some() {
        return Ok(respond(&empty(), artifact_type));
    }
    let index = fetch(target, digest, artifact_type)
        .await
        .map_err(|error| RegistryError::upstream(&error, Subject::Repository))?;
    Ok(respond(&index, artifact_type))
}

async fn fetch(target: &Target, digest: &Digest, artifact_type: Option<&str>) -> Result<Value, UpstreamError> {
    let client = &target.remote.client;
    match client.referrers(target.repository.name(), digest, artifact_type).await? {
        Referrers::Index { pages, cut, .. } => {
            if let Some(why) = cut {
                tracing::warn!(
                    manifest.digest = %digest, repo.name = %target.repository, reason = why, pages = pages.len(),
                    "a list of referrers was cut off"
                );
            }
            merge(&pages)
        }
        Referrers::NotSupported => fallback(target, digest).await,
    }
}

/// Reads the tag `sha256-HEX` that clients of older registries keep the list under.
async fn fallback(target: &Target, digest: &Digest) -> Result<Value, UpstreamError> {
    let text = format!("{}-{}", digest.algorithm().name(), digest.hex());
    let Ok(tag) = Tag::parse(&text) else { return Ok(empty()) };
    let client = &target.remote.client;
    match client.manifest(target.repository.name(), &Reference::Tag(tag)).await {
        Ok(answer) if answer.media_type == MediaType::OciIndex => parse(&answer.bytes),
        Ok(_) | Err(UpstreamError::NotFound | UpstreamError::Denied { .. }) => Ok(empty()),
        Err(error) => Err(error),
    }
}

/// Returns one index with the entries of all `pages`.
fn merge(pages: &[Bytes]) -> Result<Value, UpstreamError> {
    let mut all = empty();
    for page in pages {
        let mut page = parse(page)?;
        if let (Some(all), Some(more)) = (all["manifests"].as_array_mut(), page["manifests"].as_array_mut()) {
            all.append(more);
        }
    }
    Ok(all)
}

fn parse(bytes: &Bytes) -> Result<Value, UpstreamError> {
    let index: Value = serde_json::from_slice(bytes)
        .map_err(|error| UpstreamError::Protocol { what: format!("the referrers list is not JSON: {error}") })?;
    if index.get("manifests").is_some_and(Value::is_array) {
        Ok(index)
    } else {
        Err(UpstreamError::Protocol { what: "the referrers list has no manifests".into() })
    }
}

fn empty() -> Value {
    json!({ "schemaVersion": 2, "mediaType": MediaType::OciIndex.as_str(), "manifests": [] })
}

/// Filters by artifact type here, whatever the upstream did, so that the header below is true.
fn respond(index: &Value, artifact_type: Option<&str>) -> Response<Body> {
    let mut manifests = index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(wanted) = artifact_type {
        manifests.retain(|entry| entry.get("artifactType").and_then(Value::as_str) == Some(wanted));
    }
    let body = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OciIndex.as_str(),
        "manifests": manifests,
    });
    let mut answer = Response::new(Body::from(body.to_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.oci.image.index.v1+json"));
    if artifact_type.is_some() {
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_one_list() {
        let page = |names: &str| Bytes::from(format!(r#"{{"manifests":[{names}]}}"#));
        let merged = merge(&[page(r#"{"a":1},{"a":2}"#), page(""), page(r#"{"a":3}"#)]).unwrap();
        assert_eq!(merged["manifests"], json!([{"a":1},{"a":2},{"a":3}]));
        assert!(merge(&[page(""), Bytes::from("{}")]).is_err());
    }
}

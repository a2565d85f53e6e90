//! [`Client::tags`] and [`Client::referrers`].

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Digest, MediaType, RepositoryName};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK};
use http::{Method, StatusCode};
use reqwest::Response;
use serde::Deserialize;

use crate::transport::{Landed, read_capped};
use crate::{Client, UpstreamError};

/// The largest tag list that is read, in bytes: 30 000 of the longest tags.
const MAX_TAGS_BODY: u64 = 4 << 20;

/// One page of a tag list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagsPage {
    /// The tags, in the upstream's order.
    pub tags: Vec<String>,
    /// Whether more follow after the last one (`Link: …; rel="next"`).
    pub more: bool,
}

/// The answer of the referrers API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Referrers {
    /// The index of those that refer to the digest.
    Index {
        /// The index as the upstream sent it; not yet parsed.
        bytes: Bytes,
        /// Whether the upstream applied the filter (`OCI-Filters-Applied`).
        filtered: bool,
        /// Whether more follow on further pages, which are not read.
        more: bool,
    },
    /// The upstream has no referrers API; the fallback tag may.
    NotSupported,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl Client {
    /// Returns the tags of the repository `name` that follow `last`, at most `n` where the
    /// upstream keeps to it.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`] over 4 MiB.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagsPage, UpstreamError> {
        let mut call = self.call(Method::GET, name, "tags/list", "application/json");
        if let Some(n) = n {
            call.url.query_pairs_mut().append_pair("n", &n.to_string());
        }
        if let Some(last) = last {
            call.url.query_pairs_mut().append_pair("last", last);
        }
        self.ask(&call, |Landed { response, .. }| async {
            let more = has_next(&response);
            let body = self.read_document(response, MAX_TAGS_BODY, "tags").await?;
            let list: TagList =
                serde_json::from_slice(&body).map_err(|_| UpstreamError::protocol("tag list is not valid json"))?;
            Ok(TagsPage { tags: list.tags.unwrap_or_default(), more })
        })
        .await
    }

    /// Returns the first page of what refers to `digest` in the repository `name`.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`] over [`MAX_MANIFEST_SIZE`]. An upstream without the API is no error.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Referrers, UpstreamError> {
        let tail = format!("referrers/{digest}");
        let mut call = self.call(Method::GET, name, &tail, "application/vnd.oci.image.index.v1+json");
        if let Some(artifact_type) = artifact_type {
            call.url.query_pairs_mut().append_pair("artifactType", artifact_type);
        }
        self.ask(&call, |Landed { response, .. }| async {
            if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                return Ok(Referrers::NotSupported);
            }
            // A web page that a registry shows for any unknown path is no answer of the API.
            if response.status() == StatusCode::OK && !is_index(&response) {
                return Ok(Referrers::NotSupported);
            }
            let filtered = header(&response, "oci-filters-applied").is_some_and(|t| t.contains("artifactType"));
            let more = has_next(&response);
            let bytes = self.read_document(response, MAX_MANIFEST_SIZE, "referrers").await?;
            Ok(Referrers::Index { bytes, filtered, more })
        })
        .await
    }

    async fn read_document(&self, response: Response, limit: u64, what: &'static str) -> Result<Bytes, UpstreamError> {
        if response.status() != StatusCode::OK {
            return Err(self.inner.net.failure(response, what).await);
        }
        let settings = &self.inner.settings;
        read_capped(response, limit, settings.timeouts.idle, settings.received.as_ref()).await
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn is_index(response: &Response) -> bool {
    header(response, CONTENT_TYPE.as_str()).is_some_and(|text| MediaType::parse(text) == MediaType::OciIndex)
}

fn has_next(response: &Response) -> bool {
    let next =
        |text: &str| text.split([';', ',']).map(str::trim).any(|part| matches!(part, "rel=\"next\"" | "rel=next"));
    response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok()).any(next)
}

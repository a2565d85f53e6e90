//! [`Client::tags`] and [`Client::referrers`].

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Digest, MediaType, RepositoryName};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK};
use http::{Method, StatusCode};
use reqwest::Response;
use serde::Deserialize;

use crate::transport::{Call, Landed, read_capped};
use crate::{Client, UpstreamError};

/// The largest tag list that is read, in bytes: 30 000 of the longest tags.
const MAX_TAGS_BODY: u64 = 4 << 20;
/// The most pages of a referrers list that are read; all of them together have at most [`MAX_MANIFEST_SIZE`] bytes.
const MAX_REFERRER_PAGES: usize = 32;

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
    /// The indexes of those that refer to the digest.
    Index {
        /// One index for each page, at least one, as the upstream sent them; not yet parsed.
        pages: Vec<Bytes>,
        /// Whether the upstream applied the filter (`OCI-Filters-Applied`) to every page.
        filtered: bool,
        /// Why further pages are not read, where there are any.
        cut: Option<&'static str>,
    },
    /// The upstream has no referrers API; the fallback tag may.
    NotSupported,
}

/// One page of a referrers list.
struct Page {
    bytes: Bytes,
    filtered: bool,
    /// Where the next page is, as the upstream says.
    next: Option<String>,
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
            let more = next_page(&response).is_some();
            let body = self.read_document(response, MAX_TAGS_BODY, "tags").await?;
            let list: TagList =
                serde_json::from_slice(&body).map_err(|_| UpstreamError::protocol("tag list is not valid json"))?;
            Ok(TagsPage { tags: list.tags.unwrap_or_default(), more })
        })
        .await
    }

    /// Returns what refers to `digest` in the repository `name`: all pages, or what of them fits 32 pages and
    /// [`MAX_MANIFEST_SIZE`] bytes.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`] where the first page alone has more bytes. An upstream without the API is no error.
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
        let Some(Page { bytes, mut filtered, mut next }) = self.referrers_page(&call, MAX_MANIFEST_SIZE).await? else {
            return Ok(Referrers::NotSupported);
        };
        let (mut left, mut pages) = (MAX_MANIFEST_SIZE - bytes.len() as u64, vec![bytes]);
        let mut cut = None;
        while let Some(target) = next.take() {
            if pages.len() == MAX_REFERRER_PAGES {
                cut = Some("there are too many pages");
            } else if !follow(&mut call, &target) {
                cut = Some("the next page is somewhere else");
            }
            if cut.is_some() {
                break;
            }
            let page = match self.referrers_page(&call, left).await {
                Ok(Some(page)) => page,
                Ok(None) => return Err(UpstreamError::protocol("a page of the referrers list is no index")),
                Err(UpstreamError::TooLarge { .. }) => {
                    cut = Some("all pages together are too large");
                    break;
                }
                Err(error) => return Err(error),
            };
            left -= page.bytes.len() as u64;
            filtered &= page.filtered;
            next = page.next;
            pages.push(page.bytes);
        }
        Ok(Referrers::Index { pages, filtered, cut })
    }

    /// Returns one page of at most `limit` bytes, or `None` where the answer is none of the API's.
    async fn referrers_page(&self, call: &Call, limit: u64) -> Result<Option<Page>, UpstreamError> {
        self.ask(call, |Landed { response, .. }| async move {
            if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                return Ok(None);
            }
            // A web page that a registry shows for any unknown path is no answer of the API.
            if response.status() == StatusCode::OK && !is_index(&response) {
                return Ok(None);
            }
            let filtered = header(&response, "oci-filters-applied").is_some_and(|t| t.contains("artifactType"));
            let next = next_page(&response);
            let bytes = self.read_document(response, limit, "referrers").await?;
            Ok(Some(Page { bytes, filtered, next }))
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

/// Returns the target of the link to the next page (RFC 8288; distribution-spec, "Listing Tags").
fn next_page(response: &Response) -> Option<String> {
    let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
    let links = response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    // A target in angle brackets ends at the closing one, whatever it has in it; the parameters end at a comma.
    let each = links.flat_map(|links| links.split('<').skip(1)).filter_map(|link| link.split_once('>'));
    let next = each.filter(|(_, rest)| rest.split(',').next().unwrap_or_default().split(';').any(is_next));
    next.map(|(target, _)| target.to_owned()).next()
}

/// Turns `call` into one for the page `target`. Only a query may differ: whatever else the upstream names is not asked
/// with our token.
fn follow(call: &mut Call, target: &str) -> bool {
    let Ok(next) = call.url.join(target) else { return false };
    let same = next.origin() == call.url.origin() && next.path() == call.url.path();
    if same {
        call.url.set_query(next.query());
    }
    same
}

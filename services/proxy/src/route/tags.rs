//! `GET /v2/<name>/tags/list`.

use std::sync::Arc;

use api::{ErrorCode, RepositoryName, Tag};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use crate::app::App;
use crate::error::{RegistryError, Subject};
use crate::remotes::{Reach, Target};
use crate::route::Query;

/// The most tags in one answer.
const MAX_PAGE: u32 = 1000;

/// Answers a tag list request: the upstream's list, or the cached tags when it is out of reach.
/// `name` is what the client wrote; the Link header points back to it.
pub(crate) async fn answer(
    app: &Arc<App>,
    target: &Target,
    name: &RepositoryName,
    query: &Query,
) -> Result<Response<Body>, RegistryError> {
    let asked = match query.get("n") {
        None => None,
        Some(text) => Some(text.parse::<u32>().map_err(|_| {
            let message = format!("n is {text:?}, not a number of tags");
            RegistryError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
        })?),
    };
    let last = query.get("last");
    let page = asked.map_or(MAX_PAGE, |n| n.min(MAX_PAGE));
    if page == 0 {
        return Ok(respond(name, Page { tags: Vec::new(), more: false }, page, None));
    }
    let ns = query.get("ns");
    let known = app.catalog.tags(&target.repository).await?;
    let stale = || {
        let mut answer = respond(name, Page::of(known.iter().map(Tag::to_string).collect(), last, page), page, ns);
        answer.headers_mut().insert(header::WARNING, HeaderValue::from_static("110 firstlight \"Response is Stale\""));
        answer
    };
    let reach = &target.remote.reach;
    let asking = match reach.may_ask() {
        Some(asking) => asking,
        None if !known.is_empty() => return Ok(stale()),
        None => reach.insist(),
    };
    let listed = target.remote.client.tags(target.repository.name(), Some(page), last).await;
    asking.ended(!listed.as_ref().is_err_and(Reach::is_lack_of));
    match listed {
        Ok(list) => {
            let mut listed = Page::of(list.tags, last, page);
            listed.more |= list.more;
            Ok(respond(name, listed, page, ns))
        }
        Err(error) if error.is_outage() && !known.is_empty() => {
            tracing::warn!(
                repo.name = %target.repository, error = &error as &dyn std::error::Error,
                "upstream is out of reach, the cached tags are listed"
            );
            Ok(stale())
        }
        Err(error) => Err(RegistryError::upstream(&error, Subject::Repository)),
    }
}

/// One page of a list.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    tags: Vec<String>,
    more: bool,
}

impl Page {
    /// Cuts the page that follows `last` out of `tags`. Not every registry keeps to `n` and `last`, or
    /// to the order. What is no tag is left out.
    fn of(mut tags: Vec<String>, last: Option<&str>, page: u32) -> Self {
        tags.retain(|tag| Tag::parse(tag).is_ok() && last.is_none_or(|last| tag.as_str() > last));
        tags.sort_unstable();
        let most = usize::try_from(page).unwrap_or(usize::MAX);
        let more = tags.len() > most;
        tags.truncate(most);
        Self { tags, more }
    }
}

fn next_link(name: &RepositoryName, page: u32, last: &str, ns: Option<&str>) -> String {
    // `ns` was found in the closed map, so it needs no escaping beyond its port's colon, which is legal.
    let ns = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
    format!("</v2/{name}/tags/list?n={page}&last={last}{ns}>; rel=\"next\"")
}

fn respond(name: &RepositoryName, listed: Page, page: u32, ns: Option<&str>) -> Response<Body> {
    let link = listed.tags.last().filter(|_| listed.more).map(|last| next_link(name, page, last, ns));
    let body = serde_json::json!({ "name": name.as_str(), "tags": listed.tags }).to_string();
    let mut answer = Response::new(Body::from(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        answer.headers_mut().insert(header::LINK, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_whatever_the_upstream_sends() {
        let tags = || ["c", "a", "b", "no tag", "d"].map(str::to_owned).to_vec();
        let page = |last, n| Page::of(tags(), last, n);
        assert_eq!(page(None, 2), Page { tags: vec!["a".into(), "b".into()], more: true });
        assert_eq!(page(Some("b"), 2), Page { tags: vec!["c".into(), "d".into()], more: false });
        assert_eq!(page(Some("d"), 2), Page { tags: vec![], more: false });
    }
}

//! `GET /v2/<name>/tags/list`.

use std::sync::Arc;

use api::{ErrorCode, RepositoryName, Tag};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use crate::app::App;
use crate::error::{RegistryError, Subject};
use crate::remotes::Target;
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
        return Ok(respond(name, Vec::new(), None));
    }
    match target.remote.client.tags(target.repository.name(), Some(page), last).await {
        Ok(list) => {
            let next = list.more.then(|| list.tags.last().cloned()).flatten();
            let link = next.map(|last| next_link(name, page, &last, query.get("ns")));
            Ok(respond(name, list.tags, link))
        }
        Err(error) if error.is_outage() => {
            tracing::warn!(
                repo.name = %target.repository, error = &error as &dyn std::error::Error,
                "upstream is out of reach, the cached tags are listed"
            );
            let mut tags: Vec<String> =
                app.catalog.tags(&target.repository).await?.iter().map(Tag::to_string).collect();
            if tags.is_empty() {
                return Err(RegistryError::upstream(&error, Subject::Repository));
            }
            tags.sort_unstable();
            tags.retain(|tag| last.is_none_or(|last| tag.as_str() > last));
            let more = tags.len() > page as usize;
            tags.truncate(page as usize);
            let next = tags.last().filter(|_| more);
            let link = next.map(|last| next_link(name, page, last, query.get("ns")));
            let mut answer = respond(name, tags, link);
            answer
                .headers_mut()
                .insert(header::WARNING, HeaderValue::from_static("110 firstlight \"Response is Stale\""));
            Ok(answer)
        }
        Err(error) => Err(RegistryError::upstream(&error, Subject::Repository)),
    }
}

fn next_link(name: &RepositoryName, page: u32, last: &str, ns: Option<&str>) -> String {
    // `ns` was found in the closed map, so it needs no escaping beyond its port's colon, which is legal.
    let ns = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
    format!("</v2/{name}/tags/list?n={page}&last={last}{ns}>; rel=\"next\"")
}

fn respond(name: &RepositoryName, tags: Vec<String>, link: Option<String>) -> Response<Body> {
    let body = serde_json::json!({ "name": name.as_str(), "tags": tags }).to_string();
    let mut answer = Response::new(Body::from(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        answer.headers_mut().insert(header::LINK, value);
    }
    answer
}

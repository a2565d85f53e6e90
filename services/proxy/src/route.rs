//! The endpoints below `/v2/`: one entry that parses the path, one module per kind of object.

pub(crate) mod blob;
pub(crate) mod fills;
pub(crate) mod lazy;
pub(crate) mod manifest;
pub(crate) mod referrers;
pub(crate) mod tags;

use std::sync::Arc;

use api::{Digest, MediaType};
use axum::body::Body;
use axum::extract::{Request, State};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::app::App;
use crate::config::View;
use crate::error::RegistryError;
use crate::path::{Object, Route};
use crate::remotes::Target;

/// The header that asks for a view and tells which one was given.
pub(crate) const VIEW: HeaderName = HeaderName::from_static("firstlight-view");
/// The header that names the source manifest of a converted one.
pub(crate) const SOURCE_DIGEST: HeaderName = HeaderName::from_static("firstlight-source-digest");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// Which listener a request came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// `server.listen`.
    Main,
    /// `server.mirror_listen`.
    Mirror,
}

/// Answers `GET /v2/`.
pub(crate) async fn version(method: Method) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return RegistryError::read_only().into_answer();
    }
    let mut answer = Response::new(Body::from("{}"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    answer
}

/// Answers everything below `/v2/`.
pub(crate) async fn registry(State((app, listener)): State<(Arc<App>, Listener)>, request: Request) -> Response<Body> {
    let (parts, _body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let head = parts.method == Method::HEAD;
    let answer = dispatch(&app, listener, &parts, &query).await;
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(
                path = parts.uri.path(),
                status = error.status.as_u16(),
                message = error.message,
                "refused"
            );
            error.into_answer()
        }
    };
    if let Some(value) = query.get("ns").and_then(|ns| HeaderValue::from_str(ns).ok()) {
        answer.headers_mut().insert(NAMESPACE, value);
    }
    answer.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if head {
        *answer.body_mut() = Body::empty();
    }
    answer
}

async fn dispatch(
    app: &Arc<App>,
    listener: Listener,
    parts: &http::request::Parts,
    query: &Query,
) -> Result<Response<Body>, RegistryError> {
    let tail = parts.uri.path().strip_prefix("/v2/").unwrap_or_default();
    let route = match Route::parse(tail) {
        // Only a hold changes anything.
        Ok(route) if route.object == Object::Holds && parts.method == Method::POST => route,
        _ if parts.method != Method::GET && parts.method != Method::HEAD => return Err(RegistryError::read_only()),
        Ok(route) if route.object == Object::Holds => return Err(RegistryError::only_post()),
        parsed => parsed?,
    };
    let ns = query.get("ns");
    let target = app.remotes.resolve(&route.name, ns)?;
    match &route.object {
        Object::Blob(digest) => blob::answer(app, &target, digest, &parts.method, &parts.headers).await,
        Object::Manifest(reference) => {
            let view = wanted_view(&target, listener, ns.is_some(), &parts.headers)?;
            manifest::answer(app, &target, reference, view, &parts.method, &parts.headers).await
        }
        Object::Tags => tags::answer(app, &target, &route.name, query).await,
        Object::Referrers(digest) => referrers::answer(app, &target, digest, query).await,
        Object::Lazy(digest) => lazy::index(app, &target, digest, query).await,
        Object::Layers => lazy::layers(app, &target, query).await,
        Object::Toc(digest) => lazy::toc(app, &target, digest, &parts.headers).await,
        Object::Holds => lazy::hold(app, &target, query).await,
    }
}

/// Returns the view a request gets for a tag: its own header, else by how it reached us.
fn wanted_view(target: &Target, listener: Listener, has_ns: bool, headers: &HeaderMap) -> Result<View, RegistryError> {
    if let Some(value) = headers.get(VIEW) {
        let text = value.to_str().unwrap_or_default();
        return View::parse(text).ok_or_else(|| {
            let message = format!("Firstlight-View is {text:?}: use estargz or original");
            RegistryError::new(StatusCode::BAD_REQUEST, api::ErrorCode::Unsupported, message)
        });
    }
    if !accepts_oci(headers) {
        return Ok(View::Original);
    }
    let mirrored = has_ns || listener == Listener::Mirror;
    Ok(if mirrored { target.remote.config.mirror_view } else { target.remote.config.view })
}

/// Tells whether a client can read the converted form, which is always OCI typed. Docker sends its
/// types in several lines, in any order.
fn accepts_oci(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .peekable();
    ranges.peek().is_none()
        || ranges
            .any(|range| matches!(range, "*/*" | "application/*") || MediaType::parse(range) == MediaType::OciManifest)
}

/// The query of a request; of a key given twice the first value counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(key), unescape(value))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// Returns every value of a key that may be given many times.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent encoding; what is not valid stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Returns the entity tag of a digest.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Tells whether If-None-Match names `digest`.
pub(crate) fn not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let tag = etag(digest);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|candidate| candidate == "*" || candidate.trim_start_matches("W/") == tag)
}

/// Sets the headers that every answer with content by digest carries.
pub(crate) fn content_headers(headers: &mut HeaderMap, digest: &Digest) {
    for (name, text) in [(CONTENT_DIGEST, digest.to_string()), (header::ETAG, etag(digest))] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

/// Sets the headers that every blob answer carries.
pub(crate) fn blob_headers(headers: &mut HeaderMap, digest: &Digest) {
    content_headers(headers, digest);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_lines_are_merged() {
        let mut headers = HeaderMap::new();
        assert!(accepts_oci(&headers));
        headers
            .append(header::ACCEPT, HeaderValue::from_static("application/vnd.docker.distribution.manifest.v2+json"));
        assert!(!accepts_oci(&headers));
        headers.append(
            header::ACCEPT,
            HeaderValue::from_static("text/x, application/vnd.oci.image.manifest.v1+json;q=0.5"),
        );
        assert!(accepts_oci(&headers));
    }

    #[test]
    fn queries_are_unescaped() {
        let query = Query::parse("ns=docker.io&artifactType=application%2Fx&n=&bad=%zz");
        assert_eq!(query.get("ns"), Some("docker.io"));
        assert_eq!(query.get("artifactType"), Some("application/x"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(query.get("none"), None);
    }
}

//! `GET` and `HEAD` of `/v2/<name>/manifests/<reference>`.

use std::sync::Arc;

use api::{Digest, MediaType, Reference};
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::app::App;
use crate::config::View;
use crate::error::RegistryError;
use crate::metrics::Reader;
use crate::pull::{ManifestFacts, PullError, StoredManifest};
use crate::remotes::Target;
use crate::route::{SOURCE_DIGEST, VIEW, content_headers, not_modified};

/// What an answer tells beside the manifest.
#[derive(Debug)]
struct About {
    view: View,
    /// The source of a converted manifest.
    source: Option<Digest>,
    stale: bool,
}

/// Answers a manifest request.
pub(crate) async fn answer(
    app: &Arc<App>,
    target: &Target,
    reference: &Reference,
    view: View,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    match reference {
        Reference::Digest(digest) => by_digest(app, target, digest, view, method, headers).await,
        Reference::Tag(tag) => {
            let resolved = app.pull.tag(target, tag, method == Method::GET).await?;
            let choice = match view {
                View::Original => None,
                View::Estargz => app.views.choose(target, tag, &resolved, method == Method::GET).await,
            };
            let shown = choice.as_ref().unwrap_or(&resolved.digest);
            if method == Method::HEAD
                && choice.is_none()
                && let Some(facts) = &resolved.head
                && app.pull.stored(shown).await?.is_none()
            {
                // A HEAD that only wants to know the digest costs no pull at the upstream.
                return Ok(respond_head(shown, facts, headers));
            }
            let manifest = manifest(app, target, shown).await?;
            match &choice {
                None => app.remember_layers(&manifest).await,
                Some(_) if method == Method::GET => app.remake_layers(target, &manifest).await,
                Some(_) => {}
            }
            if method == Method::GET {
                // The source too: a converted manifest is kept anyway.
                app.uses.note(&resolved.digest);
            }
            let about = About {
                view: if choice.is_some() { View::Estargz } else { View::Original },
                source: choice.is_some().then(|| resolved.digest.clone()),
                stale: resolved.stale,
            };
            Ok(respond(app, &manifest, &about, headers))
        }
    }
}

/// By digest the bytes are always those of the digest, whatever the view.
async fn by_digest(
    app: &Arc<App>,
    target: &Target,
    digest: &Digest,
    view: View,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let manifest = manifest(app, target, digest).await?;
    let source = app.catalog.source_of_converted(digest).await?;
    match &source {
        None => app.remember_layers(&manifest).await,
        Some(_) if method == Method::GET => app.remake_layers(target, &manifest).await,
        Some(_) => {}
    }
    if method == Method::GET {
        app.uses.note(source.as_ref().unwrap_or(digest));
    }
    let about = About { view: if source.is_some() { View::Estargz } else { View::Original }, stale: false, source };
    if about.view == View::Original && view == View::Estargz && method == Method::GET {
        app.views.start(target, &manifest);
    }
    Ok(respond(app, &manifest, &about, headers))
}

/// Returns a manifest by digest; a converted one whose bytes were lost begins to be made again.
async fn manifest(app: &App, target: &Target, digest: &Digest) -> Result<Arc<StoredManifest>, RegistryError> {
    let found = app.pull.by_digest(target, digest).await;
    if let Err(error) = &found
        && matches!(**error, PullError::Lost)
    {
        app.remake(target, digest).await?;
    }
    Ok(found?)
}

fn respond_head(digest: &Digest, facts: &ManifestFacts, headers: &HeaderMap) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    set_headers(answer.headers_mut(), digest, &facts.media_type, View::Original);
    if not_modified(headers, digest) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(facts.size));
    }
    answer
}

/// Sets what every manifest answer carries.
fn set_headers(headers: &mut HeaderMap, digest: &Digest, media_type: &MediaType, view: View) {
    content_headers(headers, digest);
    if let Ok(value) = HeaderValue::from_str(media_type.as_str()) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(VIEW, HeaderValue::from_static(view.as_str()));
    headers.insert(header::VARY, HeaderValue::from_static("Firstlight-View"));
}

fn respond(app: &App, manifest: &StoredManifest, about: &About, headers: &HeaderMap) -> Response<Body> {
    let unchanged = not_modified(headers, &manifest.digest);
    let mut answer = Response::new(if unchanged { Body::empty() } else { Body::from(manifest.bytes.clone()) });
    let out = answer.headers_mut();
    set_headers(out, &manifest.digest, &manifest.media_type, about.view);
    if let Some(value) = about.source.as_ref().and_then(|source| HeaderValue::from_str(&source.to_string()).ok()) {
        out.insert(SOURCE_DIGEST, value);
    }
    if about.stale {
        out.insert(header::WARNING, HeaderValue::from_static("110 firstlight \"Response is Stale\""));
    }
    if unchanged {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return answer;
    }
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
    app.metrics.served(Reader::Client, manifest.bytes.len());
    answer
}

//! `GET` and `HEAD` of `/v2/<name>/blobs/<digest>`.

use std::ops::Range;
use std::sync::Arc;

use api::{Digest, ErrorCode};
use axum::body::Body;
use blobstore::OpenBlob;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::app::App;
use crate::blobs::Found;
use crate::body::{BlobBody, Passing};
use crate::error::{RegistryError, Subject};
use crate::fill::{Fill, FillReader};
use crate::metrics::{RangeKind, Reader};
use crate::range::Selection;
use crate::remotes::Target;
use crate::route::{blob_headers, etag, not_modified};

/// Answers a blob request.
pub(crate) async fn answer(
    app: &Arc<App>,
    target: &Target,
    digest: &Digest,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let is_linked = app.blobs.check_link(target, digest).await?;
    if not_modified(headers, digest) {
        if !is_linked {
            // Not even this is said of what the upstream may not have.
            app.blobs.size(target, digest).await?;
        }
        return Ok(head(StatusCode::NOT_MODIFIED, digest, None));
    }
    if app.blobs.is_absent(target, digest).await?
        && app.catalog.is_lost(digest).await?
        && Box::pin(app.wait_for_remake(target, digest)).await?
    {
        return Err(RegistryError::lost());
    }
    if method == Method::HEAD {
        let size = app.blobs.size(target, digest).await?;
        return Ok(head(StatusCode::OK, digest, Some(size)));
    }
    let found = app.blobs.find(target, digest).await?;
    app.uses.note(digest);
    app.layer_was_read(target, digest).await;
    match found {
        Found::Stored(blob) => from_store(app, blob, digest, headers),
        Found::Filling(fill) => from_fill(app, &fill, digest, headers),
        Found::Elsewhere => pass_through(app, target, digest, headers).await,
    }
}

fn head(status: StatusCode, digest: &Digest, size: Option<u64>) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    blob_headers(answer.headers_mut(), digest);
    if let Some(size) = size {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    answer
}

/// Returns what of `size` bytes the request wants. A range whose If-Range names another entity is
/// ignored (RFC 9110 §13.1.5).
fn selection(headers: &HeaderMap, digest: &Digest, size: u64) -> Selection {
    let Some(range) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Selection::Whole };
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.as_bytes() != etag(digest).as_bytes()
    {
        return Selection::Whole;
    }
    Selection::parse(range, size)
}

fn from_store(
    app: &App,
    blob: Arc<dyn OpenBlob>,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let size = blob.size();
    let selection = selection(headers, digest, size);
    if matches!(selection, Selection::One(_) | Selection::Many(_)) {
        app.metrics.range(RangeKind::Stored);
    }
    select(app, Reader::Client, digest, size, selection, |rest| BlobBody::Stored { blob: Arc::clone(&blob), rest })
}

fn from_fill(
    app: &App,
    fill: &Arc<Fill>,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let size = fill.size();
    let selection = selection(headers, digest, size);
    if let Selection::One(range) = &selection {
        app.metrics.range(if fill.has(range.start) { RangeKind::Spool } else { RangeKind::Cold });
    }
    select(app, Reader::Client, digest, size, selection, |rest| {
        BlobBody::Filling(FillReader::new(Arc::clone(fill), rest))
    })
}

/// Builds the answer to `reader` for a selection, with `open` giving the bytes of a range.
pub(super) fn select(
    app: &App,
    reader: Reader,
    digest: &Digest,
    size: u64,
    selection: Selection,
    open: impl Fn(Range<u64>) -> BlobBody,
) -> Result<Response<Body>, RegistryError> {
    let body = |range: Range<u64>| open(range).into_body(Arc::clone(&app.metrics), digest.clone(), reader);
    match selection {
        Selection::Whole => {
            let mut answer = head(StatusCode::OK, digest, Some(size));
            *answer.body_mut() = body(0..size);
            Ok(answer)
        }
        Selection::One(range) => {
            let mut answer = head(StatusCode::PARTIAL_CONTENT, digest, Some(range.end - range.start));
            let value = content_range(&range, size);
            answer.headers_mut().insert(header::CONTENT_RANGE, value);
            *answer.body_mut() = body(range);
            Ok(answer)
        }
        Selection::Many(ranges) => Ok(multipart(digest, size, ranges, body)),
        Selection::Unsatisfiable => Ok(unsatisfiable(digest, size)),
    }
}

fn content_range(range: &Range<u64>, size: u64) -> HeaderValue {
    let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("bytes */*"))
}

fn unsatisfiable(digest: &Digest, size: u64) -> Response<Body> {
    let error = RegistryError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::RangeInvalid,
        format!("the range lies outside the {size} bytes of {digest}"),
    );
    let mut answer = error.into_answer();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        answer.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    answer
}

/// Returns a `multipart/byteranges` answer (RFC 9110 §14.6).
fn multipart(digest: &Digest, size: u64, ranges: Vec<Range<u64>>, body: impl Fn(Range<u64>) -> Body) -> Response<Body> {
    use futures_util::StreamExt;
    let boundary = format!("firstlight-{}", &digest.hex()[..24]);
    let part_head = |range: &Range<u64>| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{size}\r\n\r\n",
            range.start,
            range.end - 1
        )
    };
    let end = format!("\r\n--{boundary}--\r\n");
    let length: u64 =
        ranges.iter().map(|r| part_head(r).len() as u64 + r.end - r.start).sum::<u64>() + end.len() as u64;
    let mut answer = head(StatusCode::PARTIAL_CONTENT, digest, Some(length));
    if let Ok(value) = HeaderValue::from_str(&format!("multipart/byteranges; boundary={boundary}")) {
        answer.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    for range in ranges {
        parts.push(Body::from(part_head(&range)).into_data_stream());
        parts.push(body(range).into_data_stream());
    }
    parts.push(Body::from(end).into_data_stream());
    *answer.body_mut() = Body::from_stream(futures_util::stream::iter(parts).flatten());
    answer
}

/// Streams from the upstream without storing: a pull never fails for want of cache.
async fn pass_through(
    app: &App,
    target: &Target,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let failed = |error: upstream::UpstreamError| RegistryError::upstream(&error, Subject::Blob);
    let client = &target.remote.client;
    let name = target.repository.name();
    let range = if headers.contains_key(header::RANGE) {
        let size = client.blob_size(name, digest).await.map_err(failed)?;
        match selection(headers, digest, size) {
            Selection::One(range) => Some(range),
            Selection::Unsatisfiable => return Ok(unsatisfiable(digest, size)),
            Selection::Whole | Selection::Many(_) => None,
        }
    } else {
        None
    };
    let answer = client.blob(name, digest, range).await.map_err(failed)?;
    let whole = answer.range.is_none();
    let passing = Passing::new(answer.body, digest, whole, Arc::clone(&app.metrics));
    let body = BlobBody::Passing(Box::new(passing)).into_body(Arc::clone(&app.metrics), digest.clone(), Reader::Client);
    let mut out = match &answer.range {
        Some(range) => head(StatusCode::PARTIAL_CONTENT, digest, Some(range.end - range.start)),
        None => head(StatusCode::OK, digest, Some(answer.total)),
    };
    if let Some(range) = &answer.range {
        out.headers_mut().insert(header::CONTENT_RANGE, content_range(range, answer.total));
    }
    *out.body_mut() = body;
    Ok(out)
}

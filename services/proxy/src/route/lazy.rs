//! The lazy API, `/v2/<name>/_firstlight/…` (`api/openapi.yaml`): which twins stand for an image's layers, and their TOCs.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use api::manifest::MAX_LAYERS;
use api::{Digest, ErrorCode, LazyIndex, Platform};
use axum::body::Body;
use blobstore::OpenBlob;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::sync::mpsc;

use crate::app::App;
use crate::error::{RegistryError, Subject};
use crate::remotes::Target;
use crate::route::{Query, content_headers, not_modified};

/// The longest that a request may wait for conversions.
const LONGEST_WAIT: u64 = 30;
/// Bytes of a TOC that are read and packed at once, and how many such pieces wait for the client.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// The longest name of a holder.
const LONGEST_HOLDER: usize = 128;

/// Answers `GET lazy/<manifest digest>`.
pub(crate) async fn index(
    app: &Arc<App>,
    target: &Target,
    digest: &Digest,
    query: &Query,
) -> Result<Response<Body>, RegistryError> {
    let platform = match query.get("platform") {
        Some(text) => Platform::parse(text).ok_or_else(|| {
            bad_request(format!("platform is {text:?}: use os/architecture or os/architecture/variant"))
        })?,
        None => app.views.first_platform(),
    };
    json(&app.lazy_index(target, digest, &platform, wait(query)?).await?)
}

/// Answers `GET layers?digest=…`.
pub(crate) async fn layers(app: &Arc<App>, target: &Target, query: &Query) -> Result<Response<Body>, RegistryError> {
    json(&app.lazy_layers(target, &digests(query)?, wait(query)?).await?)
}

/// Answers `POST holds?holder=…&digest=…`.
pub(crate) async fn hold(app: &Arc<App>, target: &Target, query: &Query) -> Result<Response<Body>, RegistryError> {
    let holder = query.get("holder").unwrap_or_default();
    if holder.is_empty() || holder.len() > LONGEST_HOLDER {
        return Err(bad_request(format!("holder must be a name of 1 to {LONGEST_HOLDER} bytes")));
    }
    app.hold(target, &digests(query)?, holder).await?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

fn wait(query: &Query) -> Result<Duration, RegistryError> {
    let Some(text) = query.get("wait") else { return Ok(Duration::ZERO) };
    let seconds = text.parse().ok().filter(|&seconds| seconds <= LONGEST_WAIT);
    let wrong = || bad_request(format!("wait is {text:?}: use whole seconds, {LONGEST_WAIT} at most"));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

fn digests(query: &Query) -> Result<Vec<Digest>, RegistryError> {
    let digests = query.all("digest").map(|text| {
        let wrong = |_| RegistryError::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, "digest is malformed");
        Digest::parse(text).map_err(wrong)
    });
    let digests: Vec<Digest> = digests.collect::<Result<_, _>>()?;
    match digests.len() {
        1..=MAX_LAYERS => Ok(digests),
        0 => Err(bad_request("no digest is asked about: use ?digest=…".into())),
        _ => Err(bad_request(format!("more than {MAX_LAYERS} digests are asked about"))),
    }
}

fn bad_request(message: String) -> RegistryError {
    RegistryError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
}

fn json(index: &LazyIndex) -> Result<Response<Body>, RegistryError> {
    let json = serde_json::to_vec(index).map_err(|error| RegistryError::internal(&error))?;
    let mut answer = Response::new(Body::from(json));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// How the bytes of a TOC are packed for the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// Returns the best of those that a client takes (RFC 9110 §12.5.3); what it refuses with `q=0` is not taken.
    fn of(headers: &HeaderMap) -> Self {
        let lines = || headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
        let accepts = |wanted: &str| {
            lines().flat_map(|line| line.split(',')).any(|coding| {
                let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
                let weight = weight.trim().trim_start_matches("q=").trim_end_matches(['0', '.']);
                name.trim().eq_ignore_ascii_case(wanted) && !(coding.contains(';') && weight.is_empty())
            })
        };
        if accepts("zstd") {
            Self::Zstd
        } else if accepts("gzip") {
            Self::Gzip
        } else {
            Self::Identity
        }
    }
}

/// Answers `GET toc/<digest>`.
pub(crate) async fn toc(
    app: &Arc<App>,
    target: &Target,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    app.blobs.check_link(target, digest).await?;
    let mut answer = Response::new(Body::empty());
    content_headers(answer.headers_mut(), digest);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let forever = HeaderValue::from_static("max-age=31536000, immutable");
    answer.headers_mut().insert(header::CACHE_CONTROL, forever);
    if not_modified(headers, digest) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    if app.catalog.is_lost(digest).await? && Box::pin(app.wait_for_remake(target, digest)).await? {
        return Err(RegistryError::lost());
    }
    let none = || RegistryError::unknown(Subject::Blob, "no layer of this repository has such a TOC");
    let json = app.blobs.stored(digest).await?.ok_or_else(none)?;
    app.uses.note(digest);
    let coding = Coding::of(headers);
    let name = match coding {
        Coding::Identity => None,
        Coding::Gzip => Some("gzip"),
        Coding::Zstd => Some("zstd"),
    };
    match name {
        Some(name) => answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name)),
        None => answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(json.size())),
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::spawn(telemetry::blocking(move || {
        if let Err(error) = pack(&*json, coding, &Pieces(pieces.clone())) {
            // The client sees a cut, unless it was itself who went away.
            let _gone = pieces.blocking_send(Err(error));
        }
    }));
    let stream = futures_util::stream::unfold(receiver, async |mut pieces| Some((pieces.recv().await?, pieces)));
    *answer.body_mut() = Body::from_stream(stream);
    Ok(answer)
}

/// Writes the TOC to `out`, packed for speed and not for size: digests hardly shrink.
fn pack(json: &dyn OpenBlob, coding: Coding, out: &Pieces) -> io::Result<()> {
    let out = io::BufWriter::with_capacity(PIECE, out);
    match coding {
        Coding::Identity => copy(json, out)?.flush(),
        Coding::Gzip => copy(json, flate2::write::GzEncoder::new(out, flate2::Compression::fast()))?.finish()?.flush(),
        Coding::Zstd => copy(json, zstd::Encoder::new(out, 1)?)?.finish()?.flush(),
    }
}

fn copy<W: Write>(json: &dyn OpenBlob, mut out: W) -> io::Result<W> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < json.size() {
        let length = usize::try_from(json.size() - at).unwrap_or(PIECE).min(PIECE);
        json.read_blocking(&mut piece[..length], at).map_err(io::Error::other)?;
        out.write_all(&piece[..length])?;
        at += length as u64;
    }
    Ok(out)
}

/// Where the pieces of a body go.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for &Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_coding_is_taken_that_is_not_refused() {
        let coding = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            Coding::of(&headers)
        };
        assert_eq!(coding(&[]), Coding::Identity);
        assert_eq!(coding(&["br, gzip"]), Coding::Gzip);
        assert_eq!(coding(&["gzip;q=0.5", "zstd;q=1.0"]), Coding::Zstd);
        assert_eq!(coding(&["zstd;q=0, GZIP; q=0.0"]), Coding::Identity);
        assert_eq!(coding(&["zstd;q=0.000, gzip;q=0.1"]), Coding::Gzip);
    }
}

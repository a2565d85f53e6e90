//! [`Net`]: one request to its final answer, with authentication and redirects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::RepositoryName;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use tokio::time::{Duration, timeout};

use crate::challenge::Challenge;
use crate::origin::{Boundary, Origin};
use crate::retry::retry_after;
use crate::token::{Grant, Tokens};
use crate::{Timeouts, UpstreamError};

/// The most redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// The largest error body that is read, in bytes.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// The part of an error body that is logged, in characters.
const LOGGED_ERROR: usize = 300;

/// The connections of one upstream, and the rules for using them.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) upstream: String,
    pub(crate) http: reqwest::Client,
    pub(crate) boundary: Boundary,
    /// For the registry alone.
    pub(crate) headers: HeaderMap,
    pub(crate) timeouts: Timeouts,
}

/// A request about a repository.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) name: RepositoryName,
}

/// An answer and where it came from.
pub(crate) struct Landed {
    pub(crate) response: Response,
    /// The final URL, where redirects led to another origin than the registry's.
    pub(crate) elsewhere: Option<Url>,
}

impl Net {
    /// Sends `call`, authenticates where the registry asks for it (once), and follows redirects.
    /// Returns the answer whatever its status.
    pub(crate) async fn send(&self, tokens: &Tokens, call: &Call) -> Result<Landed, UpstreamError> {
        let grant = tokens.current(self, &call.name).await?;
        let landed = self.follow(call, grant.as_ref()).await?;
        if !wants_authentication(&landed) || grant.as_ref().is_some_and(|g| g.basic) {
            return self.check_basic(landed, grant.as_ref());
        }
        let challenge = Challenge::from_headers(landed.response.headers());
        let used = grant.as_ref().map(|g| g.serial);
        let Some(grant) = tokens.renew(self, &call.name, challenge, used).await? else { return Ok(landed) };
        drain(landed.response, self.timeouts.idle).await;
        let landed = self.follow(call, Some(&grant)).await?;
        self.check_basic(landed, Some(&grant))
    }

    /// Sends `call` to a place a redirect led to earlier: without `Authorization`, and following
    /// redirects as ever.
    pub(crate) async fn send_elsewhere(&self, call: &Call, url: Url) -> Result<Landed, UpstreamError> {
        self.follow(&Call { url, ..call.clone() }, None).await
    }

    async fn follow(&self, call: &Call, grant: Option<&Grant>) -> Result<Landed, UpstreamError> {
        let mut url = call.url.clone();
        let mut grant = grant;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.http.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            request = request.headers(self.own_headers(&url, grant.is_some()));
            if let Some(grant) = grant {
                request = request.header(AUTHORIZATION, grant.header.clone());
            }
            if !call.headers.contains_key(ACCEPT_ENCODING) {
                request = request.header(ACCEPT_ENCODING, "identity");
            }
            let response = self.exchange(request).await?;
            let Some(location) = location(&response)? else {
                let elsewhere = Origin::of(&url).as_ref() != Some(self.boundary.registry());
                return Ok(Landed { response, elsewhere: elsewhere.then_some(url) });
            };
            let next = self.boundary.redirect(&url, &location)?;
            if Origin::of(&next) != Origin::of(&url) {
                // Dropped for good: a way back to the registry does not bring it back.
                grant = None;
            }
            drain(response, self.timeouts.idle).await;
            url = next;
        }
        Err(UpstreamError::protocol(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Returns what goes along to `url`, if that is the registry's own; `is_granted`: it is asked with an authorization of ours.
    pub(crate) fn own_headers(&self, url: &Url, is_granted: bool) -> HeaderMap {
        if Origin::of(url).as_ref() != Some(self.boundary.registry()) {
            return HeaderMap::new();
        }
        let mut headers = self.headers.clone();
        if is_granted {
            headers.remove(AUTHORIZATION);
        }
        headers
    }

    /// Sends `request` and returns the head of its answer.
    pub(crate) async fn exchange(&self, request: RequestBuilder) -> Result<Response, UpstreamError> {
        match timeout(self.timeouts.head, request.send()).await {
            Ok(answer) => answer.map_err(UpstreamError::network),
            Err(_) => Err(UpstreamError::Timeout),
        }
    }

    fn check_basic(&self, landed: Landed, grant: Option<&Grant>) -> Result<Landed, UpstreamError> {
        let refused = landed.elsewhere.is_none() && landed.response.status() == StatusCode::UNAUTHORIZED;
        if refused && grant.is_some_and(|g| g.basic) {
            let host = self.boundary.registry().authority();
            return Err(UpstreamError::CredentialsRefused { host, status: StatusCode::UNAUTHORIZED.as_u16() });
        }
        Ok(landed)
    }

    /// Returns the error that an answer other than success stands for; its body goes to the log.
    pub(crate) async fn failure(&self, response: Response, what: &'static str) -> UpstreamError {
        let status = response.status();
        let error = classify(status, response.headers());
        let reason = match read_capped(response, MAX_ERROR_BODY, self.timeouts.idle, None).await {
            Ok(body) => String::from_utf8_lossy(&body).chars().take(LOGGED_ERROR).collect(),
            Err(_) => String::new(),
        };
        tracing::debug!(upstream = self.upstream, what, status = status.as_u16(), reason, "upstream refused a request");
        error
    }
}

fn wants_authentication(landed: &Landed) -> bool {
    // Some registries (ECR) answer an expired token with 403.
    let status = landed.response.status();
    landed.elsewhere.is_none() && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn location(response: &Response) -> Result<Option<String>, UpstreamError> {
    let status = response.status();
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location.map(|text| Some(text.to_owned())).ok_or_else(|| UpstreamError::protocol("redirect without a location"))
}

fn classify(status: StatusCode, headers: &HeaderMap) -> UpstreamError {
    match status.as_u16() {
        404 | 410 => UpstreamError::NotFound,
        status @ (401 | 403 | 451) => UpstreamError::Denied { status },
        429 => UpstreamError::RateLimited { retry_after: retry_after(headers) },
        status @ (408 | 500..) => UpstreamError::Server { status, retry_after: retry_after(headers) },
        status => UpstreamError::protocol(format!("status {status}")),
    }
}

/// Returns the length that the head of an answer announces. Unlike [`Response::content_length`] it
/// is right for HEAD too.
pub(crate) fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit` bytes; a longer one is [`UpstreamError::TooLarge`].
pub(crate) async fn read_capped(
    mut response: Response,
    limit: u64,
    idle: Duration,
    received: Option<&Arc<AtomicU64>>,
) -> Result<Bytes, UpstreamError> {
    let announced = content_length(&response);
    if announced.is_some_and(|length| length > limit) {
        return Err(UpstreamError::TooLarge { limit });
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or(0) as usize);
    loop {
        let chunk = timeout(idle, response.chunk()).await.map_err(|_| UpstreamError::Timeout)?;
        let Some(chunk) = chunk.map_err(UpstreamError::network)? else { return Ok(body.freeze()) };
        if let Some(received) = received {
            received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        if body.len() as u64 + chunk.len() as u64 > limit {
            return Err(UpstreamError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
}

/// Reads what is left of a small body, so that its connection can be used again. What does not
/// come, or is long, is given up with the connection.
async fn drain(response: Response, idle: Duration) {
    let _ = read_capped(response, MAX_ERROR_BODY, idle, None).await;
}

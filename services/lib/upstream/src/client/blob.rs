//! [`Client::blob`] and [`Client::blob_size`].

use std::ops::Range;

use api::{Digest, RepositoryName};
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::Response;

use crate::transport::{Call, Landed, content_length};
use crate::{BlobBody, Client, UpstreamError, retry};

/// A blob, or a range of it, on its way.
#[derive(Debug)]
pub struct BlobAnswer {
    /// The size of the whole blob in bytes.
    pub total: u64,
    /// The part that comes (206); `None` when the whole blob does (200). It begins where the range
    /// asked for begins and is never longer; where the blob ends earlier, it is shorter.
    pub range: Option<Range<u64>>,
    /// The bytes.
    pub body: BlobBody,
}

impl Client {
    /// Returns the size of a blob in bytes, from a HEAD, or from a Range where HEAD does not tell.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] and [`UpstreamError::Denied`] are the upstream's answer, all else is trouble.
    pub async fn blob_size(&self, name: &RepositoryName, digest: &Digest) -> Result<u64, UpstreamError> {
        if let Some(size) = self.head_size(name, digest).await? {
            return Ok(size);
        }
        match self.blob(name, digest, Some(0..1)).await {
            Ok(answer) => Ok(answer.total),
            // An empty blob has no first byte.
            Err(UpstreamError::RangeNotSatisfiable { size: Some(size) }) => Ok(size),
            Err(error) => Err(error),
        }
    }

    /// Returns a blob, or the part of it that `range` names. Upstreams may ignore a range: see
    /// [`BlobAnswer::range`]. Attempts are made until the head of an answer is here; a body that breaks
    /// off is the caller's to resume, with a range.
    ///
    /// # Errors
    /// [`UpstreamError::RangeNotSatisfiable`] for a range that is empty or begins behind the blob's
    /// end. The bytes are not verified.
    pub async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobAnswer, UpstreamError> {
        let mut call = self.call(Method::GET, name, &format!("blobs/{digest}"), "*/*");
        if let Some(range) = &range {
            if range.is_empty() {
                return Err(UpstreamError::RangeNotSatisfiable { size: None });
            }
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&text).map_err(|_| UpstreamError::protocol("range cannot be sent"))?;
            call.headers.insert(RANGE, value);
        }
        retry::run(&self.retry, self.name(), || self.blob_attempt(&call, digest, range.as_ref())).await
    }

    async fn blob_attempt(
        &self,
        call: &Call,
        digest: &Digest,
        range: Option<&Range<u64>>,
    ) -> Result<BlobAnswer, UpstreamError> {
        let inner = &self.inner;
        let permit = self.permit(&inner.bodies).await?;
        let response = match self.remembered(call, digest).await {
            Some(response) => response,
            None => {
                let landed = inner.net.send(&inner.tokens, call).await?;
                self.note_quota(&landed.response);
                if let Some(url) = landed.elsewhere
                    && landed.response.status().is_success()
                {
                    inner.locations.put((call.name.clone(), digest.clone()), url);
                }
                landed.response
            }
        };
        let (total, range) = match response.status() {
            StatusCode::OK => (self.whole_size(&response, call, digest).await?, None),
            StatusCode::PARTIAL_CONTENT => {
                let (part, total) = partial(&response, range)?;
                (total, Some(part))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let size = content_range(&response).and_then(|(_, total)| total);
                return Err(UpstreamError::RangeNotSatisfiable { size });
            }
            _ => return Err(inner.net.failure(response, "blob").await),
        };
        let expected = range.as_ref().map_or(total, |part| part.end - part.start);
        let body =
            BlobBody::new(response, expected, inner.settings.timeouts.idle, inner.settings.received.clone(), permit);
        Ok(BlobAnswer { total, range, body })
    }

    /// Asks where the blob was redirected to before; `None` means to start over at the registry.
    async fn remembered(&self, call: &Call, digest: &Digest) -> Option<Response> {
        let inner = &self.inner;
        let key = (call.name.clone(), digest.clone());
        let url = inner.locations.get(&key)?;
        if let Ok(Landed { response, .. }) = inner.net.send_elsewhere(call, url).await
            && (response.status().is_success() || response.status() == StatusCode::RANGE_NOT_SATISFIABLE)
        {
            return Some(response);
        }
        inner.locations.remove(&key);
        None
    }

    async fn whole_size(&self, response: &Response, call: &Call, digest: &Digest) -> Result<u64, UpstreamError> {
        if let Some(length) = content_length(response) {
            return Ok(length);
        }
        let size = self.head_size(&call.name, digest).await?;
        size.ok_or_else(|| UpstreamError::protocol("blob without a length"))
    }

    async fn head_size(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let call = self.call(Method::HEAD, name, &format!("blobs/{digest}"), "*/*");
        self.ask(&call, |Landed { response, elsewhere }| async move {
            let status = response.status();
            let unsupported = matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED);
            // A signed URL may be good for GET only.
            if unsupported || (elsewhere.is_some() && status == StatusCode::FORBIDDEN) {
                return Ok(None);
            }
            if !status.is_success() {
                return Err(self.inner.net.failure(response, "blob").await);
            }
            Ok(content_length(&response))
        })
        .await
    }
}

/// Returns the part that a 206 brings and the blob's size, checked against what was asked for.
fn partial(response: &Response, asked: Option<&Range<u64>>) -> Result<(Range<u64>, u64), UpstreamError> {
    let asked = asked.ok_or_else(|| UpstreamError::protocol("partial answer to a request without a range"))?;
    let Some((Some(part), Some(total))) = content_range(response) else {
        return Err(UpstreamError::protocol("partial answer without a usable content-range"));
    };
    if part.start != asked.start || part.end > asked.end || part.end > total {
        return Err(UpstreamError::protocol(format!(
            "content-range {}-{}/{total} is not what was asked for",
            part.start,
            part.end - 1
        )));
    }
    Ok((part, total))
}

/// Reads `bytes FIRST-LAST/TOTAL`, where the range or the total may be `*`; `None` when malformed.
fn content_range(response: &Response) -> Option<(Option<Range<u64>>, Option<u64>)> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    if range.trim() == "*" {
        return Some((None, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    if last < first { None } else { Some((Some(first..last.checked_add(1)?), total)) }
}

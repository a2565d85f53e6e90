//! [`Quota`]: what Docker Hub says of its pull limit.

use std::time::Duration;

use http::HeaderMap;

/// The longest source kept, in bytes; Docker Hub sends an address or a user id.
const MAX_SOURCE: usize = 128;

/// The pull limit that an upstream last told us of (`ratelimit-limit`, `ratelimit-remaining`,
/// `docker-ratelimit-source`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Pulls allowed in a window.
    pub limit: u64,
    /// Pulls left.
    pub remaining: u64,
    /// The window's length.
    pub window: Duration,
    /// Whom the limit counts: an address or an account.
    pub source: Option<String>,
}

impl Quota {
    /// Reads the headers; returns `None` when limit or remainder is missing or malformed.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (limit, window) = amount(text("ratelimit-limit")?)?;
        let (remaining, _) = amount(text("ratelimit-remaining")?)?;
        let source = text("docker-ratelimit-source").filter(|s| s.len() <= MAX_SOURCE).map(Into::into);
        Some(Self { limit, remaining, window, source })
    }
}

/// Reads `N;w=SECONDS`; without a window it is zero.
fn amount(text: &str) -> Option<(u64, Duration)> {
    let mut parts = text.split(';').map(str::trim);
    let amount = parts.next()?.parse().ok()?;
    let seconds = parts.find_map(|part| part.strip_prefix("w=")).map_or(Some(0), |s| s.parse().ok())?;
    Some((amount, Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_is_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(Quota::from_headers(&headers), None);
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        headers.insert("ratelimit-remaining", "76;w=21600".parse().unwrap());
        headers.insert("docker-ratelimit-source", "192.0.2.1".parse().unwrap());
        let expected = Quota {
            limit: 100,
            remaining: 76,
            window: Duration::from_secs(21600),
            source: Some(String::from("192.0.2.1")),
        };
        assert_eq!(Quota::from_headers(&headers), Some(expected));
        headers.insert("ratelimit-limit", "many".parse().unwrap());
        assert_eq!(Quota::from_headers(&headers), None);
    }
}

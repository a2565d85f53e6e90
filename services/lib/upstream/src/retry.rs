//! [`run`]: makes an attempt again while its error is transient and the policy allows.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{RetryPolicy, UpstreamError};

/// The longest `Retry-After` taken as said, so that a clock gone wrong does not overflow ours.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Runs `attempt` until it succeeds, fails for good, or `policy` is used up; then returns the last
/// error. A pause that the upstream asks for is kept, or, where it does not fit, not begun.
pub(crate) async fn run<T, F, A>(policy: &RetryPolicy, upstream: &str, attempt: F) -> Result<T, UpstreamError>
where
    F: Fn() -> A,
    A: Future<Output = Result<T, UpstreamError>>,
{
    let deadline = Instant::now() + policy.total;
    let mut last = UpstreamError::Timeout;
    for number in 1..=policy.attempts.max(1) {
        let error = match timeout_at(deadline, attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => return Err(last),
        };
        let pause = error.retry_after().unwrap_or_else(|| pause(policy.base, number));
        let resume = Instant::now() + pause;
        if !error.is_transient() || number >= policy.attempts || resume >= deadline {
            return Err(error);
        }
        tracing::debug!(upstream, attempt = number, pause_ms = pause.as_millis() as u64, %error, "trying again");
        last = error;
        sleep_until(resume).await;
    }
    Err(last)
}

/// Returns the pause after attempt `number`: `base` doubled for each, less a random part of up to half.
fn pause(base: Duration, number: u32) -> Duration {
    let full = base.saturating_mul(1 << number.saturating_sub(1).min(10));
    // A fresh hasher's keys are random, which is all that spreading clients needs.
    let random = RandomState::new().hash_one(number) as f64 / u64::MAX as f64;
    full.mul_f64(0.5 + random / 2.0)
}

/// Reads `Retry-After` in either form: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_their_bounds() {
        let base = Duration::from_millis(100);
        for (number, full) in [(1, 100), (2, 200), (3, 400), (40, 102_400)] {
            let pause = pause(base, number).as_millis();
            assert!((full / 2..=full).contains(&pause), "pause {pause} after attempt {number}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Thu, 01 Jan 1970 00:00:10 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("soon"), None);
    }
}

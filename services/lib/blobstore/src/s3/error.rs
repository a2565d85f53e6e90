//! [`refusal`]: what the service's answers mean to our callers.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::StoreError;
use crate::error::Cause;

/// Returns the error for what came of trying to `action` the object at `place`.
pub(super) fn refusal<E>(action: &'static str, place: String, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = status(&error);
    let code = error.code().unwrap_or_default().to_owned();
    let source = match &error {
        SdkError::ServiceError(_) => {
            let message = error.message().unwrap_or("no message");
            Cause::new(format!("status {} {code}: {message}", status.unwrap_or_default()))
        }
        _ => Cause::of(&error),
    };
    let advice = match &error {
        SdkError::ServiceError(_) => advice(&code, status.unwrap_or_default()),
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => None,
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => None,
        // What never left this machine: no credentials, or settings that make no request.
        _ => Some("give it credentials that are found and valid, and an endpoint and a region that exist"),
    };
    match advice {
        None => StoreError::Unavailable { action, place, source },
        Some(advice) => StoreError::Refused { action, place, advice, source },
    }
}

/// Returns the error for an answer with `code` about one object of many.
pub(super) fn refusal_of_one(action: &'static str, place: String, code: &str, message: &str) -> StoreError {
    let source = Cause::new(format!("{code}: {message}"));
    match advice(code, 0) {
        None => StoreError::Unavailable { action, place, source },
        Some(advice) => StoreError::Refused { action, place, advice, source },
    }
}

/// Returns the HTTP status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Returns what to do about an answer, or `None` when it may go well a little later. Answers to HEAD have no code.
fn advice(code: &str, status: u16) -> Option<&'static str> {
    match (code, status) {
        (
            "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "Throttling"
            | "ThrottlingException"
            | "OperationAborted"
            | "ExpiredToken"
            | "ConditionalRequestConflict",
            _,
        ) => None,
        // Of another ETag than when it was opened: it was put again. Who opens it anew reads the same bytes.
        ("PreconditionFailed", _) | (_, 412) => None,
        // Another process took it for one that nobody would finish: the bytes are here still, and go into a new one.
        ("NoSuchUpload", _) => None,
        ("NoSuchBucket", _) => Some("create the bucket, or correct storage.bucket"),
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken", _) => Some("correct the credentials"),
        ("RequestTimeTooSkewed", _) => Some("set this machine's clock"),
        ("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch", _) => {
            Some("its bytes do not have the digest of its key, or broke on the way")
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) => {
            Some("set storage.region to the bucket's region")
        }
        (_, 408 | 429 | 500..) => None,
        (_, 301 | 307 | 400) => Some("check storage.region, storage.endpoint and storage.path_style"),
        ("AccessDenied", _) | (_, 401 | 403) => {
            Some("allow these credentials to get, put, delete and list objects and uploads of the bucket")
        }
        (_, 404) => Some("create the bucket, or correct storage.bucket"),
        _ => Some("the service's answer says why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_may_not() {
        for (code, status) in [
            ("SlowDown", 503),
            ("", 500),
            ("InternalError", 200),
            ("", 429),
            ("ExpiredToken", 400),
            ("NoSuchUpload", 404),
        ] {
            assert_eq!(advice(code, status), None, "{code} {status}");
        }
        for (code, status, says) in [
            ("NoSuchBucket", 404, "storage.bucket"),
            ("", 403, "allow"),
            ("InvalidAccessKeyId", 403, "credentials"),
            ("BadDigest", 400, "digest"),
            ("AuthorizationHeaderMalformed", 400, "storage.region"),
            ("EntityTooLarge", 413, "answer"),
        ] {
            let advice = advice(code, status).unwrap_or_default();
            assert!(advice.contains(says), "{code} {status}: {advice}");
        }
    }
}

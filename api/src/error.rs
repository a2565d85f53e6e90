//! OCI error codes and the envelope they travel in (distribution-spec, "Error codes").

use serde::{Deserialize, Serialize};

/// An error code of the distribution specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The blob is not known to the registry.
    BlobUnknown,
    /// The digest given is malformed or did not match.
    DigestInvalid,
    /// The manifest is malformed.
    ManifestInvalid,
    /// The manifest is not known to the repository.
    ManifestUnknown,
    /// The repository name is malformed.
    NameInvalid,
    /// The repository is not known to the registry.
    NameUnknown,
    /// Credentials are needed.
    Unauthorized,
    /// The access is not allowed.
    Denied,
    /// The operation is not supported.
    Unsupported,
    /// The client should slow down.
    TooManyRequests,
    /// The range asked for lies outside the blob.
    RangeInvalid,
    /// The upstream or this server cannot answer now.
    Unavailable,
}

impl ErrorCode {
    /// Returns the code as it stands in the envelope.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The errors; never empty.
    pub errors: Vec<ErrorEntry>,
}

/// One error of the envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// The code.
    pub code: String,
    /// What is wrong, for people.
    #[serde(default)]
    pub message: String,
    /// What, where and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl ErrorBody {
    /// Returns an envelope with one error.
    pub fn one(code: ErrorCode, message: impl Into<String>, detail: Option<String>) -> Self {
        Self {
            errors: vec![ErrorEntry {
                code: code.as_str().into(),
                message: message.into(),
                detail: detail.map(serde_json::Value::String),
            }],
        }
    }

    /// Returns the JSON of the envelope.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| String::from(r#"{"errors":[]}"#))
    }
}

//! Registry client: tokens, retries, redirects, ranged reads.
//!
//! One [`Client`] speaks to one upstream. It dials nothing but that registry, the token hosts it was
//! told of ([`Settings::auth_hosts`]) and the places the registry redirects to; credentials go only
//! to the first two.

mod body;
mod challenge;
mod client;
pub mod docker_config;
mod error;
mod location;
mod origin;
mod quota;
mod retry;
mod secret;
mod settings;
mod token;
mod transport;

#[cfg(test)]
mod tests;

pub use body::BlobBody;
pub use client::{BlobAnswer, Client, ManifestAnswer, ManifestHead, PushError, Referrers, TagsPage, TocBody};
pub use error::UpstreamError;
pub use quota::Quota;
pub use secret::{Credentials, Secret};
pub use settings::{RetryPolicy, Settings, SettingsError, Timeouts};

//! [`Cache`]: how much is kept, and how long.

use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;
use super::size::ByteSize;
use super::value::Value;

/// The longest time a tag may be fresh or stale, in seconds: ten years.
pub(super) const MAX_TTL: u64 = 10 * 365 * 24 * 60 * 60;
/// The longest grace, in seconds: a day. What is evicted takes its room for so long.
const MAX_GRACE: u64 = 24 * 60 * 60;

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// The bytes kept at most; beyond them the longest unused is evicted. Default 0: no cap.
    pub max_size: ByteSize,
    /// What was not asked for during this time is evicted. Default 0: never.
    #[serde(serialize_with = "duration::serialize")]
    pub max_age: Duration,
    /// How long the bytes of what was evicted stay in the store, for those who read them at that moment. Default `10m`.
    #[serde(serialize_with = "duration::serialize")]
    pub grace: Duration,
    /// The bytes of the disk cache in front of S3 at most; 0: no such cache. Default `20GiB`. Not used with a directory.
    pub disk_cache_size: ByteSize,
    /// How long a tag's target is trusted without asking upstream; an upstream may say otherwise.
    /// Default `60s`.
    #[serde(serialize_with = "duration::serialize")]
    pub tag_ttl: Duration,
    /// How long past its last check a tag is served while its upstream fails. Default `7d`; 0 means never.
    #[serde(serialize_with = "duration::serialize")]
    pub max_stale: Duration,
}

impl Cache {
    pub(super) fn read(section: &mut Section) -> Self {
        let ttl = |value: &Value| duration::at_most(value, MAX_TTL);
        Self {
            max_size: section.or("max_size", ByteSize(0), ByteSize::read),
            max_age: section.or("max_age", Duration::ZERO, ttl),
            grace: section.or("grace", Duration::from_secs(10 * 60), grace),
            disk_cache_size: section.or("disk_cache_size", ByteSize(20 << 30), ByteSize::read),
            tag_ttl: section.or("tag_ttl", Duration::from_secs(60), ttl),
            max_stale: section.or("max_stale", Duration::from_secs(7 * 24 * 60 * 60), ttl),
        }
    }
}

/// Reads a grace: some time, because whoever reads must be able to finish.
fn grace(value: &Value) -> Result<Duration, String> {
    let grace = duration::at_most(value, MAX_GRACE)?;
    if grace >= Duration::from_secs(1) { Ok(grace) } else { Err(value.expected("at least 1s")) }
}

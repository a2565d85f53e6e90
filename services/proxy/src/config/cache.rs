//! [`Cache`]: how long things are kept.

use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;
use super::size::ByteSize;

/// The longest time a tag may be fresh or stale, in seconds: ten years.
pub(super) const MAX_TTL: u64 = 10 * 365 * 24 * 60 * 60;

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// The bytes kept at most; 0 means no cap, the only value that this version knows.
    pub max_size: ByteSize,
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
        section.not_built("max_size", |value| ByteSize::read(value).is_ok_and(|size| size.bytes() != 0));
        Self {
            max_size: section.or("max_size", ByteSize(0), ByteSize::read),
            disk_cache_size: section.or("disk_cache_size", ByteSize(20 << 30), ByteSize::read),
            tag_ttl: section.or("tag_ttl", Duration::from_secs(60), |value| duration::at_most(value, MAX_TTL)),
            max_stale: section
                .or("max_stale", Duration::from_secs(7 * 24 * 60 * 60), |value| duration::at_most(value, MAX_TTL)),
        }
    }
}

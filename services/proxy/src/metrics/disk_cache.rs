//! What the disk cache in front of a bucket has done, read when somebody asks for the metrics.

use std::fmt;
use std::sync::Arc;

use blobstore::{CacheCounts, CachedStore};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The metrics of a disk cache.
#[derive(Debug)]
pub(super) struct DiskCacheCounts(pub(super) Arc<CachedStore>);

impl Collector for DiskCacheCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let CacheCounts { hits, misses, hit_bytes, fetches, fetched_bytes, unkept_bytes, evicted_bytes, held_bytes } =
            self.0.counts();
        let counts = [
            ("disk_cache_hits", "Reads that the disk cache alone answered", None, hits),
            ("disk_cache_misses", "Reads that waited for the bucket", None, misses),
            ("disk_cache_fetches", "Requests made to the bucket for bytes", None, fetches),
            ("disk_cache_hit", "Bytes that reads got from the disk cache", Some(Unit::Bytes), hit_bytes),
            ("disk_cache_fetched", "Bytes that came from the bucket", Some(Unit::Bytes), fetched_bytes),
            ("disk_cache_unkept", "Bytes that there was no room to keep", Some(Unit::Bytes), unkept_bytes),
            ("disk_cache_evicted", "Bytes that left to make room", Some(Unit::Bytes), evicted_bytes),
        ];
        for (name, help, unit, count) in counts {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?)?;
        }
        let held = ConstGauge::new(i64::try_from(held_bytes).unwrap_or(i64::MAX));
        let unit = Some(&Unit::Bytes);
        held.encode(encoder.encode_descriptor("disk_cache_held", "Bytes on the disk now", unit, held.metric_type())?)
    }
}

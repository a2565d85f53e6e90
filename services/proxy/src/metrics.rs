//! Every metric of the proxy, declared once. `docs/METRICS.md` lists them with their units.

mod disk_cache;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::UnconvertibleReason;
use blobstore::CachedStore;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use disk_cache::DiskCacheCounts;

/// What bytes were fetched for, or from where else than an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// A fill's own segments.
    Fill,
    /// A block for a cold range.
    ColdRange,
    /// A body that is streamed through without being stored.
    Uncached,
    /// Bytes of a fill that another process does: from its spool, or from the store.
    Replica,
}

impl Fetched {
    const fn label(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::ColdRange => "cold_range",
            Self::Uncached => "uncached",
            Self::Replica => "replica",
        }
    }
}

/// How a fill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FillEnd {
    /// Its bytes are in the store.
    Stored,
    /// Another process put them there.
    Followed,
    /// It was given up.
    Failed,
}

/// How a conversion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConversionEnd {
    /// With a twin.
    Ready,
    /// With a reason why there is none.
    Unconvertible(UnconvertibleReason),
    /// Without a result, for a passing reason.
    Failed,
    /// Without a result, because another process has taken it over.
    Overtaken,
}

impl FillEnd {
    const fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Followed => "followed",
            Self::Failed => "failed",
        }
    }
}

/// Where the bytes of a range came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeKind {
    /// The store.
    Stored,
    /// A running fill that had them already.
    Spool,
    /// A running fill that did not have them yet.
    Cold,
}

impl RangeKind {
    const fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Spool => "spool",
            Self::Cold => "cold",
        }
    }
}

/// Why bytes leave the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// `cache.max_size`.
    Cap,
    /// `cache.max_age`.
    Age,
    /// No row names them: a process died between the put and the row, or the row lost them.
    Orphan,
}

impl Reason {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Age => "age",
            Self::Orphan => "orphan",
        }
    }
}

/// How asking an upstream about a tag ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagCheck {
    /// The known digest was fresh enough; the upstream was not asked.
    Fresh,
    /// The upstream named the known digest.
    Unchanged,
    /// The upstream named a new digest.
    Changed,
    /// The upstream could not answer and the known digest was served.
    Stale,
    /// The upstream does not know the tag.
    Missing,
    /// The upstream could not answer and nothing was known.
    Failed,
}

impl TagCheck {
    const fn label(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

/// Who reads a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Whoever pulls.
    Client,
    /// Another process of the fleet.
    Replica,
}

/// The metrics of one process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    fills_running: Gauge,
    fills_yielding: Gauge,
    fills: Family<StateLabels, Counter>,
    coalesced_readers: Counter,
    upstream_bytes: Family<KindLabel, Counter>,
    replica_bytes: Counter,
    taken_over: Family<KindLabel, Counter>,
    served_bytes: Counter,
    lent_bytes: Counter,
    conversions: Family<StateLabels, Counter>,
    conversions_running: Gauge,
    conversions_postponed: Counter,
    conversion_seconds: Histogram,
    ranges: Family<KindLabel, Counter>,
    tag_checks: Family<OutcomeLabel, Counter>,
    quota_remaining: Family<UpstreamLabel, Gauge>,
    uncached_streams: Counter,
    store_bytes: Family<StateLabel, Gauge>,
    evicted_units: Family<ReasonLabel, Counter>,
    evicted_bytes: Family<ReasonLabel, Counter>,
    undeleted: Counter,
    collections: Family<OutcomeLabel, Counter>,
    collection_seconds: Histogram,
}

/// A fill that yields is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Yielding<'m>(&'m Gauge);

impl Drop for Yielding<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Returns fresh metrics, all at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("firstlight");
        let this = Self {
            registry: Mutex::default(),
            fills_running: Gauge::default(),
            fills_yielding: Gauge::default(),
            fills: Family::default(),
            coalesced_readers: Counter::default(),
            upstream_bytes: Family::default(),
            replica_bytes: Counter::default(),
            taken_over: Family::default(),
            served_bytes: Counter::default(),
            lent_bytes: Counter::default(),
            conversions: Family::default(),
            conversions_running: Gauge::default(),
            conversions_postponed: Counter::default(),
            conversion_seconds: Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
            ranges: Family::default(),
            tag_checks: Family::default(),
            quota_remaining: Family::default(),
            uncached_streams: Counter::default(),
            store_bytes: Family::default(),
            evicted_units: Family::default(),
            evicted_bytes: Family::default(),
            undeleted: Counter::default(),
            collections: Family::default(),
            collection_seconds: Histogram::new([0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0]),
        };
        let r = &mut registry;
        r.register("fills_running", "Fills that run now", this.fills_running.clone());
        r.register("fills_yielding", "Fills that let wanted ones go first now", this.fills_yielding.clone());
        r.register("fills", "Fills that ended, by state", this.fills.clone());
        r.register("coalesced_readers", "Requests that joined a running fill", this.coalesced_readers.clone());
        r.register_with_unit(
            "upstream",
            "Body bytes of blobs fetched from upstreams",
            Unit::Bytes,
            this.upstream_bytes.clone(),
        );
        r.register_with_unit(
            "replica",
            "Body bytes of blobs that other processes fill, from their spools or the store",
            Unit::Bytes,
            this.replica_bytes.clone(),
        );
        r.register("taken_over", "Fills and conversions taken over from other processes", this.taken_over.clone());
        r.register_with_unit(
            "served",
            "Body bytes of blobs and manifests sent to clients",
            Unit::Bytes,
            this.served_bytes.clone(),
        );
        r.register_with_unit(
            "lent",
            "Body bytes of blobs sent to other processes of the fleet",
            Unit::Bytes,
            this.lent_bytes.clone(),
        );
        r.register("conversions", "Conversions that ended, by state and reason", this.conversions.clone());
        r.register("conversions_running", "Conversions that run now", this.conversions_running.clone());
        r.register(
            "conversions_postponed",
            "Conversions that were not begun because too many wait",
            this.conversions_postponed.clone(),
        );
        r.register_with_unit(
            "conversion",
            "Time from the start to the end of a conversion",
            Unit::Seconds,
            this.conversion_seconds.clone(),
        );
        r.register("ranges", "Range requests, by where their first byte came from", this.ranges.clone());
        r.register("tag_checks", "Tag look-ups, by outcome", this.tag_checks.clone());
        r.register("quota_remaining", "Pulls left at the upstream, where it says so", this.quota_remaining.clone());
        r.register("uncached_streams", "Blobs streamed through without being stored", this.uncached_streams.clone());
        this.register_collections(r);
        *this.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        this
    }

    fn register_collections(&self, r: &mut Registry) {
        r.register_with_unit(
            "store",
            "Bytes in the store by the catalog of the whole fleet: stored, or evicted and not deleted yet",
            Unit::Bytes,
            self.store_bytes.clone(),
        );
        r.register(
            "evicted_units",
            "Layers with their twins, and other blobs, that were evicted",
            self.evicted_units.clone(),
        );
        r.register_with_unit("evicted", "Bytes that were evicted", Unit::Bytes, self.evicted_bytes.clone());
        r.register("undeleted_keys", "Keys whose bytes the store did not delete", self.undeleted.clone());
        r.register("collections", "Collections that ended, by outcome", self.collections.clone());
        r.register_with_unit(
            "collection",
            "Time that a collection took",
            Unit::Seconds,
            self.collection_seconds.clone(),
        );
    }

    /// Adds what a disk cache counts.
    pub(crate) fn disk_cache(&self, cache: Arc<CachedStore>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(DiskCacheCounts(cache)));
    }

    /// Returns the metrics in the OpenMetrics text format.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _infallible = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    pub(crate) fn fill_started(&self) {
        self.fills_running.inc();
    }

    pub(crate) fn fill_ended(&self, end: FillEnd) {
        // The total first: who sees none running sees all that ended.
        self.fills.get_or_create(&StateLabels { state: end.label(), reason: "" }).inc();
        self.fills_running.dec();
    }

    /// Counts a fill that yields, until what this returns is dropped.
    pub(crate) fn yielding(&self) -> Yielding<'_> {
        self.fills_yielding.inc();
        Yielding(&self.fills_yielding)
    }

    pub(crate) fn coalesced(&self) {
        self.coalesced_readers.inc();
    }

    pub(crate) fn fetched(&self, kind: Fetched, bytes: usize) {
        match kind {
            Fetched::Replica => self.replica_bytes.inc_by(bytes as u64),
            Fetched::Fill | Fetched::ColdRange | Fetched::Uncached => {
                self.upstream_bytes.get_or_create(&KindLabel { kind: kind.label() }).inc_by(bytes as u64)
            }
        };
    }

    pub(crate) fn taken_over(&self, work: &'static str) {
        self.taken_over.get_or_create(&KindLabel { kind: work }).inc();
    }

    pub(crate) fn served(&self, reader: Reader, bytes: usize) {
        match reader {
            Reader::Client => self.served_bytes.inc_by(bytes as u64),
            Reader::Replica => self.lent_bytes.inc_by(bytes as u64),
        };
    }

    pub(crate) fn conversion_started(&self) {
        self.conversions_running.inc();
    }

    /// Says that a conversion was given up before anything came of it, and is begun again later.
    pub(crate) fn conversion_yielded(&self) {
        self.conversions_running.dec();
    }

    pub(crate) fn conversion_postponed(&self) {
        self.conversions_postponed.inc();
    }

    pub(crate) fn conversion_ended(&self, end: ConversionEnd, took: Duration) {
        let labels = match end {
            ConversionEnd::Ready => StateLabels { state: "ready", reason: "" },
            ConversionEnd::Unconvertible(reason) => StateLabels { state: "unconvertible", reason: reason.as_str() },
            ConversionEnd::Failed => StateLabels { state: "failed", reason: "" },
            ConversionEnd::Overtaken => StateLabels { state: "overtaken", reason: "" },
        };
        self.conversions.get_or_create(&labels).inc();
        self.conversions_running.dec();
        self.conversion_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn range(&self, kind: RangeKind) {
        self.ranges.get_or_create(&KindLabel { kind: kind.label() }).inc();
    }

    pub(crate) fn tag_check(&self, kind: TagCheck) {
        self.tag_checks.get_or_create(&OutcomeLabel { outcome: kind.label() }).inc();
    }

    pub(crate) fn quota(&self, upstream: &str, remaining: u64) {
        let gauge = self.quota_remaining.get_or_create(&UpstreamLabel { upstream: upstream.into() });
        gauge.set(i64::try_from(remaining).unwrap_or(i64::MAX));
    }

    pub(crate) fn store_bytes(&self, usage: &catalog::Usage) {
        for (state, bytes) in [("stored", usage.stored_bytes), ("leaving", usage.leaving_bytes)] {
            let gauge = self.store_bytes.get_or_create(&StateLabel { state });
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn evicted(&self, reason: Reason, bytes: u64) {
        let label = ReasonLabel { reason: reason.label() };
        self.evicted_units.get_or_create(&label).inc();
        self.evicted_bytes.get_or_create(&label).inc_by(bytes);
    }

    pub(crate) fn undeleted(&self) {
        self.undeleted.inc();
    }

    pub(crate) fn collection_ended(&self, outcome: &'static str, took: Duration) {
        self.collections.get_or_create(&OutcomeLabel { outcome }).inc();
        self.collection_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn uncached_stream(&self) {
        self.uncached_streams.inc();
    }
}

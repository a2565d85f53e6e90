//! Every metric of the proxy, declared once. `docs/METRICS.md` lists them with their units.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use api::UnconvertibleReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What bytes were fetched from an upstream for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamBytes {
    /// A fill's own segments.
    Fill,
    /// A block for a cold range.
    ColdRange,
    /// A body that is streamed through without being stored.
    Uncached,
}

impl UpstreamBytes {
    const fn label(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::ColdRange => "cold_range",
            Self::Uncached => "uncached",
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
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
    served_bytes: Counter,
    conversions: Family<StateLabels, Counter>,
    conversions_running: Gauge,
    conversions_postponed: Counter,
    conversion_seconds: Histogram,
    ranges: Family<KindLabel, Counter>,
    tag_checks: Family<OutcomeLabel, Counter>,
    quota_remaining: Family<UpstreamLabel, Gauge>,
    uncached_streams: Counter,
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
            served_bytes: Counter::default(),
            conversions: Family::default(),
            conversions_running: Gauge::default(),
            conversions_postponed: Counter::default(),
            conversion_seconds: Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
            ranges: Family::default(),
            tag_checks: Family::default(),
            quota_remaining: Family::default(),
            uncached_streams: Counter::default(),
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
            "served",
            "Body bytes of blobs and manifests sent to clients",
            Unit::Bytes,
            this.served_bytes.clone(),
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
        *this.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        this
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

    pub(crate) fn fill_ended(&self, stored: bool) {
        self.fills_running.dec();
        let state = if stored { "stored" } else { "failed" };
        self.fills.get_or_create(&StateLabels { state, reason: "" }).inc();
    }

    /// Counts a fill that yields, until what this returns is dropped.
    pub(crate) fn yielding(&self) -> Yielding<'_> {
        self.fills_yielding.inc();
        Yielding(&self.fills_yielding)
    }

    pub(crate) fn coalesced(&self) {
        self.coalesced_readers.inc();
    }

    pub(crate) fn upstream_bytes(&self, kind: UpstreamBytes, bytes: usize) {
        self.upstream_bytes.get_or_create(&KindLabel { kind: kind.label() }).inc_by(bytes as u64);
    }

    pub(crate) fn served(&self, bytes: usize) {
        self.served_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn conversion_started(&self) {
        self.conversions_running.inc();
    }

    pub(crate) fn conversion_postponed(&self) {
        self.conversions_postponed.inc();
    }

    /// Counts the end of a conversion; `Ok` a twin, `Err(Some)` unconvertible, `Err(None)` given up
    /// for now.
    pub(crate) fn conversion_ended(&self, result: Result<(), Option<UnconvertibleReason>>, took: Duration) {
        self.conversions_running.dec();
        let labels = match result {
            Ok(()) => StateLabels { state: "ready", reason: "" },
            Err(Some(reason)) => StateLabels { state: "unconvertible", reason: reason.as_str() },
            Err(None) => StateLabels { state: "failed", reason: "" },
        };
        self.conversions.get_or_create(&labels).inc();
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

    pub(crate) fn uncached_stream(&self) {
        self.uncached_streams.inc();
    }
}

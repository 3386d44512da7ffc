//! What the scraper says about itself: every metric's name in one place.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{self, Format};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

type Value = Gauge<f64, AtomicU64>;

/// Labels of what is said per target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfTarget {
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTable {
    target: String,
    table: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    target: String,
    reason: String,
}

/// The scraper's own metrics.
#[derive(Debug)]
pub(crate) struct Telemetry {
    registry: Registry,
    up: Family<OfTarget, Gauge>,
    duration: Family<OfTarget, Value>,
    lag: Family<OfTarget, Value>,
    pending: Family<OfTarget, Gauge>,
    last_success: Family<OfTarget, Value>,
    cycles: Family<OfTarget, Counter>,
    bytes: Family<OfTarget, Counter>,
    failures: Family<OfReason, Counter>,
    rows: Family<OfTable, Counter>,
}

/// What a cycle came to, for the metrics.
pub(crate) struct Measured<'a> {
    pub(crate) up: bool,
    pub(crate) seconds: f64,
    pub(crate) received_bytes: u64,
    pub(crate) lag_seconds: f64,
    pub(crate) pending: usize,
    /// Rows stored, per table.
    pub(crate) rows: Vec<(&'a str, u64)>,
    /// Why something failed, once per failure.
    pub(crate) failures: Vec<&'static str>,
    /// Seconds since the epoch.
    pub(crate) now: f64,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("costream_scraper");
        let r = &mut registry;
        Self {
            up: registered(r, "up", "Whether the target's last scrape brought what it should (1) or not (0)"),
            duration: registered(
                r,
                "cycle_duration_seconds",
                "How long the target's last cycle took, to the last commit",
            ),
            lag: registered(
                r,
                "snapshot_lag_seconds",
                "Age of the target's oldest snapshot that is not stored yet, 0 when all are",
            ),
            pending: registered(r, "scopes_pending", "The target's scopes whose snapshot is not stored yet"),
            last_success: registered(
                r,
                "last_success_timestamp_seconds",
                "When the target's last cycle without a failure ended",
            ),
            cycles: registered(r, "cycles", "Cycles of the target that have ended"),
            bytes: registered(r, "received_bytes", "Bytes received from the target, as they were on the wire"),
            failures: registered(r, "failures", "Scrapes and deliveries that failed, by reason"),
            rows: registered(r, "rows", "Rows stored, by table: charges, rejects or samples"),
            registry,
        }
    }

    pub(crate) fn record(&self, target: &str, measured: &Measured<'_>) {
        let of = OfTarget { target: target.to_owned() };
        self.up.get_or_create(&of).set(i64::from(measured.up));
        self.duration.get_or_create(&of).set(measured.seconds);
        self.lag.get_or_create(&of).set(measured.lag_seconds);
        self.pending.get_or_create(&of).set(i64::try_from(measured.pending).unwrap_or(i64::MAX));
        self.cycles.get_or_create(&of).inc();
        self.bytes.get_or_create(&of).inc_by(measured.received_bytes);
        if measured.failures.is_empty() {
            self.last_success.get_or_create(&of).set(measured.now);
        }
        for (table, rows) in &measured.rows {
            self.rows.get_or_create(&OfTable { target: of.target.clone(), table: (*table).to_owned() }).inc_by(*rows);
        }
        for reason in &measured.failures {
            self.failures.get_or_create(&OfReason { target: of.target.clone(), reason: (*reason).to_owned() }).inc();
        }
    }

    /// The metrics in a format.
    pub(crate) fn exposition(&self, format: Format) -> Bytes {
        let mut text = String::new();
        let mut writer = TextWriter::new(format);
        // Writing into a text does not fail, and what the library writes is read back.
        let written = encode(&mut text, &self.registry).map_err(|error| error.to_string());
        if let Err(error) =
            written.and_then(|()| exposition::transcode(&text, &mut writer).map_err(|error| error.to_string()))
        {
            tracing::error!(error, "the scraper's own metrics are not complete");
        }
        writer.finish();
        writer.take()
    }
}

fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

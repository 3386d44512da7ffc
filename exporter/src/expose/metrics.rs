//! `/metrics`: the sums kept ready in, chunks of text out. Holds about [`CHUNK_BYTES`].

use std::sync::Arc;

use bytes::Bytes;
use costream_common::exposition::encode::{TextWriter, float};
use costream_common::exposition::{Format, Kind};
use costream_common::record::{GroupTotals, SourceName};

use crate::dimensions::Dimensions;
use crate::poll::Status;
use crate::rollup::Series;
use crate::sums::Sums;

/// About the size of a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// A family of sums: its name, help, and what it takes of a series.
type Family = (&'static str, &'static str, fn(&GroupTotals) -> String);

const COSTS: [Family; 5] = [
    ("costream_billed_cost", "Sum of BilledCost, in the billing currency", |totals| totals.billed.to_string()),
    ("costream_effective_cost", "Sum of EffectiveCost, in the billing currency", |totals| totals.effective.to_string()),
    ("costream_list_cost", "Sum of ListCost, in the billing currency", |totals| totals.list.to_string()),
    ("costream_contracted_cost", "Sum of ContractedCost, in the billing currency", |totals| {
        totals.contracted.to_string()
    }),
    ("costream_charges", "Charges, which are rows of the report", |totals| totals.rows.to_string()),
];
const CONTROLS: [Family; 5] = [
    ("costream_control_billed_cost", "Control total: sum of BilledCost", |totals| totals.billed.to_string()),
    ("costream_control_effective_cost", "Control total: sum of EffectiveCost", |totals| totals.effective.to_string()),
    ("costream_control_list_cost", "Control total: sum of ListCost", |totals| totals.list.to_string()),
    ("costream_control_contracted_cost", "Control total: sum of ContractedCost", |totals| {
        totals.contracted.to_string()
    }),
    ("costream_control_charges", "Control total: charges", |totals| totals.rows.to_string()),
];

/// What is said of each source, beside its bill.
pub(super) struct SourceState {
    pub(super) name: SourceName,
    pub(super) status: Status,
}

/// What one answer shows.
pub(super) struct Shown {
    pub(super) dimensions: Dimensions,
    pub(super) sums: Arc<Sums>,
    pub(super) sources: Vec<SourceState>,
    pub(super) spool_bytes: u64,
    pub(super) spool_max_bytes: Option<u64>,
    /// The exporter's telemetry, in the same format.
    pub(super) telemetry: String,
}

/// The chunks of one answer.
pub(super) struct Metrics {
    shown: Shown,
    writer: TextWriter,
    family: usize,
    sample: usize,
}

impl Metrics {
    pub(super) fn new(shown: Shown, format: Format) -> Self {
        Self { shown, writer: TextWriter::new(format), family: 0, sample: 0 }
    }

    /// The series of a family of sums, by its position; nothing beyond the last.
    fn sums(&self, at: usize) -> Option<(Family, &[Series])> {
        let costs = COSTS.iter().map(|family| (*family, self.shown.sums.series.as_slice()));
        costs.chain(CONTROLS.iter().map(|family| (*family, self.shown.sums.controls.as_slice()))).nth(at)
    }
}

impl Iterator for Metrics {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        let sums = Arc::clone(&self.shown.sums);
        let dimensions = self.shown.dimensions.clone();
        while self.writer.len() < CHUNK_BYTES {
            let Some(((name, help, value), series)) =
                self.sums(self.family).map(|(family, series)| (family, series.len()))
            else {
                break;
            };
            let all = if self.family < COSTS.len() { &sums.series } else { &sums.controls };
            if self.sample == 0 {
                self.writer.family(name, Kind::Gauge, help);
            }
            while self.sample < series && self.writer.len() < CHUNK_BYTES {
                let Series { values, totals } = &all[self.sample];
                let labels = dimensions.labels().zip(values).filter(|(_, value)| !value.is_empty());
                self.writer.sample(name, labels, &value(totals), None);
                self.sample += 1;
            }
            if self.sample == series {
                (self.family, self.sample) = (self.family + 1, 0);
            }
        }
        if self.family == COSTS.len() + CONTROLS.len() && self.writer.len() < CHUNK_BYTES {
            self.family += 1;
            states(&mut self.writer, &self.shown);
            let mut last = Vec::from(self.writer.take());
            last.extend_from_slice(self.shown.telemetry.as_bytes());
            self.writer.finish();
            last.extend_from_slice(&self.writer.take());
            return Some(Ok(last.into()));
        }
        let chunk = self.writer.take();
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

fn states(writer: &mut TextWriter, shown: &Shown) {
    let per_source = |writer: &mut TextWriter, name: &str, help: &str, value: &dyn Fn(&Status) -> Option<String>| {
        writer.family(name, Kind::Gauge, help);
        for source in &shown.sources {
            if let Some(value) = value(&source.status) {
                writer.sample(name, [("source", source.name.as_str())], &value, None);
            }
        }
    };
    let seconds = |time: chrono::DateTime<chrono::Utc>| {
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since the epoch are exact in a double for 285,000 years"
        )]
        let milliseconds = time.timestamp_millis() as f64;
        float(milliseconds / 1000.0)
    };
    per_source(
        writer,
        "costream_source_up",
        "Whether the last poll of the source brought every report (1), or failed (0)",
        &|status| status.up.map(|up| u8::from(up).to_string()),
    );
    per_source(writer, "costream_source_last_poll_timestamp_seconds", "When the source was last polled", &|status| {
        status.polled_at.map(seconds)
    });
    per_source(
        writer,
        "costream_source_last_success_timestamp_seconds",
        "When a poll of the source last went well",
        &|status| status.succeeded_at.map(seconds),
    );
    per_source(
        writer,
        "costream_source_last_poll_duration_seconds",
        "How long the last poll of the source took",
        &|status| status.polled_at.map(|_| float(status.took.as_secs_f64())),
    );
    per_source(
        writer,
        "costream_source_gone_reports",
        "Reports that are gone at the source, whose rows stay",
        &|status| Some(status.gone.to_string()),
    );

    let name = "costream_snapshot_timestamp_seconds";
    writer.family(name, Kind::Gauge, "When the snapshot that is served was taken: its age is the data's");
    for (key, taken_at) in &shown.sums.snapshots {
        let labels = [("source", key.source.as_str()), ("scope", key.scope.as_str())];
        writer.sample(name, labels, &seconds(*taken_at), None);
    }
    let counts = [
        (
            "costream_rejected_rows",
            "Rows of the current snapshots that were refused, by reason",
            "reason",
            &shown.sums.rejects,
        ),
        (
            "costream_applied_rules",
            "Times a rule of leniency was applied in the current snapshots",
            "rule",
            &shown.sums.rules,
        ),
    ];
    for (name, help, label, counts) in counts {
        writer.family(name, Kind::Gauge, help);
        for ((source, what), count) in counts {
            writer.sample(name, [("source", source.as_str()), (label, what.as_str())], &count.to_string(), None);
        }
    }
    let name = "costream_spool_used_bytes";
    writer.family(name, Kind::Gauge, "Bytes the snapshots take on disk");
    writer.sample(name, [("", ""); 0], &shown.spool_bytes.to_string(), None);
    if let Some(max_bytes) = shown.spool_max_bytes {
        let name = "costream_spool_max_bytes";
        writer.family(name, Kind::Gauge, "Most bytes the snapshots may take on disk");
        writer.sample(name, [("", ""); 0], &max_bytes.to_string(), None);
    }
}

//! `/metrics`: the text kept ready of the sums in, and after it what changes from one answer to the next:
//! the sources' states and the exporter's telemetry. Holds those; the sums' text is shared by all answers.

use std::sync::Arc;

use bytes::Bytes;
use costream_common::exposition::encode::{TextWriter, float};
use costream_common::exposition::{Format, Kind};
use costream_common::record::{SourceName, X_SCOPE, X_SOURCE};

use crate::poll::Status;
use crate::sums::{Generic, Sums};

/// What is said of each source, beside its bill.
pub(super) struct SourceState {
    pub(super) name: SourceName,
    pub(super) status: Status,
}

/// What one answer shows.
pub(super) struct Shown {
    pub(super) sums: Arc<Sums>,
    pub(super) sources: Vec<SourceState>,
    pub(super) spool_bytes: u64,
    pub(super) spool_max_bytes: Option<u64>,
    /// The exporter's telemetry, in the same format.
    pub(super) telemetry: String,
}

/// The chunks of one answer.
pub(super) fn chunks(shown: &Shown, format: Format) -> Vec<Bytes> {
    let mut writer = TextWriter::new(format);
    write_generic(&mut writer, shown);
    states(&mut writer, shown);
    let states = writer.take();
    writer.finish();
    let rest = [states, Bytes::from(shown.telemetry.clone()), writer.take()];
    shown.sums.text.iter().cloned().chain(rest).filter(|chunk| !chunk.is_empty()).collect()
}

/// How the last poll of each source went; nothing at all when there is none.
pub(super) fn ups<'a>(writer: &mut TextWriter, sources: impl Iterator<Item = &'a SourceState>) {
    let name = "costream_source_up";
    let help = "Whether the last poll of the source brought every report (1), or failed (0)";
    let mut sources = sources.filter_map(|source| Some((source, source.status.up?))).peekable();
    if sources.peek().is_some() {
        writer.family(name, Kind::Gauge, help);
    }
    for (source, up) in sources {
        writer.sample(name, [("source", source.name.as_str())], &u8::from(up).to_string(), None);
    }
}

/// Writes the series of generic rows: each metric is a family.
pub(super) fn write_generic(writer: &mut TextWriter, shown: &Shown) {
    let all = &shown.sums.generic;
    let with_source = shown.sources.len() > 1;
    let mut family = "";
    for Generic { metric, key, series } in all {
        if family != metric {
            family = metric;
            writer.family(metric, Kind::Gauge, "Rows of a report, those of one series added up");
        }
        // What tells the series of several sources, or reports, apart.
        let source = with_source.then_some((X_SOURCE, key.source.as_str()));
        let is_alone = all.iter().filter(|other| other.key.source == key.source).nth(1).is_none();
        let scope = (!is_alone).then_some((X_SCOPE, key.scope.as_str()));
        for one in &series.all {
            writer.sample(metric, series.labels(one).chain(source).chain(scope), &one.sum.to_string(), None);
        }
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
    ups(writer, shown.sources.iter());
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
    let name = "costream_metrics_left_out_rows";
    let help = "Points of usage and generic rows whose series are not shown here, beyond max_series; /records has them";
    writer.family(name, Kind::Gauge, help);
    for (source, count) in &shown.sums.left_out {
        writer.sample(name, [("source", source.as_str())], &count.to_string(), None);
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

//! The series of a Prometheus HTTP API answer in, a row for each of their samples out. A series is
//! `{"metric": {...}, "value": [time, "value"]}`, or has several of these in `values`. Labels are columns under their names;
//! one that is called as a column of ours has `label_` before it, so that neither takes the other's place.
//! Spec: <https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats>.

use std::borrow::Cow;

use chrono::DateTime;
use costream_common::money::Amount;
use serde_json::value::RawValue;

use super::Keys;
use super::record::{Field, Members};
use crate::decode::chunk::{ChunkBuilder, Fault};

/// The columns behind the labels.
pub(super) const COLUMNS: [&str; 2] = ["value", "timestamp"];
/// The label of a series' name, and its column.
const NAME: &str = "__name__";
const NAME_COLUMN: &str = "metric_name";
/// Stands before a label that is called as one of our columns.
const LABEL: &str = "label_";

/// The columns of a series' labels.
pub(super) fn labels(series: &Members<'_>) -> impl Iterator<Item = String> {
    let labels = series.object("metric").map(|metric| metric.0).unwrap_or_default();
    labels.into_iter().map(|(label, _)| column(&label).into_owned())
}

/// A label's column: each has its own.
fn column(label: &str) -> Cow<'_, str> {
    let bare = label.trim_start_matches(LABEL);
    match label {
        NAME => NAME_COLUMN.into(),
        _ if bare == NAME_COLUMN || COLUMNS.contains(&bare) => format!("{LABEL}{label}").into(),
        _ => label.into(),
    }
}

/// Writes the samples of a series, one a row.
pub(super) fn rows(record: &[u8], keys: &Keys, chunk: &mut ChunkBuilder) {
    let fault = match samples(record) {
        Ok((metric, samples)) => {
            for sample in samples {
                if let Err(fault) = row(&metric, sample, keys, chunk) {
                    chunk.end_bad_row(fault, sample.get().as_bytes());
                }
            }
            return;
        }
        Err(fault) => fault,
    };
    chunk.end_bad_row(fault, record);
}

fn samples(record: &[u8]) -> Result<(Members<'_>, Vec<&RawValue>), Fault> {
    let text = std::str::from_utf8(record).map_err(|_| Fault::NotUtf8)?;
    let series = Members::of(text).ok_or(Fault::NotAnObject)?;
    let metric = series.object("metric").ok_or(Fault::NotAnObject)?;
    let one = || series.0.iter().find(|(key, _)| key == "value").map(|(_, value)| vec![*value]);
    // As many as a record of bounded length holds.
    let many = series.get("values").and_then(|values| serde_json::from_str(values).ok());
    Ok((metric, many.or_else(one).ok_or(Fault::NotAnObject)?))
}

fn row(metric: &Members<'_>, sample: &RawValue, keys: &Keys, chunk: &mut ChunkBuilder) -> Result<(), Fault> {
    let (time, value): (&RawValue, &RawValue) = serde_json::from_str(sample.get()).map_err(|_| Fault::NotAnObject)?;
    let mut fields: Vec<Option<Cow<'_, str>>> = vec![None; keys.names.len() - COLUMNS.len()];
    for (label, label_value) in &metric.0 {
        let place = keys.places.get(&*column(label)).ok_or(Fault::NotAnObject)?;
        if fields[*place].replace(text(label_value)?).is_some() {
            return Err(Fault::DuplicateColumn);
        }
    }
    let time = rfc3339(time.get()).ok_or(Fault::NotAnObject)?;
    for field in fields.into_iter().chain([Some(text(value)?), Some(time.into())]) {
        match field {
            Some(field) => chunk.push(field.as_bytes()),
            None => chunk.push_null(),
        }
    }
    chunk.end_row();
    Ok(())
}

fn text(value: &RawValue) -> Result<Cow<'_, str>, Fault> {
    match Field::of(value.get()) {
        Some(Field::Text(text)) => Ok(text),
        _ => Err(Fault::NotAnObject),
    }
}

/// Seconds since the epoch as RFC 3339, with every digit of a fraction.
fn rfc3339(seconds: &str) -> Option<String> {
    let seconds = Amount::parse(seconds.as_bytes()).ok()?.to_string();
    let (whole, fraction) = seconds.split_once('.').unwrap_or((&seconds, ""));
    // Prometheus has no times before 1970.
    let whole = whole.parse::<u32>().ok()?;
    let time = DateTime::from_timestamp(i64::from(whole), 0)?.format("%Y-%m-%dT%H:%M:%S");
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{time}{point}{fraction}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_fraction() {
        for (seconds, time) in [
            ("1726650000.5", Some("2024-09-18T09:00:00.5Z")),
            ("1726650000", Some("2024-09-18T09:00:00Z")),
            ("1726650000.781", Some("2024-09-18T09:00:00.781Z")),
            ("1.72665e9", Some("2024-09-18T09:00:00Z")),
            ("-1", None),
            ("\"1\"", None),
        ] {
            assert_eq!(rfc3339(seconds).as_deref(), time, "{seconds}");
        }
    }
}

//! A parquet file's statistics as the Delta log carries them, so that readers skip files.
//!
//! Only what is exact and of use: times to the microsecond, integers, and a text that all rows
//! of the file share (an account, a currency), if it is short. Amounts have none: readers take JSON numbers for doubles, and a bound
//! rounded the wrong way would hide a row.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use deltalake::kernel::{DataType, StructType};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest text worth a bound, in bytes.
const MAX_TEXT_BYTES: usize = 32;

/// Times in a checkpoint's statistics may have been cut to milliseconds.
const TIME_SLACK_MICROS: i64 = 1000;

/// The `stats` of an `add` action.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileStats {
    pub(super) num_records: i64,
    #[serde(default)]
    pub(super) min_values: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) max_values: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) null_count: BTreeMap<String, Value>,
}

/// The bounds of a file's time columns, in microseconds, from its `stats`. A file without a
/// bound is one that may hold any time.
pub(super) fn times(stats: Option<&str>, schema: &StructType) -> BTreeMap<String, (i64, i64)> {
    let Some(stats) = stats.and_then(|stats| serde_json::from_str::<FileStats>(stats).ok()) else {
        return BTreeMap::new();
    };
    let micros = |value: &Value| Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_micros());
    let times = schema.fields().filter(|field| *field.data_type() == DataType::TIMESTAMP);
    let bounds = times.filter_map(|field| {
        let (least, most) = (stats.min_values.get(field.name())?, stats.max_values.get(field.name())?);
        let (least, most) = (micros(least)?, micros(most)?);
        Some((field.name().clone(), (least.saturating_sub(TIME_SLACK_MICROS), most.saturating_add(TIME_SLACK_MICROS))))
    });
    bounds.collect()
}

/// A bound that can be compared before it is written down.
#[derive(Clone, PartialEq, PartialOrd)]
enum Bound {
    Integer(i64),
    Micros(i64),
    Text(String),
}

impl Bound {
    fn of(statistics: &Statistics, kind: Option<&LogicalType>, least: bool) -> Option<Self> {
        match (statistics, kind) {
            (Statistics::Int64(s), Some(LogicalType::Timestamp(t))) if t.unit == TimeUnit::MICROS => {
                Some(Self::Micros(if least { *s.min_opt()? } else { *s.max_opt()? }))
            }
            (Statistics::Int64(s), None | Some(LogicalType::Integer(_))) => {
                Some(Self::Integer(if least { *s.min_opt()? } else { *s.max_opt()? }))
            }
            (Statistics::ByteArray(s), Some(LogicalType::String)) => {
                let exact = if least { s.min_is_exact() } else { s.max_is_exact() };
                let bytes = if least { s.min_opt()? } else { s.max_opt()? };
                let text = std::str::from_utf8(bytes.data()).ok()?;
                (exact && text.len() <= MAX_TEXT_BYTES).then(|| Self::Text(text.to_owned()))
            }
            _ => None,
        }
    }

    fn json(self) -> Option<Value> {
        match self {
            Self::Integer(number) => Some(number.into()),
            Self::Micros(micros) => {
                Some(DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true).into())
            }
            Self::Text(text) => Some(text.into()),
        }
    }
}

/// The statistics of a file just written, as JSON.
pub(super) fn of_file(metadata: &ParquetMetaData) -> String {
    let mut stats = FileStats { num_records: metadata.file_metadata().num_rows(), ..FileStats::default() };
    for (at, column) in metadata.file_metadata().schema_descr().columns().iter().enumerate() {
        // Columns within columns (the keys and values of a map) have no bounds worth having.
        let [name] = column.path().parts() else { continue };
        let groups: Option<Vec<&Statistics>> =
            metadata.row_groups().iter().map(|group| group.column(at).statistics()).collect();
        let Some(groups) = groups else { continue };
        let kind = column.logical_type_ref();
        let bound = |least: bool| {
            let bounds = groups.iter().filter(|group| !all_null(group)).map(|group| Bound::of(group, kind, least));
            let better = |a: Bound, b: Bound| if (a < b) == least { a } else { b };
            bounds.reduce(|a, b| Some(better(a?, b?))).flatten()
        };
        let (least, most) = (bound(true), bound(false));
        if matches!((&least, &most), (Some(Bound::Text(least)), Some(Bound::Text(most))) if least != most) {
            continue;
        }
        for (bound, bounds) in [(least, &mut stats.min_values), (most, &mut stats.max_values)] {
            if let Some(bound) = bound.and_then(Bound::json) {
                bounds.insert(name.clone(), bound);
            }
        }
        let nulls: Option<u64> = groups.iter().map(|group| group.null_count_opt()).sum();
        let bounded = stats.min_values.contains_key(name) || stats.max_values.contains_key(name);
        if let Some(nulls) = nulls.filter(|nulls| bounded || i64::try_from(*nulls) == Ok(stats.num_records)) {
            stats.null_count.insert(name.clone(), nulls.into());
        }
    }
    serde_json::to_string(&stats).unwrap_or_else(|_| format!(r#"{{"numRecords":{}}}"#, stats.num_records))
}

/// A row group whose values are all null has no bounds, and bounds nothing. Known only by its
/// bounds' absence: the number of its rows is not among its statistics.
fn all_null(statistics: &Statistics) -> bool {
    statistics.null_count_opt().is_some_and(|nulls| nulls > 0)
        && statistics.min_bytes_opt().is_none()
        && statistics.max_bytes_opt().is_none()
}

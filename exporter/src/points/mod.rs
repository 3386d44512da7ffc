//! Points in, batches of the five columns of a usage table out: `ResourceId`, `metricName`, `timestamp`, `average`, `unit`,
//! and our row ordinal. A point without a value is no record and is counted; one whose time or value cannot be kept
//! exactly is rejected. Holds one open batch, and what is ready to be taken.
//!
//! [`answer`] reads points out of what Azure Monitor answers, [`report`] all of one answer, [`last`] finds the last value of every
//! series.

pub(crate) mod answer;
pub(crate) mod last;
pub(crate) mod report;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::builder::{Decimal128Builder, Int64Builder, StringDictionaryBuilder, TimestampMicrosecondBuilder};
use arrow::array::{ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int16Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use costream_common::field::time;
use costream_common::money::{Amount, AmountError};
use costream_common::record::{ColumnKind, MAX_BATCH_ROWS, POINT_COLUMNS, POINT_KEY, Texts, row_field};
use sha2::{Digest as _, Sha256};

use self::answer::Point;
use crate::convert::{Reject, Rejected};
use crate::report::Decoded;

/// How a point without a value is counted.
const WITHOUT_VALUE: &str = "point_without_average";

// Each text of a batch may be another one.
const _: () = assert!(MAX_BATCH_ROWS <= i16::MAX as usize);

/// The columns of every batch.
pub(crate) fn schema() -> SchemaRef {
    let fields = POINT_COLUMNS.iter().map(|(name, kind)| kind.record_field(name)).chain([row_field()]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A point that can be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) resource: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) unit: Option<&'a str>,
    pub(crate) micros: i64,
    pub(crate) average: Amount,
}

/// The rows of a batch of points; none of a batch of anything else.
pub(crate) fn rows(batch: &RecordBatch) -> impl Iterator<Item = Row<'_>> {
    let text = |name| batch.column_by_name(name).and_then(Texts::of);
    let columns = (|| {
        let times = batch.column_by_name(POINT_KEY[2])?.as_primitive_opt::<TimestampMicrosecondType>()?;
        let averages = batch.column_by_name("average")?.as_primitive_opt::<Decimal128Type>()?;
        Some((text(POINT_KEY[0])?, text(POINT_KEY[1])?, times, averages, text("unit")?))
    })();
    columns.into_iter().flat_map(|(resources, metrics, times, averages, units)| {
        (0..times.values().len()).filter_map(move |row| {
            Some(Row {
                resource: resources.get(row)?,
                metric: metrics.get(row)?,
                unit: units.get(row),
                micros: times.value(row),
                average: Amount::from_units(averages.value(row))?,
            })
        })
    })
}

/// Builds the batches of one snapshot.
pub(crate) struct Points {
    schema: SchemaRef,
    resources: StringDictionaryBuilder<Int16Type>,
    metrics: StringDictionaryBuilder<Int16Type>,
    times: TimestampMicrosecondBuilder,
    averages: Decimal128Builder,
    units: StringDictionaryBuilder<Int16Type>,
    ordinals: Int64Builder,
    /// The ordinal of the point taken last.
    ordinal: i64,
    ready: VecDeque<Decoded>,
    without_value: u64,
    digest: Sha256,
}

impl Points {
    pub(crate) fn new() -> Self {
        Self {
            schema: schema(),
            resources: StringDictionaryBuilder::new(),
            metrics: StringDictionaryBuilder::new(),
            times: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            averages: Decimal128Builder::new().with_data_type(ColumnKind::Decimal.data_type()),
            units: StringDictionaryBuilder::new(),
            ordinals: Int64Builder::new(),
            ordinal: 0,
            ready: VecDeque::new(),
            without_value: 0,
            digest: Sha256::new(),
        }
    }

    /// Takes a point as it was told, when `is_ours` says so of its time.
    ///
    /// # Errors
    /// A batch cannot be built.
    pub(crate) fn take(&mut self, point: &Point, is_ours: impl Fn(i64) -> bool) -> Result<(), ArrowError> {
        let Some(average) = &point.average else {
            self.without_value += 1;
            return Ok(());
        };
        let read = match (time::parse(point.timestamp.as_bytes()), average.parse::<Amount>()) {
            (None, _) => Err((POINT_KEY[2], Reject::NotATime, &point.timestamp)),
            (_, Err(AmountError::NotANumber)) => Err(("average", Reject::NotANumber, average)),
            (_, Err(_)) => Err(("average", Reject::TooManyDigits, average)),
            (Some(time), Ok(average)) => Ok((time.micros, average)),
        };
        match read {
            Ok((micros, _)) if !is_ours(micros) => Ok(()),
            Ok((micros, average)) => self.keep(Row {
                resource: &point.resource,
                metric: &point.metric,
                unit: point.unit.as_deref(),
                micros,
                average,
            }),
            Err((column, reason, text)) => {
                self.ordinal += 1;
                self.ready.push_back(Decoded::Rejected(Rejected {
                    row: self.ordinal.unsigned_abs(),
                    column: Some(column.to_owned()),
                    reason,
                    text: format!("{text} ({} of {} at {})", point.metric, point.resource, point.timestamp),
                }));
                Ok(())
            }
        }
    }

    /// Takes a point that was kept before.
    ///
    /// # Errors
    /// A batch cannot be built.
    pub(crate) fn keep(&mut self, row: Row<'_>) -> Result<(), ArrowError> {
        self.ordinal += 1;
        self.resources.append(row.resource)?;
        self.metrics.append(row.metric)?;
        self.times.append_value(row.micros);
        self.averages.append_value(row.average.units());
        self.units.append_option(row.unit);
        self.ordinals.append_value(self.ordinal);
        for text in [row.resource, row.metric, row.unit.unwrap_or_default()] {
            self.digest.update((text.len() as u64).to_le_bytes());
            self.digest.update(text);
        }
        self.digest.update(row.micros.to_le_bytes());
        self.digest.update(row.average.units().to_le_bytes());
        if self.ordinals.values_slice().len() >= MAX_BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// What is ready to be taken.
    pub(crate) fn ready(&mut self) -> impl Iterator<Item = Decoded> + '_ {
        self.ready.drain(..)
    }

    /// Whether no point was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.ordinal == 0
    }

    /// Makes the open batch ready.
    ///
    /// # Errors
    /// It cannot be built.
    pub(crate) fn flush(&mut self) -> Result<(), ArrowError> {
        if self.ordinals.values_slice().is_empty() {
            return Ok(());
        }
        let columns: [ArrayRef; 6] = [
            Arc::new(self.resources.finish()),
            Arc::new(self.metrics.finish()),
            Arc::new(self.times.finish()),
            Arc::new(self.averages.finish()),
            Arc::new(self.units.finish()),
            Arc::new(self.ordinals.finish()),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.into())?;
        self.ready.push_back(Decoded::Batch(batch));
        Ok(())
    }

    /// What was counted, and a digest of all rows.
    pub(crate) fn end(self) -> (BTreeMap<String, u64>, String) {
        let counted = (self.without_value > 0).then(|| (WITHOUT_VALUE.to_owned(), self.without_value));
        (counted.into_iter().collect(), format!("{:x}", self.digest.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(timestamp: &str, average: Option<&str>) -> Point {
        Point {
            resource: "/vm1".into(),
            metric: "Percentage CPU".into(),
            unit: Some("Percent".into()),
            timestamp: timestamp.to_owned(),
            average: average.map(str::to_owned),
        }
    }

    fn taken(told: &[(&str, Option<&str>)]) -> (Vec<Decoded>, BTreeMap<String, u64>, String) {
        let mut points = Points::new();
        for (timestamp, average) in told {
            points.take(&point(timestamp, *average), |_| true).expect("a batch");
        }
        points.flush().expect("a batch");
        let ready: Vec<_> = points.ready().collect();
        let (counted, digest) = points.end();
        (ready, counted, digest)
    }

    #[test]
    fn every_digit_is_kept_or_the_point_is_rejected() {
        let (ready, counted, _) = taken(&[
            ("2024-09-18T10:00:00Z", Some("0.123456789012345678")),
            ("2024-09-18T10:15:00Z", Some("1e-12")),
            ("2024-09-18T10:30:00Z", None),
            ("2024-09-18T10:45:00Z", Some("0.1234567890123456789")),
            ("2024-09-18T11:00:00Z", Some("NaN")),
            ("noon", Some("1")),
        ]);
        let rejected: Vec<_> = ready
            .iter()
            .filter_map(|decoded| match decoded {
                Decoded::Rejected(rejected) => Some((rejected.row, rejected.column.as_deref()?, rejected.reason)),
                Decoded::Batch(_) => None,
            })
            .collect();
        assert_eq!(
            rejected,
            [
                (3, "average", Reject::TooManyDigits),
                (4, "average", Reject::NotANumber),
                (5, "timestamp", Reject::NotATime)
            ]
        );
        let Some(Decoded::Batch(batch)) = ready.last() else { panic!("a batch") };
        let kept: Vec<_> =
            rows(batch).map(|row| (row.resource, row.metric, row.unit, row.average.to_string())).collect();
        let of = |average: &str| ("/vm1", "Percentage CPU", Some("Percent"), average.to_owned());
        assert_eq!(kept, [of("0.123456789012345678"), of("0.000000000001")]);
        assert_eq!(counted, [("point_without_average".to_owned(), 1)].into());
    }

    #[test]
    fn the_digest_tells_one_point_from_another() {
        let one = taken(&[("2024-09-18T10:00:00Z", Some("1"))]).2;
        assert_eq!(one, taken(&[("2024-09-18T10:00:00Z", Some("1.0"))]).2);
        assert_ne!(one, taken(&[("2024-09-18T10:00:00Z", Some("1.1"))]).2);
        assert_ne!(one, taken(&[("2024-09-18T10:15:00Z", Some("1"))]).2);
    }

    #[test]
    fn a_batch_is_full_at_its_most_rows() {
        let told: Vec<_> = (0..=MAX_BATCH_ROWS).map(|_| ("2024-09-18T10:00:00Z", Some("1"))).collect();
        let (ready, ..) = taken(&told);
        let sizes: Vec<_> = ready
            .iter()
            .map(|decoded| if let Decoded::Batch(batch) = decoded { batch.num_rows() } else { 0 })
            .collect();
        assert_eq!(sizes, [MAX_BATCH_ROWS, 1]);
    }
}

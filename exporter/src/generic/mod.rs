//! A report of any columns in, batches out: one column is a number, the others are text. A row whose number is none, or has more
//! digits than we keep, is rejected. Holds one open batch: [`MAX_BATCH_ROWS`] rows or about [`MAX_BATCH_BYTES`].
//!
//! [`series`] says what `/metrics` shows of such rows.

pub(crate) mod series;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::builder::{Decimal128Builder, Int64Builder, StringDictionaryBuilder};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Int16Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use costream_common::money::{Amount, AmountError};
use costream_common::record::{
    ColumnKind, MAX_BATCH_BYTES, MAX_BATCH_ROWS, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE, row_field,
};
use tokio::io::AsyncRead;

use crate::convert::{Reject, Rejected};
use crate::decode::DecodeError;
use crate::report::generic::{GenericReport, GenericRow};
use crate::report::{DecodeOptions, Decoded};

/// A report whose rows are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenericError {
    /// It is no table.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The number has no place in it.
    #[error("{file}: there is no column at place {at}, from 0, for the value: the columns are {columns}")]
    NoValue {
        /// The report.
        file: String,
        /// The place.
        at: usize,
        /// The columns there are.
        columns: String,
    },
    /// A batch could not be built.
    #[error("build a batch")]
    Batch(#[from] ArrowError),
}

/// A report being read.
pub(crate) struct Generic {
    report: GenericReport,
    schema: SchemaRef,
    value_at: usize,
    texts: Vec<StringDictionaryBuilder<Int16Type>>,
    values: Decimal128Builder,
    ordinals: Int64Builder,
    bytes: usize,
    is_at_end: bool,
}

impl Generic {
    /// Opens a report whose number is in the column at a place, from 0.
    ///
    /// # Errors
    /// It is no table, or has no such column.
    pub(crate) async fn open(
        bytes: impl AsyncRead + Send + Unpin + 'static,
        options: DecodeOptions,
        value_at: usize,
    ) -> Result<Self, GenericError> {
        let file = options.file.clone();
        let report = GenericReport::open(bytes, options).await?;
        let names = distinct(report.columns());
        if value_at >= names.len() {
            return Err(GenericError::NoValue { file, at: value_at, columns: names.join(", ") });
        }
        let kind = |at| if at == value_at { ColumnKind::Decimal } else { ColumnKind::Text };
        let fields = names.iter().enumerate().map(|(at, name)| kind(at).record_field(name)).chain([row_field()]);
        Ok(Self {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            value_at,
            texts: names.iter().map(|_| StringDictionaryBuilder::new()).collect(),
            values: Decimal128Builder::new().with_data_type(ColumnKind::Decimal.data_type()),
            ordinals: Int64Builder::new(),
            bytes: 0,
            is_at_end: false,
            report,
        })
    }

    /// The columns of every batch.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The name of the column that is a number.
    pub(crate) fn value(&self) -> &str {
        self.schema.field(self.value_at).name()
    }

    /// The next batch or rejected row; nothing at the report's end.
    ///
    /// # Errors
    /// The report cannot be read to its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Decoded>, GenericError> {
        while !self.is_at_end {
            match self.report.next().await? {
                Some(Ok(row)) => {
                    if let Err(rejected) = self.take(row)? {
                        return Ok(Some(Decoded::Rejected(rejected)));
                    }
                    if self.ordinals.values_slice().len() >= MAX_BATCH_ROWS || self.bytes >= MAX_BATCH_BYTES {
                        return Ok(Some(Decoded::Batch(self.flush()?)));
                    }
                }
                Some(Err(rejected)) => return Ok(Some(Decoded::Rejected(rejected))),
                None => self.is_at_end = true,
            }
        }
        if self.ordinals.values_slice().is_empty() { Ok(None) } else { Ok(Some(Decoded::Batch(self.flush()?))) }
    }

    fn take(&mut self, GenericRow { row, fields }: GenericRow) -> Result<Result<(), Rejected>, ArrowError> {
        let text = fields.get(self.value_at).cloned().flatten().unwrap_or_default();
        let value = match text.parse::<Amount>() {
            Ok(value) => value,
            Err(error) => {
                let reason = match error {
                    _ if text.is_empty() => Reject::MissingAmount,
                    AmountError::NotANumber => Reject::NotANumber,
                    _ => Reject::TooManyDigits,
                };
                return Ok(Err(Rejected { row, column: Some(self.value().to_owned()), reason, text }));
            }
        };
        self.values.append_value(value.units());
        for (at, (texts, field)) in self.texts.iter_mut().zip(&fields).enumerate() {
            if at != self.value_at {
                // A field without text is none, as in a cost report.
                let field = field.as_deref().filter(|field| !field.is_empty());
                self.bytes += field.map_or(0, str::len);
                match field {
                    Some(field) => drop(texts.append(field)?),
                    None => texts.append_null(),
                }
            }
        }
        self.ordinals.append_value(i64::try_from(row).unwrap_or(i64::MAX));
        Ok(Ok(()))
    }

    fn flush(&mut self) -> Result<RecordBatch, ArrowError> {
        self.bytes = 0;
        let value_at = self.value_at;
        let values: ArrayRef = Arc::new(self.values.finish());
        let column = |(at, texts): (usize, &mut StringDictionaryBuilder<Int16Type>)| -> ArrayRef {
            if at == value_at { Arc::clone(&values) } else { Arc::new(texts.finish()) }
        };
        let mut columns: Vec<ArrayRef> = self.texts.iter_mut().enumerate().map(column).collect();
        columns.push(Arc::new(self.ordinals.finish()));
        RecordBatch::try_new(self.schema(), columns)
    }
}

/// The columns' names, told apart from each other, whatever their case, and from ours.
fn distinct(columns: &[String]) -> Vec<String> {
    let mut taken: HashSet<String> = [X_SOURCE, X_SCOPE, X_SNAPSHOT, X_ROW].map(str::to_owned).into();
    let mut told_apart = |column: &String| {
        let mut name = column.clone();
        while name.is_empty() || !taken.insert(name.to_lowercase()) {
            name.push('_');
        }
        name
    };
    columns.iter().map(&mut told_apart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generic::series::Finder;

    async fn read(body: &str, value_at: usize) -> Result<(Vec<RecordBatch>, Vec<Rejected>, String), GenericError> {
        let bytes = std::io::Cursor::new(body.to_owned().into_bytes());
        let mut generic = Generic::open(bytes, DecodeOptions::new("any"), value_at).await?;
        let (mut batches, mut rejects) = (Vec::new(), Vec::new());
        while let Some(decoded) = generic.next().await? {
            match decoded {
                Decoded::Batch(batch) => batches.push(batch),
                Decoded::Rejected(rejected) => rejects.push(rejected),
            }
        }
        let value = generic.value().to_owned();
        Ok((batches, rejects, value))
    }

    /// What is shown of a report: labels and value, line by line.
    async fn shown(body: &str, value_at: usize) -> Vec<String> {
        let (batches, _, value) = read(body, value_at).await.expect("rows");
        let mut finder = Finder::new(value, 100);
        batches.iter().for_each(|batch| finder.add_batch(batch));
        let all = finder.into_series();
        let line = |series: &series::Series| {
            let labels: Vec<_> = all.labels(series).map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} {}", labels.join(","), series.sum)
        };
        all.all.iter().map(line).collect()
    }

    #[tokio::test]
    async fn rows_of_any_make_are_series_of_all_their_columns() {
        for (body, value_at, expected) in [
            (
                "team,month,tokens,note\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nweb,2024-09,3,\n",
                2,
                vec!["month=2024-09,note=a \"b\", c,team=ml,tokens=12.5 25", "month=2024-09,team=web,tokens=3 3"],
            ),
            (
                r#"{"meta":1,"items":[{"b":2,"a":"x"},{"a":"y","c":1.5,"b":7}]}"#,
                1,
                vec!["a=x,b=2 2", "a=y,b=7,c=1.5 7"],
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1726650000.5,"1"]},{"metric":{"__name__":"up","inst":"i"},"value":[1726650000,"0.25"]}]}}"#,
                3,
                vec![
                    "job=a,metric_name=up,timestamp=2024-09-18T09:00:00.5Z,value=1 1",
                    "inst=i,metric_name=up,timestamp=2024-09-18T09:00:00Z,value=0.25 0.25",
                ],
            ),
        ] {
            let (mut found, mut expected) = (shown(body, value_at).await, expected);
            found.sort();
            expected.sort_unstable();
            assert_eq!(found, expected, "{body}");
        }
    }

    #[tokio::test]
    async fn a_number_that_is_none_rejects_its_row_alone() {
        let body = "n,what\n1,a\nmany,b\n,c\n0.1234567890123456789,d\n2,e\nx\n";
        let (batches, rejects, _) = read(body, 0).await.expect("rows");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        let told: Vec<_> = rejects.iter().map(|of| (of.row, of.column.as_deref(), of.reason)).collect();
        assert_eq!(
            told,
            [
                (2, Some("n"), Reject::NotANumber),
                (3, Some("n"), Reject::MissingAmount),
                (4, Some("n"), Reject::TooManyDigits),
                (6, None, Reject::WrongFieldCount),
            ]
        );
    }

    #[tokio::test]
    async fn a_place_without_a_column_is_named() {
        let error = read("a,b\n1,2\n", 2).await.expect_err("no such place").to_string();
        assert_eq!(error, "any: there is no column at place 2, from 0, for the value: the columns are a, b");
    }

    #[test]
    fn columns_are_told_apart() {
        let columns = ["value", "Value", "x_row", "", "value_"].map(str::to_owned);
        assert_eq!(distinct(&columns), ["value", "Value_", "x_row_", "_", "value__"]);
    }
}

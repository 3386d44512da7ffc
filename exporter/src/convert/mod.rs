//! Rows of text in, typed batches out, row by row. A row is read whole into scratch before any
//! of it is appended, so that a rejected one leaves nothing behind. Holds one open batch:
//! [`MAX_BATCH_ROWS`] rows or about [`MAX_BATCH_BYTES`], whichever comes first.
//!
//! An empty field of a CSV is a null, in every column; where a format writes nulls otherwise, an empty text is itself
//! in a column of text, and a null in the others. Does not trim, round or guess: what a column's
//! kind and the profile's rules cannot read rejects the row, with the first column at fault.

pub(crate) mod header;
mod known;
mod text;

use std::sync::Arc;

use arrow::array::builder::{
    Decimal128Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use costream_common::field::time::{self, Time};
use costream_common::money::{Amount, AmountError};
use costream_common::record::{ColumnKind, MAX_BATCH_BYTES, MAX_BATCH_ROWS, row_field};

use crate::decode::chunk::{Fault, Row};
use crate::decode::{BILLED_COST, Limits};
use crate::profile::{Leniency, Rule, RuleCounts};
use crate::rows::{self, Labels};
use header::Column;
use known::KnownTags;
use text::TextBuilder;

/// The most bytes kept of a rejected field or row.
pub const MAX_REJECT_TEXT_BYTES: usize = 1_024;

/// Why a row was refused: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// It has fewer or more fields than the header.
    WrongFieldCount,
    /// A field, or a record of JSON, is not UTF-8.
    NotUtf8,
    /// A field is longer than [`Limits::max_field_bytes`], or a row of Parquet than [`Limits::max_record_bytes`].
    TooLong,
    /// It is no JSON object, or one that is not well-formed.
    NotAnObject,
    /// A column stands twice in it.
    DuplicateColumn,
    /// `BilledCost` is null.
    MissingAmount,
    /// An amount or a quantity is no decimal number.
    NotANumber,
    /// An amount or a quantity has more digits than DECIMAL(38,18) holds, before or behind the point.
    TooManyDigits,
    /// A time is none, or in a form that the profile does not take.
    NotATime,
    /// Tags are in no form that the profile takes.
    BadTags,
}

impl Reject {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::WrongFieldCount,
        Self::NotUtf8,
        Self::TooLong,
        Self::NotAnObject,
        Self::DuplicateColumn,
        Self::MissingAmount,
        Self::NotANumber,
        Self::TooManyDigits,
        Self::NotATime,
        Self::BadTags,
    ];

    /// The reason, as it is counted and quarantined.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongFieldCount => "wrong_field_count",
            Self::NotUtf8 => "not_utf8",
            Self::TooLong => "too_long",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateColumn => "duplicate_column",
            Self::MissingAmount => "missing_amount",
            Self::NotANumber => "not_a_number",
            Self::TooManyDigits => "too_many_digits",
            Self::NotATime => "not_a_time",
            Self::BadTags => "bad_tags",
        }
    }
}

impl From<Fault> for Reject {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotUtf8 => Self::NotUtf8,
            Fault::NotAnObject => Self::NotAnObject,
            Fault::DuplicateColumn => Self::DuplicateColumn,
            Fault::TooLong => Self::TooLong,
        }
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its ordinal in the report, from 1.
    pub row: u64,
    /// The first column at fault; nothing when it is the row as a whole.
    pub column: Option<String>,
    /// Why.
    pub reason: Reject,
    /// The field, or the row, as it stood: at most [`MAX_REJECT_TEXT_BYTES`], then `…`.
    pub text: String,
}

/// Converts the rows of one report.
pub(crate) struct Converter {
    columns: Vec<Column>,
    builders: Vec<Builder>,
    /// Positions of the columns that are not text.
    parsed: Vec<usize>,
    ordinals: Int64Builder,
    labels: Option<Labels>,
    schema: SchemaRef,
    leniency: Leniency,
    max_field_bytes: usize,
    /// Bytes a row takes beside its fields'.
    row_overhead_bytes: usize,
    batch_rows: usize,
    batch_bytes: usize,
}

enum Builder {
    Text(TextBuilder),
    Decimal { array: Decimal128Builder, is_required: bool, row: Option<Amount> },
    Timestamp { array: TimestampMicrosecondBuilder, row: Option<Time>, last: LastTime },
    Tags { array: Box<MapBuilder<StringBuilder, StringBuilder>>, is_null: bool, row: KnownTags },
}

/// The time read last: in a report the same few stand in row after row.
#[derive(Default)]
struct LastTime {
    text: Vec<u8>,
    time: Time,
}

impl Converter {
    pub(crate) fn new(columns: Vec<Column>, leniency: Leniency, limits: &Limits) -> Self {
        let mut fields: Vec<_> = columns.iter().map(|column| column.kind.record_field(&column.name)).collect();
        fields.push(row_field());
        let parsed = (0..columns.len()).filter(|at| columns[*at].kind != ColumnKind::Text).collect();
        let row_overhead_bytes = columns
            .iter()
            .map(|column| match column.kind {
                ColumnKind::Text | ColumnKind::Tags => size_of::<i32>(),
                ColumnKind::Decimal => size_of::<i128>(),
                ColumnKind::Timestamp => size_of::<i64>(),
            })
            .sum::<usize>()
            + size_of::<i64>();
        Self {
            builders: columns.iter().map(Builder::new).collect(),
            parsed,
            columns,
            ordinals: Int64Builder::new(),
            labels: None,
            schema: Arc::new(Schema::new(fields)),
            leniency,
            max_field_bytes: limits.max_field_bytes,
            row_overhead_bytes,
            batch_rows: 0,
            batch_bytes: 0,
        }
    }

    /// Adds a column of labels to every batch.
    pub(crate) fn keep_labels(&mut self) {
        self.labels = Some(Labels::of(self.columns.iter().map(|column| column.name.as_str())));
        let fields = self.schema.fields().iter().cloned().chain([Arc::new(rows::labels_field())]);
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether the open batch must be finished before this row can be taken.
    pub(crate) fn is_full_for(&self, row: Row<'_>) -> bool {
        self.batch_rows > 0
            && (self.batch_rows >= MAX_BATCH_ROWS
                || self.batch_bytes + row.n_bytes() + self.row_overhead_bytes > MAX_BATCH_BYTES)
    }

    /// Takes a row into the open batch, or refuses it and leaves the batch as it was.
    /// `is_utf8`: every field of the row is known to be.
    pub(crate) fn take(
        &mut self,
        row: Row<'_>,
        ordinal: i64,
        is_utf8: bool,
        rules: &mut RuleCounts,
    ) -> Result<(), Rejected> {
        if let Err((column, reason)) = self.read(row, is_utf8, rules) {
            rules.drop_row();
            let text = match column {
                Some(at) => shortened(row.field(at)),
                None => shortened(&joined(row)),
            };
            let column = column.map(|at| self.columns[at].name.clone());
            return Err(Rejected { row: ordinal.unsigned_abs(), column, reason, text });
        }
        let takes_null_literal = self.leniency.takes(Rule::NullLiteral);
        for (builder, field) in self.builders.iter_mut().zip(row.values()) {
            match builder {
                Builder::Text(array) => match field {
                    Some(b"NULL") if takes_null_literal => {
                        rules.count_in_row(Rule::NullLiteral);
                        array.append_null();
                    }
                    Some(field) => array.append_value(field),
                    None => array.append_null(),
                },
                Builder::Decimal { array, row, .. } => array.append_option(row.map(Amount::units)),
                Builder::Timestamp { array, row, .. } => array.append_option(row.map(|time| time.micros)),
                Builder::Tags { array, is_null, row } => {
                    if !*is_null {
                        for (key, value) in row.last() {
                            array.keys().append_value(key);
                            array.values().append_option(value);
                        }
                    }
                    // Keys and values were appended in pairs: their counts cannot differ.
                    let _ = array.append(!*is_null);
                }
            }
        }
        if let Some(labels) = &mut self.labels {
            labels.append(|at| String::from_utf8_lossy(row.field(at)));
        }
        self.ordinals.append_value(ordinal);
        self.batch_rows += 1;
        self.batch_bytes += row.n_bytes() + self.row_overhead_bytes;
        rules.take_row();
        Ok(())
    }

    /// Reads what is not text into scratch, and says which column is at fault.
    fn read(&mut self, row: Row<'_>, is_utf8: bool, rules: &mut RuleCounts) -> Result<(), (Option<usize>, Reject)> {
        if let Some(fault) = row.fault {
            return Err((None, fault.into()));
        }
        if row.n_fields != self.columns.len() {
            return Err((None, Reject::WrongFieldCount));
        }
        if !is_utf8 || row.n_bytes() > self.max_field_bytes {
            for (at, field) in row.fields().enumerate() {
                if field.len() > self.max_field_bytes {
                    return Err((Some(at), Reject::TooLong));
                }
                if std::str::from_utf8(field).is_err() {
                    return Err((Some(at), Reject::NotUtf8));
                }
            }
        }
        for at in &self.parsed {
            self.builders[*at].read(row.field(*at), self.leniency, rules).map_err(|reason| (Some(*at), reason))?;
        }
        Ok(())
    }

    /// The open batch, when it has rows; a new one is opened.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.batch_rows == 0 {
            return Ok(None);
        }
        self.batch_rows = 0;
        self.batch_bytes = 0;
        let mut arrays = Vec::with_capacity(self.builders.len() + 1);
        for builder in &mut self.builders {
            arrays.push(builder.finish()?);
        }
        arrays.push(Arc::new(self.ordinals.finish()));
        if let Some(labels) = &mut self.labels {
            arrays.push(Arc::new(labels.finish()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map(Some)
    }
}

impl Builder {
    fn new(column: &Column) -> Self {
        match column.kind {
            ColumnKind::Text => Self::Text(TextBuilder::default()),
            ColumnKind::Decimal => Self::Decimal {
                array: Decimal128Builder::new().with_data_type(ColumnKind::Decimal.data_type()),
                is_required: column.name == BILLED_COST,
                row: None,
            },
            ColumnKind::Timestamp => Self::Timestamp {
                array: TimestampMicrosecondBuilder::new().with_data_type(ColumnKind::Timestamp.data_type()),
                row: None,
                last: LastTime::default(),
            },
            ColumnKind::Tags => {
                let names =
                    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
                let array = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
                Self::Tags { array: Box::new(array), is_null: true, row: KnownTags::default() }
            }
        }
    }

    fn read(&mut self, field: &[u8], leniency: Leniency, rules: &mut RuleCounts) -> Result<(), Reject> {
        let is_null = field.is_empty() || is_null_literal(field, leniency, rules);
        match self {
            Self::Text(_) => {}
            Self::Decimal { is_required: true, .. } if is_null => return Err(Reject::MissingAmount),
            Self::Decimal { row, .. } if is_null => *row = None,
            Self::Decimal { row, .. } => {
                *row = Some(Amount::parse(field).map_err(|error| match error {
                    AmountError::NotANumber => Reject::NotANumber,
                    AmountError::TooPrecise | AmountError::TooLarge => Reject::TooManyDigits,
                })?);
                if field.iter().any(|b| matches!(b, b'e' | b'E')) {
                    rules.count_in_row(Rule::Exponent);
                }
            }
            Self::Timestamp { row, .. } if is_null => *row = None,
            Self::Timestamp { row, last, .. } => {
                if last.text != field {
                    let time = time::parse(field).filter(|time| time.rules().all(|rule| leniency.takes(rule)));
                    last.time = time.ok_or(Reject::NotATime)?;
                    last.text.clear();
                    last.text.extend_from_slice(field);
                }
                last.time.rules().for_each(|rule| rules.count_in_row(rule));
                *row = Some(last.time);
            }
            Self::Tags { is_null: row_is_null, row, .. } => {
                *row_is_null = is_null;
                if !is_null {
                    let tags = row.read(field, leniency)?;
                    tags.rules().iter().for_each(|rule| rules.count_in_row(*rule));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(texts) => texts.finish()?,
            Self::Decimal { array, .. } => Arc::new(array.finish()),
            Self::Timestamp { array, .. } => Arc::new(array.finish()),
            Self::Tags { array, .. } => Arc::new(array.finish()),
        })
    }
}

/// A null that is written out. In a column that is not text no value can look like it, so its
/// case does not matter.
fn is_null_literal(field: &[u8], leniency: Leniency, rules: &mut RuleCounts) -> bool {
    let is = field.len() == 4 && field.eq_ignore_ascii_case(b"NULL") && leniency.takes(Rule::NullLiteral);
    if is {
        rules.count_in_row(Rule::NullLiteral);
    }
    is
}

/// A row's fields with commas between, as far as a rejected row's text goes.
pub(crate) fn joined(row: Row<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for (at, field) in row.fields().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        let room = (MAX_REJECT_TEXT_BYTES + 1).saturating_sub(text.len());
        text.extend_from_slice(&field[..field.len().min(room)]);
        if room == 0 {
            break;
        }
    }
    text
}

/// At most [`MAX_REJECT_TEXT_BYTES`], then `…`.
pub(crate) fn shortened(bytes: &[u8]) -> String {
    if bytes.len() <= MAX_REJECT_TEXT_BYTES {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    // Not through the middle of a character.
    let is_boundary = |at: &usize| bytes[*at] & 0xc0 != 0x80;
    let end =
        (MAX_REJECT_TEXT_BYTES - 3..=MAX_REJECT_TEXT_BYTES).rev().find(is_boundary).unwrap_or(MAX_REJECT_TEXT_BYTES);
    String::from_utf8_lossy(&bytes[..end]).into_owned() + "…"
}

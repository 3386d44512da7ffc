//! Records that cannot be stored: where, which label, why and what stood there; and their
//! quarantine, as the rows of table `rejects`.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use base64::Engine as _;
use costream_common::record::{ColumnKind, X_SCOPE, X_SNAPSHOT, X_SOURCE, row_field};
use sha2::{Digest as _, Sha256};

use super::rows::{UPLOAD, X_KEY};
use crate::ident::{ColumnName, TableName};

/// The most bytes kept of a rejected value or record.
pub const MAX_REJECT_TEXT_BYTES: usize = 1_024;
/// Rejects in one batch.
const REJECTS_PER_BATCH: usize = 1_024;

/// Why a record was refused: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is no object with an object of labels.
    NoRecord,
    /// It is longer than [`MAX_ELEMENT_BYTES`](super::MAX_ELEMENT_BYTES).
    TooLong,
    /// `BilledCost` is not there, or null.
    MissingAmount,
    /// Another label is not there, or null, that every record must have.
    Missing,
    /// An amount or a quantity is no decimal number.
    NotANumber,
    /// An amount or a quantity has more digits than DECIMAL(38,18) holds, before or behind the point.
    TooManyDigits,
    /// A time is none.
    NotATime,
    /// Tags are in no known form.
    BadTags,
    /// No column can be called so: the name has a character that a store refuses, is too long, or is one of ours.
    BadName,
    /// Another label has the same column: the names differ in case alone.
    NameTwice,
    /// No column of the upload's type is called so.
    UnexpectedLabel,
    /// The upload has more than [`MAX_COLUMNS`](super::MAX_COLUMNS) columns.
    TooManyColumns,
    /// There is no label at the place that `value` says.
    NoValue,
}

impl Reason {
    /// The reason, as it is quarantined.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRecord => "no_record",
            Self::TooLong => "too_long",
            Self::MissingAmount => "missing_amount",
            Self::Missing => "missing",
            Self::NotANumber => "not_a_number",
            Self::TooManyDigits => "too_many_digits",
            Self::NotATime => "not_a_time",
            Self::BadTags => "bad_tags",
            Self::BadName => "bad_name",
            Self::NameTwice => "name_twice",
            Self::UnexpectedLabel => "unexpected_label",
            Self::TooManyColumns => "too_many_columns",
            Self::NoValue => "no_value",
        }
    }
}

/// What is wrong with a record.
#[derive(Debug)]
pub(super) struct Fault {
    column: Option<String>,
    reason: Reason,
    text: String,
}

impl Fault {
    pub(super) fn new(column: Option<&str>, reason: Reason, text: &str) -> Self {
        Self { column: column.map(shortened), reason, text: shortened(text) }
    }

    /// Of the record at this place.
    pub(super) fn at(self, index: u64) -> Rejected {
        let Self { column, reason, text } = self;
        Rejected { index, column, reason, text }
    }
}

/// A record that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the request, from 0.
    pub index: u64,
    /// The label at fault; nothing when it is the record as a whole.
    pub column: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The value, or the record, as it stood: at most [`MAX_REJECT_TEXT_BYTES`], then `…`.
    pub text: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.index)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column:?}")?;
        }
        write!(f, ": {}: {:?}", self.reason.as_str(), self.text)
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_REJECT_TEXT_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_REJECT_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned() + "…"
}

/// The columns of the quarantine.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| ColumnKind::Text.field(name);
    Arc::new(Schema::new(vec![
        text("source"),
        text("file"),
        Field::new("row", DataType::Int64, true),
        text("column"),
        text("reason"),
        text("text"),
        row_field(),
        text(X_SOURCE),
        text(X_SCOPE),
        text(X_SNAPSHOT),
        text(X_KEY),
    ]))
}

/// What makes a quarantined row's identity: the same request leaves the same rows.
pub(super) fn key() -> Vec<ColumnName> {
    [X_SOURCE, X_KEY].map(ColumnName::of).to_vec()
}

/// Refused records on their way into the quarantine: one batch. A row's ordinal there is the record's place, from 1.
pub(super) struct Quarantine {
    table: String,
    rows: Int64Builder,
    columns: StringBuilder,
    reasons: StringBuilder,
    texts: StringBuilder,
    keys: StringBuilder,
    length: usize,
    /// How many in all.
    pub(super) count: u64,
}

impl Quarantine {
    /// For records that were meant for a table.
    pub(super) fn new(table: &TableName) -> Self {
        Self {
            table: table.to_string(),
            rows: Int64Builder::new(),
            columns: StringBuilder::new(),
            reasons: StringBuilder::new(),
            texts: StringBuilder::new(),
            keys: StringBuilder::new(),
            length: 0,
            count: 0,
        }
    }

    /// Takes a refused record; hands out a batch when one is full.
    pub(super) fn add(&mut self, rejected: &Rejected) -> Result<Option<RecordBatch>, ArrowError> {
        let Rejected { index, column, reason, text } = rejected;
        let row = i64::try_from(*index).map_or(i64::MAX, |index| index.saturating_add(1));
        let mut digest = Sha256::new();
        for part in [&self.table, &row.to_string(), column.as_deref().unwrap_or_default(), reason.as_str(), text] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        self.keys.append_value(engine.encode(&digest.finalize()[..16]));
        self.rows.append_value(row);
        self.columns.append_option(column.as_deref());
        self.reasons.append_value(reason.as_str());
        self.texts.append_value(text);
        self.length += 1;
        self.count += 1;
        if self.length >= REJECTS_PER_BATCH { self.finish() } else { Ok(None) }
    }

    /// The open batch, when it has rows.
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let length = std::mem::take(&mut self.length);
        if length == 0 {
            return Ok(None);
        }
        let constant =
            |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, length))) };
        let null = || -> ArrayRef { Arc::new(StringArray::new_null(length)) };
        let rows: Int64Array = self.rows.finish();
        let columns: Vec<ArrayRef> = vec![
            constant(UPLOAD),
            constant(&self.table),
            Arc::new(rows.clone()),
            Arc::new(self.columns.finish()),
            Arc::new(self.reasons.finish()),
            Arc::new(self.texts.finish()),
            Arc::new(rows),
            constant(UPLOAD),
            null(),
            null(),
            Arc::new(self.keys.finish()),
        ];
        RecordBatch::try_new(schema(), columns).map(Some)
    }
}

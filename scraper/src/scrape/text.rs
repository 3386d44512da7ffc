//! The text of one snapshot's records in, batches out, pulled one at a time.
//!
//! What the text says, in this order: `costream_records_columns`, one sample per column of the
//! report, so that a column that first has a value in the millionth row is known before the first;
//! `billed_cost`, one sample per row, a column that is null left out, or for points of usage `usage_average`, for rows of any make `generic_value`; the control totals per billing
//! period and currency (`costream_records_rows`, `.._billed_cost`, `.._effective_cost`,
//! `.._list_cost`, `.._contracted_cost`); and `costream_records_snapshots`, the end mark.
//! Labels become columns by the kind their name has in FOCUS, or in a point.
//!
//! Holds the batch at hand (at most [`MAX_BATCH_ROWS`] rows or about [`MAX_BATCH_BYTES`], and one line more). Refuses
//! a row of another snapshot, a column that was not announced or that comes twice, a value that is
//! not of its column's kind, and a body without its end mark.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Builder, Int64Builder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::{Buf as _, Bytes};
use chrono::{DateTime, Utc};
use costream_common::exposition::Format;
use costream_common::exposition::decode::{DecodeError, Decoder, Entry, Limits, Sample};
use costream_common::exposition::escape::{Name, unescape_name};
use costream_common::focus::kind_of;
use costream_common::money::{Amount, PRECISION, SCALE, Sum};
use costream_common::record::{
    ColumnKind, Group, GroupTotals, MAX_BATCH_BYTES, MAX_BATCH_ROWS, MAX_GROUPS, POINT_COLUMNS, RowKind, ScopeKey,
    Snapshot, SnapshotId, Totals, TotalsMismatch, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE, row_field,
};
use costream_common::stream::ipc::BodyError;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::de::{DeserializeSeed, MapAccess, Visitor};

/// Most columns a snapshot may announce.
const MAX_COLUMNS: usize = 4096;
/// Rows that the builders are made for: a report may have far fewer than a batch.
const EXPECTED_ROWS: usize = 1024;

/// A text that is not the records of the snapshot asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The body broke off.
    #[error("the text broke off")]
    Body(#[source] BodyError),
    /// It is no exposition.
    #[error(transparent)]
    Exposition(#[from] DecodeError),
    /// A value is not of its column's kind.
    #[error("line {line}: {column}: {text:?} is no {expected}")]
    Value {
        /// The line, from 1.
        line: u64,
        /// The label.
        column: String,
        /// What stands there, cut.
        text: String,
        /// What should.
        expected: &'static str,
    },
    /// A label that each of these samples has is missing, comes twice or was not announced.
    #[error("line {line}: label {column} {what}")]
    Label {
        /// The line, from 1.
        line: u64,
        /// The label.
        column: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A sample of another source, scope or snapshot.
    #[error("line {line}: {column} is {found:?}, not {expected:?}")]
    Elsewhere {
        /// The line, from 1.
        line: u64,
        /// `x_source`, `x_scope` or `x_snapshot`.
        column: &'static str,
        /// The one asked for.
        expected: String,
        /// The sample's.
        found: String,
    },
    /// A sample stands before or after what it must follow or precede.
    #[error("line {line}: {name} out of its place")]
    Order {
        /// The line, from 1.
        line: u64,
        /// The metric.
        name: String,
    },
    /// The text announces more than a reader holds.
    #[error("line {line}: too many {what}")]
    TooMany {
        /// The line, from 1.
        line: u64,
        /// Columns or groups.
        what: &'static str,
    },
    /// A billing period and currency without all five of its totals.
    #[error("the control totals of {0:?} are not complete")]
    Incomplete(Group),
    /// The body ended before `costream_records_snapshots`.
    #[error("the text ends without its end mark")]
    Cut,
    /// What arrived is not what the text's own totals say.
    #[error(transparent)]
    Totals(#[from] TotalsMismatch),
    /// The totals could not be kept.
    #[error(transparent)]
    Uncountable(#[from] costream_common::record::TotalsError),
    /// A batch could not be built.
    #[error("build a batch")]
    Batch(#[from] ArrowError),
}

/// How the rows of a kind are written.
#[derive(Clone)]
struct Face {
    /// The metric.
    name: &'static str,
    /// The column that the sample's value repeats.
    value: String,
    columns: Columns,
}

/// What says of what kind a column is.
#[derive(Clone, Copy)]
enum Columns {
    Focus,
    Point,
    Generic,
}

impl Face {
    fn of(kind: &RowKind) -> Self {
        let face = |name, value: &str, columns| Self { name, value: value.to_owned(), columns };
        match kind {
            RowKind::Charges => face("billed_cost", "BilledCost", Columns::Focus),
            RowKind::Points { .. } => face("usage_average", "average", Columns::Point),
            RowKind::Generic { value, .. } => face("generic_value", value, Columns::Generic),
        }
    }

    fn kind_of(&self, column: &str) -> ColumnKind {
        let in_a_point = |name: &str| POINT_COLUMNS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        match self.columns {
            Columns::Focus => kind_of(column),
            Columns::Point => in_a_point(column).unwrap_or(ColumnKind::Text),
            Columns::Generic if column == self.value => ColumnKind::Decimal,
            Columns::Generic => ColumnKind::Text,
        }
    }
}

/// Reads one body.
pub(crate) struct TextReader {
    chunks: BoxStream<'static, Result<Bytes, BodyError>>,
    chunk: Bytes,
    decoder: Decoder,
    records: Records,
    /// The first batch, read to know the columns.
    first: Option<RecordBatch>,
    ended: bool,
}

impl TextReader {
    /// Reads a body up to the end of its first batch, by when its columns are known.
    pub(crate) async fn open(
        format: Format,
        chunks: BoxStream<'static, Result<Bytes, BodyError>>,
        asked: &Snapshot,
    ) -> Result<Self, TextError> {
        let mut reader = Self {
            chunks,
            chunk: Bytes::new(),
            decoder: Decoder::new(format, Limits::default()),
            records: Records::new(&asked.key, asked.snapshot, Face::of(&asked.kind)),
            first: None,
            ended: false,
        };
        reader.first = reader.next().await?;
        Ok(reader)
    }

    /// The columns of every batch: the report's, then `x_row`.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.records.rows.schema.clone()
    }

    /// The next batch; nothing when the end mark has come, the body has ended and the totals
    /// agree. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, TextError> {
        if let Some(batch) = self.first.take() {
            return Ok(Some(batch));
        }
        loop {
            if let Some(batch) = self.take_chunk()? {
                return Ok(Some(batch));
            }
            if self.ended {
                return self.records.end();
            }
            match self.chunks.next().await.transpose().map_err(TextError::Body)? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    self.ended = true;
                    // What the last line was to say is of no use: the end mark ends with its line.
                    while let Some(entry) = self.decoder.finish().map_err(|_| TextError::Cut)? {
                        if let Entry::Sample(sample) = entry {
                            self.records.take(sample)?;
                        }
                    }
                }
            }
        }
    }

    /// Decodes what is left of the chunk, up to a full batch.
    fn take_chunk(&mut self) -> Result<Option<RecordBatch>, TextError> {
        let mut rest: &[u8] = &self.chunk;
        while let Some(entry) = self.decoder.decode(&mut rest)? {
            if let Entry::Sample(sample) = entry
                && self.records.take(sample)? == Batch::Full
            {
                let taken = self.chunk.len() - rest.len();
                self.chunk.advance(taken);
                return self.records.flush();
            }
        }
        self.chunk.clear();
        Ok(None)
    }
}

/// Whether the batch at hand is to be handed on.
#[derive(PartialEq, Eq)]
enum Batch {
    Open,
    Full,
}

/// Where in the text we are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Columns,
    Rows,
    Totals,
    Ended,
}

/// What has been read of the one snapshot.
struct Records {
    section: Section,
    face: Face,
    constants: [(&'static str, String); 3],
    columns: Vec<String>,
    rows: Rows,
    arrived: Totals,
    announced: BTreeMap<Group, Announced>,
}

/// The totals of a group, as far as they were announced.
#[derive(Default)]
struct Announced {
    rows: Option<u64>,
    sums: [Option<Sum>; 4],
}

const SUMS: [&str; 4] = [
    "costream_records_billed_cost",
    "costream_records_effective_cost",
    "costream_records_list_cost",
    "costream_records_contracted_cost",
];

impl Records {
    fn new(key: &ScopeKey, snapshot: SnapshotId, face: Face) -> Self {
        Self {
            section: Section::Columns,
            rows: Rows::new(&[], &face),
            face,
            constants: [
                (X_SOURCE, key.source.to_string()),
                (X_SCOPE, key.scope.to_string()),
                (X_SNAPSHOT, snapshot.to_string()),
            ],
            columns: Vec::new(),
            arrived: Totals::default(),
            announced: BTreeMap::new(),
        }
    }

    fn take(&mut self, sample: Sample<'_>) -> Result<Batch, TextError> {
        let section = match sample.name {
            "costream_records_columns" => Section::Columns,
            name if name == self.face.name => Section::Rows,
            "costream_records_rows" => Section::Totals,
            name if SUMS.contains(&name) => Section::Totals,
            "costream_records_snapshots" => Section::Ended,
            // Not ours to understand.
            _ => return Ok(Batch::Open),
        };
        if section < self.section || self.section == Section::Ended {
            return Err(TextError::Order { line: sample.line, name: sample.name.to_owned() });
        }
        if self.section == Section::Columns && section > Section::Columns {
            self.rows = Rows::new(&self.columns, &self.face);
        }
        self.section = section;
        match section {
            Section::Columns => self.column(sample)?,
            Section::Rows => return self.rows.take(sample, &self.constants),
            Section::Totals => self.totals(sample)?,
            Section::Ended if sample.value == "1" => {}
            Section::Ended => {
                return Err(value(sample.line, sample.name, sample.value, "count of the one snapshot asked for"));
            }
        }
        Ok(Batch::Open)
    }

    fn column(&mut self, sample: Sample<'_>) -> Result<(), TextError> {
        let line = sample.line;
        check_constants(sample, &self.constants)?;
        let label = |what| TextError::Label { line, column: "column".to_owned(), what };
        let column = sample.labels.get("column").ok_or_else(|| label("is missing"))?;
        if column == X_ROW
            || self.constants.iter().any(|(name, _)| *name == column)
            || self.columns.iter().any(|other| other == column)
        {
            return Err(label("names a column that is there already"));
        }
        if self.columns.len() >= MAX_COLUMNS {
            return Err(TextError::TooMany { line, what: "columns" });
        }
        self.columns.push(column.to_owned());
        Ok(())
    }

    fn totals(&mut self, sample: Sample<'_>) -> Result<(), TextError> {
        let line = sample.line;
        check_constants(sample, &self.constants)?;
        let billing_period = match sample.labels.get("billing_period") {
            None | Some("") => None,
            Some(text) => Some(time(text).ok_or_else(|| value(line, "billing_period", text, "time"))?),
        };
        let currency = sample.labels.get("billing_currency").filter(|text| !text.is_empty()).map(str::to_owned);
        let group = Group { billing_period, currency };
        if self.announced.len() >= MAX_GROUPS && !self.announced.contains_key(&group) {
            return Err(TextError::TooMany { line, what: "groups of totals" });
        }
        let group = self.announced.entry(group).or_default();
        let wrong = |expected| value(line, sample.name, sample.value, expected);
        let again = match SUMS.iter().position(|name| *name == sample.name) {
            Some(at) => group.sums[at].replace(sample.value.parse().map_err(|_| wrong("exact sum"))?).is_some(),
            None => group.rows.replace(sample.value.parse().map_err(|_| wrong("count"))?).is_some(),
        };
        if again { Err(TextError::Order { line, name: sample.name.to_owned() }) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, TextError> {
        let Some(batch) = self.rows.flush()? else { return Ok(None) };
        self.arrived.add_batch(&batch)?;
        Ok(Some(batch))
    }

    /// The last batch, then nothing, once everything is there that should be.
    fn end(&mut self) -> Result<Option<RecordBatch>, TextError> {
        if self.section != Section::Ended {
            return Err(TextError::Cut);
        }
        if let Some(batch) = self.flush()? {
            return Ok(Some(batch));
        }
        let mut announced = Totals::default();
        for (group, totals) in &self.announced {
            let (Some(rows), [Some(billed), Some(effective), Some(list), Some(contracted)]) =
                (totals.rows, totals.sums)
            else {
                return Err(TextError::Incomplete(group.clone()));
            };
            announced.add_group(group.clone(), &GroupTotals { rows, billed, effective, list, contracted });
        }
        self.arrived.check(&announced)?;
        Ok(None)
    }
}

fn check_constants(sample: Sample<'_>, constants: &[(&'static str, String); 3]) -> Result<(), TextError> {
    for (column, expected) in constants {
        let found = sample.labels.get(column).unwrap_or_default();
        if found != expected {
            let (expected, found) = (expected.clone(), shown(found));
            return Err(TextError::Elsewhere { line: sample.line, column, expected, found });
        }
    }
    Ok(())
}

/// The rows of the batch at hand.
struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Columns by the name that was meant, for labels out of order or in quotes.
    by_name: HashMap<String, usize>,
    /// The column that a sample's value repeats.
    value: String,
    ordinals: Int64Builder,
    rows: usize,
    bytes: usize,
    /// Counts rows over all batches; what a column was filled for last.
    stamp: u64,
}

struct Column {
    name: String,
    /// The name as our own exporter writes it.
    label: String,
    cells: Cells,
    stamp: u64,
}

enum Cells {
    Text(StringBuilder),
    Decimal(Decimal128Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Tags(Box<MapBuilder<StringBuilder, StringBuilder>>),
}

impl Rows {
    fn new(columns: &[String], face: &Face) -> Self {
        let fields = columns.iter().map(|name| face.kind_of(name).field(name)).chain([row_field()]);
        Self {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            columns: columns
                .iter()
                .map(|name| Column {
                    name: name.clone(),
                    label: Name::Label.escape(name).into_owned(),
                    cells: Cells::new(face.kind_of(name)),
                    stamp: 0,
                })
                .collect(),
            by_name: columns.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect(),
            value: face.value.clone(),
            ordinals: Int64Builder::with_capacity(EXPECTED_ROWS),
            rows: 0,
            bytes: 0,
            stamp: 0,
        }
    }

    fn take(&mut self, sample: Sample<'_>, constants: &[(&'static str, String); 3]) -> Result<Batch, TextError> {
        let line = sample.line;
        let label = |column: &str, what| TextError::Label { line, column: shown(column), what };
        self.stamp += 1;
        let mut seen = [false; 3];
        let mut ordinal = None;
        let mut next = 0;
        for (name, text) in sample.labels.iter() {
            // Labels come in the report's order; the columns between two were null.
            let found = (next..self.columns.len()).find(|at| self.columns[*at].label == name);
            let found = found.or_else(|| self.by_name.get(unescape_name(name).as_ref()).copied());
            if let Some(at) = found {
                let column = &mut self.columns[at];
                next = at + 1;
                if std::mem::replace(&mut column.stamp, self.stamp) == self.stamp {
                    return Err(label(name, "comes twice"));
                }
                column.cells.take(text).map_err(|expected| value(line, &column.name, text, expected))?;
                self.bytes += text.len();
            } else if let Some(at) = constants.iter().position(|(constant, _)| *constant == name) {
                if constants[at].1 != text {
                    let (column, expected) = constants[at].clone();
                    return Err(TextError::Elsewhere { line, column, expected, found: shown(text) });
                }
                seen[at] = true;
            } else if name == X_ROW {
                ordinal = Some(text.parse::<i64>().map_err(|_| value(line, X_ROW, text, "ordinal"))?);
            } else {
                return Err(label(name, "was not announced as a column"));
            }
        }
        if let Some(at) = seen.iter().position(|seen| !seen) {
            return Err(label(constants[at].0, "is missing"));
        }
        self.ordinals.append_value(ordinal.ok_or_else(|| label(X_ROW, "is missing"))?);
        self.check_value(sample)?;
        for column in &mut self.columns {
            if column.stamp != self.stamp {
                column.cells.take_null()?;
            }
        }
        self.rows += 1;
        let full = self.rows >= MAX_BATCH_ROWS || self.bytes >= MAX_BATCH_BYTES;
        Ok(if full { Batch::Full } else { Batch::Open })
    }

    /// The sample's value and the label that it repeats are one amount; without the label, the value is it.
    fn check_value(&mut self, sample: Sample<'_>) -> Result<(), TextError> {
        let (line, column) = (sample.line, self.value.as_str());
        let amount = Amount::parse(sample.value.as_bytes())
            .map_err(|_| value(line, sample.name, sample.value, "exact amount"))?;
        let announced = || TextError::Label { line, column: column.to_owned(), what: "was not announced as a column" };
        let cells = &mut self.columns[*self.by_name.get(column).ok_or_else(announced)?];
        // As our own exporter writes its name, or as it is meant.
        match sample.labels.get(&cells.label).or_else(|| sample.labels.get(column)) {
            Some(text) if text == sample.value || Amount::parse(text.as_bytes()) == Ok(amount) => Ok(()),
            Some(text) => Err(value(line, column, text, "amount like the sample's value")),
            None => {
                cells.stamp = self.stamp;
                cells.cells.take(sample.value).map_err(|expected| value(line, column, sample.value, expected))
            }
        }
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> =
            self.columns.iter_mut().map(|column| column.cells.finish()).collect::<Result<_, _>>()?;
        arrays.push(Arc::new(self.ordinals.finish()));
        self.rows = 0;
        self.bytes = 0;
        RecordBatch::try_new(self.schema.clone(), arrays).map(Some)
    }
}

impl Cells {
    fn new(kind: ColumnKind) -> Self {
        let texts = || StringBuilder::with_capacity(EXPECTED_ROWS, EXPECTED_ROWS * 16);
        match kind {
            ColumnKind::Text => Self::Text(texts()),
            ColumnKind::Decimal => {
                Self::Decimal(Decimal128Builder::with_capacity(EXPECTED_ROWS).with_data_type(kind.data_type()))
            }
            ColumnKind::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(EXPECTED_ROWS).with_timezone("UTC"))
            }
            ColumnKind::Tags => {
                let names =
                    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
                Self::Tags(Box::new(MapBuilder::new(Some(names), texts(), texts())))
            }
        }
    }

    /// Takes a value; the error says what it should be. An empty one is null: to Prometheus an
    /// empty label is none.
    fn take(&mut self, text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return self.take_null().map_err(|_| "null");
        }
        match self {
            Self::Text(cells) => cells.append_value(text),
            Self::Decimal(cells) => {
                cells.append_value(Amount::parse(text.as_bytes()).map_err(|_| "exact amount")?.units());
            }
            Self::Timestamp(cells) => cells.append_value(time(text).ok_or("time")?.timestamp_micros()),
            Self::Tags(cells) => {
                let mut json = serde_json::Deserializer::from_str(text);
                TagsInto(cells).deserialize(&mut json).and_then(|()| json.end()).map_err(|_| "JSON object of texts")?;
            }
        }
        Ok(())
    }

    fn take_null(&mut self) -> Result<(), ArrowError> {
        match self {
            Self::Text(cells) => cells.append_null(),
            Self::Decimal(cells) => cells.append_null(),
            Self::Timestamp(cells) => cells.append_null(),
            Self::Tags(cells) => cells.append(false)?,
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(cells) => Arc::new(cells.finish()),
            Self::Decimal(cells) => Arc::new(cells.finish().with_precision_and_scale(PRECISION, SCALE)?),
            Self::Timestamp(cells) => Arc::new(cells.finish()),
            Self::Tags(cells) => Arc::new(cells.finish()),
        })
    }
}

/// A JSON object of texts and nulls, read straight into a map column, keys in their order.
struct TagsInto<'a>(&'a mut MapBuilder<StringBuilder, StringBuilder>);

impl<'de> DeserializeSeed<'de> for TagsInto<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TagsInto<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
            self.0.keys().append_value(key);
            self.0.values().append_option(value);
        }
        self.0.append(true).map_err(serde::de::Error::custom)
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

fn value(line: u64, column: &str, text: &str, expected: &'static str) -> TextError {
    TextError::Value { line, column: shown(column), text: shown(text), expected }
}

/// As much of a text as an error may repeat.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;

//! `/records` and `/rejects`: snapshots on disk in, chunks of text or of an Arrow IPC stream
//! out. Holds one batch, and about [`CHUNK_BYTES`] of text made of it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{Format, Kind};
use costream_common::fault::{self, Point};
use costream_common::money::Amount;
use costream_common::record::{
    ColumnKind, GroupTotals, RowKind, SNAPSHOTS_METADATA, Snapshot, Texts, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE,
    row_field,
};

use crate::snapshot::{Batches, Generation, SpoolError};

/// About the size of a chunk of text.
const CHUNK_BYTES: usize = 256 << 10;

/// Why a body was broken off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RecordsError {
    /// The spool cannot be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A batch cannot be written as Arrow IPC.
    #[error("write an Arrow stream")]
    Arrow(#[from] ArrowError),
    /// The snapshots cannot be announced.
    #[error("announce the snapshots")]
    Announce(#[from] serde_json::Error),
}

/// A family of control totals: its name, help, and what it takes of a group.
type Control = (&'static str, &'static str, fn(&GroupTotals) -> String);

const COLUMNS: &str = "costream_records_columns";
const SNAPSHOTS: &str = "costream_records_snapshots";

/// How the rows of a kind are written.
struct Face<'a> {
    /// The metric.
    name: &'static str,
    help: &'static str,
    /// The column with its value.
    value: &'a str,
    /// The column with its time, when it has one of its own.
    time: Option<&'static str>,
}

impl<'a> Face<'a> {
    fn of(kind: &'a RowKind) -> Self {
        match kind {
            RowKind::Charges => Self {
                name: "billed_cost",
                help: "Charges of the reports: BilledCost, exact, with every column as a label",
                value: "BilledCost",
                time: None,
            },
            RowKind::Points { .. } => Self {
                name: "usage_average",
                help: "Points of usage: the average, exact, at its own time, with every column as a label",
                value: "average",
                time: Some("timestamp"),
            },
            RowKind::Generic { value, .. } => Self {
                name: "generic_value",
                help: "Rows of other reports: their number, exact, with every column as a label",
                value,
                time: None,
            },
        }
    }
}

const CONTROLS: [Control; 5] = [
    ("costream_records_rows", "Control total: charges", |totals| totals.rows.to_string()),
    ("costream_records_billed_cost", "Control total: sum of BilledCost", |totals| totals.billed.to_string()),
    ("costream_records_effective_cost", "Control total: sum of EffectiveCost", |totals| totals.effective.to_string()),
    ("costream_records_list_cost", "Control total: sum of ListCost", |totals| totals.list.to_string()),
    ("costream_records_contracted_cost", "Control total: sum of ContractedCost", |totals| {
        totals.contracted.to_string()
    }),
];

/// The rows as text: the columns of each snapshot, its rows, its control totals, and last the number of
/// snapshots, by which a reader knows that it has everything.
pub(super) struct Text {
    generations: Vec<Arc<Generation>>,
    writer: TextWriter,
    at: At,
}

/// What comes next.
enum At {
    Columns(usize),
    Open(usize),
    Rows(usize, Box<Batches>, Option<(RecordBatch, usize)>),
    Controls(usize),
    End,
    Done,
}

impl Text {
    pub(super) fn new(mut generations: Vec<Arc<Generation>>, format: Format) -> Self {
        // The samples of a family stand together.
        let place = |kind: &RowKind| match kind {
            RowKind::Charges => 0,
            RowKind::Points { .. } => 1,
            RowKind::Generic { .. } => 2,
        };
        generations.sort_by_key(|generation| place(&generation.snapshot().kind));
        Self { generations, writer: TextWriter::new(format), at: At::Columns(0) }
    }

    fn step(&mut self) -> Result<(), RecordsError> {
        let at = std::mem::replace(&mut self.at, At::Done);
        let writer = &mut self.writer;
        self.at = match at {
            At::Columns(index) => {
                if index == 0 {
                    writer.family(COLUMNS, Kind::Gauge, "Columns of each report, in its order");
                }
                match self.generations.get(index) {
                    Some(generation) => {
                        let identity = Identity::of(generation.snapshot());
                        for field in
                            generation.records()?.schema().fields().iter().filter(|field| field.name() != X_ROW)
                        {
                            writer.sample(
                                COLUMNS,
                                identity.labels().into_iter().chain([("column", field.name().as_str())]),
                                "1",
                                None,
                            );
                        }
                        At::Columns(index + 1)
                    }
                    None => {
                        let Face { name, help, .. } = Face::of(&RowKind::Charges);
                        writer.family(name, Kind::Gauge, help);
                        At::Open(0)
                    }
                }
            }
            At::Open(index) => match self.generations.get(index) {
                Some(generation) => {
                    let face = |at: usize| Face::of(&self.generations[at].snapshot().kind);
                    // That of charges has begun.
                    let earlier = index.checked_sub(1).map_or(Face::of(&RowKind::Charges).name, |at| face(at).name);
                    if face(index).name != earlier {
                        writer.family(face(index).name, Kind::Gauge, face(index).help);
                    }
                    At::Rows(index, Box::new(generation.records()?), None)
                }
                None => At::Controls(0),
            },
            At::Rows(index, batches, Some((batch, from))) => {
                let snapshot = self.generations[index].snapshot();
                let (identity, face) = (Identity::of(snapshot), Face::of(&snapshot.kind));
                let mut row = from;
                while row < batch.num_rows() && writer.len() < CHUNK_BYTES {
                    write_row(writer, &face, &identity, &batch, row);
                    row += 1;
                }
                let rest = (row < batch.num_rows()).then_some((batch, row));
                At::Rows(index, batches, rest)
            }
            At::Rows(index, mut batches, None) => match batches.next().transpose()? {
                Some(batch) => {
                    fault::point(Point::Send);
                    At::Rows(index, batches, Some((batch, 0)))
                }
                None => At::Open(index + 1),
            },
            At::Controls(index) => match CONTROLS.get(index) {
                Some(control) => {
                    write_control(writer, control, &self.generations);
                    At::Controls(index + 1)
                }
                None => At::End,
            },
            At::End => {
                writer.family(
                    SNAPSHOTS,
                    Kind::Gauge,
                    "Snapshots carried: the last sample, by which a reader knows that nothing is missing",
                );
                writer.sample(SNAPSHOTS, [("", ""); 0], &self.generations.len().to_string(), None);
                writer.finish();
                At::Done
            }
            At::Done => At::Done,
        };
        Ok(())
    }
}

impl Iterator for Text {
    type Item = Result<Bytes, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.writer.len() < CHUNK_BYTES && !matches!(self.at, At::Done) {
            if let Err(error) = self.step() {
                self.at = At::Done;
                return Some(Err(error));
            }
        }
        let chunk = self.writer.take();
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

/// A snapshot's name as labels.
struct Identity([(&'static str, String); 3]);

impl Identity {
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { key, snapshot, .. } = snapshot;
        Self([(X_SOURCE, key.source.to_string()), (X_SCOPE, key.scope.to_string()), (X_SNAPSHOT, snapshot.to_string())])
    }

    fn labels(&self) -> [(&str, &str); 3] {
        self.0.each_ref().map(|(name, value)| (*name, value.as_str()))
    }
}

fn write_row(writer: &mut TextWriter, face: &Face<'_>, identity: &Identity, batch: &RecordBatch, row: usize) {
    let cells = |wanted: fn(&str) -> bool| {
        let columns = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).zip(batch.columns());
        // Only what is wanted is made into text.
        columns.filter(move |(name, _)| wanted(name)).filter_map(|(name, array)| Some((name, cell(array, row)?)))
    };
    // Every row that was taken has a value, and a time where its kind has one.
    let value = batch.column_by_name(face.value).and_then(|array| cell(array, row)).unwrap_or(Cow::Borrowed("NaN"));
    let times = face.time.and_then(|name| batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>());
    let time_ms = times.map(|times| times.value(row).div_euclid(1_000));
    let identity = identity.labels().map(|(name, value)| (name, Cow::Borrowed(value)));
    let (report, ordinal) = (cells(|name| name != X_ROW), cells(|name| name == X_ROW));
    writer.sample(face.name, report.chain(identity).chain(ordinal), &value, time_ms);
}

/// A field as text, exact; nothing when it is null.
pub(crate) fn cell(array: &ArrayRef, row: usize) -> Option<Cow<'_, str>> {
    if array.is_null(row) {
        return None;
    }
    if let Some(texts) = Texts::of(array) {
        return texts.get(row).map(Cow::Borrowed);
    }
    match array.data_type() {
        DataType::Decimal128(..) => {
            Some(Amount::from_units(array.as_primitive::<Decimal128Type>().value(row))?.to_string().into())
        }
        DataType::Timestamp(..) => {
            let time = DateTime::from_timestamp_micros(array.as_primitive::<TimestampMicrosecondType>().value(row))?;
            Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true).into())
        }
        DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(row).to_string().into()),
        DataType::Map(..) => Some(object(array, row)?.into()),
        _ => None,
    }
}

/// A map as a JSON object, keys in the order they have.
fn object(array: &ArrayRef, row: usize) -> Option<String> {
    let entries = array.as_map_opt()?.value(row);
    let (keys, values) = (entries.column(0).as_string_opt::<i32>()?, entries.column(1).as_string_opt::<i32>()?);
    let mut text = String::from("{");
    for (at, key) in keys.iter().enumerate() {
        let value = values.is_valid(at).then(|| values.value(at));
        let separator = if at == 0 { "" } else { "," };
        let (key, value) = (serde_json::to_string(key.unwrap_or_default()).ok()?, serde_json::to_string(&value).ok()?);
        text.push_str(separator);
        text.push_str(&key);
        text.push(':');
        text.push_str(&value);
    }
    text.push('}');
    Some(text)
}

fn write_control(writer: &mut TextWriter, (name, help, value): &Control, generations: &[Arc<Generation>]) {
    writer.family(name, Kind::Gauge, help);
    for snapshot in generations.iter().map(|generation| generation.snapshot()) {
        let identity = Identity::of(snapshot);
        for (group, totals) in snapshot.totals.groups() {
            let period = group.billing_period.map(|period| period.to_rfc3339_opts(SecondsFormat::AutoSi, true));
            let period = period.as_deref().map(|period| ("billing_period", period));
            let currency = group.currency.as_deref().map(|currency| ("billing_currency", currency));
            writer.sample(name, identity.labels().into_iter().chain(period).chain(currency), &value(totals), None);
        }
    }
}

/// Which of a snapshot's files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Taken,
    Refused,
}

impl Rows {
    fn open(self, generation: &Generation) -> Result<Batches, SpoolError> {
        match self {
            Self::Taken => generation.records(),
            Self::Refused => generation.rejects(),
        }
    }
}

/// The rows as an Arrow IPC stream: the union of the snapshots' columns, then where each row is from. The
/// snapshots are announced in the schema's metadata.
pub(super) struct Arrow {
    generations: Vec<Arc<Generation>>,
    rows: Rows,
    /// The names of sources, scopes and snapshots, each in the order of the generations.
    names: [Arc<StringArray>; 3],
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
    index: usize,
    open: Option<Batches>,
    is_finished: bool,
}

impl Arrow {
    /// # Errors
    /// A snapshot cannot be opened.
    pub(super) fn new(generations: Vec<Arc<Generation>>, rows: Rows) -> Result<Self, RecordsError> {
        let snapshots: Vec<&Snapshot> = generations.iter().map(|generation| generation.snapshot()).collect();
        let names = |name: fn(&Snapshot) -> String| {
            Arc::new(StringArray::from_iter_values(snapshots.iter().map(|snapshot| name(snapshot))))
        };
        let names = [
            names(|snapshot| snapshot.key.source.to_string()),
            names(|snapshot| snapshot.key.scope.to_string()),
            names(|snapshot| snapshot.snapshot.to_string()),
        ];
        let mut fields: Vec<Field> = Vec::new();
        let refused = matches!(rows, Rows::Refused).then(crate::snapshot::rejects_schema);
        for schema in
            refused.into_iter().map(Ok).chain(generations.iter().map(|generation| Ok(rows.open(generation)?.schema())))
        {
            let schema: SchemaRef = schema.map_err(|error: SpoolError| error)?;
            for field in schema.fields().iter().filter(|field| field.name() != X_ROW) {
                // Names that differ in case alone would be one column of a table.
                if !fields.iter().any(|known| known.name().eq_ignore_ascii_case(field.name())) {
                    let field = field.as_ref().clone().with_nullable(true);
                    // An earlier release spooled texts as a table has them.
                    let is_text = rows == Rows::Taken && ColumnKind::of(field.data_type()) == Some(ColumnKind::Text);
                    fields.push(if is_text { field.with_data_type(ColumnKind::Text.record_type()) } else { field });
                }
            }
        }
        let key = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        fields.extend([X_SOURCE, X_SCOPE, X_SNAPSHOT].map(|name| Field::new(name, key(), false)));
        fields.push(row_field());
        let announced = [(SNAPSHOTS_METADATA.to_owned(), serde_json::to_string(&snapshots)?)];
        let schema = Arc::new(Schema::new_with_metadata(fields, announced.into()));
        let writer = StreamWriter::try_new(Vec::new(), &schema)?;
        Ok(Self { generations, rows, names, schema, writer, index: 0, open: None, is_finished: false })
    }

    /// Writes a batch, or the end.
    fn step(&mut self) -> Result<(), RecordsError> {
        let Some(generation) = self.generations.get(self.index) else {
            self.writer.finish()?;
            self.is_finished = true;
            return Ok(());
        };
        let batches = match &mut self.open {
            Some(batches) => batches,
            none => none.insert(self.rows.open(generation)?),
        };
        match batches.next().transpose()? {
            Some(batch) => {
                fault::point(Point::Send);
                let batch = self.named(&batch)?;
                self.writer.write(&batch)?;
            }
            None => {
                self.open = None;
                self.index += 1;
            }
        }
        Ok(())
    }

    fn named(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let keys = Int32Array::from_value(
            i32::try_from(self.index).map_err(|error| ArrowError::ExternalError(error.into()))?,
            batch.num_rows(),
        );
        let from = batch.schema_ref();
        let columns = self.schema.fields().iter().map(|field| {
            let name = [X_SOURCE, X_SCOPE, X_SNAPSHOT].iter().position(|name| name == field.name());
            if let Some(names) = name.map(|at| &self.names[at]) {
                return Ok(Arc::new(DictionaryArray::try_new(keys.clone(), Arc::clone(names) as ArrayRef)?) as ArrayRef);
            }
            let at = from.fields().iter().position(|own| own.name().eq_ignore_ascii_case(field.name()));
            match at.map(|at| batch.column(at)) {
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => cast(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            }
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, ArrowError>>()?)
    }
}

impl Iterator for Arrow {
    type Item = Result<Bytes, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.writer.get_ref().len() < CHUNK_BYTES && !self.is_finished {
            if let Err(error) = self.step() {
                (self.is_finished, self.index) = (true, self.generations.len());
                self.writer.get_mut().clear();
                return Some(Err(error));
            }
        }
        let chunk = std::mem::take(self.writer.get_mut());
        (!chunk.is_empty()).then(|| Ok(chunk.into()))
    }
}

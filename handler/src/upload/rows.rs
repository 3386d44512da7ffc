//! Records in, typed batches of a table's rows out. A record is read whole into cells before any of
//! them is appended, so that one that is refused leaves nothing behind. Holds one open batch:
//! [`MAX_BATCH_ROWS`] rows or about [`MAX_BATCH_BYTES`], whichever comes first.
//!
//! Records may have different labels: a column begins with the first record that has it, and is
//! null in the others. A column's type is a matter of its name and the upload's [`Kind`], never of a value. What
//! cannot be read rejects the record, with the first label at fault; nothing is renamed, rounded or left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::builder::{
    Decimal128Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use base64::Engine as _;
use costream_common::field::tags::Tags;
use costream_common::field::{Leniency, time};
use costream_common::focus;
use costream_common::money::{Amount, AmountError};
use costream_common::record::{
    ColumnKind, MAX_BATCH_BYTES, MAX_BATCH_ROWS, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE, row_field,
};
use sha2::{Digest as _, Sha256};

use super::record::Record;
use super::reject::{Fault, Reason};
use crate::ident::ColumnName;

/// The source of rows that were uploaded.
pub const UPLOAD: &str = "upload";
/// The digest of what makes a row's identity.
pub const X_KEY: &str = "x_key";
/// The most columns that one upload may have.
pub const MAX_COLUMNS: usize = 1_000;

/// What an upload's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Charges: FOCUS columns.
    Cost,
    /// Usage series, of five columns.
    Resource,
    /// Anything; with the place of the label, from 0, that holds a number.
    Generic {
        /// Nothing when no label does.
        value: Option<usize>,
    },
}

/// The columns of [`Kind::Resource`], and whether a record must have them.
const RESOURCE: [(&str, ColumnKind, bool); 5] = [
    ("ResourceId", ColumnKind::Text, true),
    ("metricName", ColumnKind::Text, true),
    ("timestamp", ColumnKind::Timestamp, true),
    ("average", ColumnKind::Decimal, true),
    ("unit", ColumnKind::Text, false),
];
/// The charge's amount.
const BILLED_COST: &str = "BilledCost";

impl Kind {
    /// The columns that the table has whatever the records say.
    pub(super) fn fields(self) -> Vec<Field> {
        let fields = |columns: &[(&str, ColumnKind)]| -> Vec<Field> {
            columns.iter().map(|(name, kind)| kind.field(&name.to_lowercase())).collect()
        };
        let mut fields = match self {
            Self::Cost => fields(&[
                ("BillingPeriodStart", ColumnKind::Timestamp),
                ("ChargePeriodStart", ColumnKind::Timestamp),
                (BILLED_COST, ColumnKind::Decimal),
                (X_SOURCE, ColumnKind::Text),
                (X_SCOPE, ColumnKind::Text),
                (X_SNAPSHOT, ColumnKind::Text),
            ]),
            Self::Resource => return fields(&RESOURCE.map(|(name, kind, _)| (name, kind))),
            Self::Generic { .. } => Vec::new(),
        };
        fields.extend([ColumnKind::Text.field(X_KEY), row_field()]);
        fields
    }

    /// The columns that make a row's identity. [`X_KEY`] alone would do: the times tell the store where not to look.
    pub(super) fn key(self) -> Vec<ColumnName> {
        let names: &[&str] = match self {
            Self::Cost => &[X_SOURCE, "billingperiodstart", "chargeperiodstart", X_KEY, X_ROW],
            Self::Resource => &["resourceid", "metricname", "timestamp"],
            Self::Generic { .. } => &[X_KEY, X_ROW],
        };
        names.iter().map(|name| ColumnName::of(name)).collect()
    }

    /// Whether equal records of one upload are told apart by their number.
    pub(super) fn is_numbered(self) -> bool {
        self != Self::Resource
    }

    fn required(self) -> impl Iterator<Item = (&'static str, Reason)> {
        let cost = (self == Self::Cost).then_some((BILLED_COST, Reason::MissingAmount));
        let resource = RESOURCE.into_iter().filter(move |column| self == Self::Resource && column.2);
        cost.into_iter().chain(resource.map(|(name, ..)| (name, Reason::Missing)))
    }
}

/// Whether a column of a charge holds an amount or a quantity, which are no part of its identity: what
/// FOCUS says, and of a column that it does not know its name, `x_BilledCostInUsd` or `x_DiscountAmount`.
pub(super) fn is_amount(name: &str) -> bool {
    if focus::canonical(name).is_some() {
        return focus::kind_of(name) == ColumnKind::Decimal;
    }
    let name = name.to_ascii_lowercase();
    let currency = name.len().checked_sub("inusd".len()).filter(|at| name.get(*at..at + 2) == Some("in"));
    let bare = &name[..currency.unwrap_or(name.len())];
    ["cost", "price", "quantity", "amount"].iter().any(|amount| bare.ends_with(amount))
}

/// Turns the records of one upload into rows.
pub(super) struct Rows {
    kind: Kind,
    /// The label that holds the number of [`Kind::Generic`], once it is known.
    value_label: Option<Box<str>>,
    columns: Vec<Column>,
    places: HashMap<Box<str>, usize>,
    taken: HashSet<ColumnName>,
    /// The columns of the labels of a record, in its order, and the record's shape.
    order: Vec<usize>,
    shape: Option<u64>,
    /// The columns of a row's identity, by name.
    key_columns: Vec<usize>,
    /// What the digest of the record in hand is of.
    identity: Vec<u8>,
    keys: StringBuilder,
    numbers: Int64Builder,
    rows: usize,
    bytes: usize,
}

struct Column {
    label: Box<str>,
    name: ColumnName,
    is_key: bool,
    builder: Builder,
    cell: Cell,
}

enum Builder {
    Text(StringBuilder),
    Decimal(Decimal128Builder),
    Timestamp { array: TimestampMicrosecondBuilder, last: LastTime },
    Tags { array: Box<MapBuilder<StringBuilder, StringBuilder>>, row: Tags },
}

/// The time read last: in a report the same few stand in row after row.
#[derive(Default)]
struct LastTime {
    text: String,
    micros: i64,
}

/// What the record in hand has in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Null,
    /// The text of the label at this place.
    Text(usize),
    Decimal(i128),
    Micros(i64),
    /// What the column's own [`Tags`] hold.
    Tags,
}

impl Rows {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            value_label: None,
            columns: Vec::new(),
            places: HashMap::new(),
            taken: HashSet::new(),
            order: Vec::new(),
            shape: None,
            key_columns: Vec::new(),
            identity: Vec::new(),
            keys: StringBuilder::new(),
            numbers: Int64Builder::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Reads a record into cells.
    ///
    /// # Errors
    /// It cannot be stored.
    pub(super) fn read(&mut self, record: &Record) -> Result<(), Fault> {
        for column in &mut self.columns {
            column.cell = Cell::Null;
        }
        if let (Kind::Generic { value: Some(at) }, None) = (self.kind, &self.value_label) {
            self.value_label = Some(value_label(record, at)?.into());
        }
        let known = self.columns.len();
        let read = self.read_cells(record).and_then(|()| self.check_required(record));
        if read.is_err() {
            self.shape = None;
            self.forget(known);
        } else if self.columns.len() > known {
            self.key_columns = (0..self.columns.len()).filter(|at| self.columns[*at].is_key).collect();
            self.key_columns.sort_by(|a, b| self.columns[*a].name.cmp(&self.columns[*b].name));
        }
        read
    }

    fn read_cells(&mut self, record: &Record) -> Result<(), Fault> {
        let is_known = self.shape.replace(record.shape()) == Some(record.shape());
        if !is_known {
            self.order.clear();
        }
        for (at, (label, value)) in record.labels().enumerate() {
            let place = if is_known {
                self.order[at]
            } else {
                let place = match self.places.get(label) {
                    Some(place) => *place,
                    None => self.begin(label).map_err(|reason| Fault::new(Some(label), reason, label))?,
                };
                self.order.push(place);
                place
            };
            if let Some(value) = value {
                let column = &mut self.columns[place];
                column.cell =
                    column.builder.read(at, value).map_err(|reason| Fault::new(Some(label), reason, value))?;
            }
        }
        Ok(())
    }

    fn check_required(&self, record: &Record) -> Result<(), Fault> {
        for (label, reason) in self.kind.required() {
            let cell = self.places.get(label).map_or(Cell::Null, |place| self.columns[*place].cell);
            let is_missing = match cell {
                Cell::Null => true,
                Cell::Text(at) => record.value_at(at).is_empty(),
                _ => false,
            };
            if is_missing {
                return Err(Fault::new(Some(label), reason, ""));
            }
        }
        Ok(())
    }

    /// A column for a label that was not there before.
    fn begin(&mut self, label: &str) -> Result<usize, Reason> {
        let (kind, is_key) = self.column_of(label)?;
        let name = ColumnName::of(label);
        let is_ours = [X_SOURCE, X_SCOPE, X_SNAPSHOT, X_ROW, X_KEY].contains(&name.as_str());
        if is_ours || name.as_str() != label.to_lowercase() {
            return Err(Reason::BadName);
        }
        if self.columns.len() >= MAX_COLUMNS {
            return Err(Reason::TooManyColumns);
        }
        if !self.taken.insert(name.clone()) {
            return Err(Reason::NameTwice);
        }
        let mut builder = Builder::new(kind);
        (0..self.rows).for_each(|_| builder.append_null());
        self.columns.push(Column { label: label.into(), name, is_key, builder, cell: Cell::Null });
        self.places.insert(label.into(), self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }

    fn column_of(&self, label: &str) -> Result<(ColumnKind, bool), Reason> {
        Ok(match self.kind {
            Kind::Cost => (focus::kind_of(label), !is_amount(label)),
            Kind::Resource => {
                let column = RESOURCE.iter().find(|(name, ..)| name.eq_ignore_ascii_case(label));
                (column.ok_or(Reason::UnexpectedLabel)?.1, false)
            }
            Kind::Generic { .. } if self.value_label.as_deref() == Some(label) => (ColumnKind::Decimal, false),
            Kind::Generic { .. } => (ColumnKind::Text, true),
        })
    }

    /// The columns that a refused record had begun are not there.
    fn forget(&mut self, known: usize) {
        for column in self.columns.drain(known..) {
            self.places.remove(&column.label);
            self.taken.remove(&column.name);
        }
    }

    /// The digest of the record's identity: of every column that is neither an amount nor a quantity,
    /// by name. One that is null or empty is as if it were not there.
    pub(super) fn key(&mut self, record: &Record) -> [u8; 16] {
        let identity = &mut self.identity;
        identity.clear();
        let mut part = |part: &[u8]| {
            identity.extend_from_slice(&(part.len() as u64).to_le_bytes());
            identity.extend_from_slice(part);
        };
        for column in self.key_columns.iter().map(|at| &self.columns[*at]) {
            let name = column.name.as_str().as_bytes();
            match (column.cell, &column.builder) {
                (Cell::Text(at), _) => {
                    let text = record.value_at(at);
                    if !text.is_empty() {
                        part(name);
                        part(text.as_bytes());
                    }
                }
                (Cell::Micros(micros), _) => {
                    part(name);
                    part(&micros.to_le_bytes());
                }
                (Cell::Decimal(units), _) => {
                    part(name);
                    part(&units.to_le_bytes());
                }
                (Cell::Tags, Builder::Tags { row, .. }) => {
                    let mut tags: Vec<_> = row.iter().collect();
                    tags.sort_unstable();
                    part(name);
                    part(&(tags.len() as u64).to_le_bytes());
                    for (key, value) in tags {
                        part(key.as_bytes());
                        part(&[u8::from(value.is_some())]);
                        part(value.unwrap_or_default().as_bytes());
                    }
                }
                _ => {}
            }
        }
        let digest = Sha256::digest(identity);
        std::array::from_fn(|at| digest[at])
    }

    /// Appends the record read last; with its key and number where rows are numbered.
    pub(super) fn append(&mut self, record: &Record, identity: Option<([u8; 16], i64)>) -> Result<(), ArrowError> {
        for column in &mut self.columns {
            column.builder.append(column.cell, record)?;
        }
        if let Some((key, number)) = identity {
            self.keys.append_value(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key));
            self.numbers.append_value(number);
        }
        self.rows += 1;
        self.bytes += record.bytes();
        Ok(())
    }

    /// Whether the open batch is one to hand out.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= MAX_BATCH_ROWS || self.bytes >= MAX_BATCH_BYTES
    }

    /// The open batch, when it has rows; a new one is opened.
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows == 0 {
            return Ok(None);
        }
        let mut fields: Vec<Field> = Vec::with_capacity(self.columns.len() + 3);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 3);
        for column in &mut self.columns {
            fields.push(column.builder.kind().field(column.name.as_str()));
            arrays.push(column.builder.finish());
        }
        if self.kind == Kind::Cost {
            fields.push(ColumnKind::Text.field(X_SOURCE));
            arrays.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(UPLOAD, rows))));
        }
        if self.kind.is_numbered() {
            fields.extend([ColumnKind::Text.field(X_KEY), row_field()]);
            arrays.push(Arc::new(self.keys.finish()));
            arrays.push(Arc::new(self.numbers.finish()));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        RecordBatch::try_new(schema, arrays).map(Some)
    }
}

/// The label that holds a generic record's number: the one at the place that the sender says, unless that is not
/// the record's own value and one other label is. Senders sort the labels, and the place is one of before.
fn value_label(record: &Record, at: usize) -> Result<&str, Fault> {
    let is_value = |text: Option<&str>| {
        let number = text.and_then(|text| text.parse::<f64>().ok());
        number.is_some_and(|number| Some(number) == record.value())
    };
    let labels: Vec<_> = record.labels().collect();
    let mut alike = labels.iter().filter(|(_, value)| is_value(*value));
    let only = alike.next().filter(|_| alike.next().is_none());
    match (labels.get(at), only) {
        (Some((_, value)), Some((only, _))) if !is_value(*value) => Ok(only),
        (Some((label, _)), _) => Ok(label),
        (None, Some((only, _))) => Ok(only),
        (None, None) => Err(Fault::new(None, Reason::NoValue, &at.to_string())),
    }
}

impl Builder {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Text => Self::Text(StringBuilder::new()),
            ColumnKind::Decimal => {
                Self::Decimal(Decimal128Builder::new().with_data_type(ColumnKind::Decimal.data_type()))
            }
            ColumnKind::Timestamp => Self::Timestamp {
                array: TimestampMicrosecondBuilder::new().with_data_type(ColumnKind::Timestamp.data_type()),
                last: LastTime::default(),
            },
            ColumnKind::Tags => {
                let names =
                    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
                let array = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
                Self::Tags { array: Box::new(array), row: Tags::default() }
            }
        }
    }

    fn kind(&self) -> ColumnKind {
        match self {
            Self::Text(_) => ColumnKind::Text,
            Self::Decimal(_) => ColumnKind::Decimal,
            Self::Timestamp { .. } => ColumnKind::Timestamp,
            Self::Tags { .. } => ColumnKind::Tags,
        }
    }

    /// The cell of the label at a place. Empty text is text; elsewhere it is a null, and so is the literal `NULL` everywhere.
    fn read(&mut self, at: usize, text: &str) -> Result<Cell, Reason> {
        let is_null = match self {
            Self::Text(_) => text == "NULL",
            _ => text.trim_ascii().is_empty() || text.eq_ignore_ascii_case("NULL"),
        };
        if is_null {
            return Ok(Cell::Null);
        }
        Ok(match self {
            Self::Text(_) => Cell::Text(at),
            Self::Decimal(_) => {
                let amount = Amount::parse(text.as_bytes()).map_err(|error| match error {
                    AmountError::NotANumber => Reason::NotANumber,
                    AmountError::TooPrecise | AmountError::TooLarge => Reason::TooManyDigits,
                })?;
                Cell::Decimal(amount.units())
            }
            Self::Timestamp { last, .. } => {
                if last.text != text {
                    last.micros = time::parse(text.as_bytes()).ok_or(Reason::NotATime)?.micros;
                    text.clone_into(&mut last.text);
                }
                Cell::Micros(last.micros)
            }
            Self::Tags { row, .. } => {
                row.parse(text, Leniency::all()).map_err(|_| Reason::BadTags)?;
                Cell::Tags
            }
        })
    }

    fn append_null(&mut self) {
        match self {
            Self::Text(array) => array.append_null(),
            Self::Decimal(array) => array.append_null(),
            Self::Timestamp { array, .. } => array.append_null(),
            // Keys and values are of equal length: none was added.
            Self::Tags { array, .. } => drop(array.append(false)),
        }
    }

    fn append(&mut self, cell: Cell, record: &Record) -> Result<(), ArrowError> {
        match (self, cell) {
            (Self::Text(array), Cell::Text(at)) => array.append_value(record.value_at(at)),
            (Self::Decimal(array), Cell::Decimal(units)) => array.append_value(units),
            (Self::Timestamp { array, .. }, Cell::Micros(micros)) => array.append_value(micros),
            (Self::Tags { array, row }, Cell::Tags) => {
                for (key, value) in row.iter() {
                    array.keys().append_value(key);
                    array.values().append_option(value);
                }
                array.append(true)?;
            }
            (builder, _) => builder.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(array) => {
                let finished = array.finish();
                // The next batch will be about as large.
                *array = StringBuilder::with_capacity(finished.len(), finished.values().len());
                Arc::new(finished)
            }
            Self::Decimal(array) => Arc::new(array.finish()),
            Self::Timestamp { array, .. } => Arc::new(array.finish()),
            Self::Tags { array, .. } => Arc::new(array.finish()),
        }
    }
}

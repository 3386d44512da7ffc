//! The values of an Arrow array in, the texts of fields out, exact: decimals with all their digits, doubles by the
//! shortest text that is read back as the same double (AWS writes amounts as doubles: what a double cannot say was lost
//! there), times in UTC with what fraction they have, dates as dates. A time without a zone is in UTC. Bytes are taken
//! for text. Maps, structs and lists are their JSON.

use std::fmt::{self, Write as _};

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, Int32Array, ListArray, MapArray, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Every fraction that is there, and no other.
const TIMESTAMP: Option<&str> = Some("%Y-%m-%dT%H:%M:%S%.fZ");
const OPTIONS: FormatOptions<'_> = FormatOptions::new()
    .with_display_error(false)
    .with_timestamp_format(TIMESTAMP)
    .with_timestamp_tz_format(TIMESTAMP)
    .with_datetime_format(Some("%Y-%m-%d"));

/// A column that says its values as texts.
pub(super) struct Column<'a> {
    array: &'a ArrayRef,
    form: Form<'a>,
}

enum Form<'a> {
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Coded { keys: &'a Int32Array, values: Box<Column<'a>> },
    Shown { formatter: ArrayFormatter<'a>, is_quoted: bool },
    Map { map: &'a MapArray, keys: Box<Column<'a>>, values: Box<Column<'a>> },
    Struct(Vec<(&'a str, Column<'a>)>),
    List { list: &'a ListArray, values: Box<Column<'a>> },
}

/// The columns of a batch.
pub(super) fn columns(batch: &RecordBatch) -> Result<Vec<Column<'_>>, ArrowError> {
    batch.columns().iter().map(Column::new).collect()
}

impl<'a> Column<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self, ArrowError> {
        let boxed = |array| Self::new(array).map(Box::new);
        let form = match array.data_type() {
            DataType::Utf8 => Form::Text(array.as_string()),
            DataType::Binary => Form::Bytes(array.as_binary()),
            DataType::Dictionary(key, _) if **key == DataType::Int32 => {
                let coded = array.as_dictionary::<Int32Type>();
                Form::Coded { keys: coded.keys(), values: boxed(coded.values())? }
            }
            DataType::Map(..) => {
                let map = array.as_map();
                Form::Map { map, keys: boxed(map.keys())?, values: boxed(map.values())? }
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let named = columns.map(|(field, column)| Ok((field.name().as_str(), Self::new(column)?)));
                Form::Struct(named.collect::<Result<_, ArrowError>>()?)
            }
            DataType::List(_) => {
                let list = array.as_list();
                Form::List { list, values: boxed(list.values())? }
            }
            other => {
                let is_quoted = !other.is_numeric() && *other != DataType::Boolean;
                Form::Shown { formatter: ArrayFormatter::try_new(array, &OPTIONS)?, is_quoted }
            }
        };
        Ok(Self { array, form })
    }

    /// Appends a row's text; says whether there is one, and not a null.
    pub(super) fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, ArrowError> {
        // An array of nothing but nulls does not mark them.
        if self.array.is_null(row) || *self.array.data_type() == DataType::Null {
            return Ok(false);
        }
        match &self.form {
            Form::Text(texts) => out.extend_from_slice(texts.value(row).as_bytes()),
            Form::Bytes(bytes) => out.extend_from_slice(bytes.value(row)),
            Form::Coded { keys, values } => return values.write(usize::try_from(keys.value(row)).unwrap_or(0), out),
            Form::Shown { formatter, .. } => {
                let start = out.len();
                if write!(Shown(out), "{}", formatter.value(row)).is_err() {
                    // A time that no calendar has: its number, which is no time.
                    out.truncate(start);
                    let number = cast(&self.array.slice(row, 1), &DataType::Int64)?;
                    out.extend_from_slice(number.as_primitive::<Int64Type>().value(0).to_string().as_bytes());
                }
            }
            Form::Map { .. } | Form::Struct(_) | Form::List { .. } => self.write_json(row, out)?,
        }
        Ok(true)
    }

    /// Appends a row's value as JSON.
    fn write_json(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match &self.form {
            Form::Coded { keys, values } => {
                return values.write_json(usize::try_from(keys.value(row)).unwrap_or(0), out);
            }
            Form::Map { map, keys, values } => {
                enclosed(out, b"{}", offsets(map.value_offsets(), row), |at, out| {
                    keys.write_quoted(at, out)?;
                    out.push(b':');
                    values.write_json(at, out)
                })?;
            }
            Form::Struct(columns) => {
                enclosed(out, b"{}", 0..columns.len(), |at, out| {
                    let (name, column) = &columns[at];
                    quote(name.as_bytes(), out)?;
                    out.push(b':');
                    column.write_json(row, out)
                })?;
            }
            Form::List { list, values } => {
                enclosed(out, b"[]", offsets(list.value_offsets(), row), |at, out| values.write_json(at, out))?;
            }
            Form::Shown { is_quoted: false, .. } => {
                let start = out.len();
                self.write(row, out)?;
                let is_json = matches!(&out[start..], [b't' | b'f' | b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..]);
                if !is_json {
                    out.truncate(start);
                    self.write_quoted(row, out)?;
                }
            }
            Form::Text(_) | Form::Bytes(_) | Form::Shown { .. } => self.write_quoted(row, out)?,
        }
        Ok(())
    }

    fn write_quoted(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let mut text = Vec::new();
        self.write(row, &mut text)?;
        quote(&text, out)
    }
}

/// Takes what is shown as bytes. Of these alone `write!` hands on that a value cannot be shown: of `io::Write` it panics.
struct Shown<'a>(&'a mut Vec<u8>);

impl fmt::Write for Shown<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Bytes that are no UTF-8 stay as they are: then the field is none either, and its row is refused.
fn quote(text: &[u8], out: &mut Vec<u8>) -> Result<(), ArrowError> {
    match std::str::from_utf8(text) {
        Ok(text) => serde_json::to_writer(out, text).map_err(|error| ArrowError::ExternalError(error.into())),
        Err(_) => {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

/// The elements of a row, by the offsets of all.
fn offsets(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| usize::try_from(offsets[row]).unwrap_or(0);
    at(row)..at(row + 1)
}

fn enclosed(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    elements: std::ops::Range<usize>,
    mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    out.push(brackets[0]);
    for (n, at) in elements.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(at, out)?;
    }
    out.push(brackets[1]);
    Ok(())
}

//! One value of an answer, as text that has lost nothing, for people and for CSV. The gateway's JSON is `encode`'s.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{NaiveDateTime, SecondsFormat};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// No value.
    Null,
    /// Text, a time, or whatever else JSON shows in quotes.
    Text(String),
    /// A number: plain decimal text without an exponent.
    Number(String),
    /// True or false.
    Truth(bool),
    /// An object or a list, as JSON.
    Json(String),
}

/// The rows of a batch.
///
/// # Errors
/// A value of a type that Arrow itself cannot show.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Vec<Cell>>, ArrowError> {
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| cell(column, row)).collect()).collect()
}

fn cell(array: &dyn Array, row: usize) -> Result<Cell, ArrowError> {
    if array.is_null(row) {
        return Ok(Cell::Null);
    }
    let time = |time: Option<NaiveDateTime>| time.map_or(Cell::Null, |time| Cell::Text(rfc3339(time)));
    Ok(match array.data_type() {
        DataType::Null => Cell::Null,
        DataType::Boolean => Cell::Truth(array.as_boolean().value(row)),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Cell::Text(array.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Cell::Text(array.as_string_view().value(row).to_owned()),
        DataType::Decimal128(..) => Cell::Number(shortest(array.as_primitive::<Decimal128Type>().value_as_string(row))),
        DataType::Decimal256(..) => Cell::Number(shortest(array.as_primitive::<Decimal256Type>().value_as_string(row))),
        DataType::Timestamp(TimeUnit::Second, _) => {
            time(array.as_primitive::<TimestampSecondType>().value_as_datetime(row))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            time(array.as_primitive::<TimestampMillisecondType>().value_as_datetime(row))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            time(array.as_primitive::<TimestampMicrosecondType>().value_as_datetime(row))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            time(array.as_primitive::<TimestampNanosecondType>().value_as_datetime(row))
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            cell(dictionary.values(), key)?
        }
        DataType::Float32 | DataType::Float64 => {
            let text = shown(array, row)?;
            // Rust writes a double without an exponent, and with all the digits that tell it apart.
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Cell::Number(number.to_string()),
                _ => Cell::Text(text),
            }
        }
        kind if kind.is_integer() => Cell::Number(shown(array, row)?),
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let keys = rows_of(entries.column(0))?;
            let values = rows_of(entries.column(1))?;
            Cell::Json(object(keys.iter().zip(&values).map(|(key, value)| (key_text(key), value))))
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let values = array.columns().iter().map(|column| cell(column, row)).collect::<Result<Vec<_>, _>>()?;
            Cell::Json(object(fields.iter().map(|field| field.name().clone()).zip(&values)))
        }
        DataType::List(_) => Cell::Json(list(&rows_of(&array.as_list::<i32>().value(row))?)),
        DataType::LargeList(_) => Cell::Json(list(&rows_of(&array.as_list::<i64>().value(row))?)),
        _ => Cell::Text(shown(array, row)?),
    })
}

fn rows_of(array: &dyn Array) -> Result<Vec<Cell>, ArrowError> {
    (0..array.len()).map(|row| cell(array, row)).collect()
}

fn shown(array: &dyn Array, row: usize) -> Result<String, ArrowError> {
    Ok(ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).to_string())
}

/// Without zeros at the end of the fraction, and without a point when nothing is left of it.
pub fn shortest(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// As `2026-11-22T13:05:01Z`, with as many decimal places as there are.
pub fn rfc3339(time: NaiveDateTime) -> String {
    time.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn key_text(key: &Cell) -> String {
    match key {
        Cell::Null => String::new(),
        Cell::Text(text) | Cell::Number(text) | Cell::Json(text) => text.clone(),
        Cell::Truth(truth) => truth.to_string(),
    }
}

fn object<'c>(entries: impl Iterator<Item = (String, &'c Cell)>) -> String {
    let mut text = String::from("{");
    for (nth, (key, value)) in entries.enumerate() {
        if nth > 0 {
            text.push(',');
        }
        let _ = write!(text, "{}:{}", json_text(&key), value.to_json());
    }
    text.push('}');
    text
}

fn list(items: &[Cell]) -> String {
    let items: Vec<_> = items.iter().map(Cell::to_json).collect();
    format!("[{}]", items.join(","))
}

/// A text in JSON's quotes.
pub fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text as a field of CSV (RFC 4180).
pub fn csv_field(text: &str) -> String {
    if text.is_empty() || text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A row as a line of CSV, without its end. A row of one null is a pair of quotes: an empty line is no row.
pub fn csv_line(row: &[Cell]) -> String {
    match row {
        [Cell::Null] => "\"\"".to_owned(),
        row => row.iter().map(Cell::to_csv).collect::<Vec<_>>().join(","),
    }
}

impl Cell {
    /// The value in JSON; numbers with all their digits.
    pub fn to_json(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Text(text) => json_text(text),
            Self::Number(text) | Self::Json(text) => text.clone(),
            Self::Truth(truth) => truth.to_string(),
        }
    }

    /// The value as a field of CSV: a null is nothing at all, an empty text a pair of quotes.
    pub fn to_csv(&self) -> String {
        self.text().map(csv_field).unwrap_or_default()
    }

    /// The value for reading; nothing for a null.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Null => None,
            Self::Text(text) | Self::Number(text) | Self::Json(text) => Some(text),
            Self::Truth(true) => Some("true"),
            Self::Truth(false) => Some("false"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    #[test]
    fn values_lose_nothing() {
        let decimal = |units: i128, scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(vec![units]).with_precision_and_scale(38, scale).expect("a decimal"))
        };
        let cases: [(ArrayRef, &str); 9] = [
            (decimal(1, 18), "0.000000000000000001"),
            (decimal(-1_500_000_000_000_000_000, 18), "-1.5"),
            (decimal(0, 18), "0"),
            (decimal(12_000, 0), "12000"),
            (Arc::new(Int64Array::from(vec![i64::MAX])), "9223372036854775807"),
            (Arc::new(Float64Array::from(vec![1e-9])), "0.000000001"),
            (Arc::new(StringArray::from(vec!["a\nb"])), "a\nb"),
            (Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")), "1970-01-01T00:00:00Z"),
            (Arc::new(TimestampMicrosecondArray::from(vec![1_500_000])), "1970-01-01T00:00:01.500Z"),
        ];
        for (array, text) in cases {
            assert_eq!(cell(&array, 0).expect("a cell").text(), Some(text));
        }
        assert_eq!(cell(&Int64Array::from(vec![None]), 0).expect("a cell"), Cell::Null);
    }
}

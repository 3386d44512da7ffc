//! Record batches in, the rows of CrateDB's answer out, as JSON text: decimals as bare numbers
//! with every digit, times as milliseconds, maps, structs and JSON as objects. Does no IO; appends
//! to a buffer row by row.

use std::io::Write as _;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int64Array, ListArray, MapArray,
    StringArray, StructArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, TimeUnit, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use serde::de::IgnoredAny;

use super::args::Arg;

/// CrateDB's number for a type, as `col_types` has it: a number, or a list `[100,t]`.
pub(super) fn type_code(data_type: &DataType) -> String {
    let code = match data_type {
        DataType::Null => 0,
        DataType::Int8 => 2,
        DataType::Boolean => 3,
        DataType::Float64 => 6,
        DataType::Float32 | DataType::Float16 => 7,
        DataType::Int16 | DataType::UInt8 => 8,
        DataType::Int32 | DataType::UInt16 => 9,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => 10,
        DataType::Timestamp(_, Some(_)) => 11,
        DataType::Map(..) | DataType::Struct(_) | DataType::Binary => 12,
        DataType::Timestamp(_, None) => 15,
        DataType::Interval(_) | DataType::Duration(_) => 17,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => 22,
        DataType::Date32 | DataType::Date64 => 24,
        DataType::Dictionary(_, value) => return type_code(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            return format!("[100,{}]", type_code(item.data_type()));
        }
        _ => 4,
    };
    code.to_string()
}

/// Appends a batch's rows, `[..],[..]`; with a comma in front unless it is the `first`.
///
/// # Errors
/// A column cannot be shown.
pub(super) fn rows(batch: &RecordBatch, first: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let columns = batch.columns().iter().map(Cells::of).collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        if !(first && row == 0) {
            out.push(b',');
        }
        out.push(b'[');
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            column.write(row, out)?;
        }
        out.push(b']');
    }
    Ok(())
}

/// What stands in a column's rows, as arguments that say the same.
///
/// # Errors
/// It cannot be shown.
pub(super) fn args(column: &ArrayRef) -> Result<Vec<Arg>, ArrowError> {
    let cells = Cells::of(column)?;
    let mut text = Vec::new();
    let arg = |row: usize| {
        text.clear();
        cells.write(row, &mut text)?;
        let arg = std::str::from_utf8(&text).ok().and_then(Arg::of_text);
        arg.ok_or_else(|| ArrowError::JsonError("a value has no JSON".to_owned()))
    };
    (0..column.len()).map(arg).collect()
}

/// A column, in the one form of its kind.
enum Cells {
    Nulls,
    Boolean(BooleanArray),
    Signed(Int64Array),
    Unsigned(UInt64Array),
    Single(Float32Array),
    Double(Float64Array),
    Text(StringArray),
    /// Objects, which are JSON already.
    Json(BinaryArray),
    Narrow(arrow::array::Decimal128Array, i8),
    Wide(arrow::array::Decimal256Array, i8),
    Map(MapArray, Box<Cells>, Box<Cells>),
    Struct(StructArray, Vec<(String, Cells)>),
    List(ListArray, Box<Cells>),
    Interval(arrow::array::IntervalMonthDayNanoArray),
    /// Shown as text by Arrow.
    Other(ArrayRef),
}

impl Cells {
    fn of(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Null => Self::Nulls,
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            DataType::UInt64 => Self::Unsigned(array.as_primitive::<UInt64Type>().clone()),
            integer if integer.is_integer() => {
                Self::Signed(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            DataType::Float16 | DataType::Float32 => {
                Self::Single(cast(array, &DataType::Float32)?.as_primitive::<Float32Type>().clone())
            }
            DataType::Float64 => Self::Double(array.as_primitive::<Float64Type>().clone()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Self::Text(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
            }
            DataType::Binary => Self::Json(array.as_binary::<i32>().clone()),
            DataType::Dictionary(_, value) => Self::of(&cast(array, value)?)?,
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                let wide = cast(array, &DataType::Decimal128(*precision, *scale))?;
                Self::Narrow(wide.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            DataType::Decimal128(_, scale) => Self::Narrow(array.as_primitive::<Decimal128Type>().clone(), *scale),
            DataType::Decimal256(_, scale) => Self::Wide(array.as_primitive::<Decimal256Type>().clone(), *scale),
            DataType::Timestamp(_, zone) => {
                let millis = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?;
                Self::Signed(cast(&millis, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            DataType::Date32 | DataType::Date64 => {
                let millis = cast(&cast(array, &DataType::Date64)?, &DataType::Int64)?;
                Self::Signed(millis.as_primitive::<Int64Type>().clone())
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Self::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone())
            }
            DataType::Map(..) => {
                let map = array.as_map().clone();
                let (keys, values) = (Self::of(map.keys())?, Self::of(map.values())?);
                Self::Map(map, Box::new(keys), Box::new(values))
            }
            DataType::Struct(fields) => {
                let parts = array.as_struct().clone();
                let cells = fields.iter().zip(parts.columns());
                let cells = cells.map(|(field, column)| Ok((field.name().clone(), Self::of(column)?)));
                let cells = cells.collect::<Result<Vec<_>, ArrowError>>()?;
                Self::Struct(parts, cells)
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>().clone();
                let items = Self::of(list.values())?;
                Self::List(list, Box::new(items))
            }
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Self::of(&cast(array, &DataType::List(item.clone()))?)?
            }
            _ => Self::Other(array.clone()),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Nulls => true,
            Self::Boolean(array) => array.is_null(row),
            Self::Signed(array) => array.is_null(row),
            Self::Unsigned(array) => array.is_null(row),
            Self::Single(array) => array.is_null(row),
            Self::Double(array) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Json(array) => array.is_null(row),
            Self::Narrow(array, _) => array.is_null(row),
            Self::Wide(array, _) => array.is_null(row),
            Self::Map(array, ..) => array.is_null(row),
            Self::Struct(array, _) => array.is_null(row),
            Self::List(array, _) => array.is_null(row),
            Self::Interval(array) => array.is_null(row),
            Self::Other(array) => array.is_null(row),
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Self::Nulls => {}
            Self::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Self::Signed(array) => write!(out, "{}", array.value(row))?,
            Self::Unsigned(array) => write!(out, "{}", array.value(row))?,
            Self::Single(array) => float(array.value(row), array.value(row).is_finite(), out)?,
            Self::Double(array) => float(array.value(row), array.value(row).is_finite(), out)?,
            Self::Text(array) => quoted(array.value(row), out)?,
            // Bytes of another origin (`X'61'`) are text at best.
            Self::Json(array) => match serde_json::from_slice::<IgnoredAny>(array.value(row)) {
                Ok(_) => out.extend_from_slice(array.value(row)),
                Err(_) => quoted(&String::from_utf8_lossy(array.value(row)), out)?,
            },
            Self::Narrow(array, scale) => decimal(&array.value(row).to_string(), *scale, out),
            Self::Wide(array, scale) => decimal(&array.value(row).to_string(), *scale, out),
            Self::Map(array, keys, values) => {
                out.push(b'{');
                for (number, at) in span(array.value_offsets(), row).enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    match &**keys {
                        Cells::Text(keys) => quoted(keys.value(at), out)?,
                        keys => {
                            let mut text = Vec::new();
                            keys.write(at, &mut text)?;
                            quoted(&String::from_utf8_lossy(&text), out)?;
                        }
                    }
                    out.push(b':');
                    values.write(at, out)?;
                }
                out.push(b'}');
            }
            Self::Struct(_, parts) => {
                out.push(b'{');
                for (at, (name, cells)) in parts.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    quoted(name, out)?;
                    out.push(b':');
                    cells.write(row, out)?;
                }
                out.push(b'}');
            }
            Self::List(array, items) => {
                out.push(b'[');
                for (number, at) in span(array.value_offsets(), row).enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    items.write(at, out)?;
                }
                out.push(b']');
            }
            Self::Interval(array) => quoted(&interval(array.value(row)), out)?,
            Self::Other(array) => {
                let options = FormatOptions::default();
                quoted(&ArrayFormatter::try_new(array, &options)?.value(row).try_to_string()?, out)?;
            }
        }
        Ok(())
    }
}

/// The values of a row of a map or a list. Offsets of Arrow's are never negative.
fn span(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| usize::try_from(offsets[row]).unwrap_or_default();
    at(row)..at(row + 1)
}

fn quoted(text: &str, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    serde_json::to_writer(out, text).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// What is no number in JSON is a text, as CrateDB has it.
fn float(value: impl serde::Serialize + Into<f64> + Copy, finite: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if finite {
        return serde_json::to_writer(out, &value).map_err(|error| ArrowError::JsonError(error.to_string()));
    }
    let value: f64 = value.into();
    let text: &[u8] = if value.is_nan() {
        b"\"NaN\""
    } else if value > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    out.extend_from_slice(text);
    Ok(())
}

/// A decimal's unscaled digits with the point put in: all digits of the scale, no exponent.
fn decimal(unscaled: &str, scale: i8, out: &mut Vec<u8>) {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    out.extend_from_slice(sign.as_bytes());
    match usize::try_from(scale) {
        Ok(0) => out.extend_from_slice(digits.as_bytes()),
        Ok(scale) if digits.len() > scale => {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            out.extend_from_slice(whole.as_bytes());
            out.push(b'.');
            out.extend_from_slice(fraction.as_bytes());
        }
        Ok(scale) => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
            out.extend_from_slice(digits.as_bytes());
        }
        Err(_) => {
            out.extend_from_slice(digits.as_bytes());
            if digits != "0" {
                out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
            }
        }
    }
}

/// An interval as CrateDB writes it: `1 year 2 mons 3 days 04:05:06.007`.
fn interval(value: IntervalMonthDayNano) -> String {
    let IntervalMonthDayNano { months, days, nanoseconds } = value;
    let mut parts = Vec::new();
    for (number, name) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number != 0 {
            parts.push(format!("{number} {name}{}", if number == 1 { "" } else { "s" }));
        }
    }
    let seconds = nanoseconds.unsigned_abs() / 1_000_000_000;
    let millis = nanoseconds.unsigned_abs() / 1_000_000 % 1000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    parts.push(format!("{sign}{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Decimal256Array, MapBuilder, StringBuilder, TimestampMicrosecondArray};
    use arrow::datatypes::i256;

    use super::*;

    fn shown(array: impl Array + 'static) -> String {
        let batch = RecordBatch::try_from_iter([("a", Arc::new(array) as ArrayRef)]).expect("a batch");
        let mut out = Vec::new();
        rows(&batch, true, &mut out).expect("rows");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_decimal_goes_out_with_every_digit_and_no_exponent() {
        let units = [
            Some(0),
            Some(1),
            Some(-1),
            Some(100_000_000_000_000_000),
            Some(12345678901234567890123456789012345678),
            None,
        ];
        let array = Decimal128Array::from_iter(units).with_precision_and_scale(38, 18).expect("a decimal");
        assert_eq!(
            shown(array),
            "[0.000000000000000000],[0.000000000000000001],[-0.000000000000000001],[0.100000000000000000],\
             [12345678901234567890.123456789012345678],[null]"
        );
        let wide = i256::from_i128(i128::MAX).wrapping_mul(i256::from_i128(1000));
        let array = Decimal256Array::from_iter([Some(wide)]).with_precision_and_scale(76, 2).expect("a decimal");
        assert_eq!(shown(array), format!("[{}0.00]", i128::MAX));
    }

    #[test]
    fn times_go_out_as_milliseconds_and_what_is_no_number_as_text() {
        let times = TimestampMicrosecondArray::from(vec![Some(1_793_491_200_000_999), None]).with_timezone("UTC");
        assert_eq!(shown(times), "[1793491200000],[null]");
        assert_eq!(
            shown(Float64Array::from(vec![1.5, f64::NAN, f64::NEG_INFINITY])),
            "[1.5],[\"NaN\"],[\"-Infinity\"]"
        );
        assert_eq!(shown(StringArray::from(vec!["a\"\n\u{1F600}"])), "[\"a\\\"\\n\u{1F600}\"]");
    }

    #[test]
    fn tags_go_out_as_objects() {
        let mut tags = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        tags.keys().append_value("org");
        tags.values().append_value("test");
        tags.keys().append_value("a \"b\"");
        tags.values().append_null();
        tags.append(true).expect("a map");
        tags.append(true).expect("an empty map");
        tags.append(false).expect("no map");
        assert_eq!(shown(tags.finish()), "[{\"org\":\"test\",\"a \\\"b\\\"\":null}],[{}],[null]");
        let objects = BinaryArray::from_opt_vec(vec![Some(b"{\"a\":[1.10]}".as_slice()), None, Some(b"\"\x00\xff")]);
        assert_eq!(shown(objects), "[{\"a\":[1.10]}],[null],[\"\\\"\\u0000\u{fffd}\"]");
    }

    #[test]
    fn an_interval_reads_as_cratedbs() {
        let day = IntervalMonthDayNano::new(0, 1, 0);
        assert_eq!(interval(day), "1 day 00:00:00");
        assert_eq!(interval(IntervalMonthDayNano::new(14, 0, 1_500_000_000)), "1 year 2 mons 00:00:01.500");
    }
}

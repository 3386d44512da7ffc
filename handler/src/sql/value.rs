//! Values as they are sent in, values of a column's type out, by CrateDB's rules: text of digits is
//! a number, a number is a time in milliseconds, JSON text is an object. A number that has no
//! place in its column is an error and never another number; only what stands behind a NUMERIC's
//! last place is rounded, half away from zero, as CrateDB does.
//!
//! Spec: `cast` of <https://cratedb.com/docs/crate/reference/en/latest/general/ddl/data-types.html>.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Float32Builder, Float64Builder, Int8Builder, Int16Builder,
    Int32Builder, Int64Builder, ListArray, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::args::Arg;
use super::error::SqlError;
use crate::store::declared::{MAX_COLUMNS, Object, Policy, Type};

/// How much of a value an error repeats, in characters.
const SHOWN_CHARS: usize = 100;

/// Why a value has no place in its column.
#[derive(Debug)]
pub(super) enum Misfit {
    /// It is of another type: the request is no good.
    Statement(SqlError),
    /// It breaks a rule of the table's: its row is no good.
    Row(SqlError),
}

impl Misfit {
    pub(super) fn into_error(self) -> SqlError {
        match self {
            Self::Statement(error) | Self::Row(error) => error,
        }
    }
}

/// A value of a column's type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// In units of the type's last place.
    Decimal(i128),
    Text(String),
    /// Since 1970, in UTC.
    Micros(i64),
    Array(Vec<Value>),
}

/// Casts a value; an object's new keys are added to the type.
pub(super) fn cast(value: &Arg, to: &mut Type, grown: &mut Growth) -> Result<Value, Misfit> {
    match to {
        _ if *value == Arg::Null => Ok(Value::Null),
        Type::Array(item) => {
            let read = if let Arg::Text(text) = value { Arg::of_text(text) } else { None };
            let Arg::Array(items) = read.as_ref().unwrap_or(value) else { return Err(cannot(value, to)) };
            items.iter().map(|value| cast(value, item, grown)).collect::<Result<_, _>>().map(Value::Array)
        }
        Type::Object(object) => {
            let read = if let Arg::Text(text) = value { Arg::of_text(text) } else { None };
            let Arg::Object(fields) = read.unwrap_or_else(|| value.clone()) else { return Err(cannot(value, to)) };
            Ok(Value::Text(Arg::Object(conform(fields, object, grown)?).to_string()))
        }
        to => plain(value, to).ok_or_else(|| cannot(value, to)).and_then(|cast| within(cast, to)),
    }
}

/// A value of a type that holds no others.
fn plain(value: &Arg, to: &Type) -> Option<Value> {
    match to {
        Type::Boolean => boolean(value).map(Value::Boolean),
        Type::Byte => integer(value, i8::MIN.into(), i8::MAX.into()),
        Type::Smallint => integer(value, i16::MIN.into(), i16::MAX.into()),
        Type::Integer => integer(value, i32::MIN.into(), i32::MAX.into()),
        Type::Bigint => integer(value, i64::MIN, i64::MAX),
        Type::Real => {
            float(value).filter(|number| !number.is_finite() || number.abs() <= f64::from(f32::MAX)).map(Value::Float)
        }
        Type::Double => float(value).map(Value::Float),
        Type::Numeric(precision, scale) => match value {
            Arg::Number(text) | Arg::Text(text) => decimal(text, *precision, *scale).map(Value::Decimal),
            _ => None,
        },
        Type::Text | Type::Varchar(_) => text(value).map(Value::Text),
        Type::Ip => match value {
            Arg::Text(text) => text.parse::<IpAddr>().ok().map(|ip| Value::Text(ip.to_string())),
            _ => None,
        },
        Type::TimestampTz => micros(value, true).map(Value::Micros),
        Type::Timestamp => micros(value, false).map(Value::Micros),
        Type::Array(_) | Type::Object(_) => None,
    }
}

/// A text that is no longer than its column takes.
fn within(value: Value, to: &Type) -> Result<Value, Misfit> {
    match (&value, to) {
        (Value::Text(text), Type::Varchar(length)) if text.chars().count() > *length as usize => {
            let text = format!("The text `{}` is longer than {length} characters", shown(text));
            Err(Misfit::Row(SqlError::Invalid(text)))
        }
        _ => Ok(value),
    }
}

fn cannot(value: &Arg, to: &Type) -> Misfit {
    let said = match value {
        Arg::Text(text) => text.clone(),
        other => other.to_string(),
    };
    let to = match to {
        Type::Numeric(precision, scale) => format!("numeric({precision},{scale})"),
        to => to.name(),
    };
    Misfit::Statement(SqlError::Invalid(format!("Cannot cast value `{}` to type `{to}`", shown(&said))))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

fn boolean(value: &Arg) -> Option<bool> {
    match value {
        Arg::Boolean(value) => Some(*value),
        Arg::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" => Some(true),
            "false" | "f" => Some(false),
            _ => None,
        },
        Arg::Number(text) => match text.as_str() {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Arg, least: i64, most: i64) -> Option<Value> {
    let number = match value {
        Arg::Boolean(value) => i64::from(*value),
        // `1.0` and `1e3` are integers as well: a client's floats.
        Arg::Number(text) | Arg::Text(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => whole(text)?,
        },
        _ => return None,
    };
    (least..=most).contains(&number).then_some(Value::Integer(number))
}

/// A number that is written with a point or an exponent and has nothing behind the point.
fn whole(text: &str) -> Option<i64> {
    let (units, rounded) = scaled(text, 0)?;
    if rounded { None } else { i64::try_from(units).ok() }
}

fn float(value: &Arg) -> Option<f64> {
    match value {
        Arg::Boolean(value) => Some(f64::from(u8::from(*value))),
        Arg::Number(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        Arg::Text(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
        },
        _ => None,
    }
}

fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (units, _) = scaled(text, i32::from(scale))?;
    let limit = 10_i128.checked_pow(u32::from(precision))?;
    (units.abs() < limit).then_some(units)
}

/// A number's text in units of 10^-scale, rounded half away from zero; and whether it was rounded.
fn scaled(text: &str, scale: i32) -> Option<(i128, bool)> {
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    // How many digits stand before the place to round at.
    let kept = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(scale);
    let mut units: i128 = 0;
    let (mut round_up, mut rounded) = (false, false);
    let mut place: i64 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0')) {
        if place < kept {
            units = units.checked_mul(10)?.checked_add(digit)?;
        } else {
            round_up |= place == kept && digit >= 5;
            rounded |= digit != 0;
        }
        place += 1;
    }
    while place < kept && units != 0 {
        units = units.checked_mul(10)?;
        place += 1;
    }
    let units = units + i128::from(round_up);
    Some((if negative { -units } else { units }, rounded))
}

fn text(value: &Arg) -> Option<String> {
    match value {
        Arg::Text(text) | Arg::Number(text) => Some(text.clone()),
        Arg::Boolean(value) => Some(value.to_string()),
        object @ Arg::Object(_) => Some(object.to_string()),
        Arg::Null | Arg::Array(_) => None,
    }
}

/// A time since 1970, cut to milliseconds. Numbers, and text of digits, are milliseconds; with a
/// fraction they are seconds.
fn micros(value: &Arg, zoned: bool) -> Option<i64> {
    let millis = match value {
        Arg::Number(text) => match text.parse::<i64>() {
            Ok(millis) => millis,
            Err(_) => i64::try_from(scaled(text, 3)?.0).ok()?,
        },
        Arg::Text(text) => match text.parse::<i64>() {
            Ok(millis) => millis,
            Err(_) => time(text, zoned)?,
        },
        _ => return None,
    };
    millis.checked_mul(1000)
}

/// A time of ISO 8601, in milliseconds: `2026-11-01`, with a time behind `T` or a blank, with a
/// zone or in UTC.
fn time(text: &str, zoned: bool) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    if rest.is_empty() {
        return Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    }
    let rest = rest.strip_prefix(['T', ' '])?;
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone);
    let clock = ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| NaiveTime::parse_from_str(clock, form).ok())?;
    let offset = match zone {
        "" | "Z" => 0,
        zone => {
            let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
            let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
            let minutes = match digits.len() {
                2 => number(0..2)? * 60,
                4 => number(0..2)? * 60 + number(2..4)?,
                _ => return None,
            };
            if minutes > 18 * 60 {
                return None;
            }
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let time = NaiveDateTime::new(date, clock).and_utc().timestamp_millis();
    Some(if zoned { time - offset * 60_000 } else { time })
}

/// What a statement adds to the types of objects.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Columns and keys there may still be.
    room: usize,
    /// Whether a key was added.
    pub(super) grown: bool,
    /// Keys as they were before the statement: a value that does not fit one of them spoils the
    /// statement, one that does not fit a key of an earlier row its row alone.
    new: std::collections::HashSet<Vec<String>>,
    path: Vec<String>,
}

impl Growth {
    /// For a table of so many columns.
    pub(super) fn new(width: usize) -> Self {
        Self { room: MAX_COLUMNS.saturating_sub(width), ..Self::default() }
    }

    /// Before a column's values.
    pub(super) fn enter(&mut self, column: &str) {
        self.path.clear();
        self.path.push(column.to_owned());
    }

    pub(super) fn take(&mut self) -> Result<(), Misfit> {
        self.room = self.room.checked_sub(1).ok_or_else(|| {
            Misfit::Row(SqlError::Invalid(format!("Limit of total columns [{MAX_COLUMNS}] in table exceeded")))
        })?;
        self.grown = true;
        Ok(())
    }
}

fn conform(
    fields: BTreeMap<String, Arg>,
    object: &mut Object,
    grown: &mut Growth,
) -> Result<BTreeMap<String, Arg>, Misfit> {
    let conformed = fields.into_iter().map(|(key, value)| {
        grown.path.push(key);
        let value = key_value(value, object, grown);
        let key = grown.path.pop().unwrap_or_default();
        Ok((key, value?))
    });
    conformed.collect()
}

/// A key's value as its type has it.
fn key_value(value: Arg, object: &mut Object, grown: &mut Growth) -> Result<Arg, Misfit> {
    let Some(key) = grown.path.last().cloned() else { return Ok(value) };
    if !object.keys.contains_key(&key) {
        match object.policy {
            Policy::Ignored => return Ok(value),
            Policy::Strict => {
                let path = path(&grown.path);
                return Err(Misfit::Statement(SqlError::ColumnUnknown(path)));
            }
            Policy::Dynamic => {
                let Some(found) = infer(&value).map_err(Misfit::Row)? else { return Ok(value) };
                grown.take()?;
                grown.new.insert(grown.path.clone());
                object.keys.insert(key.clone(), found);
            }
        }
    }
    let Some(known) = object.keys.get_mut(&key) else { return Ok(value) };
    let cast = as_json(value, known, grown);
    let new = grown.new.contains(&grown.path);
    cast.map_err(|misfit| if new { Misfit::Row(misfit.into_error()) } else { misfit })
}

/// A value of a type, as JSON has it: a number stays as it was written.
fn as_json(value: Arg, to: &mut Type, grown: &mut Growth) -> Result<Arg, Misfit> {
    match (&mut *to, value) {
        (_, Arg::Null) => Ok(Arg::Null),
        (Type::Object(object), Arg::Object(fields)) => conform(fields, object, grown).map(Arg::Object),
        (Type::Array(item), Arg::Array(items)) => {
            items.into_iter().map(|value| as_json(value, item, grown)).collect::<Result<_, _>>().map(Arg::Array)
        }
        (_, value) => Ok(match (cast(&value, to, grown)?, value) {
            (Value::Text(text), _) if matches!(to, Type::Object(_)) => Arg::of_text(&text).unwrap_or(Arg::Null),
            (Value::Text(text), _) => Arg::Text(text),
            (Value::Boolean(value), _) => Arg::Boolean(value),
            (Value::Integer(number), _) => Arg::Number(number.to_string()),
            (Value::Micros(micros), _) => Arg::Number((micros / 1000).to_string()),
            (_, value @ Arg::Number(_)) => value,
            (Value::Float(_) | Value::Decimal(_), Arg::Text(text)) => match Arg::of_text(&text) {
                Some(number @ Arg::Number(_)) => number,
                _ => Arg::Text(text),
            },
            (_, value) => value,
        }),
    }
}

/// `a['b']['c']`.
pub(super) fn path(path: &[String]) -> String {
    let (column, keys) = path.split_first().map_or(("", path), |(column, keys)| (column.as_str(), keys));
    let keys: String = keys.iter().map(|key| format!("['{}']", key.replace('\'', "''"))).collect();
    format!("{column}{keys}")
}

/// The type of a column or key whose first value this is; nothing when the value tells none.
pub(super) fn infer(value: &Arg) -> Result<Option<Type>, SqlError> {
    Ok(Some(match value {
        Arg::Null => return Ok(None),
        Arg::Boolean(_) => Type::Boolean,
        Arg::Number(text) if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => {
            text.parse::<i64>()
                .map_err(|_| SqlError::Invalid(format!("Cannot detect the type of the value {}", shown(text))))?;
            Type::Bigint
        }
        Arg::Number(_) => Type::Double,
        Arg::Text(_) => Type::Text,
        Arg::Object(_) => Type::Object(Object::default()),
        Arg::Array(items) => {
            let mut item = None;
            for value in items {
                item = match (item, infer(value)?) {
                    (None, found) => found,
                    (found, None) => found,
                    (Some(Type::Bigint | Type::Double), Some(Type::Double))
                    | (Some(Type::Double), Some(Type::Bigint)) => Some(Type::Double),
                    (Some(one), Some(other)) if one == other => Some(one),
                    _ => return Err(SqlError::Mixed("an array's values are of several types".to_owned())),
                };
            }
            match item {
                None => return Ok(None),
                Some(Type::Array(_)) => {
                    return Err(SqlError::Unsupported("an array of arrays is not taken here".to_owned()));
                }
                Some(item) => Type::Array(Box::new(item)),
            }
        }
    }))
}

/// Sets what stands in an object below some keys.
pub(super) fn put(object: &mut Arg, keys: &[String], value: Arg) {
    let Some((key, rest)) = keys.split_first() else {
        *object = value;
        return;
    };
    if !matches!(object, Arg::Object(_)) {
        *object = Arg::Object(BTreeMap::new());
    }
    if let Arg::Object(fields) = object {
        put(fields.entry(key.clone()).or_insert(Arg::Null), rest, value);
    }
}

/// Values of one type, one after the other.
pub(super) enum Builder {
    Boolean(BooleanBuilder),
    Byte(Int8Builder),
    Smallint(Int16Builder),
    Integer(Int32Builder),
    Bigint(Int64Builder),
    Real(Float32Builder),
    Double(Float64Builder),
    Numeric(Decimal128Builder, u8, i8),
    Text(StringBuilder),
    Micros(TimestampMicrosecondBuilder),
    List(Box<Builder>, Vec<i32>, Vec<bool>, DataType),
}

impl Builder {
    /// For a type as it is stored.
    pub(super) fn new(to: &Type) -> Self {
        match to {
            Type::Boolean => Self::Boolean(BooleanBuilder::new()),
            Type::Byte => Self::Byte(Int8Builder::new()),
            Type::Smallint => Self::Smallint(Int16Builder::new()),
            Type::Integer => Self::Integer(Int32Builder::new()),
            Type::Bigint => Self::Bigint(Int64Builder::new()),
            Type::Real => Self::Real(Float32Builder::new()),
            Type::Double => Self::Double(Float64Builder::new()),
            Type::Numeric(precision, scale) => Self::Numeric(Decimal128Builder::new(), *precision, *scale),
            Type::Text | Type::Varchar(_) | Type::Ip | Type::Object(_) => Self::Text(StringBuilder::new()),
            Type::TimestampTz | Type::Timestamp => Self::Micros(TimestampMicrosecondBuilder::new()),
            Type::Array(item) => Self::List(Box::new(Self::new(item)), vec![0], Vec::new(), item.stored()),
        }
    }

    /// Appends a value of the type; one of another is null, and there is none.
    pub(super) fn push(&mut self, value: &Value) {
        /// What an integer is in a narrower type; [`cast`] has seen to it that it fits.
        fn narrow<T: TryFrom<i64>>(value: &Value) -> Option<T> {
            match value {
                Value::Integer(number) => T::try_from(*number).ok(),
                _ => None,
            }
        }
        match self {
            Self::Boolean(builder) => {
                builder.append_option(if let Value::Boolean(value) = value { Some(*value) } else { None });
            }
            Self::Byte(builder) => builder.append_option(narrow(value)),
            Self::Smallint(builder) => builder.append_option(narrow(value)),
            Self::Integer(builder) => builder.append_option(narrow(value)),
            Self::Bigint(builder) => builder.append_option(narrow(value)),
            Self::Real(builder) => {
                #[expect(clippy::cast_possible_truncation, reason = "a REAL is the nearest of its kind")]
                builder.append_option(if let Value::Float(value) = value { Some(*value as f32) } else { None });
            }
            Self::Double(builder) => {
                builder.append_option(if let Value::Float(value) = value { Some(*value) } else { None });
            }
            Self::Numeric(builder, ..) => {
                builder.append_option(if let Value::Decimal(value) = value { Some(*value) } else { None });
            }
            Self::Text(builder) => {
                builder.append_option(if let Value::Text(value) = value { Some(value) } else { None });
            }
            Self::Micros(builder) => {
                builder.append_option(if let Value::Micros(value) = value { Some(*value) } else { None });
            }
            Self::List(item, offsets, valid, _) => {
                let values: &[Value] = if let Value::Array(values) = value { values } else { &[] };
                values.iter().for_each(|value| item.push(value));
                let before = offsets.last().copied().unwrap_or_default();
                offsets.push(before.saturating_add(i32::try_from(values.len()).unwrap_or(i32::MAX)));
                valid.push(matches!(value, Value::Array(_)));
            }
        }
    }

    /// The values.
    ///
    /// # Errors
    /// They are more than an array takes.
    pub(super) fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::Byte(mut builder) => Arc::new(builder.finish()),
            Self::Smallint(mut builder) => Arc::new(builder.finish()),
            Self::Integer(mut builder) => Arc::new(builder.finish()),
            Self::Bigint(mut builder) => Arc::new(builder.finish()),
            Self::Real(mut builder) => Arc::new(builder.finish()),
            Self::Double(mut builder) => Arc::new(builder.finish()),
            Self::Numeric(mut builder, precision, scale) => {
                Arc::new(builder.finish().with_precision_and_scale(precision, scale)?)
            }
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Micros(mut builder) => Arc::new(builder.finish().with_timezone("UTC")),
            Self::List(item, offsets, valid, data_type) => {
                let field = Arc::new(Field::new("element", data_type, true));
                let offsets = OffsetBuffer::new(offsets.into());
                Arc::new(ListArray::try_new(field, offsets, item.finish()?, Some(NullBuffer::from(valid)))?)
            }
        })
    }
}

//! Positional arguments: JSON values in, literals of the syntax tree out. A number keeps the
//! digits it was written with; no argument ever becomes statement text.

use datafusion::sql::sqlparser::ast::{Array, CastKind, DataType, ExactNumberInfo, Expr, UnaryOperator, Value};
use serde_json::value::RawValue;

use super::error::SqlError;

/// How deep arrays in arguments may stand in each other.
const MAX_DEPTH: usize = 8;
/// The most digits, and the largest exponent, that an exact number has.
const MAX_DIGITS: usize = 76;

/// The value of one `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Nothing.
    Null,
    /// True or false.
    Boolean(bool),
    /// A number, as it was written in JSON.
    Number(String),
    /// Text. Compared with an amount or a time, it is read as one.
    Text(String),
    /// Several values, for `= ANY(?)`.
    Array(Vec<Arg>),
}

impl Arg {
    /// Reads an argument from its JSON text.
    ///
    /// # Errors
    /// It is an object, which no query compares with, or arrays stand too deep in each other.
    pub fn from_json(json: &RawValue) -> Result<Self, SqlError> {
        Self::read(json, MAX_DEPTH)
    }

    fn read(json: &RawValue, depth: usize) -> Result<Self, SqlError> {
        let text = json.get().trim();
        let broken = |error: serde_json::Error| SqlError::Invalid(format!("argument: {error}"));
        match text.as_bytes().first() {
            Some(b'n') => Ok(Self::Null),
            Some(b't') => Ok(Self::Boolean(true)),
            Some(b'f') => Ok(Self::Boolean(false)),
            Some(b'"') => serde_json::from_str(text).map(Self::Text).map_err(broken),
            Some(b'[') if depth == 0 => {
                Err(SqlError::Invalid("an argument's arrays stand too deep in each other".to_owned()))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
                items.into_iter().map(|item| Self::read(item, depth - 1)).collect::<Result<_, _>>().map(Self::Array)
            }
            Some(b'{') => Err(SqlError::Unsupported("an object as an argument of a query".to_owned())),
            _ => Ok(Self::Number(text.to_owned())),
        }
    }

    /// The literal that stands for the value.
    pub(super) fn literal(&self) -> Expr {
        match self {
            Self::Null => Expr::value(Value::Null),
            Self::Boolean(value) => Expr::value(Value::Boolean(*value)),
            Self::Text(text) => Expr::value(Value::SingleQuotedString(text.clone())),
            Self::Number(text) if is_exact(text) => match text.strip_prefix('-') {
                Some(digits) => {
                    let number = Expr::value(Value::Number(digits.to_owned(), false));
                    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number) }))
                }
                None => Expr::value(Value::Number(text.clone(), false)),
            },
            Self::Number(text) => Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::value(Value::SingleQuotedString(text.clone()))),
                data_type: DataType::Double(ExactNumberInfo::None),
                array: false,
                format: None,
            },
            Self::Array(items) => Expr::Array(Array { elem: items.iter().map(Self::literal).collect(), named: true }),
        }
    }
}

/// Whether a number has few enough digits, before and behind the point, to be a decimal.
fn is_exact(number: &str) -> bool {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let places = digits.bytes().filter(u8::is_ascii_digit).count();
    exponent.parse::<i16>().is_ok_and(|exponent| places + usize::from(exponent.unsigned_abs()) <= MAX_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(json: &str) -> String {
        let raw = RawValue::from_string(json.to_owned()).expect("JSON");
        Arg::from_json(&raw).expect("an argument").literal().to_string()
    }

    #[test]
    fn a_number_keeps_its_digits() {
        for (json, sql) in [
            ("1", "1"),
            ("-12345678901234567890.123456789012345678", "(-12345678901234567890.123456789012345678)"),
            ("1e-18", "1e-18"),
            ("1e300", "CAST('1e300' AS DOUBLE)"),
            ("null", "NULL"),
            ("true", "true"),
            ("[1, \"a\", null]", "ARRAY[1, 'a', NULL]"),
        ] {
            assert_eq!(literal(json), sql);
        }
    }

    #[test]
    fn text_stays_a_value_whatever_it_says() {
        assert_eq!(literal(r#""'; DROP TABLE t; --""#), "'''; DROP TABLE t; --'");
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = RawValue::from_string(format!("{}{}", "[".repeat(100), "]".repeat(100))).expect("JSON");
        assert!(Arg::from_json(&deep).is_err());
        let object = RawValue::from_string("{}".to_owned()).expect("JSON");
        assert!(Arg::from_json(&object).is_err());
    }
}

//! Positional arguments: JSON values in, literals of the syntax tree out, and back. A number keeps
//! the digits it was written with; no argument ever becomes statement text.

use std::collections::BTreeMap;
use std::fmt;

use datafusion::sql::sqlparser::ast::{
    Array, CastKind, DataType, DictionaryField, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, UnaryOperator, Value,
};
use serde_json::value::RawValue;

use super::error::SqlError;
use super::rewrite::folded;

/// How deep arrays and objects in arguments may stand in each other.
const MAX_DEPTH: usize = 32;
/// The function that reads an object's text; see [`super::object`].
pub(super) const OBJECT_OF: &str = "object_of";
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
    /// Several values, for `= ANY(?)` or an array.
    Array(Vec<Arg>),
    /// An object. Its keys have no order: two with the same values are the same.
    Object(BTreeMap<String, Arg>),
}

impl Arg {
    /// Reads an argument from its JSON text.
    ///
    /// # Errors
    /// Arrays and objects stand too deep in each other.
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
            Some(b'[' | b'{') if depth == 0 => {
                Err(SqlError::Invalid("an argument's arrays and objects stand too deep in each other".to_owned()))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
                items.into_iter().map(|item| Self::read(item, depth - 1)).collect::<Result<_, _>>().map(Self::Array)
            }
            Some(b'{') => {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(broken)?;
                let fields = fields.into_iter().map(|(key, value)| Ok((key, Self::read(value, depth - 1)?)));
                fields.collect::<Result<_, _>>().map(Self::Object)
            }
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
            Self::Object(_) => object_of(self.to_string()),
        }
    }

    /// The value that an expression says without being worked out; nothing when there is work.
    pub(super) fn of_literal(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::Nested(inner) => Self::of_literal(inner),
            Expr::Value(value) => match &value.value {
                Value::Null => Some(Self::Null),
                Value::Boolean(value) => Some(Self::Boolean(*value)),
                Value::Number(text, _) => json_number(text).map(Self::Number),
                Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(Self::Text(text.clone())),
                _ => None,
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match Self::of_literal(expr)? {
                Self::Number(text) if !text.starts_with('-') => Some(Self::Number(format!("-{text}"))),
                _ => None,
            },
            Expr::Array(Array { elem, .. }) => {
                elem.iter().map(Self::of_literal).collect::<Option<_>>().map(Self::Array)
            }
            Expr::Dictionary(fields) => {
                let field = |field: &DictionaryField| Some((folded(&field.key), Self::of_literal(&field.value)?));
                fields.iter().map(field).collect::<Option<_>>().map(Self::Object)
            }
            Expr::Function(Function { name, args: FunctionArguments::List(list), .. })
                if name.to_string() == OBJECT_OF =>
            {
                let [FunctionArg::Unnamed(FunctionArgExpr::Expr(text))] = list.args.as_slice() else { return None };
                let Self::Text(text) = Self::of_literal(text)? else { return None };
                Self::of_text(&text)
            }
            _ => None,
        }
    }

    /// Reads JSON text; nothing when it is none.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        Self::from_json(raw).ok()
    }
}

/// The call that makes an object of its text.
pub(super) fn object_of(text: String) -> Expr {
    let text = Expr::value(Value::SingleQuotedString(text));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(OBJECT_OF)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(text))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A number of SQL (`.5`, `1.`, `1E3`) as JSON has it.
fn json_number(text: &str) -> Option<String> {
    let zeroed = if text.starts_with('.') { format!("0{text}") } else { text.to_owned() };
    let (digits, exponent) = zeroed.find(['e', 'E']).map_or((zeroed.as_str(), ""), |at| zeroed.split_at(at));
    let digits = digits.strip_suffix('.').unwrap_or(digits);
    let shortened = digits.trim_start_matches('0');
    let whole =
        if shortened.is_empty() || shortened.starts_with('.') { format!("0{shortened}") } else { shortened.to_owned() };
    let number = format!("{whole}{exponent}");
    serde_json::from_str::<serde_json::Number>(&number).is_ok().then_some(number)
}

/// The value as JSON, without blanks; equal objects are equal texts.
impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| serde_json::to_string(text).map_err(|_| fmt::Error);
        match self {
            Self::Null => f.write_str("null"),
            Self::Boolean(value) => value.fmt(f),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => f.write_str(&quoted(text)?),
            Self::Array(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    f.write_str(if at > 0 { "," } else { "" })?;
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (at, (key, value)) in fields.iter().enumerate() {
                    f.write_str(if at > 0 { "," } else { "" })?;
                    write!(f, "{}:{value}", quoted(key)?)?;
                }
                f.write_str("}")
            }
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
            ("{\"b\": 1.10, \"a\": [true, {}], \"b\": 2e5}", "object_of('{\"a\":[true,{}],\"b\":2e5}')"),
        ] {
            assert_eq!(literal(json), sql);
        }
    }

    #[test]
    fn text_stays_a_value_whatever_it_says() {
        assert_eq!(literal(r#""'; DROP TABLE t; --""#), "'''; DROP TABLE t; --'");
    }

    #[test]
    fn a_literal_reads_back_as_the_argument_it_was() {
        for json in ["1", "-0.5", "1e-18", "\"a'b\"", "null", "false", "[1,[2]]", "{\"a\":{\"b\":[-1.50,\"x\"]}}"] {
            let arg = Arg::of_text(json).expect("JSON");
            assert_eq!(Arg::of_literal(&arg.literal()), Some(arg.clone()), "{json}");
            assert_eq!(arg.to_string(), json);
        }
        for (sql, json) in
            [(".5", "0.5"), ("1.", "1"), ("007", "7"), ("0.10", "0.10"), ("1E5", "1E5"), ("00.5e1", "0.5e1")]
        {
            assert_eq!(json_number(sql).as_deref(), Some(json), "{sql}");
        }
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = RawValue::from_string(format!("{}{}", "[".repeat(100), "]".repeat(100))).expect("JSON");
        assert!(Arg::from_json(&deep).is_err());
        let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
        assert!(Arg::from_json(&RawValue::from_string(deep).expect("JSON")).is_err());
    }
}

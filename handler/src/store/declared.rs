//! What `CREATE TABLE` says of a table: its columns' types as CrateDB has them, its key, and what
//! its objects hold. Kept as JSON among the table's own settings, so that whoever opens the table
//! reads the same.
//!
//! A column has two faces. Stored, it has a name that every store takes and a type that every
//! reader of the files knows: an object is JSON text, a time without a zone one of UTC. Shown to
//! statements, it has the name it was given, and an object is binary: bytes of JSON, a type that no
//! function of text takes for text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use costream_common::record::X_ROW;
use serde::{Deserialize, Serialize};

use crate::ident::ColumnName;

/// Where the table's settings have it.
pub const SETTING: &str = "costream.declared";
/// Where a shown column's metadata has its type.
pub const TYPE_METADATA: &str = "costream.type";
/// The most columns of a table, keys of its objects among them.
pub const MAX_COLUMNS: usize = 1000;

/// What becomes of a column or a key that nobody has declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is added, with the type of its first value.
    #[default]
    Dynamic,
    /// It is refused.
    Strict,
    /// It is kept as it is, of no type.
    Ignored,
}

/// A type of CrateDB's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// True or false.
    Boolean,
    /// An integer of 8 bits.
    Byte,
    /// An integer of 16 bits.
    Smallint,
    /// An integer of 32 bits.
    Integer,
    /// An integer of 64 bits.
    Bigint,
    /// A float of 32 bits.
    Real,
    /// A float of 64 bits.
    Double,
    /// An exact number: digits in all, and behind the point.
    Numeric(u8, i8),
    /// Text.
    Text,
    /// Text of at most so many characters.
    Varchar(u32),
    /// An address, as text.
    Ip,
    /// A time.
    TimestampTz,
    /// A time whose zone is nobody's business.
    Timestamp,
    /// A JSON object.
    Object(Object),
    /// Several values.
    Array(Box<Type>),
}

/// What an object may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Object {
    /// What becomes of other keys.
    pub policy: Policy,
    /// The keys whose types are known.
    #[serde(default)]
    pub keys: BTreeMap<String, Type>,
}

/// A declared column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name that statements use.
    pub name: String,
    /// The name in the files.
    pub stored: ColumnName,
    /// Its type.
    #[serde(rename = "type")]
    pub data_type: Type,
    /// Whether a row must have a value of it.
    #[serde(default)]
    pub not_null: bool,
    /// The expression, as SQL, for rows that name no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// What `CREATE TABLE` said, and what was added since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The columns that make a row's identity, by name; none when rows have none.
    #[serde(default)]
    pub primary_key: Vec<String>,
    /// The columns named by `PARTITIONED BY`. They are for show: a declared table is small.
    #[serde(default)]
    pub partitioned_by: Vec<String>,
    /// What becomes of a column that is not there.
    pub policy: Policy,
}

impl Declared {
    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Adds a column; there is none of its name.
    pub fn add(&mut self, name: &str, data_type: Type) -> &mut Column {
        // Ordinals are written in an encoding of their own.
        let taken = |stored: &ColumnName| {
            stored.as_str() == X_ROW || self.columns.iter().any(|column| column.stored == *stored)
        };
        let first = ColumnName::of(name);
        let others = (2_u32..).map(|number| ColumnName::of(&format!("{first}_{number}")));
        let stored = std::iter::once(first.clone()).chain(others).find(|stored| !taken(stored));
        let stored = stored.unwrap_or(first);
        self.columns.push(Column { name: name.to_owned(), stored, data_type, not_null: false, default: None });
        let last = self.columns.len() - 1;
        &mut self.columns[last]
    }

    /// How many columns there are, keys of objects among them.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| 1 + column.data_type.keys()).sum()
    }

    /// The columns as the files have them. Every one may be null there: what a row must have is
    /// checked when it is written.
    pub fn stored_schema(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(column.stored.as_str(), column.data_type.stored(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The columns as statements see them, with [`TYPE_METADATA`].
    pub fn shown_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::shown).collect::<Vec<_>>()))
    }

    /// Its text among the table's settings.
    ///
    /// # Errors
    /// It has none, which does not happen.
    pub fn to_setting(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads its text among the table's settings.
    ///
    /// # Errors
    /// A later release has written it.
    pub fn from_setting(setting: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(setting)
    }
}

impl Column {
    /// The column as statements see it.
    pub fn shown(&self) -> Field {
        let nullable = !self.not_null;
        Field::new(&self.name, self.data_type.shown(), nullable).with_metadata(self.data_type.metadata())
    }
}

impl Type {
    /// The type in the files.
    pub fn stored(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Byte => DataType::Int8,
            Self::Smallint => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::Bigint => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Numeric(precision, scale) => DataType::Decimal128(*precision, *scale),
            Self::Text | Self::Varchar(_) | Self::Ip | Self::Object(_) => DataType::Utf8,
            Self::TimestampTz | Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Array(item) => DataType::List(element(item.stored())),
        }
    }

    /// The type that statements see.
    pub fn shown(&self) -> DataType {
        match self {
            Self::Object(_) => DataType::Binary,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Array(item) => DataType::List(element(item.shown())),
            other => other.stored(),
        }
    }

    /// What a shown column's metadata says of it.
    pub fn metadata(&self) -> std::collections::HashMap<String, String> {
        match serde_json::to_string(self) {
            Ok(text) => [(TYPE_METADATA.to_owned(), text)].into(),
            Err(_) => std::collections::HashMap::new(),
        }
    }

    /// The type that a shown column's metadata names.
    pub fn of_metadata(metadata: &std::collections::HashMap<String, String>) -> Option<Self> {
        serde_json::from_str(metadata.get(TYPE_METADATA)?).ok()
    }

    /// The type's name in `information_schema`.
    pub fn name(&self) -> String {
        match self {
            Self::Numeric(..) => "numeric".to_owned(),
            Self::Varchar(_) => "text".to_owned(),
            Self::Object(_) => "object".to_owned(),
            Self::Array(item) => format!("{}_array", item.name()),
            other => other.to_string().to_lowercase(),
        }
    }

    /// How many keys there are below it.
    fn keys(&self) -> usize {
        match self {
            Self::Object(object) => object.keys.values().map(|key| 1 + key.keys()).sum(),
            Self::Array(item) => item.keys(),
            _ => 0,
        }
    }
}

fn element(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("element", data_type, true))
}

/// As `SHOW CREATE TABLE` has it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::Byte => f.write_str("BYTE"),
            Self::Smallint => f.write_str("SMALLINT"),
            Self::Integer => f.write_str("INTEGER"),
            Self::Bigint => f.write_str("BIGINT"),
            Self::Real => f.write_str("REAL"),
            Self::Double => f.write_str("DOUBLE PRECISION"),
            Self::Numeric(precision, scale) => write!(f, "NUMERIC({precision}, {scale})"),
            Self::Text => f.write_str("TEXT"),
            Self::Varchar(length) => write!(f, "VARCHAR({length})"),
            Self::Ip => f.write_str("IP"),
            Self::TimestampTz => f.write_str("TIMESTAMP WITH TIME ZONE"),
            Self::Timestamp => f.write_str("TIMESTAMP WITHOUT TIME ZONE"),
            Self::Object(object) => object.fmt(f),
            Self::Array(item) => write!(f, "ARRAY({item})"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OBJECT({})", self.policy)?;
        for (at, (key, data_type)) in self.keys.iter().enumerate() {
            f.write_str(if at == 0 { " AS (" } else { ", " })?;
            write!(f, "{} {data_type}", quoted(key))?;
        }
        f.write_str(if self.keys.is_empty() { "" } else { ")" })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dynamic => "DYNAMIC",
            Self::Strict => "STRICT",
            Self::Ignored => "IGNORED",
        })
    }
}

/// The statement that makes such a table.
pub fn create_statement(table: &str, declared: &Declared) -> String {
    let names = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let mut lines: Vec<String> = Vec::new();
    for column in &declared.columns {
        let mut line = format!("   {} {}", quoted(&column.name), column.data_type);
        if let Some(default) = &column.default {
            line.push_str(&format!(" DEFAULT {default}"));
        }
        // A key's columns are never null; CrateDB says so too.
        if column.not_null {
            line.push_str(" NOT NULL");
        }
        lines.push(line);
    }
    if !declared.primary_key.is_empty() {
        lines.push(format!("   PRIMARY KEY ({})", names(&declared.primary_key)));
    }
    let mut text = format!("CREATE TABLE IF NOT EXISTS {table} (\n{}\n)", lines.join(",\n"));
    if !declared.partitioned_by.is_empty() {
        text.push_str(&format!("\nPARTITIONED BY ({})", names(&declared.partitioned_by)));
    }
    text.push_str(&format!("\nWITH (\n   column_policy = '{}'\n)", declared.policy.to_string().to_lowercase()));
    text
}

/// A name in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_are_legal_and_told_apart() {
        let mut declared = Declared::default();
        for name in ["id", "Id", "Service Name", "service_name", "x_row"] {
            declared.add(name, Type::Text);
        }
        let stored: Vec<_> = declared.columns.iter().map(|column| column.stored.as_str()).collect();
        assert_eq!(stored, ["id", "id_2", "service_name", "service_name_2", "x_row_2"]);
    }

    #[test]
    fn what_is_declared_reads_back() {
        let mut declared =
            Declared { policy: Policy::Strict, primary_key: vec!["id".to_owned()], ..Declared::default() };
        declared.add("id", Type::Bigint).not_null = true;
        let keys = [("a".to_owned(), Type::Numeric(38, 18)), ("b".to_owned(), Type::Array(Box::new(Type::Ip)))];
        declared.add("o", Type::Object(Object { policy: Policy::Ignored, keys: keys.into() }));
        declared.add("t", Type::Varchar(3)).default = Some("'x'".to_owned());
        let text = declared.to_setting().expect("text");
        assert_eq!(Declared::from_setting(&text).expect("the same"), declared);
        assert_eq!(declared.width(), 5);
        assert_eq!(
            create_statement("\"doc\".\"t\"", &declared),
            "CREATE TABLE IF NOT EXISTS \"doc\".\"t\" (\n   \"id\" BIGINT NOT NULL,\n   \
             \"o\" OBJECT(IGNORED) AS (\"a\" NUMERIC(38, 18), \"b\" ARRAY(IP)),\n   \
             \"t\" VARCHAR(3) DEFAULT 'x',\n   PRIMARY KEY (\"id\")\n)\nWITH (\n   column_policy = 'strict'\n)"
        );
    }
}

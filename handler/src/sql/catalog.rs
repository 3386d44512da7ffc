//! `information_schema`, `sys` and `pg_catalog`: what CrateDB's own clients ask before they
//! work, answered from the store's list of tables and from what one embedded node can say of
//! itself. Built for the statement that asks; a few rows each.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, GenericListBuilder, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;

use super::{CATALOG, CRATEDB_VERSION, SCHEMA, value};
use crate::store::TableInfo;
use crate::store::declared::{Policy, Type};

/// The node's and the cluster's name.
pub const NODE: &str = "costream";

/// The system's schemas, by name.
pub(super) const SCHEMAS: [&str; 3] = ["information_schema", "sys", "pg_catalog"];

/// A schema and its name.
type Named = (&'static str, Arc<dyn SchemaProvider>);
type Columns = Vec<(&'static str, ArrayRef)>;

/// Builds the system's schemas.
pub(super) fn schemas(tables: &[TableInfo], user: &str) -> Result<Vec<Named>, DataFusionError> {
    let schema = |name: &'static str, tables: Vec<(&str, Columns)>| {
        let provider = MemorySchemaProvider::new();
        for (table, columns) in tables {
            let batch = batch(columns)?;
            let memory = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
            provider.register_table(table.to_owned(), Arc::new(memory))?;
        }
        Ok::<_, DataFusionError>((name, Arc::new(provider) as Arc<dyn SchemaProvider>))
    };
    Ok(vec![
        schema(
            "information_schema",
            vec![
                ("tables", tables_of(tables)),
                ("columns", columns_of(tables)),
                ("schemata", vec![("schema_name", texts([SCHEMA].into_iter().chain(SCHEMAS)))]),
                (
                    "table_partitions",
                    vec![("table_name", texts([])), ("table_schema", texts([])), ("partition_ident", texts([]))],
                ),
                ("table_constraints", constraints_of(tables)),
                ("key_column_usage", keys_of(tables)),
                (
                    "views",
                    vec![
                        ("table_catalog", texts([])),
                        ("table_schema", texts([])),
                        ("table_name", texts([])),
                        ("view_definition", texts([])),
                    ],
                ),
            ],
        )?,
        schema(
            "sys",
            vec![
                ("cluster", vec![("id", texts([NODE])), ("name", texts([NODE])), ("master_node", texts([NODE]))]),
                ("nodes", nodes()?),
                ("checks", checks(false)),
                ("node_checks", checks(true)),
                (
                    "shards",
                    vec![
                        ("table_name", texts([])),
                        ("schema_name", texts([])),
                        ("id", ints([])),
                        ("primary", Arc::new(BooleanArray::from(Vec::<bool>::new()))),
                        ("num_docs", longs([])),
                        ("size", longs([])),
                        ("state", texts([])),
                    ],
                ),
                (
                    "health",
                    vec![
                        ("table_name", texts(tables.iter().map(|table| table.name.as_str()))),
                        ("table_schema", texts(tables.iter().map(|_| SCHEMA))),
                        ("health", texts(tables.iter().map(|_| "GREEN"))),
                        ("severity", Arc::new(Int16Array::from_iter_values(tables.iter().map(|_| 1)))),
                    ],
                ),
                ("jobs", vec![("id", texts([])), ("username", texts([])), ("stmt", texts([]))]),
                ("users", vec![("name", texts([user])), ("superuser", Arc::new(BooleanArray::from(vec![false])))]),
            ],
        )?,
        schema(
            "pg_catalog",
            vec![("pg_get_keywords", vec![("word", texts([])), ("catcode", texts([])), ("catdesc", texts([]))])],
        )?,
    ])
}

fn tables_of(tables: &[TableInfo]) -> Columns {
    let same = |text: &'static str| texts(tables.iter().map(move |_| text));
    let policy = |table: &TableInfo| match table.declared.as_ref().map(|declared| declared.policy) {
        Some(Policy::Strict) => "strict",
        _ => "dynamic",
    };
    let mut partitioned_by = GenericListBuilder::<i32, _>::new(StringBuilder::new());
    for table in tables {
        match table.partitioned_by.as_slice() {
            [] => partitioned_by.append_null(),
            columns => partitioned_by.append_value(columns.iter().map(Some)),
        }
    }
    vec![
        ("table_catalog", same(CATALOG)),
        ("table_schema", same(SCHEMA)),
        ("table_name", texts(tables.iter().map(|table| table.name.as_str()))),
        ("table_type", same("BASE TABLE")),
        ("number_of_shards", ints(tables.iter().map(|_| 1))),
        ("number_of_replicas", same("0")),
        ("column_policy", texts(tables.iter().map(policy))),
        ("partitioned_by", Arc::new(partitioned_by.finish())),
    ]
}

/// A column, or a key of one.
struct Listed<'a> {
    table: &'a str,
    name: String,
    position: i32,
    type_name: String,
    number: Option<(i32, i32)>,
    length: Option<i32>,
    nullable: bool,
    default: Option<&'a str>,
}

fn listed(table: &TableInfo) -> Vec<Listed<'_>> {
    let number = |data_type: &DataType| match data_type {
        DataType::Decimal128(precision, scale) => Some((i32::from(*precision), i32::from(*scale))),
        DataType::Int64 => Some((64, 0)),
        DataType::Int32 => Some((32, 0)),
        DataType::Int16 => Some((16, 0)),
        DataType::Int8 => Some((8, 0)),
        DataType::Float64 => Some((53, 0)),
        DataType::Float32 => Some((24, 0)),
        _ => None,
    };
    let Some(declared) = &table.declared else {
        let columns = table.schema.fields().iter().zip(1..).map(|(field, position)| Listed {
            table: table.name.as_str(),
            name: field.name().clone(),
            position,
            type_name: type_name(field.data_type()).to_owned(),
            number: number(field.data_type()),
            length: None,
            nullable: field.is_nullable(),
            default: None,
        });
        return columns.collect();
    };
    let mut all = Vec::new();
    for column in &declared.columns {
        let mut paths = vec![(vec![column.name.clone()], &column.data_type)];
        while let Some((path, data_type)) = paths.pop() {
            let is_column = path.len() == 1;
            all.push(Listed {
                table: table.name.as_str(),
                name: value::path(&path),
                position: i32::try_from(all.len() + 1).unwrap_or(i32::MAX),
                type_name: data_type.name(),
                number: number(&data_type.stored()),
                length: if let Type::Varchar(length) = data_type { i32::try_from(*length).ok() } else { None },
                nullable: !(is_column && column.not_null),
                default: column.default.as_deref().filter(|_| is_column),
            });
            let object = match data_type {
                Type::Object(object) => Some(object),
                Type::Array(item) => {
                    if let Type::Object(object) = &**item {
                        Some(object)
                    } else {
                        None
                    }
                }
                _ => None,
            };
            let keys = object.into_iter().flat_map(|object| object.keys.iter().rev());
            paths.extend(
                keys.map(|(key, data_type)| ([path.as_slice(), std::slice::from_ref(key)].concat(), data_type)),
            );
        }
    }
    all
}

fn columns_of(tables: &[TableInfo]) -> Columns {
    let columns: Vec<_> = tables.iter().flat_map(listed).collect();
    let numbers = |pick: fn((i32, i32)) -> i32| -> ArrayRef {
        Arc::new(columns.iter().map(|column| column.number.map(pick)).collect::<Int32Array>())
    };
    vec![
        ("table_catalog", texts(columns.iter().map(|_| CATALOG))),
        ("table_schema", texts(columns.iter().map(|_| SCHEMA))),
        ("table_name", texts(columns.iter().map(|column| column.table))),
        ("column_name", texts(columns.iter().map(|column| column.name.as_str()))),
        ("ordinal_position", ints(columns.iter().map(|column| column.position))),
        ("data_type", texts(columns.iter().map(|column| column.type_name.as_str()))),
        ("is_nullable", texts(columns.iter().map(|column| if column.nullable { "YES" } else { "NO" }))),
        ("is_generated", texts(columns.iter().map(|_| "NEVER"))),
        ("column_default", Arc::new(columns.iter().map(|column| column.default).collect::<StringArray>())),
        ("numeric_precision", numbers(|(precision, _)| precision)),
        ("numeric_scale", numbers(|(_, scale)| scale)),
        ("character_maximum_length", Arc::new(columns.iter().map(|column| column.length).collect::<Int32Array>())),
    ]
}

/// The tables that have a primary key, each with its key's columns.
fn keyed(tables: &[TableInfo]) -> Vec<(&TableInfo, &[String])> {
    let keyed = tables.iter().filter_map(|table| Some((table, table.declared.as_ref()?.primary_key.as_slice())));
    keyed.filter(|(_, key)| !key.is_empty()).collect()
}

fn constraint(table: &TableInfo) -> String {
    format!("{}_pkey", table.name)
}

fn constraints_of(tables: &[TableInfo]) -> Columns {
    let keyed = keyed(tables);
    let names: Vec<String> = keyed.iter().map(|(table, _)| constraint(table)).collect();
    vec![
        ("constraint_name", texts(names.iter().map(String::as_str))),
        ("table_name", texts(keyed.iter().map(|(table, _)| table.name.as_str()))),
        ("table_schema", texts(keyed.iter().map(|_| SCHEMA))),
        ("constraint_type", texts(keyed.iter().map(|_| "PRIMARY KEY"))),
    ]
}

fn keys_of(tables: &[TableInfo]) -> Columns {
    let columns = keyed(tables).into_iter();
    let columns = columns.flat_map(|(table, key)| key.iter().zip(1_i32..).map(move |(name, at)| (table, name, at)));
    let columns: Vec<_> = columns.collect();
    let names: Vec<String> = columns.iter().map(|(table, ..)| constraint(table)).collect();
    vec![
        ("constraint_name", texts(names.iter().map(String::as_str))),
        ("table_name", texts(columns.iter().map(|(table, ..)| table.name.as_str()))),
        ("table_schema", texts(columns.iter().map(|_| SCHEMA))),
        ("table_catalog", texts(columns.iter().map(|_| CATALOG))),
        ("column_name", texts(columns.iter().map(|(_, name, _)| name.as_str()))),
        ("ordinal_position", ints(columns.iter().map(|(.., at)| *at))),
    ]
}

/// CrateDB's name of a column's type.
fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal128(..) | DataType::Decimal256(..) => "numeric",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Date32 => "date",
        DataType::Map(..) | DataType::Struct(_) => "object",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        _ => "undefined",
    }
}

fn nodes() -> Result<Columns, ArrowError> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| i32::try_from(cores.get()).unwrap_or(i32::MAX));
    let object = |fields: Vec<(&str, ArrayRef)>| -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(StructArray::try_from(fields)?))
    };
    Ok(vec![
        ("id", texts([NODE])),
        ("name", texts([NODE])),
        ("hostname", texts(["localhost"])),
        ("rest_url", texts(["localhost"])),
        ("version", object(vec![("number", texts([CRATEDB_VERSION])), ("build_hash", texts([""]))])?),
        ("heap", object(vec![("max", longs([0])), ("used", longs([0])), ("free", longs([0]))])?),
        ("mem", object(vec![("free", longs([0])), ("used", longs([0]))])?),
        ("load", object(vec![("1", doubles([0.0])), ("5", doubles([0.0])), ("15", doubles([0.0]))])?),
        ("os", object(vec![("uptime", longs([0])), ("timestamp", longs([0]))])?),
        (
            "os_info",
            object(vec![
                ("name", texts([std::env::consts::OS])),
                ("version", texts([""])),
                ("arch", texts([std::env::consts::ARCH])),
                ("available_processors", ints([cores])),
                (
                    "jvm",
                    object(vec![
                        ("version", texts([""])),
                        ("vm_vendor", texts([""])),
                        ("vm_name", texts([""])),
                        ("vm_version", texts([""])),
                    ])?,
                ),
            ])?,
        ),
    ])
}

fn checks(of_nodes: bool) -> Columns {
    let none = || -> ArrayRef { Arc::new(BooleanArray::from(Vec::<bool>::new())) };
    let mut columns: Columns =
        vec![("id", ints([])), ("severity", ints([])), ("description", texts([])), ("passed", none())];
    if of_nodes {
        columns.extend([("node_id", texts([])), ("acknowledged", none())]);
    }
    columns
}

fn batch(columns: Columns) -> Result<RecordBatch, ArrowError> {
    let fields: Vec<_> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect())
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn ints(values: impl IntoIterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

fn longs(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn doubles(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

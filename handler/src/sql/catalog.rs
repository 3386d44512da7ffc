//! `information_schema`, `sys` and `pg_catalog`: what CrateDB's own clients ask before they
//! work, answered from the store's list of tables and from what one embedded node can say of
//! itself. Built for the statement that asks; a few rows each.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;

use super::{CATALOG, CRATEDB_VERSION, SCHEMA};
use crate::store::TableInfo;

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
                (
                    "table_constraints",
                    vec![
                        ("constraint_name", texts([])),
                        ("table_name", texts([])),
                        ("table_schema", texts([])),
                        ("constraint_type", texts([])),
                    ],
                ),
                (
                    "key_column_usage",
                    vec![
                        ("constraint_name", texts([])),
                        ("table_name", texts([])),
                        ("table_schema", texts([])),
                        ("table_catalog", texts([])),
                        ("column_name", texts([])),
                        ("ordinal_position", ints([])),
                    ],
                ),
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
    vec![
        ("table_catalog", same(CATALOG)),
        ("table_schema", same(SCHEMA)),
        ("table_name", texts(tables.iter().map(|table| table.name.as_str()))),
        ("table_type", same("BASE TABLE")),
        ("number_of_shards", ints(tables.iter().map(|_| 1))),
        ("number_of_replicas", same("0")),
        ("column_policy", same("dynamic")),
    ]
}

fn columns_of(tables: &[TableInfo]) -> Columns {
    let columns: Vec<_> = tables
        .iter()
        .flat_map(|table| table.schema.fields().iter().zip(1_i32..).map(move |(field, at)| (table, field, at)))
        .collect();
    let precision = |data_type: &DataType| match data_type {
        DataType::Decimal128(precision, scale) => Some((i32::from(*precision), i32::from(*scale))),
        DataType::Int64 => Some((64, 0)),
        DataType::Int32 => Some((32, 0)),
        DataType::Float64 => Some((53, 0)),
        _ => None,
    };
    let numbers = |pick: fn((i32, i32)) -> i32| -> ArrayRef {
        Arc::new(columns.iter().map(|(_, field, _)| precision(field.data_type()).map(pick)).collect::<Int32Array>())
    };
    vec![
        ("table_catalog", texts(columns.iter().map(|_| CATALOG))),
        ("table_schema", texts(columns.iter().map(|_| SCHEMA))),
        ("table_name", texts(columns.iter().map(|(table, ..)| table.name.as_str()))),
        ("column_name", texts(columns.iter().map(|(_, field, _)| field.name().as_str()))),
        ("ordinal_position", ints(columns.iter().map(|(.., at)| *at))),
        ("data_type", texts(columns.iter().map(|(_, field, _)| type_name(field.data_type())))),
        ("is_nullable", texts(columns.iter().map(|(_, field, _)| if field.is_nullable() { "YES" } else { "NO" }))),
        ("is_generated", texts(columns.iter().map(|_| "NEVER"))),
        ("column_default", Arc::new(StringArray::new_null(columns.len()))),
        ("numeric_precision", numbers(|(precision, _)| precision)),
        ("numeric_scale", numbers(|(_, scale)| scale)),
        ("character_maximum_length", Arc::new(Int32Array::new_null(columns.len()))),
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

//! A body of `POST /_sql` through the SQL door, over tables in memory. Claims:
//!
//! - any body is an answer, or an error with a code and one line of bounded length; nothing panics;
//! - an answer is JSON: each row has as many cells as there are columns, and the rows are counted;
//! - no statement asks for a file or a host, or leaves the tables other than they were;
//! - a store that is a database of its own is handed one statement that reads, as other dialects read it, too;
//! - a statement beyond its time gives its place back;
//! - whatever a statement that writes says, a table of one's own has the columns that it was declared with, each key once,
//!   and what it counts as stored is there.
#![no_main]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::{Array as _, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use costream_common::config::Span;
use costream_common::record::{ScopeKey, SnapshotId};
use costream_exporter::report::{DecodeOptions, Decoded, Report};
use costream_handler::ident::TableName;
use costream_handler::sql::gateway::{Answer, Request};
use costream_handler::sql::{CATALOG, Engine, Limits, Options, SCHEMA, SqlError};
use costream_handler::store::declared::{Object, Type};
use costream_handler::store::{
    Change, Committed, Declared, Delivery, Query, Store, StoreEdit, StoreError, StoreRead, StoreWrite, TableInfo,
    Upsert, Upserted,
};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::ast::{Statement, visit_statements};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::parser::Parser;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use object_store::ObjectStore;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

const LIMITS: Limits =
    Limits { max_rows: 1_000, timeout: Span(Duration::from_secs(1)), max_memory_bytes: 64 << 20, concurrency: 1 };
/// The longest message, with its kind and a mark that it was cut.
const MAX_MESSAGE_BYTES: usize = 2_048 + 100;
/// How often a statement asks for the place of one beyond its time; each time waits as long as a statement may take.
const TRIES: usize = 20;

/// The table `costs`.
const REPORT: &str = r#"BilledCost,BillingPeriodStart,BillingCurrency,ServiceName,ConsumedQuantity,Tags
12345678901234567890.123456789012345678,2026-10-01T00:00:00Z,EUR,compute,1,"{""org"": ""test""}"
-0.000000000000000001,2026-10-01T00:00:00Z,EUR,storage,,
0.1,2026-11-01T00:00:00Z,USD,,0.5,"{""org"": ""prod"", ""a b"": ""x""}"
"#;

struct Doors {
    runtime: Runtime,
    tables: Tables,
    engine: Engine,
    told: Engine,
    notes: Notes,
    writing: Engine,
}

static DOORS: LazyLock<Doors> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let tables = Tables::new(runtime.block_on(costs()));
    let engine = Engine::new(Arc::new(tables.clone()), LIMITS);
    let notes = Notes::default();
    let store = Store { write: Arc::new(Nobody), read: Arc::new(tables.clone()), edit: Arc::new(notes.clone()) };
    let writing = Engine::writing(&store, LIMITS);
    Doors { runtime, tables, engine, told: Engine::new(Arc::new(Told), LIMITS), notes, writing }
});

fuzz_target!(|body: &[u8]| {
    let Doors { runtime, tables, engine, told, notes, writing } = &*DOORS;
    runtime.block_on(async {
        match answered(engine, body).await {
            Ok(answer) => check_answer(&answer),
            Err(error) => check_error(engine, &error).await,
        }
        tables.check_unchanged().await;
        // The check is the store's.
        let _ = answered(told, body).await;
        notes.begin_anew();
        if let Err(error) = answered(writing, body).await {
            check_error(writing, &error).await;
        }
        notes.check();
        tables.check_unchanged().await;
    });
});

/// What stands before and behind a statement.
const FRAME: [&str; 2] = [r#"{"stmt": ""#, r#"", "args": "#];

// Bytes alone seldom make one statement another: two times of three, whole words are changed.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match reworded(&data[..size], seed) {
        Some(body) if !seed.is_multiple_of(3) && body.len() <= max_size => {
            data[..body.len()].copy_from_slice(body.as_bytes());
            body.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});

/// A body with some words of its statement put, dropped, swapped, or said again elsewhere.
fn reworded(body: &[u8], seed: u32) -> Option<String> {
    static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let lines = include_str!("../dictionaries/sql.txt").lines();
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    });
    let body = str::from_utf8(body).ok()?;
    let (before, rest) = body.split_at_checked(FRAME[0].len()).filter(|(before, _)| *before == FRAME[0])?;
    let (statement, behind) = rest.split_at(rest.rfind(FRAME[1])?);

    let mut tokens = tokens(statement);
    let mut state = u64::from(seed);
    let mut pick = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).map_or(0, |number| number % n)
    };
    for _ in 0..=pick(3) {
        let (at, word) = (pick(tokens.len() + 1), WORDS[pick(WORDS.len())].as_str());
        let other = pick(tokens.len() + 1);
        let run = tokens[other..(other + 1 + pick(12)).min(tokens.len()).max(other)].to_vec();
        match pick(5) {
            0 => drop(tokens.splice(at..at, [" ", word, " "])),
            1 => drop(tokens.splice(at..(at + 1).min(tokens.len()), [word])),
            2 => drop(tokens.splice(at..(at + run.len()).min(tokens.len()), [])),
            3 => drop(tokens.splice(at..at, run)),
            _ => drop(tokens.splice(at..(at + 1).min(tokens.len()), run)),
        }
    }
    Some([before, &tokens.concat(), behind].concat())
}

/// Words, and the characters between them.
fn tokens(mut text: &str) -> Vec<&str> {
    let is_in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    while let Some(first) = text.chars().next() {
        let word = text.find(|c| !is_in_word(c)).unwrap_or(text.len());
        let (token, rest) = text.split_at(word.max(first.len_utf8()));
        tokens.push(token);
        text = rest;
    }
    tokens
}

async fn answered(engine: &Engine, body: &[u8]) -> Result<Vec<u8>, SqlError> {
    let request = Request::read(body)?;
    Ok(match request.answer(engine, &Options::default(), true, Instant::now()).await? {
        Answer::Whole(text) => text.to_vec(),
        Answer::Pieces(pieces) => pieces.try_collect::<Vec<Bytes>>().await?.concat(),
    })
}

fn check_answer(text: &[u8]) {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Json {
        cols: Vec<String>,
        col_types: Vec<IgnoredAny>,
        rows: Vec<Vec<IgnoredAny>>,
        rowcount: usize,
        #[serde(rename = "duration")]
        _duration: f64,
    }
    let json: Json = serde_json::from_slice(text).expect("JSON");
    assert_eq!((json.cols.len(), json.rows.len()), (json.col_types.len(), json.rowcount));
    assert!(json.rows.iter().all(|row| row.len() == json.cols.len()), "a row of another width");
}

async fn check_error(engine: &Engine, error: &SqlError) {
    let message = error.message();
    assert!(matches!(error.code(), 4000..=5999), "{message}");
    assert!(message.len() < MAX_MESSAGE_BYTES && !message.contains('\n'), "{message}");
    if matches!(error, SqlError::Time(_)) {
        for _ in 0..TRIES {
            if engine.execute("SELECT 1", &[], &Options::default()).await.is_ok() {
                return;
            }
        }
        panic!("a statement beyond its time keeps its place");
    }
}

async fn costs() -> RecordBatch {
    let mut report = Report::open(REPORT.as_bytes(), DecodeOptions::new("costs.csv")).await.expect("a report");
    let Some(Decoded::Batch(batch)) = report.next().await.expect("rows") else { panic!("a row was rejected") };
    let lower_case = |field: &Arc<Field>| field.as_ref().clone().with_name(field.name().to_lowercase());
    let schema = Schema::new(batch.schema().fields().iter().map(lower_case).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).expect("the same columns")
}

/// A store of one table in memory, whose sessions have no files, no hosts and no room on disk.
#[derive(Clone)]
struct Tables {
    base: SessionState,
    costs: Arc<MemTable>,
    info: TableInfo,
    doc: Arc<MemorySchemaProvider>,
}

impl Tables {
    fn new(batch: RecordBatch) -> Self {
        let info = TableInfo {
            name: TableName::new("costs").expect("a name"),
            schema: batch.schema(),
            partitioned_by: Vec::new(),
            declared: None,
        };
        let costs = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table"));
        let doc = Arc::new(MemorySchemaProvider::new());
        doc.register_table("costs".to_owned(), costs.clone()).expect("a new name");
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(LIMITS.max_memory_bytes, 1.0)
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .with_object_store_registry(Arc::new(Nowhere))
            .build_arc()
            .expect("a session's resources");
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false);
        let base =
            SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        Self { base, costs, info, doc }
    }

    async fn check_unchanged(&self) {
        assert_eq!(self.doc.table_names(), ["costs"]);
        assert_eq!(self.costs.batches.len(), 1);
        assert_eq!(self.costs.batches[0].read().await.len(), 1, "batches");
    }
}

impl StoreRead for Tables {
    fn query(&self, _: Query) -> BoxFuture<'_, Result<SendableRecordBatchStream, StoreError>> {
        unreachable!("it has sessions")
    }

    fn session(&self, _: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Option<SessionContext>, StoreError>> {
        let catalog = MemoryCatalogProvider::new();
        let catalogs = MemoryCatalogProviderList::new();
        catalog.register_schema(SCHEMA, self.doc.clone()).expect("a new name");
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
        let state = SessionStateBuilder::new_from_existing(self.base.clone()).with_catalog_list(Arc::new(catalogs));
        Box::pin(async { Ok(Some(SessionContext::new_with_state(state.build()))) })
    }

    fn tables(&self) -> BoxFuture<'_, Result<Vec<TableInfo>, StoreError>> {
        Box::pin(async { Ok(vec![self.info.clone()]) })
    }
}

/// A store of tables of one's own in memory, with one called `notes`.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<BTreeMap<String, (Declared, Vec<RecordBatch>)>>>);

impl Notes {
    fn begin_anew(&self) {
        let mut declared = Declared { primary_key: vec!["id".to_owned()], ..Declared::default() };
        declared.add("id", Type::Bigint).not_null = true;
        for (name, data_type) in [
            ("t", Type::Text),
            ("n", Type::Numeric(38, 18)),
            ("at", Type::TimestampTz),
            ("o", Type::Object(Object::default())),
            ("l", Type::Array(Box::new(Type::Text))),
        ] {
            declared.add(name, data_type);
        }
        let mut tables = self.tables();
        tables.clear();
        tables.insert("notes".to_owned(), (declared, Vec::new()));
    }

    fn tables(&self) -> MutexGuard<'_, BTreeMap<String, (Declared, Vec<RecordBatch>)>> {
        self.0.lock().expect("nobody panics with it")
    }

    fn check(&self) {
        for (declared, rows) in self.tables().values() {
            let schema = declared.stored_schema();
            let ids = declared.primary_key.iter().filter_map(|name| declared.column(name));
            let ids: Vec<_> = ids.map(|column| column.stored.as_str()).collect();
            let mut keys = HashSet::new();
            for batch in rows {
                for field in batch.schema().fields() {
                    let known = schema.field_with_name(field.name()).expect("a declared column");
                    assert_eq!(known.data_type(), field.data_type(), "{}", field.name());
                }
                for row in 0..batch.num_rows() {
                    let value = |name: &&str| {
                        let column = batch.column_by_name(name).expect("a key's column");
                        assert!(column.is_valid(row), "a key is null");
                        array_value_to_string(column, row).expect("a value")
                    };
                    let key: Vec<String> = ids.iter().map(value).collect();
                    assert!(ids.is_empty() || keys.insert(key), "a key is there twice");
                }
            }
        }
    }
}

impl StoreEdit for Notes {
    fn describe<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<Option<TableInfo>, StoreError>> {
        let tables = self.tables();
        let info = tables.get(table.as_str()).map(|(declared, _)| TableInfo {
            name: table.clone(),
            schema: declared.shown_schema(),
            partitioned_by: declared.partitioned_by.clone(),
            declared: Some(declared.clone()),
        });
        Box::pin(async { Ok(info) })
    }

    fn create<'a>(&'a self, table: &'a TableName, declared: &'a Declared) -> BoxFuture<'a, Result<bool, StoreError>> {
        let is_new = !self.tables().contains_key(table.as_str());
        if is_new {
            self.tables().insert(table.to_string(), (declared.clone(), Vec::new()));
        }
        Box::pin(async move { Ok(is_new) })
    }

    fn drop_table<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<bool, StoreError>> {
        let was_there = self.tables().remove(table.as_str()).is_some();
        Box::pin(async move { Ok(was_there) })
    }

    fn edit<'a>(&'a self, table: &'a TableName, change: &'a mut dyn Change) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let Some(info) = self.describe(table).await? else { return Ok(false) };
            let refused = |source| StoreError::Change { table: table.clone(), source };
            let schema = change.begin(&info).map_err(refused)?;
            let (mut declared, mut rows) = self.tables().get(table.as_str()).cloned().expect("described");
            let conform = |batch: &RecordBatch| {
                let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
                    Some(column) => column.clone(),
                    None => new_null_array(field.data_type(), batch.num_rows()),
                });
                RecordBatch::try_new(schema.clone(), columns.collect()).expect("rows of the declared types")
            };
            if let Some(looks_at) = change.looks_at() {
                let mut left = Vec::new();
                for batch in rows.iter().map(conform) {
                    let places = looks_at.iter().map(|name| batch.schema().index_of(name).expect("a column"));
                    let glance = batch.project(&places.collect::<Vec<_>>()).expect("columns");
                    let touched = looks_at.is_empty() || change.touches(&glance).map_err(refused)?;
                    left.push(if touched { change.rewrite(batch).map_err(refused)? } else { batch });
                }
                rows = left;
            }
            let ended = change.end().map_err(refused)?;
            rows.extend(ended.rows.iter().map(conform));
            declared = ended.declared.unwrap_or(declared);
            self.tables().insert(table.to_string(), (declared, rows));
            Ok(true)
        })
    }
}

/// Nothing is delivered here.
struct Nobody;

impl StoreWrite for Nobody {
    fn replace_scope(&self, _: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>> {
        unreachable!("no statement delivers")
    }

    fn upsert(&self, _: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>> {
        unreachable!("no statement delivers")
    }

    fn committed<'a>(
        &'a self,
        _: &'a TableName,
        _: &'a ScopeKey,
    ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>> {
        unreachable!("no statement delivers")
    }

    fn maintain(&self, _: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
        unreachable!("no statement keeps house")
    }
}

/// Where nothing is.
#[derive(Debug)]
struct Nowhere;

impl ObjectStoreRegistry for Nowhere {
    fn register_store(&self, url: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        panic!("{url} was made known")
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        panic!("{url} was asked for")
    }
}

/// A database of its own: it looks at what it is told, and fails.
struct Told;

impl StoreRead for Told {
    fn query(&self, query: Query) -> BoxFuture<'_, Result<SendableRecordBatchStream, StoreError>> {
        let dialects: [&dyn Dialect; 2] = [&GenericDialect, &PostgreSqlDialect {}];
        for statements in dialects.into_iter().filter_map(|dialect| Parser::parse_sql(dialect, &query.sql).ok()) {
            assert_eq!(statements.len(), 1, "{}", query.sql);
            let _ = visit_statements::<_, (), _>(&statements, |statement| {
                let reads = matches!(statement, Statement::Query(_) | Statement::Explain { analyze: false, .. });
                assert!(reads, "{}", query.sql);
                std::ops::ControlFlow::Continue(())
            });
        }
        Box::pin(async { Err(DataFusionError::Plan("looked at".to_owned()).into()) })
    }

    fn session(&self, _: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Option<SessionContext>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn tables(&self) -> BoxFuture<'_, Result<Vec<TableInfo>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

//! The one SQL door: a statement in CrateDB's words in, its rows out as a stream of record
//! batches. In process for `costream sql`, over HTTP behind [`gateway`].
//!
//! Reads only: `parse` lists what is taken. Pull-driven: one batch is ready and one in the
//! making, and dropping [`Rows`] cancels the statement, which runs on threads of the engine's own. Statements wait for a free place in the order in
//! which they came; the wait counts against their time.
//!
//! Peak memory: what the store's pool allows all statements together (sorts and groups beyond
//! it are spilled to disk), and per running statement a few batches in flight.

mod args;
mod catalog;
mod encode;
mod error;
mod functions;
pub mod gateway;
mod interrupt;
mod parse;
mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use datafusion::catalog::CatalogProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream};
use datafusion::logical_expr::{LogicalPlanBuilder, ScalarUDF, cast};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, Statement};
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::args::Arg;
pub use self::catalog::NODE;
pub use self::error::SqlError;
use self::interrupt::{Interruptible, Workers};
pub use self::parse::MAX_STATEMENT_BYTES;
use self::rewrite::{Rewritten, Session, version_schema};
use crate::auth::{Caller, Right};
use crate::store::{Query, StoreRead};
use costream_common::config::Span;

/// The release of CrateDB whose answers ours are like.
pub const CRATEDB_VERSION: &str = "6.4.3";
/// What `version()` says.
const VERSION: &str = concat!("CrateDB 6.4.3 (answered by costream ", env!("CARGO_PKG_VERSION"), ")");
/// The schema of the store's tables.
pub const SCHEMA: &str = "doc";
/// The catalog of the store's tables.
pub const CATALOG: &str = "crate";
/// Statements that may wait for a free place; the rest are told to come back.
const N_WAITING: usize = 64;
/// Batches waiting for a client; one ready, one in the making.
const N_READY_BATCHES: usize = 1;
/// The longest time a statement may be given: what a clock can add.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Rows of a batch on its way to a client.
const BATCH_ROWS: usize = 4096;

/// What one statement, and all of them together, may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Rows handed out for one statement; one more is an error.
    pub max_rows: u64,
    /// From a statement's arrival to its last row.
    pub timeout: Span,
    /// What all running statements together may hold in memory before they spill to disk; the
    /// store keeps to it.
    pub max_memory_bytes: usize,
    /// Statements running at the same time.
    pub concurrency: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_rows: 10_000_000,
            timeout: Span(Duration::from_secs(300)),
            max_memory_bytes: 512 << 20,
            concurrency: 4,
        }
    }
}

/// How a statement is to be read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The schema of names without one; `doc` when nothing.
    pub schema: Option<String>,
    /// Every table as it was at this time, unless the statement says otherwise of one.
    pub as_of: Option<DateTime<Utc>>,
    /// Who asks: `current_user`, and what they may.
    pub caller: Caller,
}

/// Answers statements from a store. Cheap to clone; clones share the places.
#[derive(Clone)]
pub struct Engine {
    store: Arc<dyn StoreRead>,
    limits: Limits,
    running: Arc<Semaphore>,
    present: Arc<Semaphore>,
    workers: Arc<Workers>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The answer to a statement. Dropping it cancels the statement.
#[derive(Debug)]
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<String>,
    /// `None` is the answer's end; without it the statement broke off.
    batches: mpsc::Receiver<Result<Option<RecordBatch>, SqlError>>,
    deadline: Instant,
    timeout: Duration,
    max_rows: u64,
    rows: u64,
    ended: bool,
    _wanted: DropGuard,
}

impl Rows {
    /// The columns' types, in order. Their names are the engine's; show [`Rows::columns`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns' names as CrateDB gives them; two may have the same.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next batch; nothing after the last one, nor after an error.
    ///
    /// # Errors
    /// The engine or the store failed, or a limit was reached.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.pull().await;
        self.ended = !matches!(next, Ok(Some(_)));
        next
    }

    async fn pull(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        let next = tokio::time::timeout_at(self.deadline, self.batches.recv()).await;
        let next = next.map_err(|_| SqlError::Time(self.timeout))?;
        let batch = next.unwrap_or_else(|| Err(broke_off()))?;
        self.rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        if self.rows > self.max_rows {
            return Err(SqlError::Rows(self.max_rows));
        }
        Ok(batch)
    }
}

impl Engine {
    /// An engine over a store.
    pub fn new(store: Arc<dyn StoreRead>, limits: Limits) -> Self {
        let running = limits.concurrency.clamp(1, Semaphore::MAX_PERMITS / 2);
        Self {
            store,
            limits,
            running: Arc::new(Semaphore::new(running)),
            present: Arc::new(Semaphore::new(running + N_WAITING)),
            workers: Arc::new(Workers::new(running)),
        }
    }

    /// What statements may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts a statement: it is parsed, planned and begun.
    ///
    /// # Errors
    /// The caller may not read; it is no statement that reads, names what is not there, or cannot be started.
    pub async fn execute(&self, statement: &str, args: &[Arg], options: &Options) -> Result<Rows, SqlError> {
        options.caller.require(Right::Read).map_err(|lacking| SqlError::Privilege("DQL", lacking.user))?;
        let timeout = self.limits.timeout.0.min(LONGEST_TIMEOUT);
        let deadline = Instant::now() + timeout;
        let busy = || SqlError::Busy(self.limits.concurrency + N_WAITING);
        let present = Arc::clone(&self.present).try_acquire_owned().map_err(|_| busy())?;
        let options = options.clone();
        let session = Session {
            schema: options.schema.clone().unwrap_or_else(|| SCHEMA.to_owned()),
            user: options.caller.name.to_string(),
            version: VERSION,
        };
        let rewritten = rewrite::rewrite(parse::parse(statement)?, args, &session)?;
        let in_time = tokio::time::timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await;
        let running = in_time.map_err(|_| SqlError::Time(timeout))?.map_err(|_| busy())?;

        let stop = CancellationToken::new();
        let wanted = stop.clone().drop_guard();
        let (tell_head, head) = oneshot::channel();
        let (tell, batches) = mpsc::channel(N_READY_BATCHES);
        let store = Arc::clone(&self.store);
        let runtime = self.workers.runtime().ok_or_else(|| SqlError::Engine("no threads for statements".to_owned()))?;
        runtime.spawn(async move {
            // Given back when the work is over, which may be later than when nobody wants it.
            let _places = [present, running];
            let work = async {
                let started = stream(store, rewritten, &options, session, &stop).await;
                let mut batches = match started {
                    Ok((columns, batches)) => {
                        let head = (columns, batches.schema());
                        tell_head.send(Ok(head)).map_err(drop)?;
                        batches
                    }
                    Err(error) => return tell_head.send(Err(error)).map_err(drop),
                };
                while let Some(batch) = batches.next().await {
                    let batch = batch.map(Some).map_err(SqlError::from);
                    tell.send(batch).await.map_err(drop)?;
                }
                tell.send(Ok(None)).await.map_err(drop)
            };
            stop.run_until_cancelled(work).await
        });
        let head = tokio::time::timeout_at(deadline, head).await.map_err(|_| SqlError::Time(timeout))?;
        let (columns, schema) = head.map_err(|_| broke_off())??;
        let columns = columns.unwrap_or_else(|| schema.fields().iter().map(|field| field.name().clone()).collect());
        Ok(Rows {
            schema,
            columns,
            batches,
            deadline,
            timeout,
            max_rows: self.limits.max_rows,
            rows: 0,
            ended: false,
            _wanted: wanted,
        })
    }
}

fn broke_off() -> SqlError {
    SqlError::Engine("the statement broke off".to_owned())
}

/// Plans a statement and begins it; with the names of its columns when they are known.
async fn stream(
    store: Arc<dyn StoreRead>,
    rewritten: Rewritten,
    options: &Options,
    session: Session,
    stop: &CancellationToken,
) -> Result<(Option<Vec<String>>, SendableRecordBatchStream), SqlError> {
    let Rewritten { statement, columns, versions, system, functions } = rewritten;
    let Some(base) = store.session(options.as_of).await? else {
        // A store that is a database of its own knows its schemas and versions itself.
        if !versions.is_empty() {
            return Err(SqlError::Unsupported("FOR SYSTEM_TIME AS OF is not taken by this store".to_owned()));
        }
        let query = Query { sql: statement.to_string(), params: Vec::new(), as_of: options.as_of };
        return Ok((columns, store.query(query).await?));
    };
    let context = prepared(&base, &session, stop)?;
    let catalog =
        context.catalog(CATALOG).ok_or_else(|| SqlError::Engine("the store's session has no catalog".to_owned()))?;
    if system {
        for (name, schema) in catalog::schemas(&store.tables().await?, &session.user)? {
            catalog.register_schema(name, schema)?;
        }
    }
    for (at, time) in versions.into_iter().enumerate() {
        let time = constant_time(&context, time).await?;
        let then = store.session(Some(time)).await?;
        let schema = then.and_then(|then| then.catalog(CATALOG)?.schema(SCHEMA));
        let schema = schema.ok_or_else(|| SqlError::Engine("the store's session has no schema".to_owned()))?;
        catalog.register_schema(&version_schema(at), schema)?;
    }
    check_names(&context, &catalog, &statement, &session, &functions)?;
    let state = context.state();
    let planned = state.statement_to_plan(EngineStatement::Statement(Box::new(statement.clone()))).await;
    let plan = match planned {
        // The engine tells `a::bigint` from `a::date` by their aliases alone.
        Err(error) if rewrite::wants_aliases(&error) => {
            let statement = rewrite::with_aliases(statement);
            state.statement_to_plan(EngineStatement::Statement(Box::new(statement))).await?
        }
        planned => planned?,
    };
    let columns = columns.filter(|columns| columns.len() == plan.schema().fields().len());
    let stream = DataFrame::new(state, plan).execute_stream().await?;
    Ok((columns, stream))
}

/// The store's session with the settings that keep amounts decimal and times in UTC, and with
/// plans that can be stopped.
fn prepared(base: &SessionContext, session: &Session, stop: &CancellationToken) -> Result<SessionContext, SqlError> {
    let state = base.state();
    let mut config = state.config().clone();
    let settings = config.options_mut();
    settings.catalog.default_catalog = CATALOG.to_owned();
    settings.catalog.default_schema = session.schema.clone();
    settings.catalog.information_schema = false;
    settings.sql_parser.parse_float_as_decimal = true;
    settings.sql_parser.enable_ident_normalization = true;
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.execution.time_zone = Some("UTC".to_owned());
    let state = SessionStateBuilder::new_from_existing(state)
        .with_config(config.with_batch_size(BATCH_ROWS))
        .with_physical_optimizer_rule(Arc::new(Interruptible { stop: stop.clone() }))
        .build();
    let mut context = SessionContext::new_with_state(state);
    context.register_expr_planner(Arc::new(functions::Times))?;
    context.register_udf(ScalarUDF::from(functions::DateTrunc::default()));
    // They make an array of any length in one value, which no limit of ours sees.
    for function in
        ["range", "generate_series", "gen_series", "array_resize", "list_resize", "array_repeat", "list_repeat"]
    {
        context.deregister_udf(function);
    }
    Ok(context)
}

/// Whether the tables are there that a statement names.
fn check_names(
    context: &SessionContext,
    catalog: &Arc<dyn CatalogProvider>,
    statement: &Statement,
    session: &Session,
    functions: &HashSet<String>,
) -> Result<(), SqlError> {
    let statement = EngineStatement::Statement(Box::new(statement.clone()));
    for reference in context.state().resolve_table_references(&statement)? {
        if matches!(&reference, TableReference::Bare { table } if functions.contains(table.as_ref())) {
            continue;
        }
        let known = match &reference {
            TableReference::Full { catalog, .. } if catalog.as_ref() != CATALOG => {
                return Err(SqlError::RelationUnknown(reference.to_string()));
            }
            reference => reference.schema().unwrap_or(&session.schema),
        };
        let Some(schema) = catalog.schema(known) else { return Err(SqlError::SchemaUnknown(known.to_owned())) };
        if !schema.table_exist(reference.table()) {
            let shown = match reference.schema() {
                Some(schema) if !schema.starts_with('~') => format!("{schema}.{}", reference.table()),
                _ => reference.table().to_owned(),
            };
            return Err(SqlError::RelationUnknown(shown));
        }
    }
    Ok(())
}

/// The time that an expression without columns says.
async fn constant_time(context: &SessionContext, time: Expr) -> Result<DateTime<Utc>, SqlError> {
    let wrong =
        || SqlError::Invalid("FOR SYSTEM_TIME AS OF takes a time such as TIMESTAMP '2026-01-31T12:00:00Z'".to_owned());
    let state = context.state();
    let empty = LogicalPlanBuilder::empty(true);
    let expr = state.create_logical_expr_from_sql_expr(
        datafusion::sql::sqlparser::ast::ExprWithAlias { expr: time, alias: None },
        empty.schema(),
    )?;
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    let integer = datafusion::logical_expr::ExprSchemable::get_type(&expr, empty.schema())?.is_integer();
    let expr = if integer { cast(expr, utc(TimeUnit::Millisecond)) } else { expr };
    let plan = empty.project([cast(expr, utc(TimeUnit::Microsecond))])?.build()?;
    let batches = DataFrame::new(state, plan).collect().await?;
    let value = batches.first().map(|batch| batch.column(0).as_primitive::<TimestampMicrosecondType>());
    value
        .filter(|value| value.len() == 1 && value.is_valid(0))
        .and_then(|value| DateTime::from_timestamp_micros(value.value(0)))
        .ok_or_else(wrong)
}

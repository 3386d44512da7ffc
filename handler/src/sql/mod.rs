//! The one SQL door: a statement in CrateDB's words in, its rows out as a stream of record
//! batches, or what it has changed. In process for `costream sql`, over HTTP behind [`gateway`].
//!
//! `parse` lists what is taken. A statement that reads is rewritten and planned by the query engine. One
//! that writes is carried out by `write` as a change of one table (`insert`, `change`), with values
//! by CrateDB's rules (`value`); only expressions and queries in it are the engine's.
//!
//! Pull-driven: one batch is ready and one in the making, and dropping [`Rows`] cancels the statement, which
//! runs on threads of the engine's own. Statements wait for a free place in the order in which they
//! came; the wait counts against their time. A client that leaves while a change is made leaves all of it or nothing.
//!
//! Peak memory: what the store's pool allows all statements together (sorts and groups beyond
//! it are spilled to disk), and per running statement a few batches in flight, or the rows it writes.

mod args;
mod assign;
mod catalog;
pub mod cell;
mod change;
pub mod csv;
mod ddl;
mod dml;
mod encode;
mod error;
mod functions;
pub mod gateway;
mod insert;
mod interrupt;
mod object;
mod parse;
mod rewrite;
mod statement;
#[cfg(test)]
mod tests;
mod value;
mod write;
#[cfg(test)]
mod write_model;
#[cfg(test)]
mod write_tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use datafusion::catalog::CatalogProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{LogicalPlanBuilder, ScalarUDF, cast};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, ObjectName, Statement};
use futures::StreamExt;
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::args::Arg;
pub use self::catalog::NODE;
pub use self::error::SqlError;
pub use self::gateway::Bulk;
use self::insert::ArgSets;
use self::interrupt::{Interruptible, Workers};
pub use self::parse::MAX_STATEMENT_BYTES;
use self::rewrite::{Rewritten, Session, folded, version_schema};
use self::statement::{Parsed, Write};
use self::write::{Done, Writer};
use crate::auth::{Caller, Right};
use crate::ident::TableName;
use crate::store::declared::{create_statement, quoted};
use crate::store::{Query, Store, StoreEdit, StoreRead, TableInfo, text};
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
/// What a statement that writes leaves for its client: the rows it returns, and their end.
const N_RETURNED: usize = 2;
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
    /// Nothing in an engine that reads only.
    edit: Option<Arc<dyn StoreEdit>>,
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
    affected: Option<i64>,
    _wanted: DropGuard,
}

impl Rows {
    /// How many rows a statement that writes has changed, -1 where CrateDB does not say; nothing for
    /// one that reads. There are no rows to come then.
    pub fn affected(&self) -> Option<i64> {
        self.affected
    }

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
    /// An engine that reads a store.
    pub fn new(store: Arc<dyn StoreRead>, limits: Limits) -> Self {
        let running = limits.concurrency.clamp(1, Semaphore::MAX_PERMITS / 2);
        Self {
            store,
            edit: None,
            limits,
            running: Arc::new(Semaphore::new(running)),
            present: Arc::new(Semaphore::new(running + N_WAITING)),
            workers: Arc::new(Workers::new(running)),
        }
    }

    /// An engine that reads and writes a store.
    pub fn writing(store: &Store, limits: Limits) -> Self {
        Self { edit: Some(store.edit.clone()), ..Self::new(store.read.clone(), limits) }
    }

    /// What statements may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts a statement that reads: it is parsed, planned and begun. One that writes is carried out.
    ///
    /// # Errors
    /// It is no statement, names what is not there, is not the caller's to make, or cannot be started; or
    /// what it would write is refused, and then nothing has changed.
    pub async fn execute(&self, statement: &str, args: &[Arg], options: &Options) -> Result<Rows, SqlError> {
        let turn = self.turn(options)?;
        let may_read =
            || options.caller.require(Right::Read).map_err(|lacking| SqlError::Privilege("DQL", lacking.user));
        let read = match parse::parse(statement)? {
            Parsed::Read(read) => may_read().map(|()| *read)?,
            Parsed::ShowCreate(table) => {
                may_read()?;
                self.show_create(&table, &turn.session).await?
            }
            Parsed::Write(write) => {
                let (timeout, deadline) = (turn.timeout, turn.deadline);
                let wanted = turn.stop.clone().drop_guard();
                let (columns, returned, affected) = match self
                    .write(*write, ArgSets::One(args.into()), options, turn)
                    .await?
                {
                    Done::Count(count) => (None, RecordBatch::new_empty(SchemaRef::new(Schema::empty())), Some(count)),
                    Done::Returned(columns, rows) => (columns, rows, None),
                    Done::Each(_) => return Err(broke_off()),
                };
                let schema = returned.schema();
                let (tell, batches) = mpsc::channel(N_RETURNED);
                for batch in [Some(returned), None] {
                    tell.try_send(Ok(batch)).map_err(|_| broke_off())?;
                }
                let names = || schema.fields().iter().map(|field| field.name().clone()).collect();
                let columns = columns.filter(|columns| columns.len() == schema.fields().len()).unwrap_or_else(names);
                let max_rows = self.limits.max_rows;
                return Ok(Rows {
                    schema,
                    columns,
                    batches,
                    deadline,
                    timeout,
                    max_rows,
                    rows: 0,
                    ended: false,
                    affected,
                    _wanted: wanted,
                });
            }
        };
        self.read(rewrite::rewrite(read, args, &turn.session)?, options, turn).await
    }

    /// Carries out a statement that writes, once for each set of arguments; says for each how many
    /// rows it has changed, or why none.
    ///
    /// # Errors
    /// As [`Engine::execute`]; a statement that reads has no such form.
    pub async fn execute_bulk(
        &self,
        statement: &str,
        bulk: Bulk,
        options: &Options,
    ) -> Result<Vec<Result<u64, SqlError>>, SqlError> {
        let turn = self.turn(options)?;
        let Parsed::Write(write) = parse::parse(statement)? else {
            return Err(SqlError::Unsupported(
                "Bulk operations for statements that return result sets is not supported".to_owned(),
            ));
        };
        let _wanted = turn.stop.clone().drop_guard();
        match self.write(*write, ArgSets::Bulk(bulk.into()), options, turn).await? {
            Done::Each(results) => Ok(results),
            Done::Count(_) | Done::Returned(..) => {
                Err(SqlError::Unsupported("bulk_args is for INSERT, UPDATE and DELETE".to_owned()))
            }
        }
    }

    /// A statement's place among those that are present, and its time.
    fn turn(&self, options: &Options) -> Result<Turn, SqlError> {
        let timeout = self.limits.timeout.0.min(LONGEST_TIMEOUT);
        let present = Arc::clone(&self.present).try_acquire_owned().map_err(|_| self.busy())?;
        let session = Session {
            schema: options.schema.clone().unwrap_or_else(|| SCHEMA.to_owned()),
            user: options.caller.name.to_string(),
            version: VERSION,
        };
        Ok(Turn { present, session, timeout, deadline: Instant::now() + timeout, stop: CancellationToken::new() })
    }

    fn busy(&self) -> SqlError {
        SqlError::Busy(self.limits.concurrency + N_WAITING)
    }

    /// Waits for a place among those that run.
    async fn running(&self, turn: &Turn) -> Result<OwnedSemaphorePermit, SqlError> {
        let in_time = tokio::time::timeout_at(turn.deadline, Arc::clone(&self.running).acquire_owned()).await;
        in_time.map_err(|_| SqlError::Time(turn.timeout))?.map_err(|_| self.busy())
    }

    fn runtime(&self) -> Result<&Runtime, SqlError> {
        self.workers.runtime().ok_or_else(|| SqlError::Engine("no threads for statements".to_owned()))
    }

    async fn write(&self, write: Write, args: ArgSets, options: &Options, turn: Turn) -> Result<Done, SqlError> {
        let Some(edit) = self.edit.clone() else { return Err(SqlError::Write(write.operation().to_owned())) };
        let running = self.running(&turn).await?;
        let Turn { present, session, timeout, deadline, stop } = turn;
        let writer = Writer { store: self.store.clone(), edit, options: options.clone(), session, stop: stop.clone() };
        let work = self.runtime()?.spawn(async move {
            let _places = [present, running];
            stop.run_until_cancelled(writer.run(write, args)).await
        });
        let done = tokio::time::timeout_at(deadline, work).await.map_err(|_| SqlError::Time(timeout))?;
        done.map_err(|_| broke_off())?.ok_or_else(broke_off)?
    }

    /// `SHOW CREATE TABLE` as the query that says it.
    async fn show_create(&self, table: &ObjectName, session: &Session) -> Result<Statement, SqlError> {
        let parts: Vec<String> = table.0.iter().filter_map(|part| part.as_ident()).map(folded).collect();
        let (schema, name) = match parts.as_slice() {
            [name] => (session.schema.as_str(), name),
            [schema, name] => (schema.as_str(), name),
            _ => return Err(SqlError::RelationUnknown(table.to_string())),
        };
        let name = TableName::new(name).ok().filter(|known| known.as_str() == name && schema == SCHEMA);
        let tables = self.store.tables().await?;
        let info = tables.into_iter().find(|info| Some(&info.name) == name.as_ref());
        let TableInfo { name, declared, .. } = info.ok_or_else(|| SqlError::RelationUnknown(table.to_string()))?;
        let declared = declared.ok_or_else(|| {
            SqlError::Unsupported(format!("{name} was made by deliveries: see information_schema.columns"))
        })?;
        let qualified = format!("{}.{}", quoted(SCHEMA), quoted(name.as_str()));
        let literal = Arg::Text(create_statement(&qualified, &declared)).literal();
        parse::parse_read(&format!("SELECT {literal} AS \"SHOW CREATE TABLE {SCHEMA}.{name}\""))
    }

    async fn read(&self, rewritten: Rewritten, options: &Options, turn: Turn) -> Result<Rows, SqlError> {
        let running = self.running(&turn).await?;
        let Turn { present, session, timeout, deadline, stop } = turn;
        let wanted = stop.clone().drop_guard();
        let options = options.clone();
        let (tell_head, head) = oneshot::channel();
        let (tell, batches) = mpsc::channel(N_READY_BATCHES);
        let store = Arc::clone(&self.store);
        self.runtime()?.spawn(async move {
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
            affected: None,
            _wanted: wanted,
        })
    }
}

/// A statement on its way.
struct Turn {
    present: OwnedSemaphorePermit,
    session: Session,
    timeout: Duration,
    deadline: Instant,
    stop: CancellationToken,
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
    let rows = DataFrame::new(state, plan).execute_stream().await?;
    Ok((columns, text::owned(rows)))
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
    // Ours come first: the engine's own take any subscript for one of a map.
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(object::Objects)];
    planners.extend(state.expr_planners().iter().cloned());
    planners.push(Arc::new(functions::Times));
    let state = SessionStateBuilder::new_from_existing(state)
        .with_config(config.with_batch_size(BATCH_ROWS))
        .with_expr_planners(planners)
        .with_physical_optimizer_rule(Arc::new(Interruptible { stop: stop.clone() }))
        .build();
    let context = SessionContext::new_with_state(state);
    for function in [
        ScalarUDF::from(functions::DateTrunc::default()),
        ScalarUDF::from(object::ObjectOf::default()),
        ScalarUDF::from(object::ObjectKeys::default()),
    ] {
        context.register_udf(function);
    }
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

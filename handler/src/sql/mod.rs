//! The one SQL door: a statement in CrateDB's words in, its rows out as a stream of record
//! batches. In process for `costream sql`, over HTTP behind [`gateway`].
//!
//! Reads only: `parse` lists what is taken. Pull-driven: a batch is made when it is asked for,
//! and dropping [`Rows`] cancels the statement. Statements wait for a free place in the order in
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
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, Statement};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use self::args::Arg;
pub use self::catalog::NODE;
pub use self::error::SqlError;
pub use self::parse::MAX_STATEMENT_BYTES;
use self::rewrite::{Rewritten, Session, version_schema};
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
/// The user who is asked for no password: CrateDB's own name for it.
pub const DEFAULT_USER: &str = "crate";
/// Statements that may wait for a free place; the rest are told to come back.
const N_WAITING: usize = 64;
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
        Self { max_rows: 10_000_000, timeout: Span(Duration::from_secs(300)), max_memory_bytes: 512 << 20, concurrency: 4 }
    }
}

/// How a statement is to be read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The schema of names without one; `doc` when nothing.
    pub schema: Option<String>,
    /// Every table as it was at this time, unless the statement says otherwise of one.
    pub as_of: Option<DateTime<Utc>>,
    /// Who asks: `current_user`.
    pub user: Option<String>,
}

/// Answers statements from a store. Cheap to clone; clones share the places.
#[derive(Clone)]
pub struct Engine {
    store: Arc<dyn StoreRead>,
    limits: Limits,
    running: Arc<Semaphore>,
    present: Arc<Semaphore>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The answer to a statement. Dropping it cancels the statement.
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<String>,
    batches: BoxStream<'static, Result<RecordBatch, SqlError>>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("columns", &self.columns).finish_non_exhaustive()
    }
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

    /// The next batch; nothing after the last one. After an error comes nothing.
    ///
    /// # Errors
    /// The engine or the store failed, or a limit was reached.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        self.batches.next().await.transpose()
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
        }
    }

    /// What statements may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs a statement up to its first batch's beginning: it is parsed, planned and started.
    ///
    /// # Errors
    /// It is no statement that reads, names what is not there, or cannot be started.
    pub async fn execute(&self, statement: &str, args: &[Arg], options: &Options) -> Result<Rows, SqlError> {
        let deadline = Instant::now() + self.limits.timeout.0;
        let late = SqlError::Time(self.limits.timeout.0);
        match tokio::time::timeout_at(deadline, self.start(statement, args, options, deadline)).await {
            Ok(started) => started,
            Err(_) => Err(late),
        }
    }

    async fn start(&self, text: &str, args: &[Arg], options: &Options, deadline: Instant) -> Result<Rows, SqlError> {
        let busy = || SqlError::Busy(self.limits.concurrency + N_WAITING);
        let present = Arc::clone(&self.present).try_acquire_owned().map_err(|_| busy())?;
        let session = Session {
            schema: options.schema.clone().unwrap_or_else(|| SCHEMA.to_owned()),
            user: options.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()),
            version: VERSION,
        };
        let rewritten = rewrite::rewrite(parse::parse(text)?, args, &session)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        let (columns, batches) = self.stream(rewritten, options, &session).await?;
        let schema = batches.schema();
        let columns = columns.unwrap_or_else(|| schema.fields().iter().map(|field| field.name().clone()).collect());
        let bounded = Bounded {
            batches,
            deadline,
            timeout: self.limits.timeout.0,
            max_rows: self.limits.max_rows,
            rows: 0,
            _places: [present, running],
        };
        Ok(Rows { schema, columns, batches: bounded.into_stream() })
    }

    async fn stream(
        &self,
        rewritten: Rewritten,
        options: &Options,
        session: &Session,
    ) -> Result<(Option<Vec<String>>, SendableRecordBatchStream), SqlError> {
        let Rewritten { statement, columns, versions, system, functions } = rewritten;
        let Some(base) = self.store.session(options.as_of).await? else {
            // A store that is a database of its own knows its schemas and versions itself.
            if !versions.is_empty() {
                return Err(SqlError::Unsupported("FOR SYSTEM_TIME AS OF is not taken by this store".to_owned()));
            }
            let query = Query { sql: statement.to_string(), params: Vec::new(), as_of: options.as_of };
            return Ok((columns, self.store.query(query).await?));
        };
        let context = self.prepared(&base, session)?;
        let catalog = context.catalog(CATALOG).ok_or_else(|| SqlError::Engine("the store's session has no catalog".to_owned()))?;
        if system {
            for (name, schema) in catalog::schemas(&self.store.tables().await?, &session.user)? {
                catalog.register_schema(name, schema)?;
            }
        }
        for (at, time) in versions.into_iter().enumerate() {
            let time = constant_time(&context, time).await?;
            let then = self.store.session(Some(time)).await?;
            let schema = then.and_then(|then| then.catalog(CATALOG)?.schema(SCHEMA));
            let schema = schema.ok_or_else(|| SqlError::Engine("the store's session has no schema".to_owned()))?;
            catalog.register_schema(&version_schema(at), schema)?;
        }
        let plan = plan(&context, &catalog, statement, session, &functions).await?;
        let columns = columns.filter(|columns| columns.len() == plan.schema().fields().len());
        let stream = DataFrame::new(context.state(), plan).execute_stream().await?;
        Ok((columns, stream))
    }

    /// The store's session with the settings that keep amounts decimal and times in UTC.
    fn prepared(&self, base: &SessionContext, session: &Session) -> Result<SessionContext, SqlError> {
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
        let state = SessionStateBuilder::new_from_existing(state).with_config(config.with_batch_size(BATCH_ROWS)).build();
        let mut context = SessionContext::new_with_state(state);
        context.register_expr_planner(Arc::new(functions::Times))?;
        // They make an array of any length in one value, which no limit of ours sees.
        for function in ["range", "generate_series", "gen_series", "array_resize", "list_resize", "array_repeat", "list_repeat"] {
            context.deregister_udf(function);
        }
        Ok(context)
    }
}

/// Plans a statement whose tables are there.
async fn plan(
    context: &SessionContext,
    catalog: &Arc<dyn CatalogProvider>,
    statement: Statement,
    session: &Session,
    functions: &HashSet<String>,
) -> Result<LogicalPlan, SqlError> {
    let state = context.state();
    let statement = EngineStatement::Statement(Box::new(statement));
    for reference in state.resolve_table_references(&statement)? {
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
    Ok(state.statement_to_plan(statement).await?)
}

/// The time that an expression without columns says.
async fn constant_time(context: &SessionContext, time: Expr) -> Result<DateTime<Utc>, SqlError> {
    let wrong = || SqlError::Invalid("FOR SYSTEM_TIME AS OF takes a time such as TIMESTAMP '2026-01-31T12:00:00Z'".to_owned());
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

/// A statement's batches within its limits.
struct Bounded {
    batches: SendableRecordBatchStream,
    deadline: Instant,
    timeout: Duration,
    max_rows: u64,
    rows: u64,
    /// Given back when the stream is dropped.
    _places: [OwnedSemaphorePermit; 2],
}

impl Bounded {
    fn into_stream(self) -> BoxStream<'static, Result<RecordBatch, SqlError>> {
        futures::stream::unfold(Some(self), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(state))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        let Ok(batch) = tokio::time::timeout_at(self.deadline, self.batches.next()).await else {
            return Err(SqlError::Time(self.timeout));
        };
        let Some(batch) = batch.transpose().map_err(|error: DataFusionError| SqlError::from(error))? else { return Ok(None) };
        self.rows += batch.num_rows() as u64;
        if self.rows > self.max_rows {
            return Err(SqlError::Rows(self.max_rows));
        }
        Ok(Some(batch))
    }
}

//! Statements that write, carried out on a store: who may, on which table, and what is handed to
//! it as a [`crate::store::Change`]. What a query or an expression says is worked out by the
//! engine before; subqueries of `UPDATE` and `DELETE` are asked first, once, and stand in the
//! condition as what they answered.
//!
//! Memory: a statement's rows as columns (see [`super::insert`]); of `INSERT ... SELECT`
//! [`GROUP_ROWS`] at a time, each group a commit.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use chrono::{DateTime, SecondsFormat};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider as _};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, Expr, Ident, ObjectName, Query, SelectItem, SetExpr, Statement, TimezoneInfo, TypedString,
    Value, VisitMut, VisitorMut, visit_expressions,
};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::args::Arg;
use super::assign::wrong;
use super::change::{Action, Changes, Part};
use super::error::SqlError;
use super::insert::{ArgSets, Cell, Given, Insertion};
use super::parse::parse_read;
use super::rewrite::{self, Rewritten, Session, folded};
use super::statement::{Assignment, Conflict, Delete, Insert, NewColumn, Source, Update, Write};
use super::value::{Growth, Misfit};
use super::{CATALOG, Options, SCHEMA, catalog, encode, prepared, stream};
use crate::auth::Right;
use crate::ident::TableName;
use crate::store::declared::{Type, quoted};
use crate::store::{BatchError, Change, Declared, Ended, StoreEdit, StoreRead, TableInfo};

/// Rows of `INSERT ... SELECT` that are stored together.
const GROUP_ROWS: usize = 10_000;
/// Rows that a subquery of `UPDATE` or `DELETE` may answer.
const MAX_SUBQUERY_ROWS: usize = 100_000;

/// What a statement has done.
#[derive(Debug)]
pub(super) enum Done {
    /// So many rows; -1 where CrateDB does not say.
    Count(i64),
    /// For each set of arguments of a bulk request.
    Each(Vec<Result<u64, SqlError>>),
    /// What `RETURNING` says of the rows; its columns' names when they are known.
    Returned(Option<Vec<String>>, RecordBatch),
}

/// Carries out one statement.
pub(super) struct Writer {
    pub(super) store: Arc<dyn StoreRead>,
    pub(super) edit: Arc<dyn StoreEdit>,
    pub(super) options: Options,
    pub(super) session: Session,
    pub(super) stop: CancellationToken,
}

impl Writer {
    pub(super) async fn run(&self, write: Write, args: ArgSets) -> Result<Done, SqlError> {
        let operation = write.operation();
        if self.options.as_of.is_some() {
            return Err(SqlError::Unsupported("the past cannot be written".to_owned()));
        }
        self.may(operation)?;
        if matches!(&write, Write::Insert(Insert { returning, .. }) | Write::Update(Update { returning, .. }) if !returning.is_empty())
        {
            self.require(Right::Read, "DQL")?;
        }
        let tables =
            write.tables().iter().map(|table| self.resolve(table, operation)).collect::<Result<Vec<_>, _>>()?;
        if tables.contains(&TableName::notebooks()) && !matches!(write, Write::Refresh(_)) {
            // Who could write notebooks could run code as somebody else.
            let way = "notebooks are kept by POST /compute/<name>/upload, not by statements";
            return Err(SqlError::Unsupported(way.to_owned()));
        }
        let Some(table) = tables.first().cloned() else { return Ok(Done::Count(0)) };
        match write {
            Write::CreateTable { declared, if_not_exists, .. } => {
                no_sets(&args)?;
                match self.edit.create(&table, &declared).await? {
                    true => Ok(Done::Count(1)),
                    false if if_not_exists => Ok(Done::Count(0)),
                    false => Err(SqlError::RelationExists(qualified(&table))),
                }
            }
            Write::DropTable { if_exists, .. } => {
                no_sets(&args)?;
                match self.edit.describe(&table).await? {
                    Some(info) => self.may_change(&info, operation)?,
                    None if if_exists => return Ok(Done::Count(0)),
                    None => return Err(unknown(&table)),
                }
                if self.edit.drop_table(&table).await? || if_exists {
                    return Ok(Done::Count(1));
                }
                Err(unknown(&table))
            }
            Write::AddColumns { columns, .. } => {
                no_sets(&args)?;
                self.described(&table, operation).await?;
                self.edited(&table, &mut Addition { columns, declared: None }).await?;
                Ok(Done::Count(-1))
            }
            Write::Refresh(_) => {
                // What is committed is seen at once.
                for table in &tables {
                    self.edit.describe(table).await?.ok_or_else(|| unknown(table))?;
                }
                Ok(Done::Count(count(tables.len() as u64)))
            }
            Write::Insert(insert) => self.insert(&table, insert, args).await,
            Write::Update(update) => self.change(&table, operation, update, true, args).await,
            Write::Delete(Delete { table: name, alias, condition }) => {
                let rows = Update { table: name, alias, assignments: Vec::new(), condition, returning: Vec::new() };
                self.change(&table, operation, rows, false, args).await
            }
        }
    }

    fn may(&self, operation: &str) -> Result<(), SqlError> {
        match operation {
            "CREATE" | "ALTER" | "DROP" => self.require(Right::Write, "DDL"),
            "REFRESH" => self.require(Right::Read, "DQL"),
            _ => self.require(Right::Write, "DML"),
        }
    }

    fn require(&self, right: Right, verb: &'static str) -> Result<(), SqlError> {
        self.options.caller.require(right).map_err(|lacking| SqlError::Privilege(verb, lacking.user))
    }

    /// What deliveries have made is theirs: an administrator may delete from it by hand.
    fn may_change(&self, table: &TableInfo, operation: &'static str) -> Result<(), SqlError> {
        match (&table.declared, operation) {
            (Some(_), _) => Ok(()),
            (None, "DELETE" | "DROP") => self.require(Right::Admin, "AL"),
            (None, _) => Err(SqlError::inaccessible(&table.name, operation)),
        }
    }

    /// The table of a name.
    fn resolve(&self, name: &ObjectName, operation: &'static str) -> Result<TableName, SqlError> {
        let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(folded).collect();
        let (schema, table) = match parts.as_slice() {
            [table] => (self.session.schema.as_str(), table),
            [schema, table] => (schema.as_str(), table),
            [catalog, schema, table] if catalog == CATALOG => (schema.as_str(), table),
            _ => return Err(SqlError::RelationUnknown(name.to_string())),
        };
        if catalog::SCHEMAS.contains(&schema) {
            return Err(SqlError::Inaccessible { relation: format!("{schema}.{table}"), operation });
        }
        if schema != SCHEMA {
            return Err(SqlError::SchemaUnknown(schema.to_owned()));
        }
        match TableName::new(table) {
            Ok(name) if name.as_str() == table => Ok(name),
            _ if operation == "CREATE" => Err(SqlError::RelationName(format!("{schema}.{table}"))),
            _ => Err(SqlError::RelationUnknown(table.clone())),
        }
    }

    async fn described(&self, table: &TableName, operation: &'static str) -> Result<TableInfo, SqlError> {
        let info = self.edit.describe(table).await?.ok_or_else(|| unknown(table))?;
        self.may_change(&info, operation)?;
        Ok(info)
    }

    async fn edited(&self, table: &TableName, change: &mut dyn Change) -> Result<(), SqlError> {
        if self.edit.edit(table, change).await? { Ok(()) } else { Err(unknown(table)) }
    }

    async fn insert(&self, table: &TableName, insert: Insert, args: ArgSets) -> Result<Done, SqlError> {
        let Insert { columns, source, conflict, returning, .. } = insert;
        if !returning.is_empty() && (args.is_bulk() || matches!(source, Source::Query(_))) {
            return Err(SqlError::Unsupported("RETURNING is for INSERT ... VALUES and UPDATE".to_owned()));
        }
        let info = self.described(table, "INSERT").await?;
        if !returning.is_empty() {
            // What cannot be told later is an error before anything is stored.
            self.returned(table, Vec::new(), returning.clone(), args.clone()).await?;
        }
        let defaults = self.defaults(&info, columns.as_deref()).await?;
        let (conflict, context) = match conflict {
            Conflict::Updates { key, assignments } => {
                let assignments = match &args {
                    ArgSets::One(args) => self.rewritten(assignments, args)?,
                    // One set of assignments for all rows.
                    ArgSets::Bulk(_) if assignments.iter().any(|assignment| wants_arguments(&assignment.value)) => {
                        let text = "DO UPDATE SET of a bulk request takes excluded.column, and no argument";
                        return Err(SqlError::Unsupported(text.to_owned()));
                    }
                    ArgSets::Bulk(_) => self.rewritten(assignments, &[])?,
                };
                (Conflict::Updates { key, assignments }, Some(self.context().await?))
            }
            conflict => (conflict, None),
        };
        match source {
            Source::Values(rows) => {
                let is_bulk = args.is_bulk();
                let (rows, computed) = self.template(rows, &args).await?;
                let given = Given::Values { rows, args: args.clone(), computed };
                let mut insertion = Insertion::new(columns, given, conflict, defaults, context, self.stop.clone());
                self.edited(table, &mut insertion).await?;
                if is_bulk {
                    return Ok(Done::Each(insertion.results()));
                }
                if !returning.is_empty() {
                    return self.returned(table, insertion.returned()?, returning, args).await;
                }
                Ok(Done::Count(count(insertion.stored())))
            }
            Source::Query(query) => {
                let ArgSets::One(args) = args else {
                    return Err(SqlError::Unsupported("bulk_args with INSERT ... SELECT is not taken here".to_owned()));
                };
                self.require(Right::Read, "DQL")?;
                let mut rows = self.ask(Statement::Query(query), &args).await?;
                let given = Given::Batch(RecordBatch::new_empty(rows.schema()));
                let mut insertion = Insertion::new(columns, given, conflict, defaults, context, self.stop.clone());
                let mut stored = 0;
                let (mut group, mut grouped) = (Vec::new(), 0);
                loop {
                    let batch = rows.next().await.transpose()?;
                    let ended = batch.is_none();
                    grouped += batch.as_ref().map_or(0, RecordBatch::num_rows);
                    group.extend(batch);
                    if grouped >= GROUP_ROWS || ended {
                        insertion.refill(concat_batches(&rows.schema(), &std::mem::take(&mut group)).map_err(wrong)?);
                        self.edited(table, &mut insertion).await?;
                        stored += insertion.stored();
                        grouped = 0;
                    }
                    if ended {
                        return Ok(Done::Count(count(stored)));
                    }
                }
            }
        }
    }

    /// What is put into columns that an INSERT does not name.
    async fn defaults(&self, table: &TableInfo, named: Option<&[String]>) -> Result<HashMap<String, Arg>, SqlError> {
        let columns = table.declared.iter().flat_map(|declared| &declared.columns);
        let columns = columns.filter(|column| named.is_none_or(|named| !named.contains(&column.name)));
        let wanted: Vec<_> = columns.filter_map(|column| Some((&column.name, column.default.as_ref()?))).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let text = wanted.iter().map(|(_, default)| default.as_str()).collect::<Vec<_>>().join(", ");
        let row = self.row(&format!("SELECT {text}"), &[]).await?;
        Ok(wanted.into_iter().map(|(name, _)| name.clone()).zip(row).collect())
    }

    /// The values of VALUES as they are to be filled in, with what must be worked out for each set
    /// of arguments.
    async fn template(
        &self,
        rows: Vec<Vec<Expr>>,
        args: &ArgSets,
    ) -> Result<(Vec<Vec<Cell>>, Vec<Vec<Arg>>), SqlError> {
        let mut work: Vec<Expr> = Vec::new();
        let mut cell = |expr: Expr| {
            if let Some(arg) = Arg::of_literal(&expr) {
                return Cell::Value(arg);
            }
            if let Expr::Value(value) = &expr
                && let Value::Placeholder(name) = &value.value
                && let Some(at) =
                    name.trim_start_matches('$').parse::<usize>().ok().and_then(|number| number.checked_sub(1))
            {
                return Cell::Arg(at);
            }
            work.push(expr);
            Cell::Computed(work.len() - 1)
        };
        let rows = rows.into_iter().map(|row| row.into_iter().map(&mut cell).collect()).collect();
        if work.is_empty() {
            return Ok((rows, Vec::new()));
        }
        let mut computed = Vec::new();
        for set in args.all()? {
            computed.push(self.computed(&work, &set).await?);
        }
        Ok((rows, computed))
    }

    /// The values of expressions without columns.
    async fn computed(&self, exprs: &[Expr], args: &[Arg]) -> Result<Vec<Arg>, SqlError> {
        let exprs = exprs.iter().enumerate().map(|(at, expr)| format!("{expr} AS \"{at}\""));
        // There may be queries among them.
        self.require(Right::Read, "DQL")?;
        self.row(&format!("SELECT {}", exprs.collect::<Vec<_>>().join(", ")), args).await
    }

    /// The only row that a query answers.
    async fn row(&self, query: &str, args: &[Arg]) -> Result<Vec<Arg>, SqlError> {
        let mut rows = self.ask(parse_read(query)?, args).await?;
        let batch = rows.next().await.transpose()?;
        let batch = batch.ok_or_else(|| SqlError::Engine("a value has no row".to_owned()))?;
        let value = |column: &ArrayRef| {
            let values = encode::args(&column.slice(0, 1)).map_err(wrong)?;
            values.into_iter().next().ok_or_else(|| SqlError::Engine("a value has no row".to_owned()))
        };
        batch.columns().iter().map(value).collect()
    }

    /// Starts a query of the statement's.
    async fn ask(&self, statement: Statement, args: &[Arg]) -> Result<SendableRecordBatchStream, SqlError> {
        let rewritten = rewrite::rewrite(statement, args, &self.session)?;
        let store = Arc::clone(&self.store);
        let (_, rows) = stream(store, rewritten, &self.options, self.session.clone(), &self.stop).await?;
        Ok(rows)
    }

    async fn context(&self) -> Result<SessionContext, SqlError> {
        let base = self.store.session(None).await?;
        let base = base.ok_or_else(|| SqlError::Engine("the store has no sessions".to_owned()))?;
        prepared(&base, &self.session, &self.stop)
    }

    fn rewritten(&self, assignments: Vec<Assignment>, args: &[Arg]) -> Result<Vec<Assignment>, SqlError> {
        let rewritten = assignments.into_iter().map(|assignment| {
            let value = rewrite::expression(assignment.value, args, &self.session)?;
            Ok(Assignment { value, ..assignment })
        });
        rewritten.collect()
    }

    /// `UPDATE`, or `DELETE` of the rows that it would update.
    async fn change(
        &self,
        table: &TableName,
        operation: &'static str,
        update: Update,
        updates: bool,
        args: ArgSets,
    ) -> Result<Done, SqlError> {
        let Update { alias, assignments, condition, returning, .. } = update;
        self.described(table, operation).await?;
        let is_bulk = args.is_bulk();
        if is_bulk && !returning.is_empty() {
            return Err(SqlError::Unsupported("RETURNING is not taken with bulk_args".to_owned()));
        }
        let mut parts = Vec::new();
        for set in args.all()? {
            let condition = match &condition {
                Some(condition) => Some(self.settled(condition.clone(), &set).await?),
                None => None,
            };
            let mut settled = Vec::new();
            for assignment in assignments.clone() {
                let value = self.settled(assignment.value, &set).await?;
                settled.push(Assignment { value, ..assignment });
            }
            let action = if updates { Action::Update(settled) } else { Action::Delete };
            parts.push(Part { condition, action });
        }
        let qualifier = alias.as_ref().map_or_else(|| table.to_string(), folded);
        let keeps = !returning.is_empty();
        if keeps {
            self.returned(table, Vec::new(), returning.clone(), args.clone()).await?;
        }
        let mut changes = Changes::new(self.context().await?, qualifier, parts, keeps, self.stop.clone());
        self.edited(table, &mut changes).await?;
        if is_bulk {
            return Ok(Done::Each(changes.results()));
        }
        if keeps {
            return self.returned(table, changes.returned()?, returning, args).await;
        }
        Ok(Done::Count(count(changes.counts().iter().sum())))
    }

    /// What `RETURNING` says of some rows: a query on nothing but them.
    async fn returned(
        &self,
        table: &TableName,
        rows: Vec<RecordBatch>,
        items: Vec<SelectItem>,
        args: ArgSets,
    ) -> Result<Done, SqlError> {
        let mut statement = parse_read(&format!("SELECT 1 FROM {SCHEMA}.{}", quoted(table.as_str())))?;
        if let Statement::Query(query) = &mut statement
            && let SetExpr::Select(select) = &mut *query.body
        {
            select.projection = items;
        }
        let args = args.all()?.into_iter().next().unwrap_or_default();
        let Rewritten { statement, columns, .. } = rewrite::rewrite(statement, &args, &self.session)?;
        let context = self.context().await?;
        let doc = MemorySchemaProvider::new();
        let schema = match (rows.first(), self.edit.describe(table).await?) {
            (Some(rows), _) => rows.schema(),
            (None, info) => info.map_or_else(|| SchemaRef::new(Schema::empty()), |info| info.schema),
        };
        let stored = MemTable::try_new(schema, vec![rows])?;
        doc.register_table(table.to_string(), Arc::new(stored))?;
        if let Some(catalog) = context.catalog(CATALOG) {
            catalog.register_schema(SCHEMA, Arc::new(doc))?;
        }
        let state = context.state();
        let plan = state.statement_to_plan(EngineStatement::Statement(Box::new(statement))).await?;
        let frame = DataFrame::new(state, plan);
        let schema: SchemaRef = frame.schema().inner().clone();
        let batches = frame.collect().await?;
        Ok(Done::Returned(columns, concat_batches(&schema, &batches).map_err(wrong)?))
    }

    /// An expression with its arguments, and with what its subqueries answer in their places.
    async fn settled(&self, expr: Expr, args: &[Arg]) -> Result<Expr, SqlError> {
        let mut expr = rewrite::expression(expr, args, &self.session)?;
        let mut subqueries = Subqueries(Vec::new());
        let _ = expr.visit(&mut subqueries);
        if subqueries.0.is_empty() {
            return Ok(expr);
        }
        let mut answers = Vec::new();
        for subquery in subqueries.0 {
            answers.push(Some(self.answered(subquery).await?));
        }
        let _ = expr.visit(&mut Answers(answers));
        Ok(expr)
    }

    async fn answered(&self, subquery: Expr) -> Result<Expr, SqlError> {
        self.require(Right::Read, "DQL")?;
        match subquery {
            Expr::Exists { subquery, negated } => {
                let mut rows = self.ask(Statement::Query(subquery), &[]).await?;
                let mut exists = false;
                while let Some(batch) = rows.next().await.transpose()? {
                    exists |= batch.num_rows() > 0;
                }
                Ok(Expr::value(Value::Boolean(exists != negated)))
            }
            Expr::InSubquery { expr, subquery, negated } => {
                let list = self.column(subquery).await?;
                if list.is_empty() {
                    return Ok(Expr::value(Value::Boolean(negated)));
                }
                Ok(Expr::InList { expr, list, negated })
            }
            Expr::Subquery(query) => {
                let mut values = self.column(query).await?;
                match values.len() {
                    0 => Ok(Expr::value(Value::Null)),
                    1 => Ok(Expr::Nested(Box::new(values.remove(0)))),
                    _ => Err(SqlError::Invalid("Subquery returned more than 1 row when it shouldn't.".to_owned())),
                }
            }
            other => Ok(other),
        }
    }

    /// The only column that a query answers, as literals.
    async fn column(&self, query: Box<Query>) -> Result<Vec<Expr>, SqlError> {
        let mut rows = self.ask(Statement::Query(query), &[]).await?;
        if rows.schema().fields().len() != 1 {
            return Err(SqlError::Invalid("a subquery of this statement answers one column".to_owned()));
        }
        let mut values = Vec::new();
        while let Some(batch) = rows.next().await.transpose()? {
            values.extend(literals(batch.column(0))?);
            if values.len() > MAX_SUBQUERY_ROWS {
                let text = format!("a subquery of this statement answers more than {MAX_SUBQUERY_ROWS} rows");
                return Err(SqlError::Invalid(text));
            }
        }
        Ok(values)
    }
}

fn literals(column: &ArrayRef) -> Result<Vec<Expr>, SqlError> {
    let args = encode::args(column).map_err(wrong)?;
    let DataType::Timestamp(_, zone) = column.data_type() else {
        return Ok(args.iter().map(Arg::literal).collect());
    };
    // As times, which a list of them is compared with.
    let zoned = zone.is_some();
    let time = |arg: &Arg| match arg {
        Arg::Number(millis) => {
            let time = millis.parse().ok().and_then(DateTime::from_timestamp_millis)?;
            let data_type = SqlType::Timestamp(Some(6), if zoned { TimezoneInfo::Tz } else { TimezoneInfo::None });
            let value = Value::SingleQuotedString(time.to_rfc3339_opts(SecondsFormat::Millis, true)).with_empty_span();
            Some(Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: false }))
        }
        other => Some(other.literal()),
    };
    let times: Option<Vec<Expr>> = args.iter().map(time).collect();
    times.ok_or_else(|| SqlError::Invalid("a subquery answers a time that no calendar has".to_owned()))
}

fn wants_arguments(expr: &Expr) -> bool {
    let is_argument = |expr: &Expr| match expr {
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(expr, is_argument).is_break()
}

fn count(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn no_sets(args: &ArgSets) -> Result<(), SqlError> {
    if args.is_bulk() {
        return Err(SqlError::Unsupported("bulk_args is for INSERT, UPDATE and DELETE".to_owned()));
    }
    Ok(())
}

fn qualified(table: &TableName) -> String {
    format!("{SCHEMA}.{table}")
}

fn unknown(table: &TableName) -> SqlError {
    SqlError::RelationUnknown(table.to_string())
}

/// Takes the subqueries of an expression out, in the order of the text, and marks their places.
struct Subqueries(Vec<Expr>);

/// What stands where a subquery stood.
const PLACE: &str = "~subquery";

impl VisitorMut for Subqueries {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::Subquery(_)) {
            let place = Ident::with_quote('"', PLACE);
            self.0.push(std::mem::replace(expr, Expr::Identifier(place)));
        }
        ControlFlow::Continue(())
    }
}

/// Puts what they answered into the places.
struct Answers(Vec<Option<Expr>>);

impl VisitorMut for Answers {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(ident) if ident.value == PLACE)
            && let Some(answer) = self.0.iter_mut().find_map(Option::take)
        {
            *expr = answer;
        }
        ControlFlow::Continue(())
    }
}

/// `ADD COLUMN`: no row changes.
struct Addition {
    columns: Vec<NewColumn>,
    declared: Option<Declared>,
}

impl Change for Addition {
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError> {
        let Some(mut declared) = table.declared.clone() else {
            return Err(SqlError::inaccessible(&table.name, "ALTER").into());
        };
        let mut growth = Growth::new(declared.width());
        for NewColumn { place, data_type } in &self.columns {
            let taken = || {
                let text = format!("The table {} already has a column named {place}", qualified(&table.name));
                SqlError::Invalid(text)
            };
            growth.take().map_err(Misfit::into_error)?;
            let Some((key, above)) = place.keys.split_last() else {
                if declared.column(&place.column).is_some() {
                    return Err(taken().into());
                }
                declared.add(&place.column, data_type.clone());
                continue;
            };
            let column = declared.columns.iter_mut().find(|column| column.name == place.column);
            let mut within = column.map(|column| &mut column.data_type);
            for key in above {
                within = match within {
                    Some(Type::Object(object)) => object.keys.get_mut(key),
                    _ => None,
                };
            }
            match within {
                Some(Type::Object(object)) => {
                    if object.keys.insert(key.clone(), data_type.clone()).is_some() {
                        return Err(taken().into());
                    }
                }
                _ => return Err(SqlError::ColumnUnknown(place.column.clone()).into()),
            }
        }
        let schema = declared.stored_schema();
        self.declared = Some(declared);
        Ok(schema)
    }

    fn looks_at(&self) -> Option<Vec<String>> {
        None
    }

    fn touches(&mut self, _: &RecordBatch) -> Result<bool, BatchError> {
        Ok(false)
    }

    fn rewrite(&mut self, rows: RecordBatch) -> Result<RecordBatch, BatchError> {
        Ok(rows)
    }

    fn end(&mut self) -> Result<Ended, BatchError> {
        Ok(Ended { rows: Vec::new(), declared: self.declared.take() })
    }
}

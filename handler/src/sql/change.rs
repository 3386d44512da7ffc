//! `UPDATE` and `DELETE` as a change of a table's rows: a condition and what becomes of the rows
//! that it holds for. Of a bulk request each has its own, one after the other. Memory: a batch, and
//! the rows that are to be returned.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not, prep_null_mask_filter};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use tokio_util::sync::CancellationToken;

use super::args::Arg;
use super::assign::{Assigned, Plans, seen, seen_schema, wrong};
use super::error::SqlError;
use super::rewrite::folded;
use super::statement::Assignment;
use super::value::Growth;
use crate::store::{BatchError, Change, Declared, Ended, TableInfo};

/// One statement of a change.
pub(super) struct Part {
    pub(super) condition: Option<Expr>,
    pub(super) action: Action,
}

/// What becomes of the rows.
pub(super) enum Action {
    Delete,
    Update(Vec<Assignment>),
}

/// `UPDATE` or `DELETE`.
pub(super) struct Changes {
    context: SessionContext,
    /// What names the table in expressions.
    qualifier: String,
    parts: Vec<Part>,
    /// Whether the rows that were changed are wanted.
    keeps: bool,
    stop: CancellationToken,
    attempt: Option<Attempt>,
}

/// What one try knows.
struct Attempt {
    declared: Option<Declared>,
    growth: Growth,
    is_new: bool,
    planned: Vec<Planned>,
    /// Names in the files.
    looks_at: Vec<String>,
    counts: Vec<u64>,
    updated: Vec<RecordBatch>,
}

struct Planned {
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// The same over the columns that are looked at.
    glance: Option<Arc<dyn PhysicalExpr>>,
    /// Nothing deletes.
    assigned: Option<Assigned>,
    /// The row's key, if the condition names one.
    by_key: Option<String>,
}

impl Changes {
    /// `keeps`: whether the rows that were changed are wanted.
    pub(super) fn new(
        context: SessionContext,
        qualifier: String,
        parts: Vec<Part>,
        keeps: bool,
        stop: CancellationToken,
    ) -> Self {
        Self { context, qualifier, parts, keeps, stop, attempt: None }
    }

    /// The rows that were changed, as statements see them.
    pub(super) fn returned(&self) -> Result<Vec<RecordBatch>, SqlError> {
        let attempt = self.attempt.iter();
        let rows = attempt.flat_map(|attempt| attempt.updated.iter().map(|rows| seen(rows, attempt.declared.as_ref())));
        rows.collect::<Result<_, _>>().map_err(wrong)
    }

    /// How many rows each part has changed.
    pub(super) fn counts(&self) -> Vec<u64> {
        self.attempt.as_ref().map_or_else(|| vec![0; self.parts.len()], |attempt| attempt.counts.clone())
    }

    /// As [`Changes::counts`], with an error for a key that was to be deleted and is not there.
    pub(super) fn results(&self) -> Vec<Result<u64, SqlError>> {
        let Some(attempt) = &self.attempt else { return self.parts.iter().map(|_| Ok(0)).collect() };
        let results = attempt.counts.iter().zip(&attempt.planned);
        results
            .map(|(count, planned)| match &planned.by_key {
                Some(key) if *count == 0 && planned.assigned.is_none() => Err(SqlError::Missing(key.clone())),
                _ => Ok(*count),
            })
            .collect()
    }

    fn plan(&self, table: &TableInfo) -> Result<(Attempt, SchemaRef), SqlError> {
        let mut declared = table.declared.clone();
        let columns = declared.as_ref().map_or_else(|| table.schema.clone(), seen_schema);
        let schema = DFSchema::try_from_qualified_schema(self.qualifier.as_str(), &columns)?;
        let plans = Plans { context: &self.context, schema };
        let mut growth = Growth::new(declared.as_ref().map_or(0, Declared::width));
        let mut planned = Vec::new();
        let mut names = BTreeSet::new();
        for part in &self.parts {
            let condition = part.condition.as_ref().map(|condition| plans.physical(condition)).transpose()?;
            if let Some(condition) = &condition {
                let kind = condition.data_type(&columns)?;
                if !matches!(kind, DataType::Boolean | DataType::Null) {
                    return Err(SqlError::Invalid("WHERE wants a condition".to_owned()));
                }
                names.extend(collect_columns(condition).iter().map(|column| column.name().to_owned()));
            }
            let assigned = match (&part.action, &mut declared) {
                (Action::Delete, _) => None,
                (Action::Update(assignments), Some(declared)) => {
                    Some(Assigned::plan(assignments, declared, &mut growth, &plans)?)
                }
                (Action::Update(_), None) => return Err(SqlError::inaccessible(&table.name, "UPDATE")),
            };
            let by_key = declared.as_ref().and_then(|declared| key_of(part.condition.as_ref()?, &declared.primary_key));
            planned.push(Planned { condition, glance: None, assigned, by_key });
        }
        if self.parts.iter().any(|part| part.condition.is_none()) {
            names.clear();
        } else if names.is_empty() {
            // A condition without a column still wants to see how many rows there are.
            names.extend(columns.fields().first().map(|field| field.name().clone()));
        }
        let glanced = columns.fields().iter().filter(|field| names.contains(field.name())).cloned();
        let glanced = Schema::new(glanced.collect::<Vec<_>>());
        for planned in &mut planned {
            let condition = planned.condition.clone().filter(|_| !names.is_empty());
            planned.glance = condition.map(|condition| reassign_expr_columns(condition, &glanced)).transpose()?;
        }
        let stored = |name: &String| match &declared {
            Some(declared) => declared.column(name).map(|column| column.stored.to_string()),
            None => Some(name.clone()),
        };
        let looks_at = names.iter().filter_map(stored).collect();
        let rows = declared.as_ref().map_or_else(|| table.schema.clone(), Declared::stored_schema);
        let is_new = declared != table.declared;
        let counts = vec![0; planned.len()];
        Ok((Attempt { declared, growth, is_new, planned, looks_at, counts, updated: Vec::new() }, rows))
    }
}

impl Change for Changes {
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError> {
        let (attempt, rows) = self.plan(table)?;
        self.attempt = Some(attempt);
        Ok(rows)
    }

    fn looks_at(&self) -> Option<Vec<String>> {
        self.attempt.as_ref().map(|attempt| attempt.looks_at.clone())
    }

    fn touches(&mut self, rows: &RecordBatch) -> Result<bool, BatchError> {
        let Some(attempt) = &self.attempt else { return Ok(false) };
        goes_on(&self.stop)?;
        let rows = seen(rows, attempt.declared.as_ref())?;
        for planned in &attempt.planned {
            let Some(glance) = &planned.glance else { return Ok(true) };
            if holds(glance, &rows)?.true_count() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rewrite(&mut self, mut rows: RecordBatch) -> Result<RecordBatch, BatchError> {
        let Some(attempt) = &mut self.attempt else { return Ok(rows) };
        goes_on(&self.stop)?;
        for (planned, count) in attempt.planned.iter().zip(&mut attempt.counts) {
            let shown = seen(&rows, attempt.declared.as_ref())?;
            let concerned = match &planned.condition {
                Some(condition) => holds(condition, &shown)?,
                None => BooleanArray::from(vec![true; rows.num_rows()]),
            };
            let concerned_rows = concerned.true_count();
            if concerned_rows == 0 {
                continue;
            }
            *count += concerned_rows as u64;
            let others = filter_record_batch(&rows, &not(&concerned)?)?;
            rows = match (&planned.assigned, &mut attempt.declared) {
                (Some(assigned), Some(declared)) => {
                    let (rows, shown) =
                        (filter_record_batch(&rows, &concerned)?, filter_record_batch(&shown, &concerned)?);
                    let updated = assigned.apply(&rows, &shown, declared, &mut attempt.growth)?;
                    if self.keeps {
                        attempt.updated.push(updated.clone());
                    }
                    concat_batches(&others.schema(), [&others, &updated])?
                }
                _ => others,
            };
        }
        Ok(rows)
    }

    fn end(&mut self) -> Result<Ended, BatchError> {
        let attempt = self.attempt.as_ref();
        let declared = attempt.filter(|attempt| attempt.is_new || attempt.growth.grown);
        Ok(Ended { rows: Vec::new(), declared: declared.and_then(|attempt| attempt.declared.clone()) })
    }
}

pub(super) fn goes_on(stop: &CancellationToken) -> Result<(), SqlError> {
    if stop.is_cancelled() { Err(SqlError::Engine("the statement is no longer wanted".to_owned())) } else { Ok(()) }
}

/// The rows for which a condition is true.
fn holds(condition: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray, SqlError> {
    let held = condition.evaluate(rows)?.into_array(rows.num_rows())?;
    if *held.data_type() == DataType::Null {
        return Ok(BooleanArray::from(vec![false; rows.num_rows()]));
    }
    let held = held.as_boolean();
    Ok(if held.null_count() > 0 { prep_null_mask_filter(held) } else { held.clone() })
}

/// The key that a condition names, if it names one in full and says nothing else.
fn key_of(condition: &Expr, key: &[String]) -> Option<String> {
    let mut equal = Vec::new();
    if key.is_empty() || !equalities(condition, &mut equal) || equal.len() != key.len() {
        return None;
    }
    let value = |column: &String| equal.iter().find(|(name, _)| name == column).map(|(_, value)| value.to_string());
    let values: Option<Vec<String>> = key.iter().map(value).collect();
    values.map(|values| values.join(", "))
}

fn equalities(expr: &Expr, equal: &mut Vec<(String, Arg)>) -> bool {
    match expr {
        Expr::Nested(inner) => equalities(inner, equal),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => equalities(left, equal) && equalities(right, equal),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let column = match &**left {
                Expr::Identifier(ident) => Some(folded(ident)),
                Expr::CompoundIdentifier(parts) => parts.last().map(folded),
                _ => None,
            };
            match (column, Arg::of_literal(right)) {
                (Some(column), Some(value)) => {
                    equal.push((column, value));
                    true
                }
                _ => false,
            }
        }
        _ => false,
    }
}

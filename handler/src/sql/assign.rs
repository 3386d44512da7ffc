//! `SET a = ..., o['k'] = ...`: rows in, the same rows with some columns anew out. What an
//! expression says becomes a value of the column by the same rules as an argument does.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use chrono::Utc;
use datafusion::common::{DFSchema, Result as EngineResult};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr as EngineExpr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{Expr, ExprWithAlias};

use super::args::Arg;
use super::encode;
use super::error::SqlError;
use super::statement::{Assignment, Place};
use super::value::{self, Builder, Growth, put};
use crate::store::Declared;
use crate::store::declared::{Policy, Type};

/// The schema that expressions see, and the engine that works them out.
pub(super) struct Plans<'a> {
    pub(super) context: &'a SessionContext,
    pub(super) schema: DFSchema,
}

impl Plans<'_> {
    fn logical(&self, expr: &Expr) -> EngineResult<EngineExpr> {
        let expr = ExprWithAlias { expr: expr.clone(), alias: None };
        self.context.state().create_logical_expr_from_sql_expr(expr, &self.schema)
    }

    /// An expression, ready to be worked out.
    pub(super) fn physical(&self, expr: &Expr) -> EngineResult<Arc<dyn PhysicalExpr>> {
        let state = self.context.state();
        let simplify = SimplifyContext::builder()
            .with_schema(Arc::new(self.schema.clone()))
            .with_config_options(Arc::clone(state.config_options()))
            .with_query_execution_start_time(Some(Utc::now()))
            .build();
        let simplifier = ExprSimplifier::new(simplify);
        let expr = simplifier.coerce(self.logical(expr)?, &self.schema)?;
        state.create_physical_expr(simplifier.simplify(expr)?, &self.schema)
    }

    fn type_of(&self, expr: &Expr) -> EngineResult<DataType> {
        self.logical(expr)?.get_type(&self.schema)
    }
}

/// A value on its way into a column.
enum Setting {
    Value(Arg),
    Expr(Arc<dyn PhysicalExpr>),
}

/// Assignments, ready to be made.
pub(super) struct Assigned(Vec<(Place, Setting)>);

impl Assigned {
    /// Reads assignments to a table's columns; those of a table that takes others are added.
    pub(super) fn plan(
        assignments: &[Assignment],
        declared: &mut Declared,
        growth: &mut Growth,
        plans: &Plans<'_>,
    ) -> Result<Self, SqlError> {
        let mut assigned = Vec::new();
        for Assignment { place, value } in assignments {
            let setting = match Arg::of_literal(value) {
                Some(arg) => Setting::Value(arg),
                None => Setting::Expr(plans.physical(value)?),
            };
            if declared.primary_key.contains(&place.column) || declared.partitioned_by.contains(&place.column) {
                let kind =
                    if declared.primary_key.contains(&place.column) { "primary key" } else { "partitioned-by column" };
                let reason = format!("Updating a {kind} is not supported");
                return Err(SqlError::Validation { column: place.column.clone(), reason });
            }
            match declared.column(&place.column).map(|column| &column.data_type) {
                Some(data_type) if place.keys.is_empty() || matches!(data_type, Type::Object(_)) => {}
                Some(_) => return Err(SqlError::ColumnUnknown(place.to_string())),
                None if declared.policy == Policy::Strict => return Err(SqlError::ColumnUnknown(place.to_string())),
                None => {
                    let found = match &setting {
                        _ if !place.keys.is_empty() => Some(Type::Object(Default::default())),
                        Setting::Value(arg) => value::infer(arg)?,
                        Setting::Expr(_) => of_engine(&plans.type_of(value)?),
                    };
                    // A null tells no type, and the column would be null for all rows.
                    let Some(found) = found else { continue };
                    super::ddl::check_name(&place.column)?;
                    growth.take().map_err(value::Misfit::into_error)?;
                    declared.add(&place.column, found);
                }
            }
            assigned.push((place.clone(), setting));
        }
        Ok(Self(assigned))
    }

    /// Rows with their new values. `rows` as they are stored, with every column of the table;
    /// `seen` as expressions see them.
    pub(super) fn apply(
        &self,
        rows: &RecordBatch,
        seen: &RecordBatch,
        declared: &mut Declared,
        growth: &mut Growth,
    ) -> Result<RecordBatch, SqlError> {
        let mut columns = rows.columns().to_vec();
        for (place, setting) in &self.0 {
            let at = declared.columns.iter().position(|column| column.name == place.column);
            let Some(at) = at else { return Err(SqlError::ColumnUnknown(place.to_string())) };
            let column = &mut declared.columns[at];
            let values = match setting {
                Setting::Value(arg) => vec![arg.clone(); rows.num_rows()],
                Setting::Expr(expr) => {
                    let values = expr.evaluate(seen)?.into_array(rows.num_rows())?;
                    encode::args(&values).map_err(wrong)?
                }
            };
            growth.enter(&column.name);
            let stored = rows.schema().index_of(column.stored.as_str()).map_err(wrong)?;
            let before = (!place.keys.is_empty()).then(|| columns[stored].clone());
            let mut builder = Builder::new(&column.data_type);
            for (row, value) in values.into_iter().enumerate() {
                let value = match &before {
                    Some(before) => changed(before, row, &place.keys, value),
                    None => value,
                };
                let value = value::cast(&value, &mut column.data_type, growth).map_err(value::Misfit::into_error)?;
                if column.not_null && value == value::Value::Null {
                    return Err(must_not_be_null(&column.name));
                }
                builder.push(&value);
            }
            columns[stored] = builder.finish().map_err(wrong)?;
        }
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(rows.schema(), columns, &count).map_err(wrong)
    }
}

pub(super) fn must_not_be_null(column: &str) -> SqlError {
    SqlError::Invalid(format!("\"{column}\" must not be null"))
}

/// An object of a row with one of its keys set.
fn changed(objects: &ArrayRef, row: usize, keys: &[String], value: Arg) -> Arg {
    let texts = objects.as_string::<i32>();
    let mut object = if texts.is_null(row) { Arg::Null } else { Arg::of_text(texts.value(row)).unwrap_or(Arg::Null) };
    put(&mut object, keys, value);
    object
}

pub(super) fn wrong(error: ArrowError) -> SqlError {
    SqlError::Engine(error.to_string())
}

/// The type of a new column for an expression's values.
pub(super) fn of_engine(data_type: &DataType) -> Option<Type> {
    Some(match data_type {
        DataType::Boolean => Type::Boolean,
        integer if integer.is_integer() => Type::Bigint,
        number if number.is_numeric() => Type::Double,
        text if text.is_string() => Type::Text,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Type::TimestampTz,
        DataType::Binary | DataType::Map(..) | DataType::Struct(_) => Type::Object(Default::default()),
        DataType::List(item) => Type::Array(Box::new(of_engine(item.data_type())?)),
        _ => return None,
    })
}

/// Rows as statements see them, of rows as they are stored; those of a table that was not declared are the same.
pub(super) fn seen(rows: &RecordBatch, declared: Option<&Declared>) -> Result<RecordBatch, ArrowError> {
    let Some(declared) = declared else { return Ok(rows.clone()) };
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for column in &declared.columns {
        if let Some(array) = rows.column_by_name(column.stored.as_str()) {
            let shown = column.shown().with_nullable(true);
            arrays.push(if array.data_type() == shown.data_type() {
                array.clone()
            } else {
                cast(array, shown.data_type())?
            });
            fields.push(shown);
        }
    }
    let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &count)
}

/// The schema of [`seen`] rows with all columns.
pub(super) fn seen_schema(declared: &Declared) -> SchemaRef {
    let fields = declared.columns.iter().map(|column| column.shown().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

//! Objects in statements that read: `o['a']`, `object_keys(o)`, an object's text as one. An object
//! is bytes of JSON; what a key's value is, the column's declaration knows. A key that no row has
//! used is null, of a STRICT object it is unknown; of an IGNORED one it is what it is compared with.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, GenericListBuilder, StringBuilder, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, GetFieldAccess, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, lit,
};

use super::args::{Arg, OBJECT_OF};
use super::error::SqlError;
use super::value::{self, Builder, Growth, Value};
use crate::store::declared::{Object, Policy, Type};

/// Subscripts of objects, before the engine's own.
#[derive(Debug)]
pub(super) struct Objects;

impl ExprPlanner for Objects {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let (_, field) = access.expr.to_field(schema)?;
        if *field.data_type() != DataType::Binary {
            return Ok(PlannerResult::Original(access));
        }
        let RawFieldAccessExpr { field_access, expr } = access;
        let (key, name) = match field_access {
            GetFieldAccess::NamedStructField { name } => {
                let text = name.try_as_str().flatten().map(str::to_owned);
                (lit(name), text)
            }
            GetFieldAccess::ListIndex { key } if key.get_type(schema)?.is_string() => (*key, None),
            field_access => return Ok(PlannerResult::Original(RawFieldAccessExpr { field_access, expr })),
        };
        let object = match Type::of_metadata(field.metadata()) {
            Some(Type::Object(object)) => object,
            _ => Object { policy: Policy::Ignored, ..Object::default() },
        };
        let known = name.as_ref().and_then(|name| object.keys.get(name));
        let returns = match (known, name, object.policy) {
            (Some(known), ..) => Some(known.clone()),
            (None, _, Policy::Ignored) | (None, None, _) => None,
            (None, Some(_), Policy::Dynamic) => {
                return Ok(PlannerResult::Planned(lit(ScalarValue::Utf8(None))));
            }
            (None, Some(name), Policy::Strict) => {
                let column = match &expr {
                    Expr::Column(column) => column.name.clone(),
                    other => other.schema_name().to_string(),
                };
                let column = value::path(&[column, name]);
                return Err(DataFusionError::External(Box::new(SqlError::ColumnUnknown(column))));
            }
        };
        Ok(PlannerResult::Planned(subscript(returns, vec![expr, key])))
    }

    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let (left, right) = match (untyped(&left), untyped(&right)) {
            (Some(args), None) => (retyped(args, &right.get_type(schema)?).unwrap_or(left), right),
            (None, Some(args)) => {
                let retyped = retyped(args, &left.get_type(schema)?);
                (left, retyped.unwrap_or(right))
            }
            _ => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn subscript(returns: Option<Type>, args: Vec<Expr>) -> Expr {
    let function = Subscript { returns, signature: Signature::any(2, Volatility::Immutable) };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), args))
}

/// The arguments of a subscript whose type nobody knows.
fn untyped(expr: &Expr) -> Option<&Vec<Expr>> {
    let Expr::ScalarFunction(function) = expr else { return None };
    let subscript = function.func.inner().downcast_ref::<Subscript>()?;
    subscript.returns.is_none().then_some(&function.args)
}

/// The subscript as a value of what it is compared with.
fn retyped(args: &[Expr], with: &DataType) -> Option<Expr> {
    let returns = match with {
        DataType::Boolean => Type::Boolean,
        text if text.is_string() => Type::Text,
        number if number.is_numeric() => Type::Double,
        _ => return None,
    };
    Some(subscript(Some(returns), args.to_vec()))
}

/// `o['a']`: a key's value, as its type or as the JSON it is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Subscript {
    returns: Option<Type>,
    signature: Signature,
}

impl ScalarUDFImpl for Subscript {
    fn name(&self) -> &str {
        "object_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.as_ref().map_or(DataType::Binary, Type::shown))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let metadata = self.returns.as_ref().map(Type::metadata).unwrap_or_default();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, true).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [objects, keys] = <[ColumnarValue; 2]>::try_from(args.args)
            .map_err(|_| DataFusionError::Internal("a subscript has an object and a key".to_owned()))?;
        let objects = cast(&objects.into_array(rows)?, &DataType::Binary)?;
        let keys = cast(&keys.into_array(rows)?, &DataType::Utf8)?;
        let (objects, keys) = (objects.as_binary::<i32>(), keys.as_string::<i32>());
        let value = |row: usize| {
            if objects.is_null(row) || keys.is_null(row) {
                return None;
            }
            find(objects.value(row), keys.value(row))
        };
        let values: ArrayRef = match &self.returns {
            None => {
                let mut values = BinaryBuilder::new();
                (0..rows).for_each(|row| values.append_option(value(row).map(|value| value.to_string())));
                Arc::new(values.finish())
            }
            Some(returns) => {
                let mut values = Builder::new(returns);
                let mut to = returns.clone();
                for row in 0..rows {
                    let value = value(row).and_then(|value| value::cast(&value, &mut to, &mut Growth::new(0)).ok());
                    values.push(&value.unwrap_or(Value::Null));
                }
                cast(&values.finish()?, &returns.shown())?
            }
        };
        Ok(ColumnarValue::Array(values))
    }
}

/// The value of a key in an object's text; nothing when it is null or not there.
fn find(object: &[u8], key: &str) -> Option<Arg> {
    let Some(Arg::Object(mut fields)) = Arg::of_text(std::str::from_utf8(object).ok()?) else { return None };
    let value = fields.remove(key)?;
    (value != Arg::Null).then_some(value)
}

/// `object_of('{"a": 1}')`: what a literal of an object becomes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectOf(Signature);

impl Default for ObjectOf {
    fn default() -> Self {
        Self(Signature::exact(vec![DataType::Utf8], Volatility::Immutable))
    }
}

impl ScalarUDFImpl for ObjectOf {
    fn name(&self) -> &str {
        OBJECT_OF
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = args.args[0].to_array(args.number_rows)?;
        let mut objects = BinaryBuilder::new();
        for text in texts.as_string::<i32>() {
            match text.map(Arg::of_text) {
                None => objects.append_null(),
                Some(Some(object @ Arg::Object(_))) => objects.append_value(object.to_string()),
                Some(_) => return exec_err!("an object is made of its JSON text"),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(objects.finish())))
    }
}

/// `object_keys(o)`, of objects and of maps.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectKeys(Signature);

impl Default for ObjectKeys {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for ObjectKeys {
    fn name(&self) -> &str {
        "object_keys"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::new_list(DataType::Utf8, true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let objects = args.args[0].to_array(args.number_rows)?;
        let mut keys = GenericListBuilder::<i32, _>::new(StringBuilder::new());
        match objects.data_type() {
            DataType::Binary => {
                for object in objects.as_binary::<i32>() {
                    let object = object.and_then(|object| Arg::of_text(std::str::from_utf8(object).ok()?));
                    match object {
                        Some(Arg::Object(fields)) => keys.append_value(fields.into_keys().map(Some)),
                        _ => keys.append_null(),
                    }
                }
            }
            DataType::Map(..) => {
                let maps = objects.as_map();
                for row in 0..maps.len() {
                    if maps.is_null(row) {
                        keys.append_null();
                    } else {
                        let names = cast(maps.value(row).column(0), &DataType::Utf8)?;
                        keys.append_value(names.as_string::<i32>().iter());
                    }
                }
            }
            DataType::Null => return Ok(ColumnarValue::Array(new_null_array(args.return_type(), objects.len()))),
            other => return exec_err!("object_keys takes an object, and {other} is none"),
        }
        Ok(ColumnarValue::Array(Arc::new(keys.finish())))
    }
}

//! Times as CrateDB's clients write them: compared with an integer (milliseconds), a text of
//! digits (the same) or another time, in the column's own unit, so that the comparison still
//! prunes files.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Comparisons of a time.
#[derive(Debug)]
pub(super) struct Times;

impl ExprPlanner for Times {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        if !matches!(expr.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
            return Ok(PlannerResult::Original(expr));
        }
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let RawBinaryExpr { op, left: l, right: r } = expr;
        let (l, r) = match (is_time(&left), is_time(&right)) {
            (true, false) => {
                let r = as_time(r, &right, &left);
                (l, r)
            }
            (false, true) => (as_time(l, &left, &right), r),
            // The engine would compare in the finer unit, in which not every time can be said.
            (true, true) => match (&left, &right) {
                (DataType::Timestamp(TimeUnit::Microsecond, _), DataType::Timestamp(TimeUnit::Nanosecond, _)) => {
                    (l, cast(r, left))
                }
                (DataType::Timestamp(TimeUnit::Nanosecond, _), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                    (cast(l, right), r)
                }
                _ => (l, r),
            },
            (false, false) => (l, r),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left: l, right: r }))
    }
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..))
}

/// What is compared with a time, as one: an integer is milliseconds, as is a text of digits.
fn as_time(expr: Expr, data_type: &DataType, time: &DataType) -> Expr {
    let millis = |expr: Expr| {
        let DataType::Timestamp(_, zone) = time else { return expr };
        cast(cast(cast(expr, DataType::Int64), DataType::Timestamp(TimeUnit::Millisecond, zone.clone())), time.clone())
    };
    match &expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _)
            if text.len() > 4 && text.bytes().all(|b| b.is_ascii_digit()) =>
        {
            match text.parse::<i64>() {
                Ok(number) => millis(lit(number)),
                Err(_) => expr,
            }
        }
        _ if data_type.is_integer() => millis(expr),
        _ => expr,
    }
}

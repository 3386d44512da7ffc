//! Times as CrateDB's clients write them: compared with an integer (milliseconds), a text of
//! digits (the same) or another time, in the column's own unit, so that the comparison still
//! prunes files; and truncated as fast as times without a zone are.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, make_array};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::datetime;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, cast, lit,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// The zone of every time in the store.
const UTC: &str = "UTC";

/// `date_trunc`: the engine's own, which looks up what the zone's clocks said for each row. Those of
/// UTC never changed, so its times are truncated as if they had no zone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateTrunc(Arc<ScalarUDF>);

impl Default for DateTrunc {
    fn default() -> Self {
        Self(datetime::date_trunc())
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zoned = args.return_field.data_type().clone();
        let ([_, ColumnarValue::Array(times)], DataType::Timestamp(unit, Some(zone))) = (&mut args.args[..], &zoned)
        else {
            return self.0.invoke_with_args(args);
        };
        if zone.as_ref() != UTC || *times.data_type() != zoned {
            return self.0.invoke_with_args(args);
        }
        let plain = DataType::Timestamp(*unit, None);
        *times = of_type(times, &plain)?;
        let rows = times.len();
        let field = Arc::new(args.return_field.as_ref().clone().with_data_type(plain));
        args.arg_fields[1] = Arc::clone(&field);
        args.return_field = field;
        let truncated = self.0.invoke_with_args(args)?.into_array(rows)?;
        of_type(&truncated, &zoned).map(ColumnarValue::Array)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.0.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// The same numbers as another type of time.
fn of_type(times: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    Ok(make_array(times.to_data().into_builder().data_type(data_type.clone()).build()?))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::Field;
    use proptest::prelude::*;

    const PARTS: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];

    fn truncated(function: &ScalarUDF, part: &str, times: &ArrayRef) -> ArrayRef {
        let field = |name: &str, data_type: &DataType| Arc::new(Field::new(name, data_type.clone(), true));
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Scalar(ScalarValue::from(part)), ColumnarValue::Array(Arc::clone(times))],
            arg_fields: vec![field("part", &DataType::Utf8), field("time", times.data_type())],
            number_rows: times.len(),
            return_field: field("date_trunc", times.data_type()),
            config_options: Arc::default(),
        };
        function.invoke_with_args(args).and_then(|truncated| truncated.into_array(times.len())).expect("times")
    }

    proptest! {
        #[test]
        fn the_engine_truncates_alike(
            // Years 1700 to 2200: the engine reckons in nanoseconds.
            micros in prop::collection::vec(prop::option::of(-8_520_336_000_000_000..7_258_118_400_000_000_i64), 0..20),
            part in prop::sample::select(PARTS.to_vec()),
            zone in prop::sample::select(vec![None, Some(UTC), Some("Europe/Berlin")]),
        ) {
            let times = TimestampMicrosecondArray::from(micros).with_timezone_opt(zone);
            let times: ArrayRef = Arc::new(times);
            let ours = truncated(&ScalarUDF::from(DateTrunc::default()), part, &times);
            prop_assert_eq!(&ours, &truncated(&datetime::date_trunc(), part, &times));
        }
    }
}

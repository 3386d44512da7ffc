//! `SUM` that is exact or an error. DataFusion's own adds decimals with wrapping arithmetic:
//! beyond 38 digits it answers with a wrong number and says nothing. This one takes its
//! place for DECIMAL arguments and leaves the others, and `SUM(DISTINCT ...)`, to it.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};

/// 10^38: no decimal of 38 digits reaches it.
const LIMIT: u128 = 10_u128.pow(38);

/// `SUM`, checked.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CheckedSum {
    inner: Sum,
}

fn is_ours(args: &AccumulatorArgs<'_>) -> bool {
    !args.is_distinct && matches!(args.return_field.data_type(), DataType::Decimal128(..))
}

fn too_large() -> DataFusionError {
    exec_datafusion_err!("SUM has more than 38 digits")
}

fn add(sum: &mut Option<i128>, value: i128) -> Result<()> {
    *sum = Some(sum.unwrap_or(0).checked_add(value).ok_or_else(too_large)?);
    Ok(())
}

/// A sum as its type promises: of at most 38 digits.
fn checked(sum: Option<i128>) -> Result<Option<i128>> {
    if sum.is_some_and(|sum| sum.unsigned_abs() >= LIMIT) { Err(too_large()) } else { Ok(sum) }
}

fn decimals(values: &[ArrayRef]) -> Result<&Decimal128Array> {
    let values = values.first().and_then(|values| values.as_primitive_opt::<Decimal128Type>());
    values.ok_or_else(|| exec_datafusion_err!("SUM of decimals was given other values"))
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_ours(&args) {
            Ok(Box::new(One::new(args.return_field.data_type())))
        } else {
            self.inner.accumulator(args)
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if is_ours(&args) {
            Ok(Box::new(Groups { sums: Vec::new(), data_type: args.return_field.data_type().clone() }))
        } else {
            self.inner.create_groups_accumulator(args)
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_ours(&args) {
            Ok(Box::new(One::new(args.return_field.data_type())))
        } else {
            self.inner.create_sliding_accumulator(args)
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }
}

/// The sum of one group, or of a window that slides.
#[derive(Debug)]
struct One {
    sum: Option<i128>,
    /// Values in the sum: a window without any has no sum.
    values: u64,
    data_type: DataType,
}

impl One {
    fn new(data_type: &DataType) -> Self {
        Self { sum: None, values: 0, data_type: data_type.clone() }
    }

    fn scalar(&self, sum: Option<i128>) -> Result<ScalarValue> {
        match self.data_type {
            DataType::Decimal128(precision, scale) => Ok(ScalarValue::Decimal128(sum, precision, scale)),
            _ => Err(exec_datafusion_err!("SUM of decimals is no decimal")),
        }
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in decimals(values)?.iter().flatten() {
            add(&mut self.sum, value)?;
            self.values += 1;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.scalar(checked(self.sum)?)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.scalar(self.sum)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in decimals(values)?.iter().flatten() {
            add(&mut self.sum, value.checked_neg().ok_or_else(too_large)?)?;
            self.values = self.values.saturating_sub(1);
        }
        if self.values == 0 {
            self.sum = None;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// The sums of many groups.
#[derive(Debug)]
struct Groups {
    sums: Vec<Option<i128>>,
    data_type: DataType,
}

impl Groups {
    fn array(&self, sums: Vec<Option<i128>>) -> ArrayRef {
        Arc::new(Decimal128Array::from_iter(sums).with_data_type(self.data_type.clone()))
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        let values = decimals(values)?;
        self.sums.resize(total_groups.max(self.sums.len()), None);
        for (at, group) in groups.iter().enumerate() {
            let passes = filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at));
            if passes && values.is_valid(at) {
                add(&mut self.sums[*group], values.value(at))?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let sums = sums.into_iter().map(checked).collect::<Result<_>>()?;
        Ok(self.array(sums))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = emit_to.take_needed(&mut self.sums);
        Ok(vec![self.array(sums)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total_groups: usize) -> Result<()> {
        self.update_batch(values, groups, None, total_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = decimals(values)?;
        let passes = |at: usize| filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at));
        let states = (0..values.len()).map(|at| (passes(at) && values.is_valid(at)).then(|| values.value(at)));
        Ok(vec![self.array(states.collect())])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<Option<i128>>()
    }
}

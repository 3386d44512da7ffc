//! Where a plan gives way. The engine's joins can work for hours between two moments at which
//! a task may be stopped; this puts such moments into them: a join yields after some batches
//! of output, and a join whose filter lets nothing through fails once its statement is no
//! longer wanted. And statements run on threads of their own ([`Workers`]), so that one that
//! does not give way holds up neither timeouts nor requests.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, exec_err, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// The rule that makes a statement's joins stop when `stop` is cancelled.
#[derive(Debug)]
pub(super) struct Interruptible {
    pub(super) stop: CancellationToken,
}

impl PhysicalOptimizerRule for Interruptible {
    fn name(&self) -> &str {
        "Interruptible"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let interruptible = plan.transform_up(|plan| {
            let join: Arc<dyn ExecutionPlan> = if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
                match join.filter() {
                    Some(filter) => {
                        Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(self.guarded(filter))).build()?)
                    }
                    None => plan,
                }
            } else if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
                match join.filter() {
                    Some(filter) => join.builder().with_filter(Some(self.guarded(filter))).build_exec()?,
                    None => plan,
                }
            } else if plan.is::<CrossJoinExec>() || plan.is::<SortMergeJoinExec>() {
                plan
            } else {
                return Ok(Transformed::no(plan));
            };
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(join)) as Arc<dyn ExecutionPlan>))
        });
        Ok(interruptible?.data)
    }
}

impl Interruptible {
    fn guarded(&self, filter: &JoinFilter) -> JoinFilter {
        let guarded = Guarded { filter: Arc::clone(filter.expression()), stop: self.stop.clone() };
        JoinFilter::new(Arc::new(guarded), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
    }
}

/// A filter that fails once its statement is no longer wanted.
#[derive(Debug)]
struct Guarded {
    filter: Arc<dyn PhysicalExpr>,
    stop: CancellationToken,
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.filter.eq(&other.filter)
    }
}

impl Eq for Guarded {}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt(f)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.filter.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.filter.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.filter.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.stop.is_cancelled() {
            return exec_err!("the statement is no longer wanted");
        }
        self.filter.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.filter]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.as_slice() {
            [filter] => Ok(Arc::new(Self { filter: Arc::clone(filter), stop: self.stop.clone() })),
            _ => internal_err!("a guarded filter is one expression"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt_sql(f)
    }
}

/// The threads that run statements, started with the first one.
#[derive(Debug)]
pub(super) struct Workers {
    threads: usize,
    runtime: OnceLock<Option<Runtime>>,
}

impl Workers {
    /// Threads for `statements` at a time, and for every core.
    pub(super) fn new(statements: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { threads: cores.max(statements), runtime: OnceLock::new() }
    }

    /// The threads; nothing when the system gives none.
    pub(super) fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            Builder::new_multi_thread().worker_threads(self.threads).thread_name("statements").enable_all().build().ok()
        };
        self.runtime.get_or_init(start).as_ref()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Waiting is not allowed where an engine may be dropped, and nobody waits for the rows.
        if let Some(runtime) = self.runtime.take().flatten() {
            runtime.shutdown_background();
        }
    }
}

//! A delivery as it came in, checked and given its table form: what reaches a store here is
//! what was announced, or nothing. In: batches with a report's own column names, maybe with
//! `x_source`, `x_scope` and `x_snapshot` columns. Out: [`StoreWrite`] calls with lower-case
//! columns of types that a table has.
//!
//! Holds one batch at a time. Refuses a column of a type that no table has, a row of another
//! source, scope or snapshot, and totals other than the announced ones: each before the store
//! has committed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use costream_common::focus;
use costream_common::record::{
    ColumnKind, ScopeKey, SnapshotId, Totals, TotalsError, TotalsMismatch, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::ident::{ColumnName, TableName};
use crate::store::{Batches, Delivery, StoreError, StoreWrite, Upsert, Upserted};

/// The way into a store. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    store: Arc<dyn StoreWrite>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Rows read from the delivery; nought when the snapshot was stored already.
    pub received: u64,
    /// Rows written.
    pub stored: u64,
    /// Rows refused. A delivery is taken whole or not at all, so none today.
    pub rejected: u64,
    /// This snapshot, or a later one of its scope, was stored before.
    pub already: bool,
}

/// Why a delivery was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// A column is of a type that no table has.
    #[error(
        "column {column} is {found}: text, decimal(38,18), timestamp in UTC, map of texts, integer, double and boolean are taken"
    )]
    Type {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
    },
    /// A FOCUS column of a type that its name does not call for.
    #[error("column {column} is {found}, FOCUS has it as {expected:?}")]
    Kind {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
        /// What it is for.
        expected: ColumnKind,
    },
    /// The table is written by another door alone: who could write notebooks could run code as somebody else.
    #[error("table {table} takes no deliveries: notebooks are uploaded to /compute/<name>/upload")]
    Reserved {
        /// The table.
        table: TableName,
    },
    /// A batch does not have the columns that the delivery announced.
    #[error("a batch has other columns than its delivery")]
    Columns,
    /// A row says that it belongs elsewhere.
    #[error("column {column} says {found:?} in a delivery of {expected:?}")]
    Elsewhere {
        /// `x_source`, `x_scope` or `x_snapshot`.
        column: &'static str,
        /// The delivery's.
        expected: String,
        /// The row's.
        found: String,
    },
    /// What arrived is not what was announced.
    #[error(transparent)]
    Totals(#[from] TotalsMismatch),
    /// The totals could not be kept.
    #[error("control totals of the delivery")]
    Uncountable(#[from] TotalsError),
    /// A batch could not be given its table form.
    #[error("convert a batch of the delivery")]
    Convert(#[from] ArrowError),
    /// The store did not take it, or the sender's stream failed.
    #[error(transparent)]
    Store(StoreError),
}

impl IngestError {
    /// Whether the same delivery may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            // What arrived may have been cut on its way.
            Self::Totals(_) => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether the fault lies with what was sent, rather than with the store.
    pub fn is_callers(&self) -> bool {
        match self {
            Self::Store(error) => error.is_callers(),
            _ => true,
        }
    }
}

/// A check of ours that failed inside the store's stream comes back as itself.
impl From<StoreError> for IngestError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cut { table, source } => match source.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(source) => Self::Store(StoreError::Cut { table, source }),
            },
            other => Self::Store(other),
        }
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}

impl Ingest {
    /// The way into `store`.
    pub fn new(store: Arc<dyn StoreWrite>) -> Self {
        Self { store }
    }

    /// Stores a snapshot in the place of its scope's rows, once, when all of it has arrived and
    /// its totals are those `announced`.
    ///
    /// # Errors
    /// Nothing has changed in the store: the delivery is not what it says, or the store failed.
    pub async fn deliver(&self, delivery: Delivery, announced: Option<Totals>) -> Result<Receipt, IngestError> {
        let Delivery { table, key, snapshot, schema, batches } = delivery;
        is_open(&table)?;
        let mut form = TableForm::of(&schema, Some((&key, snapshot)))?;
        if table == TableName::costs() {
            form = form.of_charges()?;
        }
        let received = Arc::new(AtomicU64::new(0));
        let delivery = Delivery {
            table,
            key,
            snapshot,
            schema: form.schema.clone(),
            batches: checked(batches, form, announced, received.clone()),
        };
        let committed = self.store.replace_scope(delivery).await?;
        Ok(Receipt {
            received: received.load(Ordering::Relaxed),
            stored: committed.rows,
            rejected: 0,
            already: committed.already,
        })
    }

    /// Stores rows by key; see [`StoreWrite::upsert`].
    ///
    /// # Errors
    /// A column is of a type that no table has, or the store failed; nothing has changed.
    pub async fn upsert(&self, upsert: Upsert) -> Result<Receipt, IngestError> {
        let Upsert { table, key, schema, batches } = upsert;
        is_open(&table)?;
        let form = TableForm::of(&schema, None)?;
        let received = Arc::new(AtomicU64::new(0));
        let upsert =
            Upsert { table, key, schema: form.schema.clone(), batches: checked(batches, form, None, received) };
        let upserted = self.store.upsert(upsert).await?;
        Ok(Receipt { received: upserted.received, stored: upserted.stored, rejected: 0, already: false })
    }

    /// Stores rows by key that have a table's form already.
    ///
    /// # Errors
    /// The store failed; nothing has changed.
    pub async fn rows(&self, upsert: Upsert) -> Result<Upserted, IngestError> {
        Ok(self.store.upsert(upsert).await?)
    }

    /// The snapshot that a scope has in a table.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn committed(&self, table: &TableName, key: &ScopeKey) -> Result<Option<SnapshotId>, IngestError> {
        Ok(self.store.committed(table, key).await?)
    }
}

fn is_open(table: &TableName) -> Result<(), IngestError> {
    if *table == TableName::notebooks() { Err(IngestError::Reserved { table: table.clone() }) } else { Ok(()) }
}

/// The batches in their table form; the stream's last item is an error when the totals are
/// not those announced.
fn checked(batches: Batches, form: TableForm, announced: Option<Totals>, received: Arc<AtomicU64>) -> Batches {
    struct State {
        batches: Batches,
        form: TableForm,
        announced: Option<Totals>,
        totals: Totals,
        received: Arc<AtomicU64>,
    }
    impl State {
        fn take(&mut self, batch: &RecordBatch) -> Result<RecordBatch, IngestError> {
            let batch = self.form.apply(batch)?;
            if self.announced.is_some() {
                self.totals.add_batch(&batch)?;
            }
            self.received.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            Ok(batch)
        }
    }
    let state = State { batches, form, announced, totals: Totals::default(), received };
    // `None` once an error or the end has been told.
    futures::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.batches.next().await {
            Some(Ok(batch)) => match state.take(&batch) {
                Ok(batch) => Some((Ok(batch), Some(state))),
                Err(error) => Some((Err(error.into()), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None => match state.announced.map(|announced| state.totals.check(&announced)) {
                Some(Err(mismatch)) => Some((Err(IngestError::Totals(mismatch).into()), None)),
                _ => None,
            },
        }
    })
    .boxed()
}

/// How a delivery's columns become a table's.
struct TableForm {
    incoming: SchemaRef,
    schema: SchemaRef,
    /// The delivered column of each table column.
    columns: Vec<usize>,
    /// Delivered columns that must say the same in every row, and what.
    constants: Vec<(usize, &'static str, String)>,
}

impl TableForm {
    /// `constants`: what the delivery's `x_source`, `x_scope` and `x_snapshot` columns must say;
    /// nothing leaves columns of such names alone.
    fn of(incoming: &SchemaRef, constants: Option<(&ScopeKey, SnapshotId)>) -> Result<Self, IngestError> {
        let mut form = Self {
            incoming: incoming.clone(),
            schema: Arc::new(Schema::empty()),
            columns: Vec::new(),
            constants: Vec::new(),
        };
        let constants: Vec<(&'static str, String)> = constants.map_or_else(Vec::new, |(key, snapshot)| {
            vec![
                (X_SOURCE, key.source.to_string()),
                (X_SCOPE, key.scope.to_string()),
                (X_SNAPSHOT, snapshot.to_string()),
            ]
        });
        for (at, field) in incoming.fields().iter().enumerate() {
            match constants.iter().find(|(name, _)| name.eq_ignore_ascii_case(field.name())) {
                Some((name, value)) => {
                    if table_type(field.data_type()) != Some(DataType::Utf8) {
                        return Err(IngestError::Type { column: (*name).to_owned(), found: field.data_type().clone() });
                    }
                    form.constants.push((at, name, value.clone()));
                }
                None => form.columns.push(at),
            }
        }
        let names = ColumnName::of_all(form.columns.iter().map(|at| incoming.field(*at).name().as_str()));
        let fields = names.iter().zip(&form.columns).map(|(name, at)| {
            let field = incoming.field(*at);
            // A snapshot's texts stay as they came: a store has less to do.
            let stays = !constants.is_empty() && *field.data_type() == ColumnKind::Text.record_type();
            let data_type = if stays { Some(field.data_type().clone()) } else { table_type(field.data_type()) };
            let data_type = data_type
                .ok_or_else(|| IngestError::Type { column: field.name().clone(), found: field.data_type().clone() })?;
            Ok(Field::new(name.as_str(), data_type, true))
        });
        form.schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>, IngestError>>()?));
        Ok(form)
    }

    /// In the table of charges a column's type is a matter of its name alone, so that one
    /// sender's columns cannot stand in the way of another's.
    fn of_charges(mut self) -> Result<Self, IngestError> {
        let fields = self.schema.fields().iter().zip(&self.columns).map(|(field, at)| {
            let name = self.incoming.field(*at).name();
            let expected = focus::kind_of(name);
            let wanted = if field.name() == X_ROW { DataType::Int64 } else { expected.data_type() };
            let castable = wanted == DataType::Utf8 && matches!(field.data_type(), DataType::Int64 | DataType::Boolean);
            if table_type(field.data_type()) == Some(wanted.clone()) {
                Ok(field.as_ref().clone())
            } else if castable {
                Ok(Field::new(field.name(), wanted, true))
            } else {
                Err(IngestError::Kind { column: name.clone(), found: field.data_type().clone(), expected })
            }
        });
        self.schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>, _>>()?));
        Ok(self)
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, IngestError> {
        let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
        let schema = batch.schema_ref();
        if schema.fields().len() != self.incoming.fields().len()
            || !schema.fields().iter().zip(self.incoming.fields()).all(same)
        {
            return Err(IngestError::Columns);
        }
        for (at, column, expected) in &self.constants {
            if let Some(found) = first_other(batch.column(*at), expected)? {
                return Err(IngestError::Elsewhere { column, expected: expected.clone(), found });
            }
        }
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(at, field)| {
            let column = batch.column(*at);
            if column.data_type() == field.data_type() { Ok(column.clone()) } else { cast(column, field.data_type()) }
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
        let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows)?)
    }
}

/// The type of the table's column for a delivered one: itself, or text for its other encodings.
fn table_type(delivered: &DataType) -> Option<DataType> {
    match delivered {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Some(DataType::Utf8),
        DataType::Dictionary(_, value) => table_type(value),
        DataType::Int64 | DataType::Float64 | DataType::Boolean => Some(delivered.clone()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            Some(DataType::Int64)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(entry) = entries.data_type() else { return None };
            let texts = entry.len() == 2 && entry.iter().all(|field| *field.data_type() == DataType::Utf8);
            texts.then(|| ColumnKind::Tags.data_type())
        }
        other => ColumnKind::of(other).map(|_| other.clone()),
    }
}

/// The first text in a column other than `expected`; a null is one. Looks at a dictionary's values
/// once each.
fn first_other(column: &ArrayRef, expected: &str) -> Result<Option<String>, ArrowError> {
    let other = |texts: &StringArray, at: usize| texts.is_null(at) || texts.value(at) != expected;
    let shown =
        |texts: &StringArray, at: usize| if texts.is_null(at) { "null".to_owned() } else { texts.value(at).to_owned() };
    if column.null_count() == 0
        && let Some(dictionary) = column.as_any_dictionary_opt()
    {
        let values = cast(dictionary.values(), &DataType::Utf8)?;
        let values = values.as_string::<i32>();
        let wrong: Vec<bool> = (0..values.len()).map(|at| other(values, at)).collect();
        let first = dictionary.normalized_keys().into_iter().find(|key| wrong.get(*key).copied().unwrap_or(true));
        return Ok(first.map(|key| shown(values, key)));
    }
    let texts = cast(column, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    Ok((0..texts.len()).find(|at| other(texts, *at)).map(|at| shown(texts, at)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::array::{DictionaryArray, Int64Array};
    use arrow::datatypes::Int32Type;
    use costream_common::record::{Group, GroupTotals, ScopeName, SourceName, row_field};
    use futures::TryStreamExt as _;
    use futures::future::BoxFuture;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::store::Committed;

    /// Stores whatever comes, as long as no error comes with it.
    #[derive(Default)]
    struct Plain(Mutex<Vec<RecordBatch>>);

    impl StoreWrite for Plain {
        fn replace_scope(&self, delivery: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>> {
            Box::pin(async move {
                let cut = |source| StoreError::Cut { table: delivery.table.clone(), source };
                let batches: Vec<RecordBatch> = delivery.batches.try_collect().await.map_err(cut)?;
                let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
                self.0.lock().expect("no panic").extend(batches);
                Ok(Committed { rows, already: false, current: delivery.snapshot })
            })
        }

        fn upsert(&self, _: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>> {
            Box::pin(async { Ok(Upserted::default()) })
        }

        fn committed<'a>(
            &'a self,
            _: &'a TableName,
            _: &'a ScopeKey,
        ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>> {
            Box::pin(async { Ok(None) })
        }

        fn maintain(&self, _: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn key() -> ScopeKey {
        ScopeKey { source: SourceName::new("aws").expect("a name"), scope: ScopeName::new("a.csv").expect("a name") }
    }

    fn snapshot() -> SnapshotId {
        "20261122T130501123Z".parse().expect("a snapshot")
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(values.iter().map(|value| Some(*value)).collect::<DictionaryArray<Int32Type>>())
    }

    fn arrived(source: &[&str], snapshot: &[&str]) -> RecordBatch {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let schema = Schema::new(vec![
            ColumnKind::Text.field("ServiceName"),
            Field::new(X_SOURCE, dictionary.clone(), false),
            Field::new("X_Snapshot", dictionary, false),
            row_field(),
        ]);
        let rows = source.len();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["EC2"; rows])),
            texts(source),
            texts(snapshot),
            Arc::new((1..).take(rows).collect::<Int64Array>()),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).expect("a batch")
    }

    async fn deliver(
        batches: Vec<RecordBatch>,
        announced: Option<Totals>,
    ) -> (Result<Receipt, IngestError>, Vec<RecordBatch>) {
        let store = Arc::new(Plain::default());
        let schema = batches[0].schema();
        let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        let delivery = Delivery { table: TableName::costs(), key: key(), snapshot: snapshot(), schema, batches };
        let receipt = Ingest::new(store.clone()).deliver(delivery, announced).await;
        let stored = std::mem::take(&mut *store.0.lock().expect("no panic"));
        (receipt, stored)
    }

    fn totals(rows: u64) -> Totals {
        let mut totals = Totals::default();
        totals
            .add_group(Group { billing_period: None, currency: None }, &GroupTotals { rows, ..GroupTotals::default() });
        totals
    }

    #[tokio::test]
    async fn a_delivery_is_stored_in_its_table_form() {
        let number = snapshot().to_string();
        let batch = arrived(&["aws", "aws"], &[&number, &number]);
        let (receipt, stored) = deliver(vec![batch.clone(), batch], Some(totals(4))).await;
        assert_eq!(receipt.expect("a receipt"), Receipt { received: 4, stored: 4, rejected: 0, already: false });
        let columns: Vec<_> = stored[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(columns, ["servicename", "x_row"]);
    }

    #[tokio::test]
    async fn a_row_of_another_place_is_refused() {
        let number = snapshot().to_string();
        for (source, snapshot, column) in [
            (["aws", "gcp"], [&*number, &*number], X_SOURCE),
            (["aws", "aws"], [&*number, "20261122T130501124Z"], X_SNAPSHOT),
        ] {
            let (receipt, stored) =
                deliver(vec![arrived(&["aws"], &[&number]), arrived(&source, &snapshot)], None).await;
            assert!(
                matches!(receipt, Err(IngestError::Elsewhere { column: told, .. }) if told == column),
                "{receipt:?}"
            );
            assert!(stored.is_empty());
        }
    }

    #[tokio::test]
    async fn totals_are_checked_before_the_commit() {
        let number = snapshot().to_string();
        let (receipt, stored) = deliver(vec![arrived(&["aws"], &[&number])], Some(totals(2))).await;
        assert!(matches!(&receipt, Err(error @ IngestError::Totals(_)) if error.is_retryable()), "{receipt:?}");
        assert!(stored.is_empty());
    }

    #[tokio::test]
    async fn a_type_that_no_table_has_is_refused() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Date32, true)]));
        let batch = RecordBatch::new_empty(schema);
        let (receipt, _) = deliver(vec![batch], None).await;
        assert!(matches!(&receipt, Err(IngestError::Type { column, .. }) if column == "a"), "{receipt:?}");
    }

    #[tokio::test]
    async fn a_charge_has_the_types_that_its_columns_names_call_for() {
        let schema = Arc::new(Schema::new(vec![ColumnKind::Text.field("BilledCost")]));
        let (receipt, _) = deliver(vec![RecordBatch::new_empty(schema)], None).await;
        assert!(matches!(&receipt, Err(IngestError::Kind { column, .. }) if column == "BilledCost"), "{receipt:?}");
        let schema = Arc::new(Schema::new(vec![Field::new("x_Number", DataType::Int64, false), row_field()]));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7])), Arc::new(Int64Array::from(vec![1]))];
        let (receipt, stored) = deliver(vec![RecordBatch::try_new(schema, columns).expect("a batch")], None).await;
        assert_eq!(receipt.expect("a receipt").stored, 1);
        assert_eq!(stored[0].column(0).as_string::<i32>().value(0), "7");
        assert_eq!(*stored[0].column(1).data_type(), DataType::Int64);
    }

    #[tokio::test]
    async fn a_batch_with_other_columns_is_refused() {
        let number = snapshot().to_string();
        let batch = arrived(&["aws"], &[&number]);
        let other = batch.project(&[0, 1]).expect("two columns");
        let (receipt, stored) = deliver(vec![batch, other], None).await;
        assert!(matches!(receipt, Err(IngestError::Columns)), "{receipt:?}");
        assert!(stored.is_empty());
    }
}

//! What every store must do with tables as such, and with those of one's own; part of [`super::conformance`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use costream_common::record::ColumnKind;

use super::{SEPTEMBER, ask, ask_as_of, key, next_moment, replace, row, samples, stream, upsert, upsert_of};
use crate::ident::TableName;
use crate::store::declared::{Object, Policy, Type};
use crate::store::{BatchError, Change, Declared, Ended, Store, StoreError, TableInfo};

fn counters() -> TableName {
    TableName::new("counters").expect("a name")
}

/// `id bigint PRIMARY KEY, "N" bigint, note object`.
fn declared() -> Declared {
    let mut declared = Declared { primary_key: vec!["id".to_owned()], ..Declared::default() };
    declared.add("id", Type::Bigint).not_null = true;
    declared.add("N", Type::Bigint);
    declared.add("note", Type::Object(Object { policy: Policy::Ignored, ..Object::default() }));
    declared
}

/// Adds one to the counters of some ids, which begin at one; takes those of others away.
#[derive(Default)]
struct Count {
    up: Vec<i64>,
    away: Vec<i64>,
    /// What it says at its end.
    refuses: bool,
    there: BTreeMap<i64, i64>,
    schema: Option<SchemaRef>,
}

impl Count {
    fn up(ids: &[i64]) -> Self {
        Self { up: ids.to_vec(), ..Self::default() }
    }

    fn concerns(&self, id: i64) -> bool {
        self.up.contains(&id) || self.away.contains(&id)
    }
}

impl Change for Count {
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError> {
        self.there.clear();
        let schema = table.declared.as_ref().ok_or("it was not declared")?.stored_schema();
        self.schema = Some(schema.clone());
        Ok(schema)
    }

    fn looks_at(&self) -> Option<Vec<String>> {
        Some(vec!["id".to_owned()])
    }

    fn touches(&mut self, rows: &RecordBatch) -> Result<bool, BatchError> {
        assert_eq!(rows.num_columns(), 1, "what was asked for");
        Ok(rows.column(0).as_primitive::<Int64Type>().values().iter().any(|id| self.concerns(*id)))
    }

    fn rewrite(&mut self, rows: RecordBatch) -> Result<RecordBatch, BatchError> {
        let (ids, counts) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Int64Type>());
        let others: Vec<bool> = ids.values().iter().map(|id| !self.concerns(*id)).collect();
        for (id, count) in ids.values().iter().zip(counts.values()).filter(|(id, _)| self.up.contains(id)) {
            self.there.insert(*id, *count);
        }
        Ok(filter_record_batch(&rows, &others.into())?)
    }

    fn end(&mut self) -> Result<Ended, BatchError> {
        if self.refuses {
            return Err("no".into());
        }
        let Some(schema) = self.schema.clone().filter(|_| !self.up.is_empty()) else { return Ok(Ended::default()) };
        let counts = self.up.iter().map(|id| self.there.get(id).map_or(1, |count| count + 1));
        let rows = RecordBatch::try_new(
            schema,
            vec![
                Arc::new(Int64Array::from(self.up.clone())),
                Arc::new(counts.collect::<Int64Array>()),
                Arc::new(StringArray::from(vec![r#"{"a":[1]}"#; self.up.len()])),
            ],
        )?;
        Ok(Ended { rows: vec![rows], declared: None })
    }
}

async fn edit(store: &Store, mut change: Count) -> Result<bool, StoreError> {
    store.edit.edit(&counters(), &mut change).await
}

/// Makes the table of counters.
pub(crate) async fn create_counters(store: &Store) -> bool {
    store.edit.create(&counters(), &declared()).await.expect("made")
}

/// Adds one to a counter.
pub(crate) async fn count(store: &Store, id: i64) -> Result<bool, StoreError> {
    edit(store, Count::up(&[id])).await
}

async fn counted(store: &Store) -> Vec<Vec<String>> {
    ask(store, "SELECT id, \"N\" FROM counters ORDER BY id").await
}

pub(crate) async fn tables_and_columns_are_listed(store: &Store) {
    assert_eq!(store.read.tables().await.expect("no tables"), []);
    replace(store, &key("a", "b"), 1, &[row(SEPTEMBER, "1", "a")]).await;
    upsert(store, vec![samples(&[("a", SEPTEMBER, "1")])]).await;
    let tables = store.read.tables().await.expect("two tables");
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["costs", "metrics"]);
    let columns: Vec<_> = tables[0].schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(
        columns,
        ["billingperiodstart", "billedcost", "servicename", "tags", "x_source", "x_scope", "x_snapshot", "x_row"]
    );
    assert_eq!(*tables[0].schema.field(1).data_type(), ColumnKind::Decimal.data_type());
}

pub(crate) async fn a_declared_table_is_made_once_and_described(store: &Store) {
    assert_eq!(store.edit.describe(&counters()).await.expect("an answer"), None);
    assert!(!edit(store, Count::up(&[1])).await.expect("no table"));
    assert!(store.edit.create(&counters(), &declared()).await.expect("made"));
    assert!(!store.edit.create(&counters(), &Declared::default()).await.expect("there already"));
    let table = store.edit.describe(&counters()).await.expect("an answer").expect("the table");
    assert_eq!(table.declared, Some(declared()));
    assert_eq!(store.read.tables().await.expect("tables"), [table]);
    assert_eq!(counted(store).await, Vec::<Vec<String>>::new());
}

pub(crate) async fn a_change_is_all_there_or_not_at_all(store: &Store) {
    create_counters(store).await;
    assert!(edit(store, Count::up(&[1, 2, 3])).await.expect("stored"));
    assert!(count(store, 2).await.expect("stored"));
    assert_eq!(counted(store).await, [["1", "1"], ["2", "2"], ["3", "1"]]);
    let error = edit(store, Count { refuses: true, ..Count::up(&[1, 9]) }).await.expect_err("it says no");
    assert!(matches!(&error, StoreError::Change { source, .. } if source.to_string() == "no"), "{error:?}");
    assert!(!error.is_retryable());
    assert!(edit(store, Count { away: vec![1, 7], ..Count::default() }).await.expect("deleted"));
    assert_eq!(counted(store).await, [["2", "2"], ["3", "1"]]);
    assert_eq!(ask(store, "SELECT arrow_typeof(note) FROM counters LIMIT 1").await, [["Binary"]]);
}

pub(crate) async fn concurrent_changes_lose_nothing(store: &Store) {
    store.edit.create(&counters(), &declared()).await.expect("made");
    let all = (0..12).map(|number| {
        let store = store.clone();
        async move { edit(&store, Count::up(&[7, 100 + number])).await }
    });
    for done in futures::future::join_all(all).await {
        assert!(done.expect("stored"));
    }
    let rows = counted(store).await;
    assert_eq!((rows.len(), &rows[0]), (13, &vec!["7".to_owned(), "12".to_owned()]));
}

pub(crate) async fn a_dropped_table_is_gone_and_can_be_made_anew(store: &Store) {
    assert!(!store.edit.drop_table(&counters()).await.expect("an answer"));
    store.edit.create(&counters(), &declared()).await.expect("made");
    edit(store, Count::up(&[1])).await.expect("stored");
    let then = next_moment().await;
    next_moment().await;
    assert!(store.edit.drop_table(&counters()).await.expect("dropped"));
    assert!(!store.edit.drop_table(&counters()).await.expect("gone"));
    assert!(!edit(store, Count::up(&[1])).await.expect("gone"));
    assert_eq!(store.edit.describe(&counters()).await.expect("an answer"), None);
    assert_eq!(store.read.tables().await.expect("tables"), []);
    assert!(ask_as_of(store, "SELECT * FROM counters", None).await.is_err());
    assert!(store.edit.create(&counters(), &declared()).await.expect("made anew"));
    edit(store, Count::up(&[5])).await.expect("stored");
    assert_eq!(counted(store).await, [["5", "1"]]);
    let past = ask_as_of(store, "SELECT id FROM counters", Some(then)).await.expect("the past");
    assert_eq!(past, [["1"]]);
}

pub(crate) async fn declared_and_delivered_tables_do_not_mix(store: &Store) {
    let time = "2026-11-22T10:00:00Z";
    let batch = samples(&[("a", time, "1")]);
    let deliver = || store.write.upsert(upsert_of(batch.schema(), stream(vec![batch.clone()])));
    store.edit.create(&TableName::metrics(), &declared()).await.expect("made");
    let error = deliver().await.expect_err("rows come by statements");
    assert!(matches!(error, StoreError::Column { .. }), "{error:?}");
    store.edit.drop_table(&TableName::metrics()).await.expect("dropped");
    deliver().await.expect("stored where nothing is");
    assert_eq!(ask(store, "SELECT series FROM metrics").await, [["a"]]);
    assert!(!store.edit.create(&TableName::metrics(), &declared()).await.expect("there already"));
}

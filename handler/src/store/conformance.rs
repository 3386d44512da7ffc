//! What every store must do, as tests: a function a case, each for a fresh, empty store, and
//! [`each_case`], which names them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, Utc};
use costream_common::money::{Amount, PRECISION, SCALE};
use costream_common::record::{ColumnKind, ScopeKey, ScopeName, SnapshotId, SourceName, row_field};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::ident::{ColumnName, TableName};
use crate::store::{Batches, Committed, Delivery, Query, Store, StoreError, Upsert, Upserted};

/// Calls the macro `$then` with what stands behind it, and the name of every case.
macro_rules! each_case {
    ($then:ident $($with:tt)*) => {
        $then! { [$($with)*]
            a_snapshot_delivered_twice_is_stored_once,
            a_delivery_that_fails_midway_changes_nothing_and_can_be_repeated,
            a_delivery_that_is_dropped_midway_changes_nothing,
            a_restated_snapshot_takes_the_place_of_the_one_before,
            an_older_snapshot_is_superseded,
            an_empty_snapshot_clears_its_scope,
            scopes_and_sources_do_not_touch_each_other,
            long_and_odd_names_are_names,
            a_new_column_is_added_and_is_null_before,
            a_column_of_another_type_is_refused_and_nothing_changes,
            null_and_many_periods_are_kept,
            a_report_without_periods_is_kept,
            identical_rows_are_two_charges,
            amounts_and_sums_are_exact,
            times_and_tags_come_back,
            the_past_can_be_asked_for,
            rows_by_key_are_stored_once_and_the_last_wins,
            half_an_upsert_leaves_nothing_and_then_all_of_it_is_one,
            a_long_upsert_is_one_and_the_last_of_a_key_wins,
            a_column_that_comes_later_is_null_before,
            charges_by_key_stand_beside_snapshots,
            concurrent_scopes_are_all_stored,
            concurrent_snapshots_of_one_scope_leave_the_latest,
            a_store_holds_few_batches_of_a_long_delivery,
            tables_and_columns_are_listed,
            a_declared_table_is_made_once_and_described,
            a_change_is_all_there_or_not_at_all,
            concurrent_changes_lose_nothing,
            a_dropped_table_is_gone_and_can_be_made_anew,
            declared_and_delivered_tables_do_not_mix,
        }
    };
}
pub(crate) use each_case;

#[path = "conformance_edit.rs"]
pub(crate) mod edit;
pub(crate) use self::edit::{
    a_change_is_all_there_or_not_at_all, a_declared_table_is_made_once_and_described,
    a_dropped_table_is_gone_and_can_be_made_anew, concurrent_changes_lose_nothing,
    declared_and_delivered_tables_do_not_mix, tables_and_columns_are_listed,
};

/// A charge.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) period: Option<&'static str>,
    pub(crate) billed: String,
    pub(crate) service: String,
    pub(crate) tags: &'static [(&'static str, &'static str)],
}

pub(crate) fn row(period: &'static str, billed: &str, service: &str) -> Row {
    Row { period: Some(period), billed: billed.to_owned(), service: service.to_owned(), tags: &[] }
}

pub(crate) fn key(source: &str, scope: &str) -> ScopeKey {
    ScopeKey { source: SourceName::new(source).expect("a name"), scope: ScopeName::new(scope).expect("a name") }
}

pub(crate) fn snapshot(number: i64) -> SnapshotId {
    SnapshotId::from_version(1_790_000_000_000 + number).expect("a time")
}

fn micros(time: &str) -> i64 {
    DateTime::parse_from_rfc3339(time).expect("a time").timestamp_micros()
}

pub(crate) fn charges(rows: &[Row]) -> RecordBatch {
    let schema = Schema::new(vec![
        ColumnKind::Timestamp.field("billingperiodstart"),
        ColumnKind::Decimal.field("billedcost"),
        ColumnKind::Text.field("servicename"),
        ColumnKind::Tags.field("tags"),
        row_field(),
    ]);
    let periods: TimestampMicrosecondArray = rows.iter().map(|row| row.period.map(micros)).collect();
    let billed: Decimal128Array =
        rows.iter().map(|row| Some(row.billed.parse::<Amount>().expect("an amount").units())).collect();
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut tags = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in row.tags {
            tags.keys().append_value(key);
            tags.values().append_value(value);
        }
        tags.append(true).expect("a tag set");
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(periods.with_timezone("UTC")),
        Arc::new(billed.with_precision_and_scale(PRECISION, SCALE).expect("our own precision")),
        Arc::new(rows.iter().map(|row| Some(row.service.as_str())).collect::<StringArray>()),
        Arc::new(tags.finish()),
        Arc::new((1..).take(rows.len()).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("a batch")
}

pub(crate) fn stream(batches: Vec<RecordBatch>) -> Batches {
    futures::stream::iter(batches.into_iter().map(Ok)).boxed()
}

pub(crate) fn delivery(key: &ScopeKey, number: i64, schema: SchemaRef, batches: Batches) -> Delivery {
    Delivery { table: TableName::costs(), key: key.clone(), snapshot: snapshot(number), schema, batches }
}

pub(crate) async fn replace(store: &Store, key: &ScopeKey, number: i64, rows: &[Row]) -> Committed {
    let batch = charges(rows);
    store
        .write
        .replace_scope(delivery(key, number, batch.schema(), stream(vec![batch])))
        .await
        .expect("a stored snapshot")
}

/// The answer to a query, every value as text.
pub(crate) async fn ask_as_of(
    store: &Store,
    sql: &str,
    as_of: Option<DateTime<Utc>>,
) -> Result<Vec<Vec<String>>, StoreError> {
    let answer = store.read.query(Query { sql: sql.to_owned(), params: Vec::new(), as_of }).await?;
    let batches: Vec<RecordBatch> = answer.try_collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for at in 0..batch.num_rows() {
            let value = |column: &ArrayRef| {
                if column.is_null(at) { "null".to_owned() } else { array_value_to_string(column, at).expect("a value") }
            };
            rows.push(batch.columns().iter().map(value).collect());
        }
    }
    Ok(rows)
}

pub(crate) async fn ask(store: &Store, sql: &str) -> Vec<Vec<String>> {
    ask_as_of(store, sql, None).await.expect("an answer")
}

/// The charges of a table, as `service=billed`, sorted.
async fn contents(store: &Store) -> Vec<String> {
    let rows = ask(store, "SELECT servicename, billedcost FROM costs ORDER BY servicename, billedcost").await;
    rows.into_iter().map(|row| format!("{}={}", row[0], plain(&row[1]))).collect()
}

/// A decimal without the zeros at its end.
pub(crate) fn plain(decimal: &str) -> String {
    decimal.parse::<Amount>().expect("an amount").to_string()
}

/// Waits until the clock has moved on, so that what was before has an earlier time.
pub(crate) async fn next_moment() -> DateTime<Utc> {
    let start = Utc::now();
    loop {
        let now = Utc::now();
        if now.signed_duration_since(start).num_milliseconds() >= 5 {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

const SEPTEMBER: &str = "2026-09-01T00:00:00Z";
const OCTOBER: &str = "2026-10-01T00:00:00Z";

pub(crate) async fn a_snapshot_delivered_twice_is_stored_once(store: &Store) {
    let key = key("aws", "a.csv");
    assert_eq!(store.write.committed(&TableName::costs(), &key).await.expect("an answer"), None);
    let rows = [row(SEPTEMBER, "1.5", "a"), row(OCTOBER, "2", "b")];
    assert_eq!(replace(store, &key, 1, &rows).await, Committed { rows: 2, already: false, current: snapshot(1) });
    assert_eq!(replace(store, &key, 1, &rows).await, Committed { rows: 0, already: true, current: snapshot(1) });
    assert_eq!(contents(store).await, ["a=1.5", "b=2"]);
    assert_eq!(store.write.committed(&TableName::costs(), &key).await.expect("an answer"), Some(snapshot(1)));
    let ours = ask(store, "SELECT x_source, x_scope, x_snapshot, x_row FROM costs ORDER BY x_row").await;
    let number = snapshot(1).to_string();
    assert_eq!(ours, [["aws", "a.csv", &number, "1"], ["aws", "a.csv", &number, "2"]]);
}

pub(crate) async fn a_delivery_that_fails_midway_changes_nothing_and_can_be_repeated(store: &Store) {
    let key = key("aws", "a.csv");
    replace(store, &key, 1, &[row(SEPTEMBER, "1", "old")]).await;
    let batch = charges(&[row(SEPTEMBER, "2", "new")]);
    let cut = futures::stream::iter([Ok(batch.clone()), Ok(batch.clone()), Err("the line went dead".into())]).boxed();
    let error = store.write.replace_scope(delivery(&key, 2, batch.schema(), cut)).await.expect_err("a cut delivery");
    assert!(
        matches!(&error, StoreError::Cut { source, .. } if source.to_string() == "the line went dead"),
        "{error:?}"
    );
    assert_eq!(contents(store).await, ["old=1"]);
    assert_eq!(store.write.committed(&TableName::costs(), &key).await.expect("an answer"), Some(snapshot(1)));
    replace(store, &key, 2, &[row(SEPTEMBER, "2", "new")]).await;
    assert_eq!(contents(store).await, ["new=2"]);
}

pub(crate) async fn a_delivery_that_is_dropped_midway_changes_nothing(store: &Store) {
    let key = key("aws", "a.csv");
    replace(store, &key, 1, &[row(SEPTEMBER, "1", "old")]).await;
    let batch = charges(&[row(SEPTEMBER, "2", "new")]);
    let (asked, waits) = tokio::sync::oneshot::channel();
    let rest = futures::stream::once(async move {
        asked.send(()).expect("somebody waits");
        std::future::pending().await
    });
    let batches = stream(vec![batch.clone()]).chain(rest).boxed();
    tokio::select! {
        _ = store.write.replace_scope(delivery(&key, 2, batch.schema(), batches)) => panic!("the delivery never ends"),
        told = waits => told.expect("the second batch is asked for"),
    }
    assert_eq!(contents(store).await, ["old=1"]);
    replace(store, &key, 2, &[row(SEPTEMBER, "2", "new")]).await;
    assert_eq!(contents(store).await, ["new=2"]);
}

pub(crate) async fn a_restated_snapshot_takes_the_place_of_the_one_before(store: &Store) {
    let key = key("azure", "export");
    replace(store, &key, 1, &[row(SEPTEMBER, "1", "same"), row(SEPTEMBER, "2", "changed"), row(OCTOBER, "3", "gone")])
        .await;
    replace(
        store,
        &key,
        2,
        &[row(SEPTEMBER, "1", "same"), row(SEPTEMBER, "2.5", "changed"), row(SEPTEMBER, "4", "added")],
    )
    .await;
    assert_eq!(contents(store).await, ["added=4", "changed=2.5", "same=1"]);
    let snapshots = ask(store, "SELECT DISTINCT x_snapshot FROM costs").await;
    assert_eq!(snapshots, [[snapshot(2).to_string()]]);
}

pub(crate) async fn an_older_snapshot_is_superseded(store: &Store) {
    let key = key("aws", "a.csv");
    replace(store, &key, 2, &[row(SEPTEMBER, "2", "new")]).await;
    let late = replace(store, &key, 1, &[row(SEPTEMBER, "1", "old")]).await;
    assert_eq!(late, Committed { rows: 0, already: true, current: snapshot(2) });
    assert_eq!(contents(store).await, ["new=2"]);
}

pub(crate) async fn an_empty_snapshot_clears_its_scope(store: &Store) {
    let (a, b) = (key("aws", "a.csv"), key("aws", "b.csv"));
    replace(store, &a, 1, &[row(SEPTEMBER, "1", "a")]).await;
    replace(store, &b, 1, &[row(SEPTEMBER, "2", "b")]).await;
    let schema = charges(&[]).schema();
    let none = store
        .write
        .replace_scope(delivery(&a, 2, schema.clone(), stream(Vec::new())))
        .await
        .expect("an empty snapshot");
    assert_eq!(none, Committed { rows: 0, already: false, current: snapshot(2) });
    assert_eq!(contents(store).await, ["b=2"]);
    let again =
        store.write.replace_scope(delivery(&a, 2, schema, stream(Vec::new()))).await.expect("an empty snapshot");
    assert!(again.already);
}

pub(crate) async fn scopes_and_sources_do_not_touch_each_other(store: &Store) {
    for (source, scope, service) in
        [("aws", "a.csv", "1"), ("aws", "b.csv", "2"), ("gcp", "a.csv", "3"), ("aws:", "a.csv", "4")]
    {
        replace(store, &key(source, scope), 1, &[row(SEPTEMBER, "1", service)]).await;
    }
    replace(store, &key("aws", "b.csv"), 2, &[row(SEPTEMBER, "7", "2")]).await;
    assert_eq!(contents(store).await, ["1=1", "2=7", "3=1", "4=1"]);
    let one = ask(store, "SELECT servicename FROM costs WHERE x_source = 'gcp'").await;
    assert_eq!(one, [["3"]]);
}

pub(crate) async fn long_and_odd_names_are_names(store: &Store) {
    let names = ["/data/2026 09/%2F=?#*.csv", "Ä\"'\\$(`€`)", &"ü/".repeat(200), "__HIVE_DEFAULT_PARTITION__", ".."];
    for name in names {
        for number in [1, 2] {
            replace(store, &key(name, name), number, &[row(SEPTEMBER, "1", &number.to_string())]).await;
        }
    }
    let mut stored: Vec<_> = ask(store, "SELECT x_source, x_scope, servicename FROM costs").await;
    stored.sort_unstable();
    let mut expected: Vec<_> = names
        .iter()
        .map(|name| key(name, name))
        .map(|k| vec![k.source.to_string(), k.scope.to_string(), "2".into()])
        .collect();
    expected.sort_unstable();
    assert_eq!(stored, expected);
}

pub(crate) async fn a_new_column_is_added_and_is_null_before(store: &Store) {
    let (a, b) = (key("aws", "a.csv"), key("aws", "b.csv"));
    replace(store, &a, 1, &[row(SEPTEMBER, "1", "a")]).await;
    let schema = Arc::new(Schema::new(vec![
        ColumnKind::Decimal.field("billedcost"),
        ColumnKind::Text.field("x_team"),
        ColumnKind::Timestamp.field("x_when"),
    ]));
    let one: Decimal128Array = [Some(10_i128.pow(18))].into_iter().collect();
    let when = TimestampMicrosecondArray::from(vec![micros(OCTOBER)]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(one.with_precision_and_scale(PRECISION, SCALE).expect("our own precision")),
        Arc::new(StringArray::from(vec!["blue"])),
        Arc::new(when),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("a batch");
    store.write.replace_scope(delivery(&b, 1, schema, stream(vec![batch]))).await.expect("a stored snapshot");
    let teams = ask(store, "SELECT x_scope, x_team, servicename FROM costs ORDER BY x_scope").await;
    assert_eq!(teams, [["a.csv", "null", "a"], ["b.csv", "blue", "null"]]);
    replace(store, &a, 2, &[row(SEPTEMBER, "3", "a")]).await;
    let sum = ask(store, "SELECT sum(billedcost), count(x_when) FROM costs").await;
    assert_eq!((plain(&sum[0][0]).as_str(), sum[0][1].as_str()), ("4", "1"));
}

pub(crate) async fn a_column_of_another_type_is_refused_and_nothing_changes(store: &Store) {
    let key = key("aws", "a.csv");
    replace(store, &key, 1, &[row(SEPTEMBER, "1", "a")]).await;
    let schema = Arc::new(Schema::new(vec![ColumnKind::Text.field("billedcost")]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(vec!["1"]))]).expect("a batch");
    let error =
        store.write.replace_scope(delivery(&key, 2, schema, stream(vec![batch]))).await.expect_err("another type");
    assert!(matches!(&error, StoreError::Column { column, .. } if column == "billedcost"), "{error:?}");
    assert!(!error.is_retryable());
    assert_eq!(contents(store).await, ["a=1"]);
}

pub(crate) async fn null_and_many_periods_are_kept(store: &Store) {
    const PERIODS: [&str; 24] = [
        "2024-01-01T00:00:00Z",
        "2024-02-01T00:00:00Z",
        "2024-03-01T00:00:00Z",
        "2024-04-01T00:00:00Z",
        "2024-05-01T00:00:00Z",
        "2024-06-01T00:00:00Z",
        "2024-07-01T00:00:00Z",
        "2024-08-01T00:00:00Z",
        "2024-09-01T00:00:00Z",
        "2024-10-01T00:00:00Z",
        "2024-11-01T00:00:00Z",
        "2024-12-01T00:00:00Z",
        "2025-01-01T00:00:00Z",
        "2025-02-01T00:00:00Z",
        "2025-03-01T00:00:00Z",
        "2025-04-01T00:00:00Z",
        "2025-05-01T00:00:00Z",
        "2025-06-01T00:00:00Z",
        "2025-07-01T00:00:00Z",
        "2025-08-01T00:00:00.000001Z",
        "1969-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T00:00:00Z",
        "2025-12-01T00:00:00Z",
    ];
    let mut rows: Vec<Row> = (0..4).flat_map(|_| PERIODS.map(|period| row(period, "1", "a"))).collect();
    rows.extend((0..3).map(|_| Row { period: None, ..row(SEPTEMBER, "5", "none") }));
    let key = key("aws", "a.csv");
    for number in [1, 2] {
        assert_eq!(replace(store, &key, number, &rows).await.rows, 99);
        let groups = ask(store, "SELECT billingperiodstart, count(*), sum(billedcost) FROM costs GROUP BY 1").await;
        let mut found: BTreeMap<Option<i64>, (String, String)> = BTreeMap::new();
        for group in groups {
            let period = (group[0] != "null").then(|| micros(&group[0]));
            assert_eq!(found.insert(period, (group[1].clone(), plain(&group[2]))), None, "a period is one group");
        }
        let expected = PERIODS.map(|period| (Some(micros(period)), ("4".to_owned(), "4".to_owned())));
        let expected: BTreeMap<_, _> =
            expected.into_iter().chain([(None, ("3".to_owned(), "15".to_owned()))]).collect();
        assert_eq!(found, expected);
    }
    let one =
        ask(store, "SELECT count(*) FROM costs WHERE billingperiodstart = TIMESTAMP '2024-02-01T00:00:00Z'").await;
    assert_eq!(one, [["4"]]);
    let none = ask(store, "SELECT count(*) FROM costs WHERE billingperiodstart IS NULL").await;
    assert_eq!(none, [["3"]]);
}

pub(crate) async fn a_report_without_periods_is_kept(store: &Store) {
    let batch = charges(&[row(SEPTEMBER, "1", "a")]).project(&[1, 2]).expect("two columns");
    store
        .write
        .replace_scope(delivery(&key("x", "y"), 1, batch.schema(), stream(vec![batch])))
        .await
        .expect("a stored snapshot");
    replace(store, &key("x", "z"), 1, &[row(SEPTEMBER, "2", "b")]).await;
    let rows = ask(store, "SELECT servicename, billingperiodstart IS NULL FROM costs ORDER BY servicename").await;
    assert_eq!(rows, [["a", "true"], ["b", "false"]]);
}

pub(crate) async fn identical_rows_are_two_charges(store: &Store) {
    let twin = row(SEPTEMBER, "1.25", "twin");
    let batch = charges(&[twin.clone(), twin.clone(), twin]);
    let key = key("aws", "a.csv");
    let batches = stream(vec![batch.clone(), batch.clone()]);
    assert_eq!(
        store.write.replace_scope(delivery(&key, 1, batch.schema(), batches)).await.expect("a stored snapshot").rows,
        6
    );
    let sum = ask(store, "SELECT count(*), sum(billedcost) FROM costs").await;
    assert_eq!((sum[0][0].as_str(), plain(&sum[0][1]).as_str()), ("6", "7.5"));
}

pub(crate) async fn amounts_and_sums_are_exact(store: &Store) {
    let amounts = [
        "12345678901234567890.123456789012345678",
        "-12345678901234567889.123456789012345679",
        "0.000000000000000001",
        "-0.000000000000000003",
        "0.1",
        "0.2",
        "99999999999999999999.999999999999999999",
        "-99999999999999999999.999999999999999999",
        "-7.000000000000000007",
        "0",
    ];
    let rows: Vec<Row> = amounts.iter().map(|amount| row(SEPTEMBER, amount, amount)).collect();
    replace(store, &key("a", "b"), 1, &rows).await;
    for row in ask(store, "SELECT servicename, billedcost FROM costs").await {
        assert_eq!(row[0], plain(&row[1]));
    }
    let units: i128 = amounts.iter().map(|amount| amount.parse::<Amount>().expect("an amount").units()).sum();
    let exact = Amount::from_units(units).expect("an amount").to_string();
    let sums = ask(store, "SELECT sum(billedcost), min(billedcost), max(billedcost) FROM costs").await;
    assert_eq!(sums[0].iter().map(|sum| plain(sum)).collect::<Vec<_>>(), [exact.as_str(), amounts[7], amounts[6]]);
    let grouped = ask(store, "SELECT x_source, sum(billedcost) FROM costs GROUP BY x_source").await;
    assert_eq!(plain(&grouped[0][1]), exact);
    let compared =
        ask(store, "SELECT count(*) FROM costs WHERE billedcost = 12345678901234567890.123456789012345678").await;
    assert_eq!(compared, [["1"]]);
}

pub(crate) async fn times_and_tags_come_back(store: &Store) {
    let tagged = Row {
        tags: &[("org", "test"), ("app.kubernetes.io/name", "x"), ("", "é\n\"")],
        ..row("2026-09-01T12:34:56.789012Z", "1", "a")
    };
    replace(store, &key("a", "b"), 1, &[tagged, row(SEPTEMBER, "2", "b")]).await;
    let row = ask(store, "SELECT servicename, tags['app.kubernetes.io/name'], tags[''], tags['none'] FROM costs WHERE tags['org'] = 'test'").await;
    assert_eq!(row, [["a", "x", "é\n\"", "null"]]);
    let later = ask(store, "SELECT max(billingperiodstart), min(billingperiodstart) FROM costs").await;
    assert_eq!(
        (micros(&later[0][0]), micros(&later[0][1])),
        (micros("2026-09-01T12:34:56.789012Z"), micros(SEPTEMBER))
    );
}

pub(crate) async fn the_past_can_be_asked_for(store: &Store) {
    let (a, b) = (key("aws", "a.csv"), key("aws", "b.csv"));
    let before = Utc::now();
    next_moment().await;
    let mut times = Vec::new();
    for number in 1..=3 {
        replace(store, &a, number, &[row(SEPTEMBER, &number.to_string(), "a")]).await;
        times.push(next_moment().await);
        next_moment().await;
    }
    replace(store, &b, 1, &[row(SEPTEMBER, "10", "b")]).await;
    for (time, billed) in times.iter().zip(["1", "2", "3"]) {
        let sum = ask_as_of(store, "SELECT sum(billedcost) FROM costs", Some(*time)).await.expect("a past");
        assert_eq!(plain(&sum[0][0]), billed);
    }
    assert_eq!(plain(&ask(store, "SELECT sum(billedcost) FROM costs").await[0][0]), "13");
    let now = next_moment().await;
    assert_eq!(
        plain(&ask_as_of(store, "SELECT sum(billedcost) FROM costs", Some(now)).await.expect("the present")[0][0]),
        "13"
    );
    let error = ask_as_of(store, "SELECT sum(billedcost) FROM costs", Some(before)).await.expect_err("no such past");
    assert!(matches!(error, StoreError::NoHistory { .. }), "{error:?}");
}

pub(crate) fn samples(samples: &[(&str, &str, &str)]) -> RecordBatch {
    let schema = Schema::new(vec![
        ColumnKind::Text.field("series"),
        ColumnKind::Timestamp.field("time"),
        ColumnKind::Text.field("value"),
        ColumnKind::Text.field("x_source"),
    ]);
    let times: TimestampMicrosecondArray = samples.iter().map(|sample| Some(micros(sample.1))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(samples.iter().map(|sample| Some(sample.0)).collect::<StringArray>()),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(samples.iter().map(|sample| Some(sample.2)).collect::<StringArray>()),
        Arc::new(samples.iter().map(|_| Some("node")).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("a batch")
}

pub(crate) fn upsert_of(schema: SchemaRef, batches: Batches) -> Upsert {
    Upsert { table: TableName::metrics(), key: ["series", "time"].map(ColumnName::of).to_vec(), schema, batches }
}

async fn upsert(store: &Store, batches: Vec<RecordBatch>) -> Upserted {
    let schema = batches.first().expect("a batch").schema();
    store.write.upsert(upsert_of(schema, stream(batches))).await.expect("stored rows")
}

async fn stored_samples(store: &Store) -> Vec<String> {
    let rows = ask(store, "SELECT series, time, value FROM metrics ORDER BY series, time").await;
    rows.into_iter().map(|row| format!("{} {} {}", row[0], &row[1][11..16], row[2])).collect()
}

pub(crate) async fn rows_by_key_are_stored_once_and_the_last_wins(store: &Store) {
    let (t1, t2, t3) = ("2026-11-22T10:00:00Z", "2026-11-22T10:01:00Z", "2026-11-22T10:02:00Z");
    let first = [samples(&[("a", t1, "1"), ("b", t1, "2"), ("a", t1, "3")]), samples(&[("a", t2, "4")])];
    for _ in 0..2 {
        assert_eq!(upsert(store, first.to_vec()).await, Upserted { received: 4, stored: 3 });
        assert_eq!(stored_samples(store).await, ["a 10:00 3", "a 10:01 4", "b 10:00 2"]);
    }
    upsert(store, vec![samples(&[("a", t2, "5"), ("b", t2, "6")]), samples(&[("c", t3, "7")])]).await;
    assert_eq!(stored_samples(store).await, ["a 10:00 3", "a 10:01 5", "b 10:00 2", "b 10:01 6", "c 10:02 7"]);
}

pub(crate) async fn half_an_upsert_leaves_nothing_and_then_all_of_it_is_one(store: &Store) {
    let time = "2026-11-22T10:00:00Z";
    upsert(store, vec![samples(&[("a", time, "0"), ("z", time, "9")])]).await;
    let many: Vec<_> = (0..500).map(|number| format!("series {number}")).collect();
    let many = samples(&many.iter().map(|series| (series.as_str(), time, "1")).collect::<Vec<_>>());
    let batches = [samples(&[("a", time, "1")]), many, samples(&[("b", time, "2")])];
    let cut = batches[..2].iter().cloned().map(Ok).chain([Err("the line went dead".into())]).collect::<Vec<_>>();
    let cut = futures::stream::iter(cut).boxed();
    let error = store.write.upsert(upsert_of(batches[0].schema(), cut)).await.expect_err("a cut delivery");
    assert!(matches!(error, StoreError::Cut { .. }), "{error:?}");
    assert_eq!(stored_samples(store).await, ["a 10:00 0", "z 10:00 9"]);
    assert_eq!(upsert(store, batches.to_vec()).await, Upserted { received: 502, stored: 502 });
    let few = "SELECT series, value FROM metrics WHERE series NOT LIKE 'series %' ORDER BY series";
    assert_eq!(ask(store, few).await, [["a", "1"], ["b", "2"], ["z", "9"]]);
}

/// Longer than a store remembers keys of, with keys that come again near and far.
pub(crate) async fn a_long_upsert_is_one_and_the_last_of_a_key_wins(store: &Store) {
    let times = ["2026-11-22T10:00:00Z", "2026-11-22T10:01:00Z"];
    let names: Vec<_> = (0..300).map(|number| format!("{number:03}")).collect();
    let batch = |numbers: std::ops::Range<usize>, value| {
        let rows = numbers.map(|number| (names[number].as_str(), times[number % 2], value));
        samples(&rows.collect::<Vec<_>>())
    };
    for _ in 0..2 {
        let batches =
            vec![batch(0..300, "1"), batch(20..50, "2"), batch(280..300, "3"), batch(25..26, "4"), batch(25..26, "5")];
        assert_eq!(upsert(store, batches).await, Upserted { received: 352, stored: 300 });
        let counts =
            ask(store, "SELECT value, count(*), count(DISTINCT series) FROM metrics GROUP BY value ORDER BY value")
                .await;
        assert_eq!(counts, [["1", "250", "250"], ["2", "29", "29"], ["3", "20", "20"], ["5", "1", "1"]]);
    }
    // Every second one is replaced, whatever file it stands in.
    let rows: Vec<_> =
        names.iter().enumerate().step_by(2).map(|(at, name)| (name.as_str(), times[at % 2], "6")).collect();
    assert_eq!(upsert(store, vec![samples(&rows)]).await, Upserted { received: 150, stored: 150 });
    let counts =
        ask(store, "SELECT value = '6', count(*), count(DISTINCT series) FROM metrics GROUP BY 1 ORDER BY 1").await;
    assert_eq!(counts, [["false", "150", "150"], ["true", "150", "150"]]);
}

pub(crate) async fn a_column_that_comes_later_is_null_before(store: &Store) {
    let time = "2026-11-22T10:00:00Z";
    let wider = |series: &str, unit: &str| {
        let batch = samples(&[(series, time, "1")]);
        let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
        fields.insert(0, Arc::new(ColumnKind::Text.field("unit")));
        let mut columns = batch.columns().to_vec();
        columns.insert(0, Arc::new(StringArray::from(vec![unit])));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
    };
    let first = samples(&[("a", time, "1")]);
    let batches = stream(vec![first.clone(), wider("b", "GB"), samples(&[("c", time, "1")])]);
    store.write.upsert(upsert_of(first.schema(), batches)).await.expect("stored rows");
    let units = ask(store, "SELECT series, unit FROM metrics ORDER BY series").await;
    assert_eq!(units, [["a", "null"], ["b", "GB"], ["c", "null"]]);
    upsert(store, vec![wider("a", "h")]).await;
    let units = ask(store, "SELECT series, unit FROM metrics ORDER BY series").await;
    assert_eq!(units, [["a", "h"], ["b", "GB"], ["c", "null"]]);
}

/// Charges that belong to no snapshot stand beside those that do, and neither touches the other.
pub(crate) async fn charges_by_key_stand_beside_snapshots(store: &Store) {
    let keyed = |rows: &[(&str, &str)]| {
        let charges = charges(&rows.iter().map(|(service, cost)| row(SEPTEMBER, cost, service)).collect::<Vec<_>>());
        let mut fields: Vec<_> = charges.schema().fields().iter().cloned().collect();
        let mut columns = charges.columns().to_vec();
        for (name, value) in [("x_source", Some("upload")), ("x_scope", None), ("x_snapshot", None)] {
            fields.push(Arc::new(ColumnKind::Text.field(name)));
            columns.push(Arc::new(StringArray::from(vec![value; rows.len()])));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
    };
    let upsert = |rows: &[(&str, &str)]| {
        let batch = keyed(rows);
        let key = ["x_source", "billingperiodstart", "servicename"].map(ColumnName::of).to_vec();
        store.write.upsert(Upsert {
            table: TableName::costs(),
            key,
            schema: batch.schema(),
            batches: stream(vec![batch]),
        })
    };
    upsert(&[("a", "1"), ("b", "2")]).await.expect("stored rows");
    replace(store, &key("aws", "a.csv"), 1, &[row(SEPTEMBER, "10", "a")]).await;
    upsert(&[("a", "3"), ("c", "4")]).await.expect("stored rows");
    replace(store, &key("aws", "a.csv"), 2, &[row(SEPTEMBER, "20", "a")]).await;
    let rows = ask(store, "SELECT x_source, servicename, CAST(billedcost AS INT) FROM costs ORDER BY 1, 2").await;
    assert_eq!(rows, [["aws", "a", "20"], ["upload", "a", "3"], ["upload", "b", "2"], ["upload", "c", "4"]]);
    // Rows that say nothing of scopes are no charges.
    let batch = samples(&[("a", "2026-11-22T10:00:00Z", "1")]);
    let strange = Upsert { table: TableName::costs(), ..upsert_of(batch.schema(), stream(vec![batch])) };
    let error = store.write.upsert(strange).await.expect_err("no charges");
    assert!(matches!(error, StoreError::Column { .. }), "{error:?}");
}

pub(crate) async fn concurrent_scopes_are_all_stored(store: &Store) {
    let all = (0..12).map(|scope| {
        let store = store.clone();
        async move {
            replace(
                &store,
                &key("aws", &format!("{scope}.csv")),
                1,
                &[row(SEPTEMBER, "1", "a"), row(OCTOBER, "1", "b")],
            )
            .await
        }
    });
    for committed in futures::future::join_all(all).await {
        assert_eq!(committed, Committed { rows: 2, already: false, current: snapshot(1) });
    }
    let counts = ask(store, "SELECT count(*), count(DISTINCT x_scope) FROM costs").await;
    assert_eq!(counts, [["24", "12"]]);
}

pub(crate) async fn concurrent_snapshots_of_one_scope_leave_the_latest(store: &Store) {
    let key = key("aws", "a.csv");
    let all = [3, 1, 5, 2, 4, 5, 5].map(|number| {
        let (store, key) = (store.clone(), key.clone());
        async move { replace(&store, &key, number, &[row(SEPTEMBER, &number.to_string(), "a")]).await }
    });
    let written = futures::future::join_all(all)
        .await
        .into_iter()
        .filter(|committed| !committed.already && committed.current == snapshot(5))
        .count();
    assert_eq!(written, 1);
    assert_eq!(contents(store).await, ["a=5"]);
}

pub(crate) async fn a_store_holds_few_batches_of_a_long_delivery(store: &Store) {
    const BATCHES: usize = 100;
    const ROWS: usize = 1000;
    let schema = charges(&[]).schema();
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let mut alive: Vec<std::sync::Weak<dyn Array>> = Vec::new();
    let batches = futures::stream::iter(0..BATCHES).map(move |number| {
        alive.retain(|column| column.strong_count() > 0);
        seen.fetch_max(alive.len(), Ordering::Relaxed);
        let period = if number % 2 == 0 { SEPTEMBER } else { OCTOBER };
        let batch = charges(&vec![row(period, "0.000000000000000001", &format!("service {number}")); ROWS]);
        alive.push(Arc::downgrade(batch.column(2)));
        Ok(batch)
    });
    let stored = store
        .write
        .replace_scope(delivery(&key("a", "b"), 1, schema, batches.boxed()))
        .await
        .expect("a stored snapshot");
    assert_eq!(stored.rows, 100_000);
    assert!(most.load(Ordering::Relaxed) <= 4, "{} batches at once", most.load(Ordering::Relaxed));
    let counts = ask(store, "SELECT count(*), count(DISTINCT servicename), sum(billedcost) FROM costs").await;
    assert_eq!(
        (&counts[0][..2], plain(&counts[0][2]).as_str()),
        (&["100000".to_owned(), "100".to_owned()][..], "0.0000000000001")
    );
}

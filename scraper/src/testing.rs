//! What the tests of several modules share: charges, the bodies an exporter makes of them, an
//! exporter to serve these with every fault it may have, and a store that can be held up.

use std::collections::VecDeque;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, AsArray as _, Decimal128Array, DictionaryArray, Int64Array, MapBuilder, MapFieldNames, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use chrono::DateTime;
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{Format, Kind, negotiate};
use costream_common::money::{Amount, PRECISION, SCALE};
use costream_common::record::{
    ColumnKind, POINT_COLUMNS, RowKind, SNAPSHOTS_METADATA, ScopeKey, ScopeName, Snapshot, SnapshotId, SourceName,
    Texts, Totals, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE, row_field,
};
use costream_common::stream::ipc::{self, Writer};
use costream_handler::ident::TableName;
use costream_handler::store::{Committed, Delivery, StoreError, StoreWrite, Upsert, Upserted};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

/// A charge: billed cost, currency, note, tags.
pub(crate) type Charge =
    (&'static str, &'static str, Option<&'static str>, Option<Vec<(&'static str, Option<&'static str>)>>);

pub(crate) const NASTY: &str = "\"quoted\" \\ back\\nslash\nline \u{e4}\u{1f4b6}, {a=\"b\"} 1";

pub(crate) fn charges() -> Vec<Charge> {
    vec![
        ("1.000000000000000001", "USD", Some(NASTY), Some(vec![("org", Some("a \"b\"")), ("none", None)])),
        ("-0.5", "EUR", None, None),
        ("-0.5", "EUR", None, None),
        ("12345678901234567890.123456789012345678", "USD", Some("x"), Some(vec![])),
    ]
}

/// The charges as a batch of the spool: the report's columns, then `x_row`. One column is null throughout.
pub(crate) fn batch(charges: &[Charge], first_row: i64) -> RecordBatch {
    let units = |text: &str| Amount::parse(text.as_bytes()).expect("an amount").units();
    let decimals = |values: Vec<Option<i128>>| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(PRECISION, SCALE).expect("our own precision"))
    };
    let period = DateTime::parse_from_rfc3339("2024-09-01T00:00:00Z").expect("a time").timestamp_micros();
    let periods = TimestampMicrosecondArray::from(vec![period; charges.len()]).with_timezone("UTC");
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut tags = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for charge in charges {
        for (key, value) in charge.3.iter().flatten() {
            tags.keys().append_value(key);
            tags.values().append_option(*value);
        }
        tags.append(charge.3.is_some()).expect("as many values as keys");
    }
    let rows: Int64Array = (first_row..).take(charges.len()).map(Some).collect();
    let columns: Vec<(&str, ColumnKind, ArrayRef)> = vec![
        ("BillingPeriodStart", ColumnKind::Timestamp, Arc::new(periods)),
        ("BilledCost", ColumnKind::Decimal, decimals(charges.iter().map(|charge| Some(units(charge.0))).collect())),
        ("EffectiveCost", ColumnKind::Decimal, decimals(vec![None; charges.len()])),
        (
            "BillingCurrency",
            ColumnKind::Text,
            Arc::new(charges.iter().map(|charge| Some(charge.1)).collect::<StringArray>()),
        ),
        ("Tags", ColumnKind::Tags, Arc::new(tags.finish())),
        ("x_Cost Note", ColumnKind::Text, Arc::new(charges.iter().map(|charge| charge.2).collect::<StringArray>())),
    ];
    let fields = columns.iter().map(|(name, kind, _)| kind.field(name)).chain([row_field()]).collect::<Vec<Field>>();
    let arrays = columns.into_iter().map(|(.., array)| array).chain([Arc::new(rows) as ArrayRef]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("a batch")
}

/// Quarantined rows, as the spool has them.
pub(crate) fn rejects(rows: i64) -> RecordBatch {
    let text = |name: &str, nullable| Field::new(name, arrow::datatypes::DataType::Utf8, nullable);
    let number = |name: &str| Field::new(name, arrow::datatypes::DataType::Int64, false);
    let fields = vec![
        text("source", false),
        text("file", false),
        number("row"),
        text("column", true),
        text("reason", false),
        text("text", false),
        row_field(),
    ];
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..rows).map(|_| text))) };
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=rows));
    let columns = vec![
        texts("reports/*.csv"),
        texts("a.csv"),
        numbers.clone(),
        texts("BilledCost"),
        texts("not_a_number"),
        texts(NASTY),
        numbers,
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
}

pub(crate) fn key(scope: &str) -> ScopeKey {
    ScopeKey {
        source: SourceName::new("reports/*.csv").expect("a name"),
        scope: ScopeName::new(scope).expect("a name"),
    }
}

pub(crate) fn snapshot(scope: &str, number: i64, batches: &[RecordBatch], rejected: u64) -> Snapshot {
    let mut totals = Totals::default();
    for batch in batches {
        totals.add_batch(batch).expect("totals");
    }
    let taken_at = DateTime::from_timestamp_millis(1_790_000_000_000 + number).expect("a time");
    Snapshot {
        key: key(scope),
        snapshot: SnapshotId::next(taken_at, None),
        taken_at,
        rejected,
        totals,
        kind: RowKind::Charges,
    }
}

/// Points of usage as a batch of the spool.
pub(crate) fn points(resource: &str, averages: &[&str]) -> RecordBatch {
    let units = averages.iter().map(|text| Amount::parse(text.as_bytes()).expect("an amount").units());
    let decimals = Decimal128Array::from_iter_values(units);
    let times = TimestampMicrosecondArray::from_iter_values((0..).map(|n| n * 900_000_000).take(averages.len()));
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(averages.iter().map(|_| text))) };
    let arrays: Vec<ArrayRef> = vec![
        texts(resource),
        texts("Percentage CPU"),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(decimals.with_precision_and_scale(PRECISION, SCALE).expect("our own precision")),
        texts("Percent"),
        Arc::new(Int64Array::from_iter_values((1..).take(averages.len()))),
    ];
    let fields = POINT_COLUMNS.iter().map(|(name, kind)| kind.field(name)).chain([row_field()]).collect::<Vec<Field>>();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("a batch")
}

/// The batches as `/records` and `/rejects` have them in Arrow.
pub(crate) fn arrow_body(snapshot: &Snapshot, batches: &[RecordBatch]) -> Vec<u8> {
    let constants = [
        (X_SOURCE, snapshot.key.source.to_string()),
        (X_SCOPE, snapshot.key.scope.to_string()),
        (X_SNAPSHOT, snapshot.snapshot.to_string()),
    ];
    let widened = |batch: &RecordBatch| {
        let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut arrays = batch.columns().to_vec();
        for (at, (name, value)) in (batch.num_columns() - 1..).zip(&constants) {
            let column: DictionaryArray<Int32Type> = std::iter::repeat_n(value.as_str(), batch.num_rows()).collect();
            fields.insert(at, Field::new(*name, arrow::array::Array::data_type(&column).clone(), false));
            arrays.insert(at, Arc::new(column));
        }
        let metadata = [(SNAPSHOTS_METADATA.to_owned(), serde_json::to_string(&[snapshot]).expect("json"))].into();
        RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, metadata)), arrays).expect("a batch")
    };
    let batches: Vec<RecordBatch> = batches.iter().map(widened).collect();
    let mut writer = Writer::new(&batches[0].schema(), None).expect("a writer");
    let mut body = writer.take().to_vec();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        body.extend_from_slice(&writer.write(batch).expect("a chunk"));
    }
    body.extend_from_slice(&writer.finish().expect("the end"));
    body
}

/// The batches as `/records` has them in text.
pub(crate) fn text_body(format: Format, snapshot: &Snapshot, batches: &[RecordBatch]) -> String {
    let mut writer = TextWriter::new(format);
    let (source, scope, id) =
        (snapshot.key.source.to_string(), snapshot.key.scope.to_string(), snapshot.snapshot.to_string());
    let constants = [(X_SOURCE, source.as_str()), (X_SCOPE, scope.as_str()), (X_SNAPSHOT, id.as_str())];
    writer.family("costream_records_columns", Kind::Gauge, "Columns.");
    for field in batches[0].schema().fields().iter().filter(|field| field.name() != X_ROW) {
        writer.sample(
            "costream_records_columns",
            constants.into_iter().chain([("column", field.name().as_str())]),
            "1",
            None,
        );
    }
    let (name, value_column) = match &snapshot.kind {
        RowKind::Charges => ("billed_cost", "BilledCost"),
        RowKind::Points { .. } => ("usage_average", "average"),
        RowKind::Generic { value, .. } => ("generic_value", value.as_str()),
    };
    writer.family(name, Kind::Gauge, "Rows.");
    for batch in batches {
        for row in 0..batch.num_rows() {
            let schema = batch.schema();
            let cells: Vec<(String, String)> = schema
                .fields()
                .iter()
                .zip(batch.columns())
                .filter_map(|(field, array)| Some((field.name().clone(), cell(array, row)?)))
                .collect();
            let value = cells.iter().find(|(name, _)| name == value_column).map(|(_, value)| value.clone());
            let labels = cells.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(constants);
            writer.sample(name, labels, &value.expect("a value"), None);
        }
    }
    for (name, value) in [
        (
            "costream_records_rows",
            (|totals| totals.rows.to_string()) as fn(&costream_common::record::GroupTotals) -> String,
        ),
        ("costream_records_billed_cost", |totals| totals.billed.to_string()),
        ("costream_records_effective_cost", |totals| totals.effective.to_string()),
        ("costream_records_list_cost", |totals| totals.list.to_string()),
        ("costream_records_contracted_cost", |totals| totals.contracted.to_string()),
    ] {
        writer.family(name, Kind::Gauge, "Control total.");
        for (group, totals) in snapshot.totals.groups() {
            let period = group.billing_period.map(|period| period.to_rfc3339());
            let labels = period.as_deref().map(|period| ("billing_period", period)).into_iter();
            let labels = labels.chain(group.currency.as_deref().map(|currency| ("billing_currency", currency)));
            writer.sample(name, constants.into_iter().chain(labels), &value(totals), None);
        }
    }
    writer.family("costream_records_snapshots", Kind::Gauge, "Snapshots.");
    writer.sample("costream_records_snapshots", [("", ""); 0], "1", None);
    writer.finish();
    String::from_utf8(writer.take().to_vec()).expect("text")
}

fn cell(array: &ArrayRef, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match ColumnKind::of(array.data_type()) {
        Some(ColumnKind::Text) => Texts::of(array).and_then(|texts| texts.get(row)).expect("a text").to_owned(),
        Some(ColumnKind::Decimal) => {
            Amount::from_units(array.as_primitive::<Decimal128Type>().value(row)).expect("an amount").to_string()
        }
        Some(ColumnKind::Timestamp) => {
            DateTime::from_timestamp_micros(array.as_primitive::<TimestampMicrosecondType>().value(row))
                .expect("a time")
                .to_rfc3339()
        }
        Some(ColumnKind::Tags) => {
            let entries = array.as_map().value(row);
            let (keys, values) =
                (entries.column(0).as_string::<i32>().clone(), entries.column(1).as_string::<i32>().clone());
            let json = |text: Option<&str>| serde_json::to_string(&text).expect("json");
            let entries: Vec<String> =
                keys.iter().zip(values.iter()).map(|(key, value)| format!("{}:{}", json(key), json(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        None => array.as_primitive::<Int64Type>().value(row).to_string(),
    })
}

/// What is wrong with an answer to `/records`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The connection breaks off after this part of the body.
    Reset(f32),
    /// The body ends, in good order, after this part of it.
    Cut(f32),
    /// The end mark is missing: the body ends with its last row, or the totals.
    NoEnd,
    /// A row is missing.
    RowMissing,
    /// Another snapshot is served.
    Older,
    /// 503, with a wait of nought.
    Busy,
    /// 406 to whoever wants Arrow.
    TextOnly,
    /// Nothing is wrong, but it comes a few bytes at a time.
    Drip,
}

/// What the exporter has of a scope.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) snapshot: Snapshot,
    pub(crate) records: Vec<RecordBatch>,
    pub(crate) rejects: Vec<RecordBatch>,
}

/// An exporter, as far as a scraper sees it.
#[derive(Default)]
pub(crate) struct FakeExporter {
    pub(crate) held: Mutex<Vec<Held>>,
    /// Faults of the next answers to `/records`, one each.
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    /// Paths asked for, with the scope.
    pub(crate) asked: Mutex<Vec<String>>,
}

pub(crate) async fn serve(router: Router) -> Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().expect("a url")
}

impl FakeExporter {
    pub(crate) fn hold(&self, held: Held) {
        let mut all = self.held.lock().expect("no panic");
        all.retain(|other| other.snapshot.key != held.snapshot.key);
        all.push(held);
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.faults.lock().expect("no panic").push_back(fault);
    }

    /// What was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }

    pub(crate) async fn serve(self: &Arc<Self>) -> Url {
        let router = Router::new()
            .route("/snapshots", get(snapshots))
            .route("/records", get(records))
            .route("/rejects", get(serve_rejects))
            .with_state(self.clone());
        serve(router).await
    }
}

async fn snapshots(State(exporter): State<Arc<FakeExporter>>, headers: HeaderMap) -> Response {
    exporter.asked.lock().expect("no panic").push("/snapshots".to_owned());
    let snapshots: Vec<Snapshot> =
        exporter.held.lock().expect("no panic").iter().map(|held| held.snapshot.clone()).collect();
    let ids: Vec<String> = snapshots.iter().map(|snapshot| snapshot.snapshot.to_string()).collect();
    let etag = format!("\"{}\"", ids.join("-"));
    if headers.get("if-none-match").is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    ([("etag", etag)], axum::Json(serde_json::json!({ "snapshots": snapshots }))).into_response()
}

fn held(exporter: &FakeExporter, path: &str, query: &HashMap<String, String>) -> Option<Held> {
    let held = exporter.held.lock().expect("no panic");
    exporter.asked.lock().expect("no panic").push(format!("{path} {}", query["scope"]));
    let of = |held: &&Held| {
        held.snapshot.key.scope.as_str() == query["scope"] && held.snapshot.key.source.as_str() == query["source"]
    };
    held.iter().find(of).cloned()
}

async fn serve_rejects(
    State(exporter): State<Arc<FakeExporter>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some(held) = held(&exporter, "/rejects", &query) else { return StatusCode::NOT_FOUND.into_response() };
    ([("content-type", ipc::CONTENT_TYPE)], arrow_body(&held.snapshot, &held.rejects)).into_response()
}

async fn records(
    State(exporter): State<Arc<FakeExporter>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some(mut held) = held(&exporter, "/records", &query) else { return StatusCode::NOT_FOUND.into_response() };
    let fault = exporter.faults.lock().expect("no panic").pop_front();
    let accept = headers["accept"].to_str().expect("text");
    let arrow = accept.contains("arrow");
    match fault {
        Some(Fault::Busy) => return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response(),
        Some(Fault::TextOnly) if arrow => return StatusCode::NOT_ACCEPTABLE.into_response(),
        Some(Fault::RowMissing) => {
            let last = held.records.last_mut().expect("a batch");
            *last = last.slice(0, last.num_rows() - 1);
        }
        Some(Fault::Older) => {
            held.snapshot.snapshot = SnapshotId::from_version(held.snapshot.snapshot.version() - 1).expect("an id");
        }
        _ => {}
    }
    let (content_type, mut body) = if arrow {
        (ipc::CONTENT_TYPE, arrow_body(&held.snapshot, &held.records))
    } else {
        let format = negotiate(accept).expect("a text format");
        (format.content_type(), text_body(format, &held.snapshot, &held.records).into_bytes())
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a small body"
    )]
    let at = |part: f32| (body.len() as f32 * part) as usize;
    let end = match fault {
        Some(Fault::Reset(part) | Fault::Cut(part)) => at(part),
        Some(Fault::NoEnd) if arrow => body.len() - 8,
        Some(Fault::NoEnd) => {
            body.windows(27).position(|window| window == b"# HELP costream_records_sna").expect("the end mark")
        }
        _ => body.len(),
    };
    body.truncate(end);
    let chunk = if fault == Some(Fault::Drip) { 13 } else { 512 };
    let broken = matches!(fault, Some(Fault::Reset(_))).then(|| Err(std::io::Error::other("reset")));
    let chunks: Vec<_> = body.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).chain(broken).collect();
    // Each chunk goes out before the next is there, and what came before a fault with it.
    let chunks = futures::stream::iter(chunks).then(|chunk| async {
        tokio::task::yield_now().await;
        chunk
    });
    ([("content-type", content_type)], Body::from_stream(chunks)).into_response()
}

/// What a store has of a scope.
pub(crate) type Stored = (SnapshotId, Vec<RecordBatch>);

/// A store in memory.
pub(crate) struct FakeStore {
    pub(crate) committed: Mutex<BTreeMap<(String, ScopeKey), Stored>>,
    pub(crate) upserted: Mutex<Vec<RecordBatch>>,
    /// Batches it may take; it waits for more.
    pub(crate) permits: Semaphore,
    pub(crate) taken: AtomicUsize,
    /// Deliveries it refuses first.
    pub(crate) refuses: AtomicUsize,
}

impl FakeStore {
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            committed: Mutex::default(),
            upserted: Mutex::default(),
            permits: Semaphore::new(permits),
            taken: AtomicUsize::new(0),
            refuses: AtomicUsize::new(0),
        })
    }

    pub(crate) fn of(&self, table: &str, scope: &str) -> Option<Stored> {
        self.committed.lock().expect("no panic").get(&(table.to_owned(), key(scope))).cloned()
    }

    async fn take(
        &self,
        table: &TableName,
        mut batches: costream_handler::store::Batches,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let refuse = self.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if refuse {
            return Err(StoreError::Place { attempt: "write", place: "memory".to_owned(), source: "full".into() });
        }
        let mut taken = Vec::new();
        while let Some(batch) = batches.next().await {
            taken.push(batch.map_err(|source| StoreError::Cut { table: table.clone(), source })?);
            self.taken.fetch_add(1, Ordering::SeqCst);
            self.permits.acquire().await.expect("never closed").forget();
        }
        Ok(taken)
    }
}

impl StoreWrite for FakeStore {
    fn replace_scope(&self, delivery: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            let taken = self.take(&delivery.table, delivery.batches).await?;
            let rows = taken.iter().map(|batch| batch.num_rows() as u64).sum();
            let place = (delivery.table.to_string(), delivery.key);
            self.committed.lock().expect("no panic").insert(place, (delivery.snapshot, taken));
            Ok(Committed { rows, already: false, current: delivery.snapshot })
        }
        .boxed()
    }

    fn upsert(&self, upsert: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>> {
        async move {
            let taken = self.take(&upsert.table, upsert.batches).await?;
            let rows = taken.iter().map(|batch| batch.num_rows() as u64).sum();
            self.upserted.lock().expect("no panic").extend(taken);
            Ok(Upserted { received: rows, stored: rows })
        }
        .boxed()
    }

    fn committed<'a>(
        &'a self,
        table: &'a TableName,
        key: &'a ScopeKey,
    ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>> {
        let committed = self.committed.lock().expect("no panic");
        let snapshot = committed.get(&(table.to_string(), key.clone())).map(|(snapshot, _)| *snapshot);
        std::future::ready(Ok(snapshot)).boxed()
    }

    fn maintain(&self, _: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }
}

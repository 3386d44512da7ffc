//! The scraper end to end: an exporter with faults on one side, a store on the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Decimal128Type, Schema};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use bytes::Bytes;
use costream_common::config::Span;
use costream_common::exposition::Format;
use costream_common::exposition::decode::{Decoder, Entry, Limits};
use costream_common::record::{POINT_COLUMNS, RowKind, SNAPSHOTS_METADATA, Totals};
use costream_common::stream::ipc::{self, Writer};
use costream_handler::Handler;
use costream_handler::auth::Caller;
use costream_handler::config::HandlerConfig;
use costream_handler::ident::TableName;
use costream_handler::ingest::Ingest;
use costream_handler::store::Query;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::{HandlerAccess, Records, TargetKind};
use crate::testing::{
    Charge, FakeExporter, FakeStore, Fault, Held, arrow_body, batch, charges, key, points, rejects, serve, snapshot,
};
use crate::{CycleReport, HttpSink, Scraper, ScraperConfig, Sink, TargetConfig};

/// How long something may take that is sure to come.
const SURE: Duration = Duration::from_secs(20);

fn held(scope: &str, number: i64, charges: &[Charge]) -> Held {
    let half = charges.len() / 2;
    let records = vec![batch(&charges[..half], 1), batch(&charges[half..], 1 + i64::try_from(half).expect("few"))];
    Held { snapshot: snapshot(scope, number, &records, 1), records, rejects: vec![rejects(1)] }
}

fn target(url: &Url) -> TargetConfig {
    TargetConfig::new(url.clone())
}

fn scraper(targets: Vec<TargetConfig>, retry_for: Duration, sink: Sink) -> Scraper {
    Scraper::new(ScraperConfig { targets, retry_for: Span(retry_for), ..ScraperConfig::default() }, sink)
        .expect("a scraper")
}

fn into(store: &Arc<FakeStore>) -> Sink {
    Sink::InProcess(Ingest::new(store.clone()))
}

async fn one(scraper: &Scraper) -> CycleReport {
    let mut reports = tokio::time::timeout(SURE, scraper.cycle_once()).await.expect("a cycle ends");
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

fn totals(batches: &[RecordBatch]) -> Totals {
    let mut totals = Totals::default();
    for batch in batches {
        totals.add_batch(batch).expect("totals");
    }
    totals
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SURE, waiting).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

#[tokio::test]
async fn arrow_and_text_store_the_same() {
    let mut stored = Vec::new();
    for (records, fault) in [
        (Records::Arrow, None),
        (Records::Text, None),
        (Records::Arrow, Some(Fault::TextOnly)),
        (Records::Text, Some(Fault::Drip)),
        (Records::Arrow, Some(Fault::Drip)),
    ] {
        let exporter = Arc::new(FakeExporter::default());
        exporter.hold(held("a.csv", 1, &charges()));
        exporter.faults.lock().expect("no panic").extend(fault);
        let store = FakeStore::new(100);
        let target = TargetConfig { records, ..target(&exporter.serve().await) };
        let report = one(&scraper(vec![target], Duration::ZERO, into(&store))).await;
        assert!(report.is_complete() && report.up, "{report:?}");
        assert_eq!(
            report.deliveries.iter().map(|delivery| delivery.table.as_str()).collect::<Vec<_>>(),
            ["rejects", "costs"]
        );
        let (snapshot, batches) = store.of("costs", "a.csv").expect("stored");
        assert_eq!(snapshot, held("a.csv", 1, &charges()).snapshot.snapshot);
        assert_eq!(totals(&batches), held("a.csv", 1, &charges()).snapshot.totals);
        assert_eq!(store.of("rejects", "a.csv").expect("stored").1.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        stored.push(arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one batch"));
    }
    assert!(stored.windows(2).all(|pair| pair[0] == pair[1]), "{stored:?}");
}

fn held_points(scope: &str, number: i64, table: &str, averages: &[&str]) -> Held {
    let records = vec![points("/vm1", averages)];
    let mut snapshot = snapshot(scope, number, &records, 0);
    snapshot.kind = RowKind::Points { table: table.to_owned() };
    Held { snapshot, records, rejects: vec![rejects(0)] }
}

#[tokio::test]
async fn points_are_stored_by_key_with_their_own_columns_whole_or_not_at_all() {
    for records in [Records::Arrow, Records::Text] {
        let exporter = Arc::new(FakeExporter::default());
        exporter.hold(held_points("2026-11-25", 1, "usage", &["5.25", "0.000000000000000001"]));
        let store = FakeStore::new(100);
        let target = TargetConfig { records, ..target(&exporter.serve().await) };
        let scraper = scraper(vec![target], Duration::ZERO, into(&store));
        let upserted = || std::mem::take(&mut *store.upserted.lock().expect("no panic"));
        for fault in [Fault::Cut(0.9), Fault::RowMissing] {
            exporter.fail(fault);
            let report = one(&scraper).await;
            assert!(!report.is_complete() && upserted().is_empty(), "{fault:?} {report:?}");
        }
        let report = one(&scraper).await;
        assert!(report.is_complete(), "{report:?}");
        let last = report.deliveries.last().expect("a delivery");
        assert_eq!((last.table.as_str(), last.result.as_ref().expect("stored").stored), ("usage", 2));
        let [batch] = upserted().try_into().expect("one batch");
        let names = POINT_COLUMNS.map(|(name, _)| name.to_lowercase());
        assert!(batch.schema().fields().iter().map(|field| field.name()).eq(&names), "{:?}", batch.schema());
        assert_eq!(batch.column(3).as_primitive::<Decimal128Type>().values(), &[5_250_000_000_000_000_000, 1]);
        // What was delivered is not delivered again; what has grown is.
        one(&scraper).await;
        assert!(upserted().is_empty());
        exporter.hold(held_points("2026-11-25", 2, "usage", &["5.25", "7", "8"]));
        one(&scraper).await;
        assert_eq!(upserted().iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }
}

#[tokio::test]
async fn rows_of_any_make_take_their_scopes_place_in_a_table_of_their_own() {
    for records in [Records::Arrow, Records::Text] {
        let exporter = Arc::new(FakeExporter::default());
        let mut held = held_points("gen.csv", 1, "", &["5.25", "7"]);
        // Any columns will do: but for the number they are text.
        let places = [0, 1, 3, 5];
        held.records = held.records.iter().map(|batch| batch.project(&places).expect("columns")).collect();
        held.snapshot.kind = RowKind::Generic {
            table: "tokens".to_owned(),
            metric: "My_Metric".to_owned(),
            value: "average".to_owned(),
        };
        exporter.hold(held);
        let store = FakeStore::new(100);
        let target = TargetConfig { records, ..target(&exporter.serve().await) };
        let report = one(&scraper(vec![target], Duration::ZERO, into(&store))).await;
        assert!(report.is_complete(), "{report:?}");
        let (_, batches) = store.of("tokens", "gen.csv").expect("stored");
        let [batch] = batches.as_slice() else { panic!("{batches:?}") };
        let names: Vec<_> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["resourceid", "metricname", "average", "x_row"]);
        assert_eq!(
            batch.column(2).as_primitive::<Decimal128Type>().values(),
            &[5_250_000_000_000_000_000, 7_000_000_000_000_000_000]
        );
    }
}

#[tokio::test]
async fn a_table_that_is_none_is_told_and_stops_no_other_scope() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held_points("2026-11-25", 1, "no table", &["1"]));
    exporter.hold(held("a.csv", 1, &charges()));
    let store = FakeStore::new(100);
    let scraper = scraper(vec![target(&exporter.serve().await)], Duration::ZERO, into(&store));
    let report = one(&scraper).await;
    let error = report.error.as_ref().expect("told").to_string();
    assert!(error.contains("snapshot of 2026-11-25") && error.contains("\"no table\" is no table name"), "{error}");
    assert!(store.of("costs", "a.csv").is_some());
}

#[tokio::test]
async fn what_is_not_whole_is_not_stored_and_the_next_cycle_stores_it() {
    for records in [Records::Arrow, Records::Text] {
        for (fault, reason) in [
            (Fault::Reset(0.0), "cut"),
            (Fault::Reset(0.5), "cut"),
            (Fault::Reset(0.99), "cut"),
            (Fault::Cut(0.0), "cut"),
            (Fault::Cut(0.5), "cut"),
            (Fault::Cut(0.9), "cut"),
            (Fault::NoEnd, "cut"),
            (Fault::RowMissing, "totals"),
            (Fault::Older, "superseded"),
            (Fault::Busy, "refused"),
        ] {
            let exporter = Arc::new(FakeExporter::default());
            exporter.hold(held("a.csv", 1, &charges()));
            let store = FakeStore::new(100);
            let target = TargetConfig { records, ..target(&exporter.serve().await) };
            let scraper = scraper(vec![target], Duration::ZERO, into(&store));
            exporter.fail(fault);
            let report = one(&scraper).await;
            let reasons: Vec<_> = report.errors().map(|error| error.reason()).collect();
            let said: Vec<_> = report.errors().map(|error| costream_common::report::one_line(error)).collect();
            assert_eq!(reasons, [reason], "{fault:?}: {said:?}");
            assert_eq!((report.up, report.pending), (false, 1), "{fault:?}");
            assert!(report.lag > Duration::ZERO);
            assert_eq!(report.errors().count(), 1, "the rejects were stored");
            assert!(store.of("costs", "a.csv").is_none(), "{fault:?}");
            let report = one(&scraper).await;
            assert!(report.is_complete(), "{report:?}");
            assert_eq!(totals(&store.of("costs", "a.csv").expect("stored").1).rows(), 4);
        }
    }
}

#[tokio::test]
async fn a_cycle_tries_again_with_what_is_current_by_then() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    let store = FakeStore::new(100);
    let scraper = scraper(vec![target(&exporter.serve().await)], SURE, into(&store));
    exporter.fail(Fault::Reset(0.5));
    exporter.fail(Fault::Busy);
    store.refuses.store(1, Ordering::SeqCst);
    let report = one(&scraper).await;
    assert!(report.is_complete(), "{report:?}");
    let records = exporter.asked().into_iter().filter(|path| path.starts_with("/records")).count();
    assert_eq!(records, 3, "two faults, then the whole");
}

#[tokio::test]
async fn nothing_is_fetched_twice() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    exporter.hold(Held { rejects: Vec::new(), ..held("b.csv", 1, &charges()) });
    exporter.held.lock().expect("no panic")[1].snapshot.rejected = 0;
    let url = exporter.serve().await;
    let store = FakeStore::new(100);
    let scraper_before = scraper(vec![target(&url)], Duration::ZERO, into(&store));
    assert!(one(&scraper_before).await.is_complete());
    assert_eq!(
        exporter.asked(),
        ["/snapshots", "/rejects a.csv", "/records a.csv", "/records b.csv"],
        "there were never rejects of b.csv"
    );

    assert!(one(&scraper_before).await.is_complete());
    assert_eq!(exporter.asked(), ["/snapshots"], "an unchanged list");

    let after_restart = scraper(vec![target(&url)], Duration::ZERO, into(&store));
    assert!(one(&after_restart).await.is_complete());
    assert_eq!(exporter.asked(), ["/snapshots"], "the store has it all");

    exporter.hold(held("b.csv", 2, &charges()[..3]));
    assert!(one(&scraper_before).await.is_complete());
    assert_eq!(exporter.asked(), ["/snapshots", "/rejects b.csv", "/records b.csv"], "one scope has changed");
    assert_eq!(totals(&store.of("costs", "b.csv").expect("stored").1).rows(), 3);

    exporter.held.lock().expect("no panic").retain(|held| held.snapshot.key != key("a.csv"));
    assert!(one(&scraper_before).await.is_complete());
    assert!(store.of("costs", "a.csv").is_some(), "a scope that is gone keeps its rows");
}

#[tokio::test]
async fn a_slow_store_slows_the_source() {
    const BATCHES: usize = 96;
    let charge: Vec<Charge> = std::iter::repeat_n(
        ("1", "USD", Some("a note of some length, so that there is something to carry"), None),
        16 << 10,
    )
    .collect();
    let one_batch = batch(&charge, 1);
    let mut announced = snapshot("a.csv", 1, &[], 0);
    for _ in 0..BATCHES {
        announced.totals.add_batch(&one_batch).expect("totals");
    }
    let metadata = [(SNAPSHOTS_METADATA.to_owned(), serde_json::to_string(&[&announced]).expect("json"))].into();
    let schema = Schema::new_with_metadata(one_batch.schema().fields().clone(), metadata);
    let mut writer = Writer::new(&schema, None).expect("a writer");
    let (first, message, last) =
        (writer.take(), writer.write(&one_batch).expect("a batch"), writer.finish().expect("the end"));
    assert!(message.len() > 1 << 20, "a batch of a megabyte");

    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let body = move || {
        let counted = counted.clone();
        let chunks =
            std::iter::once(first.clone()).chain(std::iter::repeat_n(message.clone(), BATCHES)).chain([last.clone()]);
        let chunks = chunks.inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let body = Body::from_stream(futures::stream::iter(chunks.map(Ok::<Bytes, std::io::Error>)));
        async move { ([("content-type", ipc::CONTENT_TYPE)], body) }
    };
    let list = serde_json::json!({ "snapshots": [&announced] });
    let no_rejects = arrow_body(&announced, &[rejects(0)]);
    let router = Router::new()
        .route("/snapshots", get(move || async move { axum::Json(list) }))
        .route("/rejects", get(move || async move { ([("content-type", ipc::CONTENT_TYPE)], no_rejects) }))
        .route("/records", get(body));
    let store = FakeStore::new(0);
    let scraper = scraper(vec![target(&serve(router).await)], Duration::ZERO, into(&store));
    let cycle = tokio::spawn(async move { scraper.cycle_once().await });

    until("the first batch", || store.taken.load(Ordering::SeqCst) == 1).await;
    let at_the_end = || sent.load(Ordering::SeqCst) >= BATCHES;
    let ran_ahead = tokio::time::timeout(Duration::from_millis(1500), async {
        while !at_the_end() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(ran_ahead.await.is_err(), "the source was read to its end while the store held its first batch");
    assert_eq!(store.taken.load(Ordering::SeqCst), 1);

    store.permits.add_permits(BATCHES);
    let reports = tokio::time::timeout(SURE, cycle).await.expect("the cycle ends").expect("no panic");
    assert!(reports[0].is_complete(), "{reports:?}");
    assert_eq!(store.taken.load(Ordering::SeqCst), BATCHES);
}

#[tokio::test]
async fn a_shutdown_drops_the_delivery_under_way() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(Held {
        rejects: vec![rejects(0)],
        snapshot: snapshot("a.csv", 1, &held("a.csv", 1, &charges()).records, 0),
        ..held("a.csv", 1, &charges())
    });
    let store = FakeStore::new(0);
    let scraper = scraper(vec![target(&exporter.serve().await)], SURE, into(&store));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { scraper.run(shutdown).await }
    });
    until("the first batch", || store.taken.load(Ordering::SeqCst) == 1).await;
    shutdown.cancel();
    store.permits.add_permits(100);
    tokio::time::timeout(SURE, running).await.expect("it stops").expect("no panic");
    assert!(store.of("costs", "a.csv").is_none());
    assert_eq!(store.taken.load(Ordering::SeqCst), 1, "no batch after the signal");
}

#[tokio::test]
async fn one_targets_trouble_is_its_own() {
    let good = Arc::new(FakeExporter::default());
    good.hold(held("a.csv", 1, &charges()));
    let silent = serve(Router::new().route("/snapshots", get(std::future::pending::<()>))).await;
    let wrong = serve(Router::new().route("/snapshots", get(|| async { "hello" }))).await;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a url")
    };
    let store = FakeStore::new(100);
    let targets = [&silent, &wrong, &gone, &good.serve().await];
    let targets = targets.map(|url| TargetConfig { timeout: Span(Duration::from_millis(300)), ..target(url) }).to_vec();
    let scraper = scraper(targets, Duration::ZERO, into(&store));
    let reports = tokio::time::timeout(SURE, scraper.cycle_once()).await.expect("all end");
    let reasons: Vec<Vec<_>> =
        reports.iter().map(|report| report.errors().map(|error| error.reason()).collect()).collect();
    assert_eq!(reasons, [vec!["timeout"], vec!["malformed"], vec!["unreachable"], vec![]]);
    assert_eq!(reports.iter().map(|report| report.up).collect::<Vec<_>>(), [false, false, false, true]);
    assert!(store.of("costs", "a.csv").is_some());
}

#[tokio::test]
async fn a_prometheus_target_is_stored_as_series() {
    #[derive(Default)]
    struct Node {
        scrapes: AtomicUsize,
    }
    async fn metrics(State(node): State<Arc<Node>>, headers: HeaderMap) -> axum::response::Response {
        assert!(headers["accept"].to_str().expect("text").starts_with("application/openmetrics-text"));
        assert_eq!(headers["accept-encoding"], "gzip");
        if headers.contains_key("if-none-match") {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        node.scrapes.fetch_add(1, Ordering::SeqCst);
        ([("etag", "\"1\""), ("content-type", "text/plain; version=0.0.4")], "up 1\nload{cpu=\"0\"} 0.5 1000\n")
            .into_response()
    }
    let node = Arc::new(Node::default());
    let mut url = serve(Router::new().route("/metrics", get(metrics)).with_state(node.clone())).await;
    url.set_path("/metrics");
    let store = FakeStore::new(100);
    let limited = TargetConfig { sample_limit: 1, ..target(&url) };
    assert_eq!(limited.kind(), TargetKind::Prometheus);
    let report = one(&scraper(vec![limited], Duration::ZERO, into(&store))).await;
    assert_eq!(report.errors().map(|error| error.reason()).collect::<Vec<_>>(), ["limit"]);
    assert!(!report.up && store.upserted.lock().expect("no panic").is_empty());

    let scraper = scraper(vec![target(&url)], Duration::ZERO, into(&store));
    for _ in 0..2 {
        let report = one(&scraper).await;
        assert!(report.up && report.is_complete(), "{report:?}");
    }
    assert_eq!(node.scrapes.load(Ordering::SeqCst), 2, "the second cycle found it unchanged");
    let stored = store.upserted.lock().expect("no panic").clone();
    assert_eq!(stored.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert_eq!(stored[0]["x_source"].as_string::<i32>().value(0), url.as_str());
}

#[tokio::test]
async fn the_scraper_tells_about_itself() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    let store = FakeStore::new(100);
    let named = TargetConfig { name: Some("a \"name\" \\".to_owned()), ..target(&exporter.serve().await) };
    let scraper = scraper(vec![named], Duration::ZERO, into(&store));
    exporter.fail(Fault::Cut(0.5));
    one(&scraper).await;
    one(&scraper).await;

    let mut url = serve(scraper.router()).await;
    url.set_path("/metrics");
    let text = reqwest::get(url.clone()).await.expect("an answer").text().await.expect("a body");
    let mut decoder = Decoder::new(Format::Text004, Limits::default());
    let (mut rest, mut said) = (text.as_bytes(), Vec::new());
    while let Some(entry) = decoder.decode(&mut rest).expect("an exposition") {
        if let Entry::Sample(sample) = entry {
            assert_eq!(sample.labels.get("target"), Some("a \"name\" \\"));
            said.push(format!("{} {}", sample.name, sample.value));
        }
    }
    promtool_is_silent(&text);
    for sample in [
        "costream_scraper_up 1",
        "costream_scraper_cycles_total 2",
        "costream_scraper_failures_total 1",
        "costream_scraper_scopes_pending 0",
        "costream_scraper_rows_total 4",
        "costream_scraper_rows_total 1",
        "costream_scraper_snapshot_lag_seconds 0.0",
    ] {
        assert!(said.iter().any(|said| said == sample), "{sample} of {said:?}");
    }
    let accept = reqwest::Client::new()
        .get(url)
        .header("accept", "application/openmetrics-text")
        .send()
        .await
        .expect("an answer");
    assert!(accept.text().await.expect("a body").ends_with("# EOF\n"));
}

/// Prometheus' own linter, where it is installed.
fn promtool_is_silent(text: &str) {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert_ne!(
            std::env::var("COSTREAM_TEST_REQUIRE").as_deref(),
            Ok("all"),
            "promtool is not installed (Debian's package prometheus)"
        );
        eprintln!("skipped: promtool is not installed (Debian's package prometheus)");
        return;
    };
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Sum of the billed cost and count of rows, as text.
async fn sums(handler: &Handler, table: &str) -> Vec<(String, i128, usize)> {
    let sql = format!("SELECT x_scope, billedcost FROM {table}");
    let rows = handler.store().read.query(Query { sql, params: Vec::new(), as_of: None }).await.expect("a query");
    let mut sums = std::collections::BTreeMap::<String, (i128, usize)>::new();
    for batch in rows.collect::<Vec<_>>().await {
        let batch = batch.expect("a batch");
        let scopes = arrow::compute::cast(&batch["x_scope"], &arrow::datatypes::DataType::Utf8).expect("text");
        let amounts = batch["billedcost"].as_primitive::<Decimal128Type>();
        for (scope, amount) in scopes.as_string::<i32>().iter().zip(amounts) {
            let sum = sums.entry(scope.expect("a scope").to_owned()).or_default();
            *sum = (sum.0 + amount.expect("a cost"), sum.1 + 1);
        }
    }
    sums.into_iter().map(|(scope, (sum, rows))| (scope, sum, rows)).collect()
}

async fn count(handler: &Handler, sql: &str) -> usize {
    let query = Query { sql: sql.to_owned(), params: Vec::new(), as_of: None };
    let batches: Vec<_> = handler.store().read.query(query).await.expect("a query").collect().await;
    batches.into_iter().map(|batch| batch.expect("a batch").num_rows()).sum()
}

async fn handler(dir: &std::path::Path) -> Handler {
    Handler::open(HandlerConfig { data_dir: dir.to_owned(), ..HandlerConfig::default() }).await.expect("a handler")
}

/// What the four charges come to, in units of 10^-18.
const FOUR: i128 = 12_345_678_901_234_567_890_123_456_789_012_345_679;

#[tokio::test]
async fn a_real_store_has_exactly_what_the_exporter_has() {
    for records in [Records::Arrow, Records::Text] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let exporter = Arc::new(FakeExporter::default());
        exporter.hold(held("a.csv", 1, &charges()));
        exporter.hold(held("b.csv", 1, &charges()[..3]));
        let handler = handler(dir.path()).await;
        let target = TargetConfig { records, ..target(&exporter.serve().await) };
        let scraper = scraper(vec![target], Duration::ZERO, Sink::InProcess(handler.ingest()));
        assert!(one(&scraper).await.is_complete());
        assert_eq!(sums(&handler, "costs").await, [("a.csv".to_owned(), FOUR, 4), ("b.csv".to_owned(), 1, 3)]);
        assert_eq!(count(&handler, "SELECT reason FROM rejects WHERE x_scope = 'a.csv'").await, 1);

        // The report is restated, and its first delivery is cut.
        exporter.hold(held("a.csv", 2, &charges()[1..3]));
        exporter.fail(Fault::Reset(0.9));
        assert!(!one(&scraper).await.is_complete());
        assert_eq!(sums(&handler, "costs").await[0], ("a.csv".to_owned(), FOUR, 4));
        assert!(one(&scraper).await.is_complete());
        assert_eq!(
            sums(&handler, "costs").await,
            [("a.csv".to_owned(), -(10_i128.pow(18)), 2), ("b.csv".to_owned(), 1, 3)]
        );
    }
}

fn over_http(url: Url) -> Sink {
    Sink::Http(HttpSink::new(&HandlerAccess { url, ..HandlerAccess::default() }).expect("a sink"))
}

#[tokio::test]
async fn over_http_a_handler_stores_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let handler = handler(dir.path()).await;
    let handler_url = serve(handler.router().layer(Extension(Caller::default()))).await;
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    let exporter_url = exporter.serve().await;
    let scraper_before = scraper(vec![target(&exporter_url)], Duration::ZERO, over_http(handler_url.clone()));
    exporter.fail(Fault::Reset(0.9));
    let report = one(&scraper_before).await;
    let said: Vec<_> =
        report.errors().map(|error| (error.reason(), costream_common::report::one_line(error))).collect();
    assert!(matches!(said.as_slice(), [("cut", line)] if line.contains("/records")), "{said:?}");
    let costs = TableName::costs();
    assert_eq!(handler.ingest().committed(&costs, &key("a.csv")).await.expect("an answer"), None);

    let report = one(&scraper_before).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(sums(&handler, "costs").await, [("a.csv".to_owned(), FOUR, 4)]);
    exporter.asked();
    assert!(one(&scraper(vec![target(&exporter_url)], Duration::ZERO, over_http(handler_url))).await.is_complete());
    assert_eq!(exporter.asked(), ["/snapshots"], "the handler says that it has it");
}

#[tokio::test]
async fn series_reach_a_handler_over_http() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let handler = handler(dir.path()).await;
    let sink = over_http(serve(handler.router().layer(Extension(Caller::default()))).await);
    let body = "up 1 1000\nload{cpu=\"0\"} 0.5 1000\nload{cpu=\"1\"} 0.25 1000\n";
    let mut url = serve(Router::new().route("/metrics", get(move || async move { body }))).await;
    url.set_path("/metrics");
    for _ in 0..2 {
        let report = one(&scraper(vec![target(&url)], Duration::ZERO, sink.clone())).await;
        assert!(report.is_complete(), "{report:?}");
    }
    let rows = count(&handler, "SELECT series FROM metrics WHERE labels['cpu'] = '1'").await;
    assert_eq!(rows, 1, "the same sample twice is one row");
}

#[tokio::test]
async fn a_handler_that_is_busy_is_asked_again() {
    let uploads = Arc::new(AtomicUsize::new(0));
    let counted = uploads.clone();
    let upload = move |body: Body| {
        let upload = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
            let chunks = futures::stream::iter([Ok(body)]).boxed();
            let mut reader = ipc::Reader::open(chunks).await.expect("an arrow stream");
            let mut rows = 0;
            while let Some(batch) = reader.next().await.expect("a whole stream") {
                rows += batch.num_rows();
            }
            match upload {
                0 => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [("retry-after", "0")],
                    axum::Json(serde_json::json!({"error": "full"})),
                ),
                _ => (
                    StatusCode::OK,
                    [("retry-after", "0")],
                    axum::Json(serde_json::json!({"received": rows, "stored": rows, "rejected": 0, "already": false})),
                ),
            }
        }
    };
    let committed = || async { axum::Json(serde_json::json!({"snapshot": null})) };
    let router = Router::new().route("/upload", axum::routing::post(upload)).route("/upload/committed", get(committed));
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    let scraper = scraper(vec![target(&exporter.serve().await)], SURE, over_http(serve(router).await));
    let report = one(&scraper).await;
    assert!(report.is_complete(), "{report:?}");
    let stored: Vec<_> =
        report.deliveries.iter().map(|delivery| delivery.result.as_ref().expect("stored").stored).collect();
    assert_eq!(stored, [1, 4]);
    assert_eq!(uploads.load(Ordering::SeqCst), 3, "the rejects twice, the charges once");
}

#[tokio::test]
async fn a_handler_that_refuses_is_named() {
    let exporter = Arc::new(FakeExporter::default());
    exporter.hold(held("a.csv", 1, &charges()));
    let url = serve(Router::new().route("/upload/committed", get(|| async { StatusCode::UNAUTHORIZED }))).await;
    let report = one(&scraper(vec![target(&exporter.serve().await)], SURE, over_http(url.clone()))).await;
    let said: Vec<_> =
        report.errors().map(|error| (error.reason(), costream_common::report::one_line(error))).collect();
    assert!(
        said.iter().all(|(reason, line)| *reason == "store" && line.contains("401") && line.contains(url.as_str())),
        "{said:?}"
    );
    assert!(report.up, "the target did nothing wrong");
    assert_eq!(report.pending, 1);
}

//! The exporter from outside: reports in files and behind servers, answers over its router.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use costream_common::exposition::Format;
use costream_common::exposition::decode::{Decoder, Entry, Limits};
use costream_common::exposition::escape::unescape_name;
use costream_common::money::Sum;
use costream_common::record::{SNAPSHOTS_METADATA, Snapshot, Totals, announced_snapshots};
use costream_exporter::config::ExporterConfig;
use costream_exporter::profile::ProfileName;
use costream_exporter::{ARROW, Exporter, PollOutcome, Polled};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const HEADER: &str = "BilledCost,EffectiveCost,BillingCurrency,BillingPeriodStart,ServiceName,Tags,x_Odd Name";
const ROWS: [&str; 4] = [
    r#"0.1,0.05,USD,2024-09-01T00:00:00Z,"Compute ""A"" \ ünïcode","{""team"": ""x""}",a"#,
    r#"-1.000000000000000001,,USD,2024-09-01T00:00:00Z,Storage,,"two
lines""#,
    "3,3,EUR,2024-10-01T00:00:00Z,Compute,,",
    "many,3,EUR,2024-10-01T00:00:00Z,Compute,,",
];

fn csv(rows: &[&str]) -> String {
    format!("{HEADER}\n{}\n", rows.join("\n"))
}

struct House {
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().expect("a parent")).expect("a directory");
        // Written aside and renamed, as one should.
        fs::write(format!("{path}.part"), text)
            .and_then(|()| fs::rename(format!("{path}.part"), &path))
            .expect("write");
        path
    }

    fn config(&self, sources: &[String]) -> ExporterConfig {
        ExporterConfig::for_run(sources, ProfileName::Auto, self.dir.path()).expect("sources")
    }

    async fn start(&self, sources: &[String]) -> Exporter {
        Exporter::start(self.config(sources)).await.expect("an exporter")
    }

    /// Generations on disk.
    fn generations(&self) -> usize {
        let spool = fs::read_dir(self.dir.path().join("spool")).expect("the spool");
        spool
            .filter(|entry| {
                entry.as_ref().is_ok_and(|entry| entry.path().to_string_lossy().ends_with(".records.arrow"))
            })
            .count()
    }
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Samples by name and labels.
    fn samples(&self) -> Vec<(String, BTreeMap<String, String>, String)> {
        let mut decoder = Decoder::new(Format::of_content_type(self.header("content-type")), Limits::default());
        let (mut input, mut samples) = (&self.body[..], Vec::new());
        while let Some(entry) = decoder.decode(&mut input).expect("an exposition") {
            if let Entry::Sample(sample) = entry {
                let labels = sample.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                samples.push((sample.name.to_owned(), labels, sample.value.to_owned()));
            }
        }
        samples
    }

    fn value(&self, name: &str, label: (&str, &str)) -> Option<String> {
        let found = self
            .samples()
            .into_iter()
            .find(|(found, labels, _)| found == name && labels.get(label.0).is_some_and(|value| value == label.1));
        found.map(|(.., value)| value)
    }

    fn batches(&self) -> Vec<RecordBatch> {
        let reader = StreamReader::try_new(&self.body[..], None).expect("an Arrow stream");
        reader.map(|batch| batch.expect("a batch")).collect()
    }
}

async fn ask(exporter: &Exporter, method: &str, path: &str, headers: &[(&str, &str)]) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = exporter.router().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    Answered { status, headers, body }
}

async fn fetch(exporter: &Exporter, path: &str) -> Answered {
    ask(exporter, "GET", path, &[]).await
}

async fn fetch_arrow(exporter: &Exporter, path: &str) -> Answered {
    ask(exporter, "GET", path, &[("accept", ARROW)]).await
}

async fn polled_once(exporter: &Exporter) -> Result<Polled, String> {
    let outcomes = exporter.poll_all().await;
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    outcomes.into_iter().next().expect("one").result.map_err(|error| costream_common::report::one_line(&error))
}

fn errors(outcomes: &[PollOutcome]) -> Vec<String> {
    outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err())
        .map(|error| costream_common::report::one_line(error))
        .collect()
}

/// Waits on a level.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn arrow_and_text_carry_the_same_rows() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    let polled = polled_once(&exporter).await.expect("a good poll");
    assert!(polled.changed && polled.rejects == [("not_a_number".to_owned(), 1)].into());

    let arrow = fetch_arrow(&exporter, "/records").await;
    assert_eq!(arrow.header("content-type"), ARROW);
    let batches = arrow.batches();
    let schema = batches[0].schema();
    let announced = announced_snapshots(&schema).expect("snapshots").expect("announced");
    assert_eq!(announced, exporter.snapshots());
    let mut totals = Totals::default();
    batches.iter().for_each(|batch| totals.add_batch(batch).expect("totals"));
    totals.check(&announced[0].totals).expect("the totals announced");
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let ours = ["x_source", "x_scope", "x_snapshot", "x_row"];
    assert_eq!(names, HEADER.split(',').chain(ours).collect::<Vec<_>>());
    let mut cells = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let of_row = |(name, array): (&&str, &arrow::array::ArrayRef)| {
                let is_shown = array.is_valid(row) && !["Tags", "BillingPeriodStart"].contains(name);
                is_shown.then(|| ((*name).to_owned(), array_value_to_string(array, row).expect("a value")))
            };
            let cells_of_row: BTreeMap<_, _> = names.iter().zip(batch.columns()).filter_map(of_row).collect();
            cells.push(cells_of_row);
        }
    }
    assert_eq!(cells.len(), 3);
    assert_eq!((cells[1]["x_Odd Name"].as_str(), cells[2]["x_row"].as_str()), ("two\nlines", "3"));
    assert_eq!((cells[0]["x_source"].as_str(), cells[0]["x_scope"].as_str()), (path.as_str(), "costs.csv"));

    for accept in ["text/plain", "application/openmetrics-text"] {
        let text = ask(&exporter, "GET", "/records", &[("accept", accept)]).await;
        let samples = text.samples();
        let columns: Vec<&str> = samples
            .iter()
            .filter(|(name, ..)| name == "costream_records_columns")
            .map(|(_, labels, _)| labels["column"].as_str())
            .collect();
        assert_eq!(columns, HEADER.split(',').collect::<Vec<_>>());
        let rows: Vec<_> = samples.iter().filter(|(name, ..)| name == "billed_cost").collect();
        for ((_, labels, value), cells) in rows.iter().zip(&cells) {
            let decimal = |text: &str| text.parse::<Sum>().expect("a decimal");
            assert_eq!(decimal(value), decimal(&cells["BilledCost"]));
            let meant = labels.iter().map(|(name, value)| (unescape_name(name).into_owned(), value.clone()));
            let mut labels: BTreeMap<String, String> = meant.collect();
            let tags = labels.remove("Tags");
            assert_eq!(tags.as_deref(), (cells["x_row"] == "1").then_some(r#"{"team":"x"}"#));
            assert!(
                ["2024-09-01T00:00:00Z", "2024-10-01T00:00:00Z"]
                    .contains(&labels.remove("BillingPeriodStart").expect("a period").as_str())
            );
            assert_eq!(labels.keys().collect::<Vec<_>>(), cells.keys().collect::<Vec<_>>());
            for (name, label) in labels.iter().filter(|(name, _)| !name.ends_with("Cost")) {
                assert_eq!(*label, cells[name]);
            }
        }
        assert_eq!(rows.len(), 3);
        let sums: Vec<_> = samples
            .iter()
            .filter(|(name, ..)| name == "costream_records_billed_cost")
            .map(|(_, labels, value)| {
                (labels["billing_currency"].as_str(), labels["billing_period"].as_str(), value.as_str())
            })
            .collect();
        assert_eq!(
            sums,
            [("USD", "2024-09-01T00:00:00Z", "-0.900000000000000001"), ("EUR", "2024-10-01T00:00:00Z", "3")]
        );
        let last = samples.last().expect("a last sample");
        assert_eq!((last.0.as_str(), last.2.as_str()), ("costream_records_snapshots", "1"));
        assert_eq!(text.text().ends_with("# EOF\n"), accept != "text/plain");
    }
}

#[tokio::test]
async fn reports_with_different_columns_are_one_stream() {
    let house = House::new();
    let dir = house.path("reports");
    house.write("reports/a.csv", "BilledCost,x_A\n1,a\n");
    house.write("reports/b.csv", "x_B,BilledCost,X_a\nb,2,A\nb,3,\nno,no,no\n");
    let exporter = house.start(std::slice::from_ref(&dir)).await;
    assert!(errors(&exporter.poll_all().await).is_empty());
    let batches = fetch_arrow(&exporter, "/records").await.batches();
    let schema = batches[0].schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["BilledCost", "x_A", "x_B", "x_source", "x_scope", "x_snapshot", "x_row"]);
    let shown = |column: &str| -> Vec<String> {
        let cells = batches.iter().flat_map(|batch| {
            (0..batch.num_rows()).map(|row| {
                array_value_to_string(batch.column_by_name(column).expect("a column"), row).expect("a value")
            })
        });
        cells.collect()
    };
    assert_eq!(shown("x_A"), ["a", "A", ""]);
    assert_eq!(shown("x_scope"), ["a.csv", "b.csv", "b.csv"]);
    let snapshots: Vec<Snapshot> = serde_json::from_str(&schema.metadata()[SNAPSHOTS_METADATA]).expect("snapshots");
    assert_eq!(snapshots.len(), 2);

    let one = fetch_arrow(&exporter, "/records?scope=a.csv").await.batches();
    assert_eq!(one.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let rejects = fetch_arrow(&exporter, "/rejects?scope=b.csv").await.batches();
    let cells: Vec<String> =
        rejects[0].columns().iter().map(|column| array_value_to_string(column, 0).expect("a value")).collect();
    let snapshot = exporter.snapshots()[1].snapshot.to_string();
    let file = format!("{dir}/b.csv");
    assert_eq!(cells, [dir.as_str(), &file, "3", "BilledCost", "not_a_number", "no", &dir, "b.csv", &snapshot, "1"]);
    let none = fetch_arrow(&exporter, "/rejects?scope=a.csv").await;
    assert_eq!((none.status, none.batches().len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn metrics_sum_to_the_report() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    polled_once(&exporter).await.expect("a good poll");
    for accept in ["text/plain", "application/openmetrics-text"] {
        let metrics = ask(&exporter, "GET", "/metrics", &[("accept", accept)]).await;
        for family in ["costream_billed_cost", "costream_control_billed_cost"] {
            let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
            for (_, labels, value) in metrics.samples().into_iter().filter(|(name, ..)| name == family) {
                assert_eq!(labels["source"], path);
                let sum =
                    sums.entry((labels["billing_currency"].clone(), labels["billing_period"].clone())).or_default();
                sum.add_sum(value.parse().expect("exact"));
            }
            let sums: Vec<_> =
                sums.iter().map(|((currency, period), sum)| format!("{currency} {period} {sum}")).collect();
            assert_eq!(sums, ["EUR 2024-10 3", "USD 2024-09 -0.900000000000000001"]);
        }
        let source = ("source", path.as_str());
        assert_eq!(metrics.value("costream_source_up", source).as_deref(), Some("1"));
        assert_eq!(metrics.value("costream_rejected_rows", ("reason", "not_a_number")).as_deref(), Some("1"));
        assert_eq!(metrics.value("costream_polls_total", ("result", "changed")).as_deref(), Some("1"));
        assert!(metrics.value("costream_snapshot_timestamp_seconds", source).is_some());
        assert_eq!(metrics.text().ends_with("# EOF\n"), accept != "text/plain");
    }
}

#[tokio::test]
async fn what_is_known_is_not_sent_and_what_is_compressed_is_the_same() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    polled_once(&exporter).await.expect("a good poll");
    for path in ["/records", "/snapshots", "/metrics"] {
        let plain = fetch(&exporter, path).await;
        let etag = plain.header("etag");
        assert!(etag.starts_with("W/\"") && plain.header("vary").contains("Accept-Encoding"), "{path}");
        let known = ask(&exporter, "GET", path, &[("if-none-match", etag), ("accept-encoding", "gzip")]).await;
        assert_eq!((known.status, known.body.len(), known.header("etag")), (StatusCode::NOT_MODIFIED, 0, etag));
        let head = ask(&exporter, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len(), head.header("etag")), (StatusCode::OK, 0, etag));
        for encoding in ["gzip", "zstd"] {
            let packed = ask(&exporter, "GET", path, &[("accept-encoding", encoding)]).await;
            assert_eq!(packed.header("content-encoding"), encoding);
            let mut text = String::new();
            let reader = tokio::io::BufReader::new(&packed.body[..]);
            if encoding == "gzip" {
                async_compression::tokio::bufread::GzipDecoder::new(reader)
                    .read_to_string(&mut text)
                    .await
                    .expect("gzip");
            } else {
                async_compression::tokio::bufread::ZstdDecoder::new(reader)
                    .read_to_string(&mut text)
                    .await
                    .expect("zstd");
            }
            if path != "/metrics" {
                assert_eq!(text, plain.text());
            }
        }
    }
    let text = fetch(&exporter, "/records").await;
    let (arrow, list, metrics) = (
        fetch_arrow(&exporter, "/records").await,
        fetch(&exporter, "/snapshots").await,
        fetch(&exporter, "/metrics").await,
    );
    assert_ne!(text.header("etag"), arrow.header("etag"));
    house.write("costs.csv", &csv(&ROWS[..2]));
    polled_once(&exporter).await.expect("a good poll");
    for (path, before) in [("/records", text), ("/snapshots", list), ("/metrics", metrics)] {
        let after = ask(&exporter, "GET", path, &[("if-none-match", before.header("etag"))]).await;
        assert_eq!(after.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    let ready = fetch(&exporter, "/-/ready").await;
    assert!(ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.text().contains(&path), "{}", ready.text());
    assert_eq!(fetch(&exporter, "/snapshots").await.text(), "{\"snapshots\":[]}\n");
    polled_once(&exporter).await.expect("a good poll");
    for (path, accept, encoding, status) in [
        ("/metrics", ARROW, "", 406),
        ("/records", "image/png", "", 406),
        ("/records", "text/plain;q=0, */*;q=0", "", 406),
        ("/records", "*/*", "identity;q=0, br", 406),
        ("/rejects", "text/plain", "", 406),
        ("/snapshots", "text/html", "", 406),
        ("/records?source=nobody", "*/*", "", 404),
        ("/rejects?scope=nothing", "*/*", "", 404),
        ("/records?surce=x", "*/*", "", 400),
        ("/nothing", "*/*", "", 404),
        ("/-/healthy", "*/*", "", 200),
        ("/-/ready", "*/*", "", 200),
    ] {
        let answer = ask(&exporter, "GET", path, &[("accept", accept), ("accept-encoding", encoding)]).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {accept}");
    }
    let landing = fetch(&exporter, "/").await;
    assert!(landing.text().contains("href=\"/records\"") && landing.text().contains("costs.csv"));
}

#[tokio::test]
async fn a_poll_that_fails_keeps_what_is_served() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    let first = polled_once(&exporter).await.expect("a good poll").snapshot;
    for (broken, says) in [
        ("", "empty"),
        ("<html></html>", "not CSV"),
        ("EffectiveCost\n1\n", "BilledCost"),
        ("BilledCost,x\n1,\"open", "costs.csv"),
        ("[]", "empty"),
        (r#"{"items": []}"#, "BilledCost"),
        (r#"{"error": {"code": "Throttled"}}"#, "BilledCost"),
        (r#"[{"BilledCost": 1}, {"Billed"#, "ends early, after row 1"),
        ("PAR1 and no footer", "is cut off"),
        ("PAR1....\x7f\x7f\x7f\x7fPAR1", "the footer says that it has"),
    ] {
        house.write("costs.csv", broken);
        let error = polled_once(&exporter).await.expect_err(broken);
        assert!(error.contains(says) && error.contains("costs.csv") && !error.contains('\n'), "{error}");
        assert_eq!(exporter.snapshots(), std::slice::from_ref(&first));
        assert_eq!((house.generations(), exporter.progress().len()), (1, 0));
        let metrics = fetch(&exporter, "/metrics").await;
        assert_eq!(metrics.value("costream_source_up", ("source", &path)).as_deref(), Some("0"));
        assert!(metrics.value("costream_billed_cost", ("billing_currency", "EUR")).is_some());
    }
    fs::remove_file(&path).expect("remove");
    let error = polled_once(&exporter).await.expect_err("a missing file");
    assert!(error.contains("costs.csv: No such file"), "{error}");
    house.write("costs.csv", &format!("{HEADER}\n"));
    let empty = polled_once(&exporter).await.expect("a header is a report");
    assert!(empty.changed && empty.snapshot.totals.rows() == 0 && empty.snapshot.snapshot > first.snapshot);
    assert_eq!(fetch_arrow(&exporter, "/records").await.batches().len(), 0);
    let text = fetch(&exporter, "/records").await;
    assert_eq!(text.samples().last().map(|(name, ..)| name.clone()).as_deref(), Some("costream_records_snapshots"));
}

#[tokio::test]
async fn the_same_bytes_are_the_same_snapshot() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    let first = polled_once(&exporter).await.expect("a good poll");
    house.write("costs.csv", &csv(&ROWS));
    let touched = polled_once(&exporter).await.expect("a good poll");
    assert!(!touched.changed && touched.read_bytes > 0);
    assert_eq!(touched.snapshot, first.snapshot);
    let mut restated = ROWS;
    restated[2] = "4,3,EUR,2024-10-01T00:00:00Z,Compute,,";
    house.write("costs.csv", &csv(&restated));
    let changed = polled_once(&exporter).await.expect("a good poll");
    assert!(changed.changed && changed.snapshot.snapshot > first.snapshot.snapshot);
    assert_eq!(house.generations(), 1);
}

#[tokio::test]
async fn a_restarted_exporter_serves_before_it_polls() {
    let house = House::new();
    let path = house.write("costs.csv", &csv(&ROWS));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    polled_once(&exporter).await.expect("a good poll");
    let (snapshots, records) = (exporter.snapshots(), fetch(&exporter, "/records").await);
    assert!(Exporter::start(house.config(std::slice::from_ref(&path))).await.is_err(), "one spool, one exporter");
    drop(exporter);

    fs::remove_file(&path).expect("remove");
    let exporter = house.start(std::slice::from_ref(&path)).await;
    assert_eq!(fetch(&exporter, "/-/ready").await.status, StatusCode::OK);
    assert_eq!(exporter.snapshots(), snapshots);
    let again = fetch(&exporter, "/records").await;
    assert_eq!((again.text(), again.header("etag")), (records.text(), records.header("etag")));
    assert!(fetch(&exporter, "/metrics").await.value("costream_billed_cost", ("billing_currency", "EUR")).is_some());
}

#[tokio::test]
async fn a_file_that_is_gone_keeps_its_rows_and_one_that_is_bad_does_not_stop_the_others() {
    let house = House::new();
    for name in ["a", "b", "c"] {
        house.write(&format!("reports/{name}.csv"), "BilledCost\n1\n");
    }
    let dir = house.path("reports");
    let exporter = house.start(std::slice::from_ref(&dir)).await;
    assert!(errors(&exporter.poll_all().await).is_empty());
    fs::remove_file(house.path("reports/a.csv")).expect("remove");
    house.write("reports/b.csv", "no report\n1\n");
    house.write("reports/c.csv", "BilledCost\n5\n");
    let outcomes = exporter.poll_all().await;
    let failed = errors(&outcomes);
    assert!(failed.len() == 1 && failed[0].contains("b.csv"), "{failed:?}");
    let metrics = fetch(&exporter, "/metrics").await;
    assert_eq!(metrics.value("costream_source_gone_reports", ("source", &dir)).as_deref(), Some("1"));
    assert_eq!(metrics.value("costream_source_up", ("source", &dir)).as_deref(), Some("0"));
    assert_eq!(metrics.value("costream_control_billed_cost", ("source", &dir)).as_deref(), Some("7"));
}

#[tokio::test]
async fn a_reader_that_stalls_holds_nobody_up() {
    let house = House::new();
    // No two notes are the same: what is said twice is sent once.
    let many: String = (0..20_000).map(|row| format!("{row},{row:x>100}\n")).collect();
    let path = house.write("costs.csv", &format!("BilledCost,x_Note\n{many}"));
    let exporter = house.start(std::slice::from_ref(&path)).await;
    polled_once(&exporter).await.expect("a good poll");
    for accept in ["text/plain", ARROW] {
        let request = Request::get("/records").header("accept", accept).body(Body::empty()).expect("a request");
        let mut stalled = exporter.router().oneshot(request).await.expect("an answer").into_body().into_data_stream();
        let first = stalled.next().await.expect("a chunk").expect("a good one");

        house.write("costs.csv", &format!("BilledCost\n{}\n", first.len()));
        assert!(polled_once(&exporter).await.expect("a good poll").changed);
        assert_eq!(house.generations(), 2, "the reader's files are there");
        let rest: Vec<_> = futures::StreamExt::collect(stalled).await;
        let bytes: usize =
            first.len() + rest.into_iter().map(|chunk| chunk.expect("the old snapshot, whole").len()).sum::<usize>();
        assert!(bytes > 2_000_000, "{bytes}");
        until("the old files are removed", || house.generations() == 1).await;

        house.write("costs.csv", &format!("BilledCost,x_Note\n{many}"));
        polled_once(&exporter).await.expect("a good poll");
        let request = Request::get("/records").header("accept", accept).body(Body::empty()).expect("a request");
        let gone = exporter.router().oneshot(request).await.expect("an answer").into_body().into_data_stream();
        house.write("costs.csv", "BilledCost\n1\n");
        polled_once(&exporter).await.expect("a good poll");
        drop(gone);
        until("the old files are removed", || house.generations() == 1).await;
        house.write("costs.csv", &format!("BilledCost,x_Note\n{many}"));
        polled_once(&exporter).await.expect("a good poll");
    }
}

#[tokio::test]
async fn a_full_spool_keeps_what_is_served() {
    let house = House::new();
    let path = house.write("costs.csv", "BilledCost\n1\n");
    let mut config = house.config(std::slice::from_ref(&path));
    config.spool_max_bytes = Some(5_000);
    let exporter = Exporter::start(config).await.expect("an exporter");
    let first = polled_once(&exporter).await.expect("a good poll").snapshot;
    let many: String = (0..20_000).map(|row| format!("{}\n", row * 7919 % 20_011)).collect();
    house.write("costs.csv", &format!("BilledCost\n{many}"));
    let error = polled_once(&exporter).await.expect_err("no room");
    assert!(error.contains("budget of 5000 bytes"), "{error}");
    assert_eq!((exporter.snapshots(), house.generations()), (vec![first], 1));
}

#[tokio::test]
async fn polling_goes_on_until_told_to_stop() {
    let house = House::new();
    let path = house.write("costs.csv", "BilledCost\n1\n");
    let mut config = house.config(std::slice::from_ref(&path));
    config.poll_interval = Duration::from_millis(20);
    let exporter = Exporter::start(config).await.expect("an exporter");
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (exporter, shutdown) = (exporter.clone(), shutdown.clone());
        async move { exporter.run(shutdown).await }
    });
    let billed = |exporter: &Exporter| {
        exporter
            .snapshots()
            .iter()
            .flat_map(|s| s.totals.groups().map(|(_, t)| t.billed.to_string()).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    until("the first poll", || billed(&exporter) == ["1"]).await;
    house.write("costs.csv", "BilledCost\n2\n");
    until("the change", || billed(&exporter) == ["2"]).await;
    shutdown.cancel();
    running.await.expect("it ends");
}

#[tokio::test]
async fn a_poll_that_is_dropped_leaves_the_last_snapshot() {
    let house = House::new();
    let rows: String = (0..40_000).map(|row| format!("{row},{}\n", "x".repeat(50))).collect();
    let url = endless(format!("BilledCost,x_Note\n{rows}")).await;
    let mut config = house.config(&[url]);
    config.poll_interval = Duration::from_millis(1);
    let exporter = Exporter::start(config).await.expect("an exporter");
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (exporter, shutdown) = (exporter.clone(), shutdown.clone());
        async move { exporter.run(shutdown).await }
    });
    until("the poll is under way", || !exporter.progress().is_empty() && house.generations() == 1).await;
    shutdown.cancel();
    running.await.expect("it ends");
    until("its files are removed", || house.generations() == 0).await;
    assert!(exporter.snapshots().is_empty() && exporter.progress().is_empty());
}

/// Sends a body and never ends it.
async fn endless(text: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/costs.csv", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n", text.len());
        stream.write_all(head.as_bytes()).await.expect("write");
        std::future::pending::<()>().await;
    });
    url
}

/// A server that answers from a script, and remembers how it was asked.
struct Scripted {
    url: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
}

impl Answer {
    fn new(status: u16, body: &'static str) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl Scripted {
    async fn start() -> Self {
        let (answers, asked) = <(Arc<Mutex<VecDeque<Answer>>>, Arc<Mutex<Vec<HeaderMap>>>)>::default();
        let (queue, seen) = (Arc::clone(&answers), Arc::clone(&asked));
        let handler = move |headers: HeaderMap| async move {
            seen.lock().expect("a lock").push(headers);
            let answer = queue.lock().expect("a lock").pop_front().unwrap_or(Answer::new(500, ""));
            let mut response = axum::http::Response::builder().status(answer.status);
            for (name, value) in answer.headers {
                response = response.header(name, value);
            }
            response.body(Body::from(answer.body)).expect("an answer")
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://ann:pw@{}/costs.csv?sig=hush", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/costs.csv", get(handler))).await });
        Self { url, answers, asked }
    }

    fn will(&self, answers: &[Answer]) {
        self.answers.lock().expect("a lock").extend(answers.iter().cloned());
        self.asked.lock().expect("a lock").clear();
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().expect("a lock").len()
    }

    fn last_asked(&self, name: &str) -> Option<String> {
        let asked = self.asked.lock().expect("a lock");
        asked.last()?.get(name).map(|value| value.to_str().expect("text").to_owned())
    }
}

#[tokio::test]
async fn a_server_is_asked_for_what_has_changed_and_again_when_it_stumbles() {
    let house = House::new();
    let server = Scripted::start().await;
    let mut config = house.config(std::slice::from_ref(&server.url));
    config.retry_for = "20s".parse().expect("a duration");
    let exporter = Exporter::start(config).await.expect("an exporter");

    let report =
        Answer::new(200, "BilledCost\n1\n").with("etag", "\"1\"").with("content-type", "application/octet-stream");
    server.will(&[Answer::new(500, ""), report]);
    let first = polled_once(&exporter).await.expect("the second answer");
    assert!(first.changed && server.times_asked() == 2);
    assert_eq!(server.last_asked("authorization").as_deref(), Some("Basic YW5uOnB3"));
    let name = first.snapshot.key.source.to_string();
    assert!(name.ends_with("/costs.csv?sig=***") && !name.contains("ann"), "{name}");
    assert_eq!(first.snapshot.key.scope.as_str(), "costs.csv");

    server.will(&[Answer::new(304, "")]);
    let known = polled_once(&exporter).await.expect("not changed");
    assert!(!known.changed && known.read_bytes == 0);
    assert_eq!(server.last_asked("if-none-match").as_deref(), Some("\"1\""));

    // No tag and the same bytes: no new snapshot; asked without a tag from now on.
    server.will(&[Answer::new(200, "BilledCost\n1\n")]);
    assert!(!polled_once(&exporter).await.expect("the same bytes").changed);
    let began = Instant::now();
    server.will(&[Answer::new(429, "").with("retry-after", "1"), Answer::new(200, "BilledCost\n2\n")]);
    assert!(polled_once(&exporter).await.expect("the second answer").changed);
    assert!(began.elapsed() >= Duration::from_secs(1), "it asked for a second");
    assert_eq!(server.last_asked("if-none-match"), None);

    for status in [401, 403, 404, 204] {
        server.will(&[Answer::new(status, "")]);
        let error = polled_once(&exporter).await.expect_err("no report");
        assert!(
            error.contains(&status.to_string())
                && error.contains("/costs.csv")
                && !error.contains("hush")
                && !error.contains("pw"),
            "{error}"
        );
        assert_eq!(server.times_asked(), 1, "{status} is final");
    }
    server.will(&[Answer::new(503, "").with("retry-after", "3600")]);
    assert!(polled_once(&exporter).await.is_err());
    assert_eq!(server.times_asked(), 1, "an hour is longer than a poll tries");
    server.will(&[Answer::new(200, "")]);
    assert!(polled_once(&exporter).await.expect_err("nothing").contains("empty"));
    assert_eq!(exporter.snapshots()[0].totals.groups().next().expect("a group").1.billed.to_string(), "2");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_asked_for_again() {
    let house = House::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/costs.csv", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        for (length, body) in [(100, "BilledCost\n1\n"), (15, "BilledCost\n1\n2\n")] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("write");
        }
    });
    let exporter = house.start(&[url]).await;
    let polled = polled_once(&exporter).await.expect("the second body");
    assert_eq!((polled.snapshot.totals.rows(), house.generations()), (2, 1));
    assert!(fetch(&exporter, "/metrics").await.text().contains("costream_poll_retries_total{"));
}

#[tokio::test]
async fn nobody_there_fails_the_poll_with_one_line() {
    let house = House::new();
    let mut config = house.config(&["http://127.0.0.1:9/costs.csv".to_owned()]);
    config.retry_for = "0s".parse().expect("a duration");
    let exporter = Exporter::start(config).await.expect("an exporter");
    let error = polled_once(&exporter).await.expect_err("nobody there");
    assert!(error.starts_with("GET http://127.0.0.1:9/costs.csv: ") && !error.contains('\n'), "{error}");
}

//! Usage from outside: a stand-in for Azure Monitor asked, answers over the exporter's router.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use axum::body::Body;
use axum::http::Request;
use chrono::{DateTime, DurationRound as _, SecondsFormat, TimeDelta, Utc};
use costream_common::config;
use costream_common::money::Amount;
use costream_common::record::RowKind;
use costream_exporter::config::ExporterConfig;
use costream_exporter::{ARROW, Exporter, PollOutcome};
use costream_tests::azure_monitor::{self as stand_in, AzureMonitor};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tower::ServiceExt as _;

const VM: &str = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
const CPU: &str = "Percentage CPU";

/// An exporter of sources below a folder.
async fn start(dir: &TempDir, sources: &str) -> Exporter {
    let text =
        format!("exporter:\n  spool_dir: {}/spool\n  retry_for: 1s\n  sources:\n{sources}", dir.path().display());
    let file =
        config::parse::<config::File<ExporterConfig>>(&text, Path::new("costream.yaml")).expect("a configuration");
    Exporter::start(file.exporter).await.expect("an exporter")
}

async fn get(exporter: &Exporter, path: &str, accept: &str) -> Vec<u8> {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).expect("a request");
    let response = exporter.router().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 200, "{path}");
    response.into_body().collect().await.expect("a body").to_bytes().to_vec()
}

async fn text(exporter: &Exporter, path: &str) -> String {
    String::from_utf8(get(exporter, path, "text/plain").await).expect("text")
}

async fn batches(exporter: &Exporter, path: &str) -> Vec<RecordBatch> {
    let body = get(exporter, path, ARROW).await;
    StreamReader::try_new(&body[..], None).expect("a stream").map(|batch| batch.expect("a batch")).collect()
}

fn failures(outcomes: &[PollOutcome]) -> Vec<String> {
    let errors = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err());
    errors.map(|error| costream_common::report::one_line(error)).collect()
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

fn costs(dir: &TempDir) -> String {
    write(
        dir,
        "costs.csv",
        &format!("BilledCost,BillingCurrency,ResourceId,ResourceType\n2.5,USD,{VM},Virtual machine\n"),
    )
}

fn sources(dir: &TempDir, azure: &AzureMonitor) -> String {
    format!(
        "    - {{name: costs, path: {}}}
    - name: usage
      azure_monitor:
        base_url: {}
        auth: {{client_credentials: {{tenant: {}, client_id: {}, client_secret: {{file: {}}}, token_url: '{}'}}}}
        ask:
          - from_costs: {{source: costs, resource_type: Virtual machine}}
            metrics: [{{name: {CPU}}}]
",
        costs(dir),
        azure.url(),
        stand_in::TENANT,
        stand_in::CLIENT_ID,
        write(dir, "secret", stand_in::CLIENT_SECRET),
        azure.token_url(),
    )
}

#[tokio::test]
async fn every_point_is_served_with_its_own_time_and_the_last_one_as_a_metric() {
    let dir = tempfile::tempdir().expect("a folder");
    let now = Utc::now();
    let azure = AzureMonitor::start(now).expect("a stand-in");
    let exporter = start(&dir, &sources(&dir, &azure)).await;
    let outcomes = exporter.poll_all().await;
    assert!(failures(&outcomes).is_empty(), "{outcomes:?}");

    // Reports first: the first poll of usage knows whom to ask.
    let kinds: Vec<_> = exporter.snapshots().into_iter().map(|snapshot| snapshot.kind).collect();
    let points = RowKind::Points { table: "usage".to_owned() };
    assert_eq!(kinds, [RowKind::Charges, points.clone(), points]);

    let exact = |time: DateTime<Utc>| -> String {
        stand_in::average(VM, CPU, time).parse::<Amount>().expect("a decimal").to_string()
    };
    let quarter = TimeDelta::minutes(15);
    let last = now.duration_trunc(quarter).expect("a time");
    let metrics = text(&exporter, "/metrics").await;
    let sample = format!(
        "# TYPE percentage_cpu gauge\npercentage_cpu{{source=\"usage\",ResourceId=\"{VM}\",metricName=\"{CPU}\",unit=\"Percent\"}} {}\n",
        exact(last)
    );
    assert!(metrics.contains(&sample), "{sample}{metrics}");
    assert!(metrics.contains("costream_billed_cost{source=\"costs\",billing_currency=\"USD\"} 2.5\n"), "{metrics}");
    assert!(!metrics.contains("costream_control_charges{source=\"usage\""), "points are no charges: {metrics}");
    assert!(metrics.contains("costream_usage_requests_total{source=\"usage\",result=\"ok\"} 2\n"), "{metrics}");

    let records = text(&exporter, "/records?source=usage").await;
    let yesterday = now.duration_trunc(TimeDelta::days(1)).expect("a day") - TimeDelta::days(1);
    let times: Vec<_> =
        std::iter::successors(Some(yesterday), |time| Some(*time + quarter)).take_while(|time| *time < now).collect();
    for time in &times {
        let (shown, value) = (time.to_rfc3339_opts(SecondsFormat::Secs, true), exact(*time));
        let labels = format!(
            "ResourceId=\"{VM}\",metricName=\"{CPU}\",timestamp=\"{shown}\",average=\"{value}\",unit=\"Percent\""
        );
        let line = records.lines().find(|line| line.starts_with(&format!("usage_average{{{labels},")));
        let line = line.unwrap_or_else(|| panic!("{labels} is not in {records}"));
        assert!(line.ends_with(&format!("}} {value} {}", time.timestamp_millis())), "{line}");
    }
    assert_eq!(records.lines().filter(|line| line.starts_with("usage_average{")).count(), times.len());
    let both = text(&exporter, "/records").await;
    let place = |what: &str| both.find(what).unwrap_or_else(|| panic!("{what} is not in {both}"));
    assert!(
        place("\nbilled_cost{") < place("# TYPE usage_average gauge")
            && place("# TYPE usage_average gauge") < place("\nusage_average{")
    );

    let rows: usize = batches(&exporter, "/records?source=usage").await.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, times.len());
    // The same questions bring the same answers: nothing has changed.
    let outcomes = exporter.poll_all().await;
    assert!(outcomes.iter().all(|outcome| outcome.result.as_ref().is_ok_and(|polled| !polled.changed)), "{outcomes:?}");
}

#[tokio::test]
async fn usage_that_fails_stops_no_report_and_shows_as_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let azure = AzureMonitor::start(Utc::now()).expect("a stand-in");
    azure.world().tokens_are_pages = true;
    let exporter = start(&dir, &sources(&dir, &azure)).await;
    let errors = failures(&exporter.poll_all().await);
    assert!(
        errors.len() == 2 && errors.iter().all(|error| error.contains("a web page in place of a token")),
        "{errors:?}"
    );
    let metrics = text(&exporter, "/metrics").await;
    assert!(metrics.contains("costream_source_up{source=\"costs\"} 1\n"), "{metrics}");
    assert!(metrics.contains("costream_source_up{source=\"usage\"} 0\n"), "{metrics}");
    assert!(!metrics.contains(stand_in::CLIENT_SECRET));
}

/// What the old exporter was shown for `metrics_usage.txt`, as far as it can be told from what it made of it.
const ANSWER: &str = r#"{"cost": 0, "timespan": "2024-09-18T10:00:00Z/2024-09-18T11:00:00Z", "interval": "PT15M", "value": [
{"name": {"value": "Percentage CPU"}, "unit": "Percent", "timeseries": [{"data": [
{"timeStamp": "2024-09-18T10:00:00Z", "average": 0.12345678901}, {"timeStamp": "2024-09-18T10:15:00Z", "average": 5.25},
{"timeStamp": "2024-09-18T10:30:00Z"}, {"timeStamp": "2024-09-18T10:45:00Z", "average": 1e-12},
{"timeStamp": "2024-09-18T11:00:00Z", "average": 0.1234567890123456789}]}]}]}"#;

#[tokio::test]
async fn an_answer_in_a_file_is_a_report_of_points() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = write(&dir, "usage.json", ANSWER);
    let source = format!("    - {{name: vm1, path: {path}, points: {{resource_id: {VM}, table: vm_usage}}}}\n");
    let exporter = start(&dir, &source).await;
    let outcomes = exporter.poll_all().await;
    assert!(failures(&outcomes).is_empty(), "{outcomes:?}");
    let [snapshot] = exporter.snapshots().try_into().expect("one snapshot");
    assert_eq!(snapshot.kind, RowKind::Points { table: "vm_usage".to_owned() });
    assert_eq!(
        (snapshot.totals.rows(), snapshot.rejected),
        (3, 1),
        "a missing point is none, too many digits are told"
    );

    let records = text(&exporter, "/records").await;
    for (time, average) in [("10:00", "0.12345678901"), ("10:15", "5.25"), ("10:45", "0.000000000001")] {
        let labels = format!("timestamp=\"2024-09-18T{time}:00Z\",average=\"{average}\",unit=\"Percent\"");
        let line = format!("usage_average{{ResourceId=\"{VM}\",metricName=\"{CPU}\",{labels},");
        assert!(records.contains(&line), "{line} is not in {records}");
    }
    assert!(
        text(&exporter, "/metrics")
            .await
            .contains("costream_rejected_rows{source=\"vm1\",reason=\"too_many_digits\"} 1\n")
    );

    // What is no answer, or says nothing, leaves what was there.
    for (body, says) in [
        ("", "no metrics of Azure Monitor"),
        ("{\"value\": []}", "the metrics have no points"),
        ("<html>Sign in</html>", "no metrics of Azure Monitor"),
        (&ANSWER[..200], "no metrics of Azure Monitor"),
    ] {
        write(&dir, "usage.json", body);
        let errors = failures(&exporter.poll_all().await);
        assert!(errors.len() == 1 && errors[0].contains(says) && errors[0].contains("usage.json"), "{errors:?}");
        assert_eq!(exporter.snapshots(), std::slice::from_ref(&snapshot));
    }
}

#[tokio::test]
async fn rows_of_any_make_are_a_metric_and_records_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let csv = "team,month,tokens,note\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nweb,2024-09,3,\nweb,2024-09,much,\n";
    let path = write(&dir, "gen.csv", csv);
    let generic = "generic: {value_column: 2, metric: My_Metric, table: tokens}";
    let exporter = start(&dir, &format!("    - {{name: tokens, path: {path}, {generic}}}\n")).await;
    let outcomes = exporter.poll_all().await;
    assert!(failures(&outcomes).is_empty(), "{outcomes:?}");
    let [snapshot] = exporter.snapshots().try_into().expect("one snapshot");
    assert_eq!((snapshot.totals.rows(), snapshot.rejected), (3, 1));
    let metrics = text(&exporter, "/metrics").await;
    // As the exporter before this one has it, but for labels without a value, which are none, and twins, which are added up.
    let expected = "# TYPE My_Metric gauge
My_Metric{month=\"2024-09\",team=\"web\",tokens=\"3\"} 3
My_Metric{month=\"2024-09\",note=\"a \\\"b\\\", c\",team=\"ml\",tokens=\"12.5\"} 25
";
    assert!(metrics.contains(expected), "{metrics}");
    assert!(!metrics.contains("costream_control_charges{source=\"tokens\""), "{metrics}");
    let records = text(&exporter, "/records").await;
    assert!(
        records.contains("generic_value{team=\"web\",month=\"2024-09\",tokens=\"3\",x_source=\"tokens\""),
        "{records}"
    );
    assert_eq!(records.lines().filter(|line| line.starts_with("generic_value{")).count(), 3);
    // What breaks off, or has no such column, leaves what was there.
    for (body, says) in [("a,b\n1,2\n", "no column at place 2"), ("[{\"a\":1},{\"a", "ends early"), ("", "is empty")] {
        write(&dir, "gen.csv", body);
        let errors = failures(&exporter.poll_all().await);
        assert!(errors.len() == 1 && errors[0].contains(says), "{errors:?}");
        assert_eq!(exporter.snapshots(), std::slice::from_ref(&snapshot));
    }
    // The same bytes are the same snapshot.
    write(&dir, "gen.csv", csv);
    let outcomes = exporter.poll_all().await;
    assert!(outcomes[0].result.as_ref().is_ok_and(|polled| !polled.changed), "{outcomes:?}");
}

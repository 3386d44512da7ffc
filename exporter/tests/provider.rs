//! The usage of a cost report's resources, as an inherited configuration's ProviderConfig asks for it: from the files to what
//! is asked, and to `/metrics`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use chrono::{DateTime, DurationRound as _, SecondsFormat, TimeDelta, Utc};
use costream_common::record::RowKind;
use costream_common::report::one_line;
use costream_exporter::Exporter;
use costream_exporter::inherited::Loaded;
use costream_tests::azure_monitor::{self as stand_in, AzureMonitor};
use costream_tests::server::{Answer, Server};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const VM: &str = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm";
const DISK: &str = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/disks/d1";
const CPU: &str = "Percentage CPU";
const METRICS: &str = "/providers/microsoft.insights/metrics?api-version=2023-10-01";

const CONFIG: &str = "kind: ExporterScraperConfig
metadata: {name: azure, namespace: finops}
spec:
  exporterConfig:
    provider: {name: azure, namespace: finops}
    api: {path: /costs.csv, verb: GET, headers: ['Accept: text/csv'], endpointRef: {name: report-endpoint, namespace: finops}}
    metricType: cost
    pollingInterval: 12h30m
  scraperConfig: {tableName: focus, pollingInterval: 1h, scraperDatabaseConfigRef: {name: db, namespace: finops}}
";
const PROVIDER: &str = "kind: ProviderConfig
metadata: {name: azure, namespace: finops}
spec: {resourcesRef: [{name: vms, namespace: finops}]}
";
const VMS: &str = "kind: ResourceConfig
metadata: {name: vms, namespace: finops}
spec: {resourceFocusName: Virtual machine, metricsRef: [{name: cpu, namespace: finops}]}
";

/// Two machines, one of them in two spellings, and a disk.
fn costs() -> String {
    format!(
        "BilledCost,ResourceId,ResourceType\n1,{VM}1,Virtual machine\n2,{},Virtual machine\n3,{DISK},Disk\n4,{VM}2,Virtual machine\n",
        format!("{VM}1").to_uppercase()
    )
}

fn cpu() -> String {
    metric("cpu", CPU, &format!("resourceSuffix: '{METRICS}'"), "day")
}

fn metric(name: &str, metric: &str, endpoint: &str, timespan: &str) -> String {
    format!(
        "kind: MetricConfig
metadata: {{name: {name}, namespace: finops}}
spec: {{metricName: {metric}, endpoint: {{{endpoint}}}, timespan: {timespan}, interval: PT15M}}
"
    )
}

/// A folder with a configuration, and one of resources.
struct House {
    dir: TempDir,
}

impl House {
    /// With all that a ProviderConfig refers to.
    fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(house.path("resources")).expect("a folder");
        for (name, text) in [("provider", PROVIDER), ("vms", VMS), ("cpu", &cpu())] {
            house.write(name, text);
        }
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// At once, for who reads meanwhile.
    fn write(&self, name: &str, text: &str) {
        let (new, path) = (self.path("new"), self.path(&format!("resources/{name}.yaml")));
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).expect("written");
    }

    fn secret(&self, name: &str, url: &str, token: &str) {
        let keys = format!("stringData: {{server-url: '{url}', token: \"{token}\\n\"}}\n");
        self.write(name, &format!("kind: Secret\nmetadata: {{name: {name}, namespace: finops}}\n{keys}"));
    }

    async fn start(&self, config: &str) -> Exporter {
        let path = self.path("config.yaml");
        std::fs::write(&path, config).expect("written");
        let mut exporter = Loaded::read(&path, Some(&self.path("resources"))).expect("a good file").exporter;
        exporter.spool_dir = self.path("spool");
        exporter.retry_for.0 = Duration::ZERO;
        Exporter::start(exporter).await.expect("an exporter")
    }
}

/// A stand-in with the report behind it, and a token that it takes.
fn azure(now: DateTime<Utc>) -> AzureMonitor {
    let azure = AzureMonitor::start(now).expect("a stand-in");
    azure.world().files.insert("/costs.csv".to_owned(), costs());
    azure.world().trust("tok");
    azure
}

async fn get(exporter: &Exporter, path: &str, accept: Option<&str>) -> String {
    let request = accept.iter().fold(Request::get(path), |request, accept| request.header("accept", *accept));
    let request = request.body(Body::empty()).expect("a request");
    let response = exporter.router().oneshot(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// Polls all; the failures, each behind its source.
async fn poll(exporter: &Exporter) -> Vec<String> {
    let outcomes = exporter.poll_all().await.into_iter();
    let failed = outcomes.filter_map(|outcome| Some((outcome.source, outcome.result.err()?)));
    failed.map(|(source, error)| format!("{source}: {}", one_line(&error))).collect()
}

/// What was asked for metrics: the paths, and with which tokens.
fn asked(azure: &AzureMonitor) -> BTreeSet<(String, String)> {
    let asked = azure.asked().into_iter().filter(|asked| asked.target != "/costs.csv");
    let parts = asked.map(|asked| {
        let path = asked.target.split_once('?').map_or(asked.target.as_str(), |(path, _)| path).to_owned();
        let token = asked.header("authorization").unwrap_or_default().to_owned();
        (path, token)
    });
    parts.collect()
}

/// How often it was asked for metrics.
fn asked_times(azure: &AzureMonitor) -> usize {
    azure.asked().iter().filter(|asked| asked.target != "/costs.csv").count()
}

/// Some hours before a time, and of the same day: a poll goes back to the day before its own.
fn earlier(now: DateTime<Utc>) -> DateTime<Utc> {
    (now - TimeDelta::hours(5)).max(now.duration_trunc(TimeDelta::days(1)).expect("a day"))
}

/// The times of the points since yesterday began.
fn times(until: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
    let yesterday = until.duration_trunc(TimeDelta::days(1)).expect("a day") - TimeDelta::days(1);
    std::iter::successors(Some(yesterday), |time| Some(*time + TimeDelta::minutes(15))).take_while(move |t| *t < until)
}

/// The labels of every point of a metric since yesterday began.
fn points(metric: &str, resources: &[String], until: DateTime<Utc>) -> BTreeSet<String> {
    let point = |resource: &String, time: DateTime<Utc>| {
        let average = stand_in::average(resource, metric, time);
        let average = average.trim_end_matches('0').trim_end_matches('.').to_owned();
        let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!(
            "ResourceId=\"{resource}\",average=\"{average}\",metricName=\"{metric}\",timestamp=\"{time}\",unit=\"Percent\""
        )
    };
    resources.iter().flat_map(|resource| times(until).map(move |time| point(resource, time))).collect()
}

/// The labels of the points in a `/metrics`; that none is there twice is checked on the way.
fn shown(metrics: &str, name: &str) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for line in metrics.lines() {
        let Some((labels, value)) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')?.split_once("} "))
        else {
            continue;
        };
        let average = labels.split("average=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an average");
        assert_eq!(average.parse::<f64>(), value.parse::<f64>(), "{line}");
        assert!(shown.insert(labels.to_owned()), "twice: {line}");
    }
    shown
}

fn machines(n: std::ops::RangeInclusive<u8>) -> Vec<String> {
    n.map(|n| format!("{VM}{n}")).collect()
}

#[tokio::test]
async fn the_usage_of_a_reports_resources_is_polled_beside_it_to_the_last_digit() {
    let now = Utc::now();
    let azure = azure(now);
    let by_url = format!(
        "kind: ExporterScraperConfig
metadata: {{name: azure}}
spec:
  exporterConfig:
    provider: {{name: azure, namespace: finops}}
    url: {}/costs.csv
    requireAuthentication: true
    authenticationMethod: bearer-token
    bearerToken: {{name: report-endpoint, namespace: finops, key: token}}
    metricType: cost
    pollingIntervalHours: 12
",
        azure.url()
    );
    for (config, table) in [(CONFIG, "focus_res"), (&by_url, "usage")] {
        let house = House::new();
        house.secret("report-endpoint", &azure.url(), "tok");
        let exporter = house.start(config).await;
        assert_eq!(poll(&exporter).await, [""; 0]);
        let snapshots = exporter.snapshots();
        let known: Vec<_> = snapshots.iter().map(|of| (of.key.source.as_str(), of.kind.clone())).collect();
        let usage = ("azure_res", RowKind::Points { table: table.to_owned() });
        assert_eq!(known, [("azure", RowKind::Charges), usage.clone(), usage], "the report, and two days");
        // Whose type has a ResourceConfig, once each; with what the report is asked with.
        let of_machines = machines(1..=2).into_iter().map(|id| id + METRICS.split('?').next().expect("a path"));
        assert_eq!(asked(&azure), of_machines.map(|path| (path, "Bearer tok".to_owned())).collect());
        let first = azure.asked().into_iter().find(|asked| asked.target != "/costs.csv").expect("it was asked");
        let parameters = "?api-version=2023-10-01&metricnames=Percentage+CPU&timespan=";
        assert!(first.target.contains(parameters) && first.target.ends_with("&interval=PT15M"), "{}", first.target);
        assert_eq!(first.header("accept"), Some("application/json"), "whatever the report is wanted as");

        let text = get(&exporter, "/metrics", None).await;
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("billed_cost{")).collect();
        assert_eq!(rows.len(), 4);
        assert!(!text.contains("x_source"), "nothing that it had not before: {text}");
        assert_eq!(shown(&text, "percentage_cpu"), points(CPU, &machines(1..=2), now));
        assert_eq!(text.matches("# TYPE percentage_cpu gauge\n").count(), 1);
        let text = get(&exporter, "/metrics", Some("text/plain;version=0.0.4")).await;
        assert!(text.contains("costream_source_up{source=\"azure_res\"} 1\n"), "{text}");
    }
}

#[tokio::test]
async fn what_is_missing_is_waited_for_and_the_report_goes_on() {
    let now = Utc::now();
    let azure = azure(now);
    for (missing, text, says) in [
        ("provider", PROVIDER, "ProviderConfig finops/azure: there is none in "),
        ("vms", VMS, "ResourceConfig finops/vms: there is none in "),
        ("cpu", &cpu(), "MetricConfig finops/cpu: there is none in "),
    ] {
        let house = House::new();
        house.secret("report-endpoint", &azure.url(), "tok");
        let away = house.path(&format!("resources/{missing}.yaml"));
        std::fs::remove_file(&away).expect("removed");
        let exporter = house.start(CONFIG).await;
        let failed = poll(&exporter).await;
        assert!(failed.len() == 1 && failed[0].starts_with(&format!("azure_res: {says}")), "{failed:?}");
        let bare = get(&exporter, "/metrics", None).await;
        assert!(
            bare.contains("\nbilled_cost{") && bare.contains("costream_source_up{source=\"azure_res\"} 0\n"),
            "{bare}"
        );
        assert!(!bare.contains("costream_source_up{source=\"azure\"}"), "{bare}");
        // It comes.
        house.write(missing, text);
        assert_eq!(poll(&exporter).await, [""; 0]);
        assert_eq!(
            shown(&get(&exporter, "/metrics", None).await, "percentage_cpu"),
            points(CPU, &machines(1..=2), now)
        );
        // It goes: what there was is served on.
        std::fs::remove_file(&away).expect("removed");
        assert_eq!(poll(&exporter).await.len(), 1);
        assert_eq!(
            shown(&get(&exporter, "/metrics", None).await, "percentage_cpu"),
            points(CPU, &machines(1..=2), now)
        );
    }
}

/// Of two metrics one cannot be asked for: its MetricConfig is missing, or it is wrong, or its server's Secret is missing, or
/// has a token that is turned down.
#[tokio::test]
async fn what_is_missing_to_one_metric_keeps_no_other_back() {
    let now = Utc::now();
    let suffix = format!("resourceSuffix: '{METRICS}'");
    let own = |secret: &str| format!("{suffix}, resourcePrefixAPI: {{endpointRef: {{name: {secret}}}}}");
    for (net, says) in [
        (None, "MetricConfig finops/net: there is none in "),
        (
            Some(metric("net", "Network In", &suffix, "week")),
            "MetricConfig finops/net: `timespan`: unknown variant `week`",
        ),
        (Some(metric("net", "Network In", &own("nowhere"), "day")), "Secret finops/nowhere: there is none in "),
        (Some(metric("net", "Network In", &own("stranger"), "day")), "ask http://127.0.0.1:"),
    ] {
        let (azure, other) = (azure(earlier(now)), AzureMonitor::start(now).expect("a stand-in"));
        let house = House::new();
        house.secret("report-endpoint", &azure.url(), "tok");
        house.secret("stranger", &other.url(), "unknown");
        let both = "{name: net, namespace: finops}, {name: cpu, namespace: finops}";
        house.write("vms", &VMS.replace("{name: cpu, namespace: finops}", both));
        if let Some(net) = net {
            house.write("net", &net);
        }
        let exporter = house.start(CONFIG).await;
        let mut n_asked = Vec::new();
        for _ in 0..2 {
            let failed = poll(&exporter).await;
            assert!(failed.len() == 1 && failed[0].starts_with(&format!("azure_res: {says}")), "{failed:?}");
            let text = get(&exporter, "/metrics", None).await;
            assert_eq!(shown(&text, "percentage_cpu"), points(CPU, &machines(1..=2), azure.world().now), "{says}");
            assert!(text.contains("costream_source_up{source=\"azure_res\"} 0\n"), "{text}");
            n_asked.push(asked_times(&azure));
            azure.world().now = now;
        }
        if !says.starts_with("ask ") {
            assert_eq!(n_asked, [4, 6], "two machines on two days, and then today alone: yesterday has no more to say");
        }
        // It comes some hours later: of every day, from the first on, it is all there.
        house.write("net", &metric("net", "Network In", &suffix, "day"));
        assert_eq!(poll(&exporter).await, [""; 0]);
        let text = get(&exporter, "/metrics", None).await;
        for (name, metric) in [("percentage_cpu", CPU), ("network_in", "Network In")] {
            assert_eq!(shown(&text, name), points(metric, &machines(1..=2), now), "{says}");
        }
    }
}

/// Polls are half a day apart, and a minute after one that failed.
#[tokio::test]
async fn what_comes_late_is_not_waited_for_until_the_next_poll() {
    let now = Utc::now();
    let azure = azure(now);
    let house = House::new();
    std::fs::remove_file(house.path("resources/cpu.yaml")).expect("removed");
    let exporter = house.start(CONFIG).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (exporter, shutdown) = (exporter.clone(), shutdown.clone());
        async move { exporter.run(shutdown).await }
    });
    let until = async |is: &dyn Fn(&str) -> bool| {
        while !is(&get(&exporter, "/metrics", None).await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Whom nothing ails is not mentioned to who asks so.
    let down = "costream_source_up{source=\"azure\"} 0\n";
    let comes = async {
        until(&|metrics| metrics.contains(down)).await;
        let began = Instant::now();
        house.secret("report-endpoint", &azure.url(), "tok");
        until(&|metrics| metrics.contains("\nbilled_cost{") && !metrics.contains(down)).await;
        house.write("cpu", &cpu());
        until(&|metrics| shown(metrics, "percentage_cpu") == points(CPU, &machines(1..=2), now)).await;
        began.elapsed()
    };
    let took = tokio::time::timeout(Duration::from_secs(300), comes).await.expect("it is polled");
    assert!(took < Duration::from_secs(50), "the next poll would have been as soon: {took:?}");
    shutdown.cancel();
    running.await.expect("it ends");
}

#[tokio::test]
async fn what_a_metric_config_cannot_ask_for_is_said() {
    let azure = azure(Utc::now());
    let suffix = format!("resourceSuffix: '{METRICS}'");
    for (text, says) in [
        (
            metric("cpu", CPU, &suffix, "week"),
            "MetricConfig finops/cpu: `timespan`: unknown variant `week`, expected one of `day`, `month`, `year`",
        ),
        (cpu().replace("PT15M", "15m"), "MetricConfig finops/cpu: `interval`: \"15m\" is no duration such as PT15M"),
        (cpu().replace("metricName", "metricNam"), "MetricConfig finops/cpu: configuration "),
        (
            metric("cpu", CPU, &format!("{suffix}, resourcePrefixAPI: {{endpointRef: {{name: other}}}}"), "day"),
            "Secret finops/other: there is none in ",
        ),
    ] {
        let house = House::new();
        house.secret("report-endpoint", &azure.url(), "tok");
        house.write("cpu", &text);
        let exporter = house.start(CONFIG).await;
        let failed = poll(&exporter).await;
        assert!(failed.len() == 1 && failed[0].starts_with(&format!("azure_res: {says}")), "{failed:?}");
    }
    assert!(asked(&azure).is_empty());
}

#[tokio::test]
async fn what_has_changed_is_used_by_the_next_poll() {
    let now = Utc::now();
    let azure = azure(now);
    let house = House::new();
    house.secret("report-endpoint", &azure.url(), "tok");
    let exporter = house.start(CONFIG).await;
    assert_eq!(poll(&exporter).await, [""; 0]);
    // The token is another one.
    azure.world().forget_tokens();
    azure.world().trust("rotated");
    assert_eq!(poll(&exporter).await.len(), 2, "neither the report nor today");
    house.secret("report-endpoint", &azure.url(), "rotated");
    assert_eq!(poll(&exporter).await, [""; 0]);
    assert!(asked(&azure).iter().any(|(_, token)| token == "Bearer rotated"));
    // A second metric, and another machine.
    house.write("net", &metric("net", "Network In", &format!("resourceSuffix: '{METRICS}'"), "day"));
    house.write("vms", &VMS.replace("{name: cpu, namespace: finops}", "{name: cpu, namespace: finops}, {name: net}"));
    azure.world().files.insert("/costs.csv".to_owned(), format!("{}5,{VM}3,Virtual machine\n", costs()));
    assert_eq!(poll(&exporter).await, [""; 0]);
    let text = get(&exporter, "/metrics", None).await;
    assert_eq!(shown(&text, "percentage_cpu"), points(CPU, &machines(1..=3), now));
    assert_eq!(shown(&text, "network_in"), points("Network In", &machines(1..=3), now));
}

#[tokio::test]
async fn a_token_that_is_rotated_within_a_poll_is_read_anew_once() {
    let house = Arc::new(House::new());
    let url = Arc::<Mutex<String>>::default();
    let server = Server::start(None, {
        let (house, url) = (Arc::clone(&house), Arc::clone(&url));
        move |asked| match (asked.target.as_str(), asked.header("authorization")) {
            ("/costs.csv", _) => {
                Answer::new(200, format!("BilledCost,ResourceId,ResourceType\n1,{VM}1,Virtual machine\n"))
            }
            (_, Some("Bearer second")) => {
                Answer::new(200, r#"{"value": [{"name": {"value": "a"}, "timeseries": []}]}"#)
            }
            _ => {
                house.secret("report-endpoint", &url.lock().expect("a url"), "second");
                Answer::new(401, "")
            }
        }
    });
    let server = server.expect("a server");
    *url.lock().expect("a url") = server.url("");
    house.secret("report-endpoint", &server.url(""), "first");
    let exporter = house.start(CONFIG).await;
    assert_eq!(poll(&exporter).await, [""; 0]);
    let of_usage = server.asked().into_iter().filter(|asked| asked.target != "/costs.csv");
    let sent: Vec<_> = of_usage.map(|asked| asked.header("authorization").unwrap_or_default().to_owned()).collect();
    let times = |token: &str| sent.iter().filter(|sent| *sent == token).count();
    assert!((1..=2).contains(&times("Bearer first")) && times("Bearer second") == 2, "two days at once: {sent:?}");
    // A token for another server is not tried on this one.
    let other = Server::start(None, |_| Answer::new(500, "")).expect("a server");
    *url.lock().expect("a url") = other.url("");
    house.secret("report-endpoint", &server.url(""), "first");
    let asked = server.asked().len();
    assert_eq!(poll(&exporter).await.len(), 1);
    assert!(server.asked()[asked..].iter().all(|asked| asked.header("authorization") == Some("Bearer first")));
}

#[tokio::test]
async fn polls_leave_neither_hole_nor_overlap_whatever_comes_between() {
    let now = Utc::now();
    let azure = azure(earlier(now));
    let house = House::new();
    house.secret("report-endpoint", &azure.url(), "tok");
    let exporter = house.start(CONFIG).await;
    assert_eq!(poll(&exporter).await, [""; 0]);
    let before = points(CPU, &machines(1..=2), earlier(now));
    assert_eq!(shown(&get(&exporter, "/metrics", None).await, "percentage_cpu"), before);
    exporter.close().await;
    // Another process, to which at first nothing is answered.
    let exporter = house.start(CONFIG).await;
    azure.world().now = now;
    azure.world().failing = machines(1..=2).into_iter().collect();
    assert!(!poll(&exporter).await.is_empty());
    assert_eq!(shown(&get(&exporter, "/metrics", None).await, "percentage_cpu"), before);
    azure.world().failing.clear();
    assert_eq!(poll(&exporter).await, [""; 0]);
    let all = points(CPU, &machines(1..=2), now);
    assert_eq!(shown(&get(&exporter, "/metrics", None).await, "percentage_cpu"), all);
    assert_eq!(get(&exporter, "/records?source=azure_res", None).await.matches("\nusage_average{").count(), all.len());
}

#[tokio::test]
async fn a_metric_with_a_server_of_its_own_is_asked_there_and_with_that_ones_token() {
    let now = Utc::now();
    let (azure, other) = (azure(now), AzureMonitor::start(now).expect("a stand-in"));
    other.world().trust("other's");
    let house = House::new();
    house.secret("report-endpoint", &azure.url(), "tok");
    house.secret("other-endpoint", &other.url(), "other's");
    let own = format!("resourceSuffix: '{METRICS}', resourcePrefixAPI: {{endpointRef: {{name: other-endpoint}}}}");
    house.write("net", &metric("net", "Network In", &own, "day"));
    house.write("vms", &VMS.replace("{name: cpu, namespace: finops}", "{name: cpu, namespace: finops}, {name: net}"));
    let exporter = house.start(CONFIG).await;
    assert_eq!(poll(&exporter).await, [""; 0]);
    let text = get(&exporter, "/metrics", None).await;
    assert_eq!(shown(&text, "percentage_cpu"), points(CPU, &machines(1..=2), now));
    assert_eq!(shown(&text, "network_in"), points("Network In", &machines(1..=2), now));
    for (of, metric, token) in [(&azure, "Percentage+CPU", "Bearer tok"), (&other, "Network+In", "Bearer other's")] {
        let asked = of.asked().into_iter().filter(|asked| asked.target != "/costs.csv");
        let is_well = asked.map(|asked| asked.target.contains(metric) && asked.header("authorization") == Some(token));
        assert_eq!(is_well.collect::<Vec<_>>(), [true; 4], "two machines on two days, and nothing else");
    }
}

//! Inherited configurations from their file to `/metrics`: what the systems that are replaced were configured with works
//! as it is, and what they got wrong is right.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use costream_common::report::one_line;
use costream_exporter::inherited::Loaded;
use costream_exporter::{Exporter, Polled};
use costream_tests::certificates::Authority;
use costream_tests::server::{Answer, Asked, Server};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// Two charges of a real report's form: nulls written out, times without a zone, tags as JSON, a custom column.
const REPORT: &str = r#""BilledCost","BillingCurrency","BillingPeriodStart","ChargeClass","ListUnitPrice","ServiceName","Tags","x_Team"
0.00000000000,"USD","2024-09-01 00:00:00",NULL,"0","Storage Accounts","{""env"": ""prod"", ""org"": ""trey""}","a"
-0.00000021600,"USD","2024-09-01 00:00:00",NULL,"0.00036","Storage Accounts","{""env"": ""prod""}","b"
"#;
/// As the exporters that are replaced show it.
const ROWS: &str = r#"# HELP billed_cost 
# TYPE billed_cost gauge
billed_cost{BilledCost="0.00000000000",BillingCurrency="USD",BillingPeriodStart="2024-09-01 00:00:00",ChargeClass="NULL",ListUnitPrice="0",ServiceName="Storage Accounts",Tags="env: prod; org: trey"} 0
billed_cost{BilledCost="-0.00000021600",BillingCurrency="USD",BillingPeriodStart="2024-09-01 00:00:00",ChargeClass="NULL",ListUnitPrice="0.00036",ServiceName="Storage Accounts",Tags="env: prod"} -2.16e-07
"#;

/// The smallest configuration they took.
const SAMPLE: &str = "apiVersion: finops.krateo.io/v1
kind: ExporterScraperConfig
spec:
  exporterConfig:
    api:
      path: /sample.csv
      verb: GET
      endpointref:
        name: report-endpoint
        namespace: finops
    metricType: cost
    pollingInterval:
      duration: 1h
";

/// A folder with a configuration, and one of resources.
struct House {
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(house.path("resources")).expect("a folder");
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the Secret that the configurations name.
    fn secret(&self, keys: &[(&str, &str)]) {
        self.secret_of("stringData", keys);
    }

    fn secret_of(&self, data: &str, keys: &[(&str, &str)]) {
        let keys: String = keys.iter().map(|(key, text)| format!("  {key}: {text:?}\n")).collect();
        let text = format!("kind: Secret\nmetadata: {{name: report-endpoint, namespace: finops}}\n{data}:\n{keys}");
        std::fs::write(self.path("resources/secret.yaml"), text).expect("written");
    }

    fn load(&self, config: &str) -> Result<Loaded, String> {
        let path = self.path("config.yaml");
        std::fs::write(&path, config).expect("written");
        Loaded::read(&path, Some(&self.path("resources"))).map_err(|error| one_line(&error))
    }

    async fn start(&self, config: &str) -> Exporter {
        let mut exporter = self.load(config).expect("a good file").exporter;
        exporter.spool_dir = self.path("spool");
        exporter.retry_for.0 = std::time::Duration::ZERO;
        Exporter::start(exporter).await.expect("an exporter")
    }
}

fn serve(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(None, answer).expect("a server")
}

async fn poll(exporter: &Exporter) -> Result<Polled, String> {
    let outcome = exporter.poll_all().await.pop().expect("one source");
    outcome.result.map_err(|error| one_line(&error))
}

/// `/metrics` as the scraper that is replaced asks for it, or as a Prometheus does.
async fn metrics(exporter: &Exporter, accept: Option<&str>) -> String {
    let request = accept.iter().fold(Request::get("/metrics"), |request, accept| request.header("accept", *accept));
    let request = request.body(Body::empty()).expect("a request");
    let response = exporter.router().oneshot(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

fn rows(metrics: &str) -> Vec<&str> {
    metrics.lines().filter(|line| line.starts_with("billed_cost{")).collect()
}

#[tokio::test]
async fn the_smallest_configuration_shows_the_rows_as_they_always_were() {
    for content_type in ["text/csv", "text/csv; charset=utf-8", "application/octet-stream", "binary/octet-stream"] {
        let house = House::new();
        let server = serve(move |_| Answer::new(200, REPORT).with("Content-Type", content_type));
        house.secret(&[("server-url", &server.url("/\n"))]);
        let exporter = house.start(SAMPLE).await;
        assert_eq!(metrics(&exporter, None).await, "", "nothing yet");
        let polled = poll(&exporter).await.expect("a report");
        assert!(polled.changed && polled.snapshot.totals.rows() == 2);
        assert_eq!(server.asked()[0].target, "/sample.csv");
        assert_eq!(metrics(&exporter, None).await, ROWS, "{content_type}");
        assert_eq!(metrics(&exporter, None).await, ROWS, "the same twice, or a scraper waits for ever");

        let text = metrics(&exporter, Some("text/plain;version=0.0.4")).await;
        assert!(
            text.starts_with(ROWS) && text.contains("costream_source_up{source=\"report-endpoint\"} 1\n"),
            "{text}"
        );
        let text = metrics(&exporter, Some("application/openmetrics-text;version=1.0.0")).await;
        assert!(text.starts_with(ROWS) && text.ends_with("# EOF\n"), "{text}");
    }
}

#[tokio::test]
async fn both_spellings_and_the_old_keys_ask_for_the_same() {
    let server = serve(|_| Answer::new(200, REPORT));
    let by_people = "kind: ExporterScraperConfig
metadata: {name: azure, namespace: finops}
spec:
  exporterConfig:
    api: {path: '/<year>/report.csv', verb: POST, payload: '{\"type\": \"<Usage>\"}', headers: ['Accept: text/csv', 'X-Key: k'],
      endpointRef: {name: report-endpoint, namespace: finops}}
    pollingInterval: 12h30m
    additionalVariables: {year: 2024}
  scraperConfig: {tableName: t, pollingInterval: 1h, scraperDatabaseConfigRef: {name: db, namespace: finops}}
";
    let by_the_operator = "typemeta: {kind: ExporterScraperConfig, apiversion: finops.krateo.io/v1}
objectmeta: {name: azure, generatename: '', creationtimestamp: '0001-01-01T00:00:00Z', labels: {}}
spec:
    exporterConfig:
        provider: {name: '', namespace: ''}
        api: {path: '/<year>/report.csv', verb: POST, payload: '{\"type\": \"<Usage>\"}', headers: ['Accept: text/csv', 'X-Key: k'],
          endpointref: {name: report-endpoint, namespace: finops}}
        metricType: cost
        pollingInterval: {duration: 12h30m0s}
        additionalVariables: {year: '2024'}
    scraperConfig: {tableName: t, pollingInterval: {duration: 1h0m0s}, api: {path: '', verb: '', headers: [], payload: '', endpointref: null}}
status: {conditionedstatus: {conditions: []}}
";
    let old = format!(
        "kind: ExporterScraperConfig
metadata: {{name: azure}}
spec:
  exporterConfig:
    url: http://<host>:<port>/2024/report.csv
    requireAuthentication: true
    authenticationMethod: bearer-token
    bearerToken: {{name: report-endpoint, namespace: finops, key: token}}
    metricType: cost
    pollingIntervalHours: 12
    additionalVariables: {{host: 127.0.0.1, port: {}, envExample: PATH}}
",
        server.address().port()
    );
    let mut token = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut token, b"tok\n").expect("written");
    let file = format!("certFilePath: {}", token.path().display());
    let old_with_a_file = old.replace("bearer-token", "cert-file").replace("envExample: PATH", &file);
    for config in [by_people, by_the_operator, &old, &old_with_a_file] {
        let house = House::new();
        house.secret(&[("server-url", &server.url("")), ("token", "tok\n")]);
        let exporter = house.start(config).await;
        poll(&exporter).await.expect("a report");
        assert_eq!(exporter.snapshots()[0].key.source.as_str(), "azure");
        let asked = server.asked().pop().expect("it was asked");
        assert_eq!(asked.target, "/2024/report.csv");
        assert_eq!(asked.header("authorization"), Some("Bearer tok"), "{config}");
        if config != old && config != old_with_a_file {
            assert_eq!((asked.method.as_str(), &*asked.body), ("POST", &br#"{"type": "<Usage>"}"#[..]));
            assert_eq!((asked.header("accept"), asked.header("x-key")), (Some("text/csv"), Some("k")));
        }
    }
}

/// Reports that ended the exporters that are replaced, or were shown wrongly: `sum()` is the report's, and no series
/// stands twice.
#[tokio::test]
async fn what_they_got_wrong_is_right() {
    let header = "BilledCost,BillingCurrency,Tags\n";
    for (what, body, expected, rejected) in [
        (
            "tags that differ in quotes alone",
            format!("{header}1,USD,\"{{\"\"a\"\": \"\"b\"\"}}\"\n1,USD,\"\"\"a\"\": \"\"b\"\"\"\n"),
            vec![r#"billed_cost{BilledCost="1",BillingCurrency="USD",Tags="a: b"} 2"#],
            0,
        ),
        (
            "two rows of one series",
            format!("{header}0.1,USD,\n7,USD,\n0.1,USD,\n"),
            vec![
                r#"billed_cost{BilledCost="0.1",BillingCurrency="USD",Tags=""} 0.2"#,
                r#"billed_cost{BilledCost="7",BillingCurrency="USD",Tags=""} 7"#,
            ],
            0,
        ),
        (
            "a column's name with a blank",
            "BilledCost,Cost Centre\n1,x\n".to_owned(),
            vec![r#"billed_cost{BilledCost="1",U__Cost_20_Centre="x"} 1"#],
            0,
        ),
        (
            "one short row",
            format!("{header}1,USD,\n2,USD\n"),
            vec![r#"billed_cost{BilledCost="1",BillingCurrency="USD",Tags=""} 1"#],
            1,
        ),
        (
            "digits beyond nano",
            format!("{header}0.0960000000001,USD,\n"),
            vec![r#"billed_cost{BilledCost="0.0960000000001",BillingCurrency="USD",Tags=""} 0.0960000000001"#],
            0,
        ),
    ] {
        let house = House::new();
        let server = serve(move |_| Answer::new(200, body.clone()));
        house.secret(&[("server-url", &server.url(""))]);
        let exporter = house.start(SAMPLE).await;
        let polled = poll(&exporter).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(polled.snapshot.rejected, rejected, "{what}");
        let text = metrics(&exporter, None).await;
        assert_eq!(rows(&text), expected, "{what}");
        let refused = metrics(&exporter, Some("*/*")).await;
        assert_eq!(refused.contains("costream_rejected_rows{"), rejected > 0, "{what} is told");
    }
}

/// FocusConfigs as the cluster's API lists them; the exporter that is replaced rounded them up to nano.
#[tokio::test]
async fn a_list_of_focus_configs_is_a_cost_report() {
    let spec = |key: &str, cost: &str| {
        format!(
            r#"{{"metadata": {{"name": "a"}}, "spec": {{"focusSpec": {{"billedCost": {cost}, "billingCurrency": "USD",
            "billingPeriodStart": "2024-09-01T00:00:00Z", "serviceCategory": "Compute", "resourceId": "r1",
            "tags": [{{"key": "krateo-finops-focus-resource", "value": "{key}"}}]}}}}}}"#
        )
    };
    let body = format!(
        r#"{{"apiVersion": "finops.krateo.io/v1", "kind": "FocusConfigList", "metadata": {{"continue": ""}}, "items": [{}, {}]}}"#,
        spec("vm-a", "\"0.0960000000001\""),
        spec("vm-b", "\"2\""),
    );
    let house = House::new();
    let server = serve(move |_| Answer::new(200, body.clone()).with("Content-Type", "application/json"));
    house.secret(&[("server-url", &server.url(""))]);
    let exporter = house.start(&SAMPLE.replace("/sample.csv", "/apis/finops.krateo.io/v1/focusconfigs")).await;
    poll(&exporter).await.expect("a report");
    let text = metrics(&exporter, None).await;
    let row = r#"billed_cost{BilledCost="0.0960000000001",BillingCurrency="USD",BillingPeriodStart="2024-09-01T00:00:00Z",ResourceId="r1",ServiceCategory="Compute",Tags="krateo-finops-focus-resource:vm-a"} 0.0960000000001"#;
    assert_eq!(rows(&text).first(), Some(&row), "{text}");
    assert_eq!(rows(&text).len(), 2);
}

#[tokio::test]
async fn a_row_may_go_and_come_back_and_a_field_that_is_no_text_is_rejected_alone() {
    let house = House::new();
    let body = Arc::<Mutex<Vec<u8>>>::default();
    let server = serve({
        let body = Arc::clone(&body);
        move |_| Answer::new(200, body.lock().expect("a body").clone())
    });
    house.secret(&[("server-url", &server.url(""))]);
    let exporter = house.start(SAMPLE).await;
    for (reported, shown) in [
        (&b"BilledCost,ServiceName\n1,a\n2,b\n"[..], 2),
        (b"BilledCost,ServiceName\n1,a\n", 1),
        (b"BilledCost,ServiceName\n1,a\n2,b\n", 2),
        (b"BilledCost,ServiceName\n1,a\n2,\xff\xfe\n", 1),
    ] {
        *body.lock().expect("a body") = reported.to_vec();
        poll(&exporter).await.expect("a report");
        assert_eq!(rows(&metrics(&exporter, None).await).len(), shown, "{}", String::from_utf8_lossy(reported));
    }
}

#[tokio::test]
async fn a_failed_poll_keeps_what_is_served_and_shows_itself() {
    let house = House::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let server = serve({
        let answers = Arc::clone(&answers);
        move |_| match answers.load(Ordering::SeqCst) {
            0 => Answer::new(200, REPORT),
            1 => Answer::new(200, ""),
            2 => Answer::new(200, "<html>sign in</html>"),
            3 => Answer::new(204, ""),
            _ => Answer::new(429, "later").with("Retry-After", "1800"),
        }
    });
    house.secret(&[("server-url", &server.url(""))]);
    let exporter = house.start(SAMPLE).await;
    poll(&exporter).await.expect("a report");
    for (nth, says) in [(1, "empty"), (2, "is an HTML page"), (3, "204 No Content"), (4, "429 Too Many Requests")] {
        answers.store(nth, Ordering::SeqCst);
        let error = poll(&exporter).await.expect_err(says);
        assert!(error.contains(says), "{error}");
        let text = metrics(&exporter, None).await;
        let (rows, sign) = text.split_at(ROWS.len());
        assert_eq!(rows, ROWS);
        assert!(sign.ends_with("costream_source_up{source=\"report-endpoint\"} 0\n"), "{sign}");
    }
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_waited_for() {
    let house = House::new();
    let server = serve(|_| Answer::new(200, REPORT));
    let exporter = house.start(SAMPLE).await;
    let error = poll(&exporter).await.expect_err("no secret");
    assert!(error.starts_with("Secret finops/report-endpoint: there is none in "), "{error}");
    assert!(metrics(&exporter, Some("*/*")).await.contains("costream_source_up{source=\"report-endpoint\"} 0"));
    house.secret(&[("server-url", &server.url(""))]);
    poll(&exporter).await.expect("it came");
    assert_eq!(metrics(&exporter, None).await, ROWS);
}

#[tokio::test]
async fn a_token_that_is_turned_down_is_read_anew_once() {
    let house = Arc::new(House::new());
    let url = Arc::<Mutex<String>>::default();
    let server = serve({
        let (house, url) = (Arc::clone(&house), Arc::clone(&url));
        move |asked| match asked.header("authorization") {
            Some("Bearer second") => Answer::new(200, REPORT),
            _ => {
                // It is rotated just now.
                house.secret(&[("server-url", &url.lock().expect("a url")), ("token", "second\n")]);
                Answer::new(401, "")
            }
        }
    });
    *url.lock().expect("a url") = server.url("");
    house.secret(&[("server-url", &server.url("")), ("token", "first\n")]);
    let exporter = house.start(SAMPLE).await;
    poll(&exporter).await.expect("the second token");
    let sent: Vec<_> = server.asked().iter().map(|asked| asked.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [Some("Bearer first".to_owned()), Some("Bearer second".to_owned())]);

    house.secret(&[("server-url", &server.url("/base")), ("username", "ann"), ("password", "pw\n")]);
    let error = poll(&exporter).await;
    let asked = server.asked();
    let basic = format!("Basic {}", BASE64.encode("ann:pw"));
    assert_eq!((asked[2].target.as_str(), asked[2].header("authorization")), ("/base/sample.csv", Some(&*basic)));
    assert!(error.is_ok(), "the server's own rotation let it in: {error:?}");
    assert_eq!(asked.len(), 4);
}

#[tokio::test]
async fn neither_token_nor_payload_goes_to_another_host() {
    let other = serve(|asked| match asked.header("authorization") {
        None => Answer::new(200, REPORT),
        Some(_) => Answer::new(500, ""),
    });
    let away = other.url("/moved.csv");
    let server = serve(move |_| Answer::new(307, "").with("Location", &away));
    let house = House::new();
    house.secret(&[("server-url", &server.url("")), ("token", "tok")]);
    let get = SAMPLE.replace("      verb: GET\n", "      headers: ['X-Api-Key: k']\n");
    poll(&house.start(&get).await).await.expect("a report");
    assert_eq!(other.asked()[0].header("x-api-key"), None);

    let post = SAMPLE.replace("verb: GET", "verb: POST\n      payload: client_secret=hush");
    std::fs::remove_dir_all(house.path("spool")).expect("removed");
    let error = poll(&house.start(&post).await).await.expect_err("a payload");
    assert!(error.contains("POST http") && error.contains("redirected to another host"), "{error}");
    assert_eq!(other.asked().len(), 1);
}

#[tokio::test]
async fn a_secret_names_certificates_an_authority_and_a_proxy() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.issue(&["127.0.0.1"]).expect("a certificate");
    let ours = authority.issue(&["costream"]).expect("a certificate");
    let server = Server::for_known(&identity, &authority, |_| Answer::new(200, REPORT)).expect("a server");
    let house = House::new();
    let url = server.url("");
    let ca = BASE64.encode(authority.certificate());
    let (certificate, key) = (BASE64.encode(&ours.certificate), BASE64.encode(&ours.key));
    let exporter = house.start(SAMPLE).await;
    for (keys, says) in [
        (vec![("server-url", url.as_str())], "the issuer of its certificate is unknown"),
        (vec![("server-url", &url), ("certificate-authority-data", &ca)], "GET https://127.0.0.1"),
        (vec![("server-url", &url), ("insecure", "true")], "GET https://127.0.0.1"),
    ] {
        house.secret(&keys);
        let error = poll(&exporter).await.expect_err(says);
        assert!(error.contains(says), "{error}");
    }
    let known = [("client-certificate-data", certificate.as_str()), ("client-key-data", &key)];
    let mut keys = vec![("server-url", url.as_str()), ("certificate-authority-data", &ca)];
    keys.extend(known);
    house.secret(&keys);
    poll(&exporter).await.expect("a certificate");
    let mut keys = vec![("server-url", url.as_str()), ("insecure", "true")];
    keys.extend(known);
    // As the API has them: everything once more in base64.
    let encoded: Vec<_> = keys.iter().map(|(key, text)| (*key, BASE64.encode(text))).collect();
    house.secret_of("data", &encoded.iter().map(|(key, text)| (*key, text.as_str())).collect::<Vec<_>>());
    poll(&exporter).await.expect("believed");

    let proxy = serve(|asked| match asked.header("proxy-authorization") {
        Some(_) => Answer::new(200, REPORT),
        None => Answer::new(407, ""),
    });
    let through = proxy.url("").replace("http://", "http://ann:pw@");
    house.secret(&[("server-url", "http://reports.example"), ("proxy-url", &through)]);
    poll(&exporter).await.expect("through the proxy");
    assert_eq!(proxy.asked()[0].target, "http://reports.example/sample.csv");
}

#[tokio::test]
async fn rows_outlive_a_restart_and_several_sources_are_told_apart() {
    let server = serve(|_| Answer::new(200, REPORT));
    let house = House::new();
    house.secret(&[("server-url", &server.url(""))]);
    let named = |name: &str| SAMPLE.replace("spec:\n", &format!("metadata: {{name: {name}}}\nspec:\n"));
    let both = format!("{}---\n{}", named("one"), named("two"));
    let exporter = house.start(&both).await;
    assert!(exporter.poll_all().await.iter().all(|outcome| outcome.result.is_ok()));
    let shown = metrics(&exporter, None).await;
    assert_eq!(rows(&shown).len(), 4);
    assert_eq!(rows(&shown).iter().filter(|row| row.contains(",x_source=\"two\"}")).count(), 2);
    exporter.close().await;
    let exporter = house.start(&both).await;
    assert_eq!(metrics(&exporter, None).await, shown);
    exporter.close().await;
    // Made without rows, a snapshot is made anew.
    let mut without = house.load(&both).expect("good").exporter;
    (without.spool_dir, without.metrics.rows) = (house.path("spool2"), false);
    let exporter = Exporter::start(without).await.expect("an exporter");
    exporter.poll_all().await;
    assert!(!metrics(&exporter, None).await.contains("billed_cost{BilledCost="));
    exporter.close().await;
    std::fs::rename(house.path("spool2"), house.path("spool3")).expect("renamed");
    let mut with = house.load(&both).expect("good").exporter;
    with.spool_dir = house.path("spool3");
    let exporter = Exporter::start(with).await.expect("an exporter");
    assert_eq!(rows(&metrics(&exporter, None).await).len(), 0);
    exporter.poll_all().await;
    assert_eq!(rows(&metrics(&exporter, None).await).len(), 4);
}

/// As Azure Monitor answers: a value of many digits, one that is whole, a point without one, and a very small one.
const USAGE: &str = r#"{"cost": 0, "timespan": "2024-09-18T10:00:00Z/2024-09-18T11:00:00Z", "interval": "PT15M", "value": [{
  "id": "x", "type": "Microsoft.Insights/metrics", "name": {"value": "Percentage CPU", "localizedValue": "Percentage CPU"},
  "unit": "Percent", "timeseries": [{"metadatavalues": [], "data": [
    {"timeStamp": "2024-09-18T10:00:00Z", "average": 0.12345678901234}, {"timeStamp": "2024-09-18T10:15:00Z", "average": 5.25},
    {"timeStamp": "2024-09-18T10:30:00Z"}, {"timeStamp": "2024-09-18T10:45:00Z", "average": 1e-12}]}]}]}"#;

#[tokio::test]
async fn usage_is_shown_point_by_point_with_every_digit_and_none_where_there_was_none() {
    let vm = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
    let config = SAMPLE.replace("/sample.csv", "/usage.json?ct=text/csv").replace("cost", "resource");
    let config = format!("{config}    additionalVariables:\n      ResourceId: {vm}\n");
    for content_type in ["application/json", "text/csv"] {
        let house = House::new();
        let server = serve(move |_| Answer::new(200, USAGE).with("Content-Type", content_type));
        house.secret(&[("server-url", &server.url("/"))]);
        let exporter = house.start(&config).await;
        poll(&exporter).await.expect("an answer");
        let sample = |average: &str, time: &str, value: &str| {
            format!(
                "percentage_cpu{{ResourceId=\"{vm}\",average=\"{average}\",metricName=\"Percentage CPU\",\
                 timestamp=\"2024-09-18T10:{time}:00Z\",unit=\"Percent\"}} {value}\n"
            )
        };
        let expected = format!(
            "# HELP percentage_cpu \n# TYPE percentage_cpu gauge\n{}{}{}",
            sample("0.12345678901234", "00", "0.12345678901234"),
            sample("5.25", "15", "5.25"),
            sample("0.000000000001", "45", "1e-12"),
        );
        assert_eq!(metrics(&exporter, None).await, expected);
        let text = metrics(&exporter, Some("text/plain;version=0.0.4")).await;
        assert!(text.starts_with(&expected) && text.matches("# TYPE percentage_cpu ").count() == 1, "{text}");
    }
}

#[tokio::test]
async fn rows_of_any_make_are_one_metric_and_those_of_one_series_are_added_up() {
    for (body, value_column, expected) in [
        (
            "team,month,tokens,note\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nweb,2024-09,3,\n",
            2,
            &[
                r#"My_Metric{month="2024-09",note="a \"b\", c",team="ml",tokens="12.5"} 25"#,
                r#"My_Metric{month="2024-09",team="web",tokens="3"} 3"#,
            ][..],
        ),
        (
            r#"{"meta":1,"items":[{"b":2,"a":"x"},{"a":"y","c":1.5,"b":7}]}"#,
            1,
            &[r#"My_Metric{a="x",b="2"} 2"#, r#"My_Metric{a="y",b="7",c="1.5"} 7"#],
        ),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1726650000.5,"1"]},{"metric":{"__name__":"up","inst":"i"},"value":[1726650000,"0.25"]}]}}"#,
            3,
            &[
                r#"My_Metric{inst="i",metric_name="up",timestamp="2024-09-18T09:00:00Z",value="0.25"} 0.25"#,
                r#"My_Metric{job="a",metric_name="up",timestamp="2024-09-18T09:00:00.5Z",value="1"} 1"#,
            ],
        ),
    ] {
        let house = House::new();
        let server = serve(move |_| Answer::new(200, body));
        house.secret(&[("server-url", &server.url("/"))]);
        let generic = "metricType: generic\n    generic: {valueColumnIndex: AT, metricName: My_Metric}";
        let config = SAMPLE.replace("metricType: cost", &generic.replace("AT", &value_column.to_string()));
        let exporter = house.start(&config).await;
        poll(&exporter).await.expect("rows");
        for accept in [None, Some("text/plain;version=0.0.4")] {
            let text = metrics(&exporter, accept).await;
            let mut samples: Vec<_> = text.lines().filter(|line| line.starts_with("My_Metric{")).collect();
            samples.sort_unstable();
            assert_eq!(samples, expected, "{accept:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_source_is_said_at_the_start() {
    let house = House::new();
    for (config, says) in [
        (SAMPLE.replace("metricType: cost", "metricType: costs"), "metricType: \"costs\" is none of"),
        (SAMPLE.replace("/sample.csv", "/<who>"), "<who> is not among additionalVariables"),
        (SAMPLE.replace("duration: 1h", "duration: soon"), "line 13"),
        ("kind: Secret\nmetadata: {name: a}\n".to_owned(), "it has no exporterConfig"),
        (SAMPLE.replace("metricType: cost", "metricType: resource"), "ResourceId is missing"),
        (format!("{SAMPLE}---\n{SAMPLE}"), "two ExporterScraperConfigs are called report-endpoint"),
    ] {
        let error = house.load(&config).expect_err(says);
        assert!(error.contains(says) && error.contains("config.yaml"), "{error}");
    }
}

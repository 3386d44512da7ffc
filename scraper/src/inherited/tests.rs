use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use costream_common::inherited;
use costream_tests::server::{Answer as Said, Asked, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const ACKNOWLEDGED: &str = r#"{"message": "Data uploaded successfully", "records_processed": 1, "time_taken": 0.1}"#;

/// The scraper's own file, as it is mounted.
const CONFIG: &str = "databaseConfigRef:
  name: db
  namespace: finops
exporter:
  api:
    path: /metrics
    verb: GET
    endpointref:
      name: exporter-endpoint
      namespace: finops
  pollingInterval:
    duration: 24h
  tableName: focus_table
  metricType: cost
";

/// An exporter, a handler, and a folder with the configuration and what it refers to.
struct House {
    dir: TempDir,
    exporter: Server,
    handler: Server,
}

impl House {
    fn new(exposition: String, handler: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        let exporter =
            Server::start(None, move |_| Said::new(200, exposition.clone()).with("Content-Type", "text/plain"));
        let house = Self {
            dir: tempfile::tempdir().expect("a folder"),
            exporter: exporter.expect("an exporter"),
            handler: Server::start(None, handler).expect("a handler"),
        };
        house.password("first\n");
        house
    }

    /// Writes what the configuration refers to.
    fn password(&self, password: &str) {
        let url = self.exporter.url("");
        let text = format!(
            "kind: Secret
metadata: {{name: exporter-endpoint, namespace: finops}}
stringData: {{server-url: '{url}', token: tok}}
---
kind: Secret
metadata: {{name: db-password}}
stringData: {{password: {password:?}}}
---
kind: DatabaseConfig
metadata: {{name: db, namespace: finops}}
spec: {{username: crate, passwordSecretRef: {{name: db-password, key: password}}}}
"
        );
        std::fs::write(self.dir.path().join("resources.yaml"), text).expect("written");
    }

    fn uploader(&self, config: &str) -> Result<Uploader, String> {
        let path = self.dir.path().join("config");
        std::fs::write(&path, config).expect("written");
        let inherited = inherited::read(&path, Some(self.dir.path())).expect("good").expect("inherited");
        Uploader::new(&inherited, Some(&self.handler.url("/"))).map_err(|error| one_line(&error))
    }

    async fn cycle(&self) -> Result<Uploaded, String> {
        let mut cycled = self.uploader(CONFIG).expect("good").cycle_once().await;
        cycled.pop().expect("one table").map_err(|error| one_line(&error))
    }

    /// The records of every upload.
    fn uploads(&self) -> Vec<Vec<Value>> {
        self.handler.asked().iter().map(|asked| serde_json::from_slice(&asked.body).expect("a list")).collect()
    }
}

#[tokio::test]
async fn an_upload_is_what_the_scraper_that_is_replaced_sends() {
    let text = r#"# HELP billed_cost 
# TYPE billed_cost gauge
billed_cost{BilledCost="-2.61370000000",Tags="a: \"b\"",U__Cost_20_Centre=""} -2.6137
billed_cost{BilledCost="0.1",Tags=""} 1e+06 1700000000500
billed_cost{BilledCost="?"} NaN
# TYPE costream_source_up gauge
costream_source_up{source="report"} 1
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1
"#;
    let house = House::new(text.to_owned(), |_| Said::new(200, ACKNOWLEDGED));
    let Uploaded { records, left_out, .. } = house.cycle().await.expect("uploaded");
    assert_eq!((records, left_out), (2, 1));
    let asked = house.handler.asked().pop().expect("an upload");
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/upload?table=focus_table&type=cost"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let login = base64::engine::general_purpose::STANDARD.encode("crate:first");
    assert_eq!(asked.header("authorization"), Some(&*format!("Basic {login}")), "without the line break");
    let body = String::from_utf8_lossy(&asked.body);
    assert!(body.contains(r#""value":-2.6137,"#) && body.contains(r#""value":1e+06,"#), "{body}");
    let uploads = house.uploads();
    let labels = json!({"BilledCost": "-2.61370000000", "Tags": "a: \"b\"", "Cost Centre": ""});
    assert_eq!(uploads[0][0]["labels"], labels);
    assert!(uploads[0][0]["timestamp"].as_u64().is_some_and(|now| now > 1_700_000_000));
    assert_eq!(uploads[0][1]["timestamp"], 1_700_000_000);

    let exporter = house.exporter.asked().pop().expect("a scrape");
    assert_eq!((exporter.target.as_str(), exporter.header("authorization")), ("/metrics", Some("Bearer tok")));
}

#[tokio::test]
async fn batches_are_bounded_and_lose_nothing() {
    let rows: String = (0..2_500).map(|n| format!("billed_cost{{Id=\"{n}\"}} {n}\n")).collect();
    let house = House::new(rows, |_| Said::new(200, ACKNOWLEDGED));
    assert_eq!(house.cycle().await.expect("uploaded").records, 2_500);
    let uploads = house.uploads();
    assert_eq!(uploads.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    let ids = uploads.iter().flatten().map(|record| record["labels"]["Id"].as_str().map(str::to_owned));
    assert!(ids.eq((0..2_500).map(|n| Some(n.to_string()))), "each once, in order");

    let long: String = (0..20).map(|n| format!("billed_cost{{Id=\"{n}{}\"}} 1\n", "x".repeat(200_000))).collect();
    let house = House::new(long, |_| Said::new(200, ACKNOWLEDGED));
    assert_eq!(house.cycle().await.expect("uploaded").records, 20);
    assert!(house.handler.asked().iter().all(|asked| asked.body.len() < MAX_BATCH_BYTES + 300_000));
}

#[tokio::test]
async fn what_may_go_well_later_is_tried_again_and_a_refusal_is_told() {
    let row = "billed_cost{Id=\"1\"} 1\n";
    let times = Arc::new(AtomicUsize::new(0));
    let house = House::new(row.to_owned(), {
        let times = Arc::clone(&times);
        move |_| match times.fetch_add(1, Ordering::SeqCst) {
            0 => Said::new(503, "busy"),
            _ => Said::new(200, ACKNOWLEDGED),
        }
    });
    assert_eq!(house.cycle().await.expect("the second time").records, 1);
    let uploads = house.uploads();
    assert!(uploads.len() == 2 && uploads[0] == uploads[1], "the same again");

    let house = House::new(row.to_owned(), |_| Said::new(400, r#"{"error": "Table name not specified"}"#));
    let error = house.cycle().await.expect_err("refused");
    assert!(error.contains("400 Bad Request: {\"error\": \"Table name not specified\"}"), "{error}");
    assert_eq!(house.handler.asked().len(), 1, "and not tried again");
}

#[tokio::test]
async fn a_password_that_is_turned_down_is_read_anew_once() {
    let house: Arc<Mutex<Option<Arc<House>>>> = Arc::default();
    let second = base64::engine::general_purpose::STANDARD.encode("crate:second");
    let built = Arc::new(House::new("billed_cost{Id=\"1\"} 1\n".to_owned(), {
        let house = Arc::clone(&house);
        move |asked| {
            if asked.header("authorization") == Some(&format!("Basic {second}")) {
                return Said::new(200, ACKNOWLEDGED);
            }
            // It is rotated just now.
            house.lock().expect("a house").as_ref().expect("a house").password("second");
            Said::new(401, "")
        }
    }));
    *house.lock().expect("a house") = Some(Arc::clone(&built));
    assert_eq!(built.cycle().await.expect("the second password").records, 1);
    assert_eq!(built.handler.asked().len(), 2);
    *house.lock().expect("a house") = None;
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let house = House::new("not an exposition {\n".to_owned(), |_| Said::new(200, ACKNOWLEDGED));
    let error = house.cycle().await.expect_err("no exposition");
    assert!(error.contains("/metrics: ") && error.contains("line 1"), "{error}");
    for (config, says) in [
        (CONFIG.replace("  api:\n    path: /metrics\n    verb: GET\n    endpointref:\n      name: exporter-endpoint\n      namespace: finops\n", ""), "neither `api` nor `url`"),
        ("kind: Secret\n".to_owned(), "there is nothing to scrape"),
        ("kind: ExporterScraperConfig\nspec: {scraperConfig: {tableName: t, url: 'http://h/'}}\n".to_owned(), "no DatabaseConfig"),
    ] {
        let Err(error) = house.uploader(&config) else { panic!("{says}") };
        assert!(error.contains(says), "{error}");
    }
    std::fs::remove_file(house.dir.path().join("resources.yaml")).expect("removed");
    let error = house.cycle().await.expect_err("no secret");
    assert!(error.starts_with("Secret finops/exporter-endpoint: there is none in "), "{error}");
}

#[tokio::test]
async fn the_usage_of_a_reports_resources_goes_to_a_table_of_its_own() {
    let text = r#"billed_cost{BilledCost="1",ResourceId="/vm1"} 1
percentage_cpu{ResourceId="/vm1",average="2.5",metricName="Percentage CPU",timestamp="2024-09-18T10:00:00Z",unit="Percent"} 2.5
"#;
    let house = House::new(text.to_owned(), |_| Said::new(200, ACKNOWLEDGED));
    let config = "kind: ExporterScraperConfig
metadata: {name: azure, namespace: finops}
spec:
  exporterConfig: {provider: {name: azure}, url: 'http://127.0.0.1:1/costs.csv', metricType: cost}
  scraperConfig:
    tableName: focus
    api: {path: /metrics, endpointRef: {name: exporter-endpoint, namespace: finops}}
    scraperDatabaseConfigRef: {name: db, namespace: finops}
";
    let cycled = house.uploader(config).expect("good").cycle_once().await;
    assert!(cycled.iter().all(|uploaded| uploaded.as_ref().is_ok_and(|uploaded| uploaded.records == 1)), "{cycled:?}");
    let mut uploads: Vec<_> = house.handler.asked().into_iter().map(|asked| (asked.target, asked.body)).collect();
    uploads.sort();
    let targets: Vec<_> = uploads.iter().map(|(target, _)| target.as_str()).collect();
    assert_eq!(targets, ["/upload?table=focus&type=cost", "/upload?table=focus_res&type=resource"]);
    let points: Vec<Value> = serde_json::from_slice(&uploads[1].1).expect("a list");
    assert_eq!(points[0]["labels"]["average"], "2.5");
}

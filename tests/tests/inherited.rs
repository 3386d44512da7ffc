//! The configurations of the systems that are replaced, by the real programs: from a Secret that comes late, over a token that
//! is rotated, to rows in a table, with the cluster's API stood in for.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use costream_tests::kubernetes::Cluster;
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, client, free_address, get, program, run, runtime, until};
use costream_tests::server::{Answer, Server};
use serde_json::{Value, json};

const REPORT: &str =
    "BilledCost,BillingCurrency,ServiceName,Tags\n1.25,USD,Compute,\"{\"\"org\"\": \"\"test\"\"}\"\n2.5,USD,Storage,\n";
/// What an exporter of then showed, and the scraper's configuration for it.
const RECORDED: &str = include_str!("../../exporter/tests/fixtures/metrics_focusconfig.txt");
const EXAMPLE: &str = include_str!("../../exporter/tests/fixtures/scraper_config.yaml");
const NAMESPACE: &str = "finops";
const PASSWORD: &str = "pw-of-the-database";

/// As the operator mounts it.
const EXPORTER: &str = "typemeta:
    kind: ExporterScraperConfig
    apiversion: finops.krateo.io/v1
objectmeta:
    name: azure
    namespace: finops
    generatename: \"\"
spec:
    exporterConfig:
        api:
            path: /<year>/costs.csv
            verb: GET
            headers: []
            payload: \"\"
            endpointref: {name: report-endpoint, namespace: finops}
        metricType: cost
        pollingInterval: {duration: 300ms}
        additionalVariables: {year: \"2024\"}
";
const SCRAPER: &str = "databaseConfigRef: {name: db, namespace: finops}
exporter:
  api: {path: /metrics, verb: GET, endpointref: {name: exporter-endpoint, namespace: finops}}
  pollingInterval: {duration: 300ms}
  tableName: focus_table
  metricType: cost
";

fn main() -> ExitCode {
    Suite::new()
        .claim("a_mounted_configuration_brings_a_report_into_its_table", the_whole_way)
        .claim("the_scrapers_example_uploads_what_an_exporter_of_then_showed", the_scrapers_example)
        .claim("without_an_endpoint_the_cluster_itself_is_asked", the_cluster_itself)
        .claim("a_configuration_is_explained_variable_by_variable_without_secrets", explained)
        .run()
}

fn the_whole_way() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cluster = Cluster::start()?;
    let reports = Server::start(None, |asked| match asked.header("authorization") {
        Some("Bearer tok-second") => Answer::new(200, REPORT),
        _ => Answer::new(401, ""),
    })?;
    fs::write(folder.path().join("exporter.yaml"), EXPORTER).context("write the configuration")?;
    fs::write(folder.path().join("scraper.yaml"), SCRAPER).context("write the configuration")?;
    let address = free_address()?;
    let mut exporter = start("costream-exporter", folder.path(), &cluster, &address, "exporter.yaml", "")?;
    exporter.word_after("Secret finops/report-endpoint: no such secret")?;
    shown(&address, "costream_source_up{source=\"azure\"} 0")?;

    let url = reports.url("");
    let secret = |token: &'static [u8]| {
        cluster.put(NAMESPACE, "report-endpoint", &[("server-url", url.as_bytes()), ("token", token)]);
    };
    secret(b"tok-first\n");
    until("the first token is sent", || {
        let sent = |token: &str| reports.asked().iter().any(|asked| asked.header("authorization") == Some(token));
        Ok(sent("Bearer tok-first").then_some(()))
    })?;
    secret(b"tok-second\n");
    shown(&address, "costream_source_up{source=\"azure\"} 1")?;
    let row =
        "billed_cost{BilledCost=\"1.25\",BillingCurrency=\"USD\",ServiceName=\"Compute\",Tags=\"org: test\"} 1.25";
    shown(&address, row)?;
    ensure!(reports.asked().iter().all(|asked| asked.target == "/2024/costs.csv"), "another path was asked for");

    let (handler, handler_url) = database(folder.path(), &cluster)?;
    let exporter_url = format!("http://{address}");
    cluster.put(NAMESPACE, "exporter-endpoint", &[("server-url", exporter_url.as_bytes())]);
    let own = free_address()?;
    let scraper = start("costream-scraper", folder.path(), &cluster, &own, "scraper.yaml", &handler_url)?;
    let stored = until("the rows are stored", || {
        let answer = sql(&handler_url, "SELECT billedcost, tags['org'] FROM focus_table ORDER BY billedcost")?;
        Ok(answer.get("rows").cloned())
    })?;
    ensure!(stored == json!([[1.25, "test"], [2.5, null]]), "{stored}");
    // Cycle after cycle, and each row once.
    until("it has cycled again", || {
        let metrics = get(&format!("http://{own}/metrics"))?.map(|(_, text)| text).unwrap_or_default();
        let cycles = metrics.lines().find(|line| line.starts_with("costream_scraper_cycles_total{"));
        let cycles: Option<f64> = cycles.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        Ok(cycles.filter(|cycles| *cycles >= 3.0).map(|_| ()))
    })?;
    let count = sql(&handler_url, "SELECT count(*) FROM focus_table")?;
    ensure!(count["rows"] == json!([[2]]), "{count}");

    for program in [exporter, scraper, handler] {
        let printed = program.printed()?;
        ensure!(!printed.contains("tok-") && !printed.contains(PASSWORD), "a secret is shown: {printed}");
        let status = program.terminate()?;
        ensure!(status.success(), "a program ended with {status}");
    }
    Ok(())
}

/// As it stands: once, and a day later again.
fn the_scrapers_example() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/inherited/scraper_config.yaml");
    if let Ok(recorded) = fs::read_to_string(recorded) {
        ensure!(recorded == EXAMPLE, "the fixture is another than what was recorded");
    }
    fs::write(folder.path().join("scraper.yaml"), EXAMPLE).context("write the configuration")?;
    let cluster = Cluster::start()?;
    let exporter = Server::start(None, |_| Answer::new(200, RECORDED).with("Content-Type", "text/plain"))?;
    cluster.put(NAMESPACE, "exporter-endpoint", &[("server-url", exporter.url("").as_bytes())]);
    let (handler, handler_url) = database(folder.path(), &cluster)?;
    let own = free_address()?;
    let scraper = start("costream-scraper", folder.path(), &cluster, &own, "scraper.yaml", &handler_url)?;
    let stored = until("the rows are stored", || {
        let answer =
            sql(&handler_url, "SELECT billedcost, billingcurrency, billingperiodstart FROM focus_table ORDER BY 1")?;
        Ok(answer.get("rows").cloned())
    })?;
    let expected: Vec<_> = RECORDED.lines().filter(|line| line.starts_with("billed_cost{")).collect();
    ensure!(stored.as_array().is_some_and(|rows| rows.len() == expected.len()), "{stored}");
    ensure!(stored[0] == json!([0.096_000_001, "USD", 1_725_148_800_000_i64]), "{stored}");
    let asked = exporter.asked();
    ensure!(asked.len() == 1 && asked[0].target == "/metrics", "{} requests", asked.len());
    for program in [scraper, handler] {
        let status = program.terminate()?;
        ensure!(status.success(), "a program ended with {status}");
    }
    Ok(())
}

/// A handler with a user, and what a cluster says of both.
fn database(folder: &Path, cluster: &Cluster) -> Result<(Program, String)> {
    let hash = bcrypt::hash(PASSWORD, 4).context("hash the password")?;
    fs::write(folder.join("web.yml"), format!("basic_auth_users: {{crate: {hash}}}\n")).context("write the users")?;
    let arguments = ["--web.listen-address", "127.0.0.1:0", "--web.config.file", "web.yml"];
    let mut handler = Program::start("costream-handler", folder, &arguments)?;
    let url = handler.word_after("listening on")?;
    cluster.put(NAMESPACE, "db-password", &[("password", format!("{PASSWORD}\n").as_bytes())]);
    let password = json!({"name": "db-password", "namespace": NAMESPACE, "key": "password"});
    let spec = json!({"username": "crate", "passwordSecretRef": password});
    cluster.put_object("databaseconfigs", NAMESPACE, "db", &spec);
    Ok((handler, url))
}

fn the_cluster_itself() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cluster = Cluster::start()?;
    let spec = json!({"billedCost": "0.5", "billingCurrency": "USD", "tags": [{"key": "k", "value": "v"}]});
    cluster.put_answer("focusconfigs", json!({"kind": "FocusConfigList", "items": [{"spec": {"focusSpec": spec}}]}));
    let config = "kind: ExporterScraperConfig
metadata: {name: focus}
spec: {exporterConfig: {api: {path: /apis/finops.krateo.io/v1/focusconfigs}, metricType: cost, pollingInterval: 1s}}
";
    fs::write(folder.path().join("exporter.yaml"), config).context("write the configuration")?;
    let address = free_address()?;
    let exporter = start("costream-exporter", folder.path(), &cluster, &address, "exporter.yaml", "")?;
    shown(&address, "billed_cost{BilledCost=\"0.5\",BillingCurrency=\"USD\",Tags=\"k:v\"} 0.5")?;
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

fn start(name: &str, folder: &Path, cluster: &Cluster, address: &str, config: &str, handler: &str) -> Result<Program> {
    let mut command = Command::new(program(name)?);
    command.args(["--config.file", config, "--web.listen-address", address, "--log.level", "debug"]);
    command.env("KUBECONFIG", cluster.kubeconfig(folder)?).env("URL_DB_WEBSERVICE", handler);
    Program::spawn(name, folder, &mut command)
}

fn shown(address: &str, text: &str) -> Result<()> {
    until(&format!("{text} is shown"), || {
        Ok(get(&format!("http://{address}/metrics"))?.filter(|(_, metrics)| metrics.contains(text)).map(|_| ()))
    })
}

fn sql(handler: &str, statement: &str) -> Result<Value> {
    runtime().block_on(async {
        let request = client().post(format!("{handler}/_sql")).basic_auth("crate", Some(PASSWORD));
        let request = request.header("content-type", "application/json").body(json!({"stmt": statement}).to_string());
        let text = request.send().await.context("ask")?.text().await.context("read")?;
        serde_json::from_str(&text).with_context(|| text.clone())
    })
}

fn explained() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let config = EXPORTER.replace("headers: []", "headers: ['X-Api-Key: hush']").replace("<year>", "<year>/<id>");
    let config = config.replace("{year: \"2024\"}", "{year: \"2024\", id: PATH, password: hush}");
    fs::write(folder.path().join("config.yaml"), &config).context("write the configuration")?;
    let (status, printed, errors) = run("costream", folder.path(), &["check", "--config.file", "config.yaml"])?;
    ensure!(status == Some(0), "{status:?}: {errors}");
    for line in [
        "config.yaml is good: an inherited configuration\n",
        "source azure: a cost report, every 300ms\n",
        "  variable id: from environment variable PATH, which is set\n",
        "  variable password: ***\n",
        "  variable year: 2024\n",
        "  header X-Api-Key, its value as written\n",
        "  Secret finops/report-endpoint: read from the cluster for each request\n",
    ] {
        ensure!(printed.contains(line), "{line:?} is missing: {printed}");
    }
    ensure!(!printed.contains("hush"), "a secret is shown: {printed}");
    let wrong = config.replace("PATH", "NOT_SET_ANYWHERE");
    fs::write(folder.path().join("config.yaml"), wrong).context("write the configuration")?;
    let (status, _, errors) = run("costream", folder.path(), &["check", "--config.file", "config.yaml"])?;
    let says = "additionalVariables.id: environment variable NOT_SET_ANYWHERE is not set";
    ensure!(status == Some(2) && errors.contains(says), "{status:?}: {errors}");
    Ok(())
}

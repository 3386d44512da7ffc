//! Inherited configurations against a real Kubernetes API server: the exporter as a program, with the kubeconfig or the
//! account of a pod.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use chrono::Utc;
use costream_common::inherited;
use costream_common::secret::ExposeSecret as _;
use costream_tests::api_server::{self, ApiServer, ELSEWHERE, NAMESPACE, Part};
use costream_tests::azure_monitor::AzureMonitor;
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, free_address, get, runtime, until};
use costream_tests::rooms::Room;
use costream_tests::server::{Answer, Server};
use serde_json::json;

const REPORT: &str = "BilledCost,BillingCurrency,ServiceName\n1.25,USD,Compute\n";
const ROW: &str = r#"billed_cost{BilledCost="1.25",BillingCurrency="USD",ServiceName="Compute"} 1.25"#;

/// A configuration that asks for `/costs.csv` at the server of a Secret.
fn config(namespace: &str, secret: &str) -> String {
    format!(
        "kind: ExporterScraperConfig
apiVersion: finops.krateo.io/v1
metadata: {{name: azure, namespace: finops}}
spec:
  exporterConfig:
    api: {{path: /costs.csv, verb: GET, endpointRef: {{name: {secret}, namespace: {namespace}}}}}
    metricType: cost
    pollingInterval: 300ms
"
    )
}

/// One cluster for all claims: it takes seconds to start.
#[derive(Clone, Default)]
struct Cluster(Arc<OnceLock<Result<ApiServer, String>>>);

impl Cluster {
    fn get(&self, part: &Part) -> Result<&ApiServer> {
        let started = self.0.get_or_init(|| ApiServer::start(part).map_err(|error| format!("{error:?}")));
        started.as_ref().map_err(|error| anyhow!("{error}"))
    }
}

/// Names the configuration whose database's user this program prints, when it is started for that.
const LOGIN_OF: &str = "COSTREAM_TEST_LOGIN_OF";

fn main() -> ExitCode {
    if let Some(config) = std::env::var_os(LOGIN_OF) {
        return print_login(Path::new(&config));
    }
    let cluster = Cluster::default();
    let with = |claim: fn(&ApiServer) -> Result<()>| {
        let cluster = cluster.clone();
        move |part: Part| claim(cluster.get(&part)?)
    };
    let in_a_pod = || Room::may_be_made().and_then(|()| api_server::part());
    Suite::new()
        .claim_with("a_token_is_rotated_lost_and_found_without_a_restart", api_server::part(), with(rotated))
        .claim_with("what_comes_late_is_not_waited_for_until_the_next_poll", api_server::part(), with(watched))
        .claim_with("what_the_cluster_refuses_is_told_in_its_words", api_server::part(), with(refused))
        .claim_with("a_database_config_and_its_secret_are_read_from_the_cluster", api_server::part(), with(database))
        .claim_with("the_usage_of_a_reports_resources_is_polled_as_the_cluster_says", api_server::part(), with(usage))
        .claim_with("a_pod_needs_nothing_but_its_own_account", in_a_pod(), with(in_cluster))
        .run()
}

/// An exporter of the kubeconfig's token, and where it listens.
fn start(folder: &Path, kubeconfig: &Path, config: &str) -> Result<(Program, String)> {
    fs::write(folder.join("config.yaml"), config).context("write the configuration")?;
    let address = free_address()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_costream-exporter"));
    command.args(["--config.file", "config.yaml", "--web.listen-address", &address, "--log.level", "debug"]);
    command.env("KUBECONFIG", kubeconfig);
    Ok((Program::spawn("costream-exporter", folder, &mut command)?, address))
}

fn shown(address: &str, text: &str) -> Result<()> {
    until(&format!("{text} is shown"), || {
        Ok(get(&format!("http://{address}/metrics"))?.filter(|(_, metrics)| metrics.contains(text)).map(|_| ()))
    })
}

/// Waits until the last that was asked had this token.
fn sent(reports: &Server, token: &str) -> Result<()> {
    let authorization = format!("Bearer {token}");
    until(&format!("{token} is sent"), || {
        Ok(reports.asked().last().filter(|asked| asked.header("authorization") == Some(&authorization)).map(|_| ()))
    })
}

fn rotated(cluster: &ApiServer) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let reports = Server::start(None, |asked| match asked.header("authorization") {
        Some("Bearer tok-first" | "Bearer tok-second" | "Bearer tok-third") => Answer::new(200, REPORT),
        _ => Answer::new(401, ""),
    })?;
    let url = reports.url("");
    let secret =
        |token: &str| cluster.put_secret(NAMESPACE, "rotated", &[("server-url", url.as_str()), ("token", token)]);
    let config = config(NAMESPACE, "rotated");
    let (mut exporter, address) = start(folder.path(), &cluster.kubeconfig(folder.path())?, &config)?;
    exporter.word_after("Secret finops/rotated: no such secret")?;
    shown(&address, "costream_source_up{source=\"azure\"} 0")?;

    secret("tok-first\n")?;
    shown(&address, ROW)?;
    shown(&address, "costream_source_up{source=\"azure\"} 1")?;
    sent(&reports, "tok-first")?;
    secret("tok-second")?;
    sent(&reports, "tok-second")?;

    let said = exporter.printed()?.len();
    cluster.delete_secret(NAMESPACE, "rotated")?;
    shown(&address, "costream_source_up{source=\"azure\"} 0")?;
    // What it had stays.
    shown(&address, ROW)?;
    let printed = exporter.printed()?;
    ensure!(printed[said..].contains("Secret finops/rotated: no such secret"), "it does not say so: {printed}");

    secret("tok-third")?;
    sent(&reports, "tok-third")?;
    shown(&address, "costream_source_up{source=\"azure\"} 1")?;
    let printed = exporter.printed()?;
    ensure!(!printed.contains("tok-") && !printed.contains(cluster.token()), "a secret is shown: {printed}");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

fn refused(cluster: &ApiServer) -> Result<()> {
    let reports = Server::start(None, |_| Answer::new(200, REPORT))?;
    cluster.put_secret(ELSEWHERE, "hidden", &[("server-url", &reports.url(""))])?;
    cluster.put_secret(NAMESPACE, "empty", &[("token", "tok-empty")])?;
    let forbidden = "Secret elsewhere/hidden: forbidden: our role lacks the verb get on secrets there (the cluster says: \
                     secrets \\\"hidden\\\" is forbidden: User \\\"system:serviceaccount:finops:costream\\\" cannot get resource \
                     \\\"secrets\\\" in API group \\\"\\\" in the namespace \\\"elsewhere\\\")";
    for (namespace, secret, token, says) in [
        (ELSEWHERE, "hidden", cluster.token(), forbidden),
        // Without the right to read nobody is told that there is none.
        (ELSEWHERE, "nowhere", cluster.token(), "Secret elsewhere/nowhere: forbidden"),
        (NAMESPACE, "empty", cluster.token(), "Secret finops/empty: it has no key server-url"),
        (NAMESPACE, "empty", "tok-unknown", "Secret finops/empty: the cluster answers 401 Unauthorized: Unauthorized"),
    ] {
        let folder = tempfile::tempdir().context("make a folder")?;
        let kubeconfig = cluster.kubeconfig_with(folder.path(), token)?;
        let (exporter, address) = start(folder.path(), &kubeconfig, &config(namespace, secret))?;
        until(&format!("it says {says}"), || {
            let printed = exporter.printed()?;
            // A log may quote what it says.
            Ok((printed.contains(says) || printed.contains(&says.replace("\\\"", "\""))).then_some(()))
        })
        .with_context(|| exporter.printed().unwrap_or_default())?;
        shown(&address, "costream_source_up{source=\"azure\"} 0")?;
        let printed = exporter.printed()?;
        ensure!(!printed.contains("tok-") && !printed.contains(cluster.token()), "a secret is shown: {printed}");
    }
    ensure!(reports.asked().is_empty(), "it was asked all the same");
    Ok(())
}

/// Polls are half a day apart, and a minute after one that failed.
fn watched(cluster: &ApiServer) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let reports = Server::start(None, |asked| match asked.header("authorization") {
        Some("Bearer tok-good") => Answer::new(200, REPORT),
        _ => Answer::new(401, ""),
    })?;
    let url = reports.url("");
    let secret =
        |token: &str| cluster.put_secret(NAMESPACE, "watched", &[("server-url", url.as_str()), ("token", token)]);
    let config = config(NAMESPACE, "watched").replace("300ms", "12h");
    let (mut exporter, address) = start(folder.path(), &cluster.kubeconfig(folder.path())?, &config)?;
    exporter.word_after("Secret finops/watched: no such secret")?;
    shown(&address, "costream_source_up{source=\"azure\"} 0")?;
    let began = Instant::now();
    // It is there, is no good, and is mended.
    secret("tok-bad")?;
    until("it is turned down", || Ok((reports.asked().len() == 2).then_some(())))?;
    secret("tok-good")?;
    shown(&address, ROW)?;
    shown(&address, "costream_source_up{source=\"azure\"} 1")?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(50), "the next poll would have been as soon: {took:?}");
    ensure!(reports.asked().len() == 3, "{:?}", reports.asked());
    let printed = exporter.printed()?;
    ensure!(!printed.contains("tok-") && !printed.contains(cluster.token()), "a secret is shown: {printed}");
    Ok(())
}

/// What is polled of a report's resources stand in three kinds of custom resources, which come after it.
fn usage(cluster: &ApiServer) -> Result<()> {
    const VM: &str = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
    let folder = tempfile::tempdir().context("make a folder")?;
    let azure = AzureMonitor::start(Utc::now())?;
    let report = format!("BilledCost,ResourceId,ResourceType\n1,{VM},Virtual machine\n");
    azure.world().files.insert("/costs.csv".to_owned(), report);
    azure.world().trust("tok-usage");
    cluster.put_secret(NAMESPACE, "usage", &[("server-url", &azure.url()), ("token", "tok-usage")])?;
    let provider = "  exporterConfig:\n    provider: {name: azure, namespace: finops}\n";
    let config = config(NAMESPACE, "usage").replace("  exporterConfig:\n", provider);
    let (mut exporter, address) = start(folder.path(), &cluster.kubeconfig(folder.path())?, &config)?;
    exporter.word_after("ProviderConfig finops/azure: there is none of this name")?;
    shown(&address, "costream_source_up{source=\"azure\"} 1")?;

    let one = |name: &str| json!([{"name": name, "namespace": NAMESPACE}]);
    let suffix = json!({"resourceSuffix": "/providers/microsoft.insights/metrics?api-version=2023-10-01"});
    for (kind, name, spec) in [
        (
            "MetricConfig",
            "cpu",
            json!({"metricName": "Percentage CPU", "endpoint": suffix, "timespan": "day", "interval": "PT15M"}),
        ),
        ("ResourceConfig", "vms", json!({"resourceFocusName": "Virtual machine", "metricsRef": one("cpu")})),
        ("ProviderConfig", "azure", json!({"resourcesRef": one("vms")})),
    ] {
        cluster.put_resource(json!({"kind": kind, "metadata": {"name": name}, "spec": spec}))?;
    }
    shown(&address, &format!("percentage_cpu{{ResourceId=\"{VM}\""))
        .with_context(|| exporter.printed().unwrap_or_default())?;
    let path = format!("{VM}/providers/microsoft.insights/metrics?api-version=2023-10-01&");
    ensure!(azure.asked().iter().any(|asked| asked.target.starts_with(&path)), "{:?}", azure.asked());
    let printed = exporter.printed()?;
    ensure!(!printed.contains("tok-") && !printed.contains(cluster.token()), "a secret is shown: {printed}");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

/// As the scraper that is replaced has it, and its user: the resources are custom ones.
fn database(cluster: &ApiServer) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let config = folder.path().join("config.yaml");
    let text = "databaseConfigRef: {name: db, namespace: finops}
exporter: {url: http://127.0.0.1:2112/metrics, pollingIntervalHours: 1, tableName: focus_table, metricType: cost}
";
    fs::write(&config, text).context("write the configuration")?;
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.env(LOGIN_OF, &config).env("KUBECONFIG", cluster.kubeconfig(folder.path())?);
    let mut login = || -> Result<(bool, String)> {
        let output = command.output().context("start this program")?;
        Ok((output.status.success(), String::from_utf8(output.stdout).context("text")?))
    };
    let none = (false, "DatabaseConfig finops/db: there is none of this name\n".to_owned());
    ensure!(login()? == none, "{:?}", login());
    let password = json!({"name": "db-password", "namespace": NAMESPACE, "key": "password"});
    let spec = json!({"username": "crate", "passwordSecretRef": password});
    cluster.put_resource(json!({"kind": "DatabaseConfig", "metadata": {"name": "db"}, "spec": spec}))?;
    let none = (false, "Secret finops/db-password: no such secret\n".to_owned());
    ensure!(login()? == none, "{:?}", login());
    for password in ["first", "second"] {
        cluster.put_secret(NAMESPACE, "db-password", &[("password", &format!("{password}\n"))])?;
        ensure!(login()? == (true, format!("crate {password}\n")), "{:?}", login());
    }
    Ok(())
}

/// Prints the user and the password of a configuration's database, or why there are none.
fn print_login(config: &Path) -> ExitCode {
    let login = || -> Result<String> {
        let inherited = inherited::read(config, None)?.context("it is one")?;
        let database =
            inherited.scrapers.first().and_then(|scraper| scraper.database.as_ref()).context("a database")?;
        let login = runtime().block_on(inherited.resources.login(database))?;
        Ok(format!("{} {}", login.username, login.password.expose_secret()))
    };
    let read = login();
    let status = if read.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    println!("{}", read.unwrap_or_else(|error| format!("{error:#}")));
    status
}

/// In a pod: the file where operators mount it, no flag, no kubeconfig, and the report is the cluster's own.
fn in_cluster(cluster: &ApiServer) -> Result<()> {
    let spec = json!({"billedCost": "0.5", "billingCurrency": "USD", "tags": [{"key": "k", "value": "v"}]});
    cluster.put_resource(json!({"kind": "FocusConfig", "metadata": {"name": "one"}, "spec": {"focusSpec": spec}}))?;
    let reports = Server::start(None, |asked| match asked.header("authorization") {
        Some("Bearer tok-pod") => Answer::new(200, REPORT),
        _ => Answer::new(401, ""),
    })?;
    cluster.put_secret(NAMESPACE, "pods", &[("server-url", &reports.url("")), ("token", "tok-pod")])?;
    let focus = "---
kind: ExporterScraperConfig
metadata: {name: focus, namespace: finops}
spec:
  exporterConfig:
    api: {path: /apis/finops.krateo.io/v1/namespaces/finops/focusconfigs, verb: GET}
    metricType: cost
    pollingInterval: 300ms
";
    let room = Room::new()?;
    fs::write(room.folder("config")?.join("config.yaml"), config(NAMESPACE, "pods") + focus).context("configure")?;
    cluster.mount_account(&room.folder("var/run/secrets/kubernetes.io/serviceaccount")?)?;
    let address = free_address()?;
    let exporter = env!("CARGO_BIN_EXE_costream-exporter");
    let mut command = room.command(&[exporter, "--web.listen-address", &address, "--log.level", "debug"]);
    command.envs(cluster.variables()).env_remove("KUBECONFIG").env("HOME", "/nowhere");
    let exporter = Program::spawn("costream-exporter", room.path(), &mut command)?;
    let with_source = |row: &str, source: &str| row.replace("} ", &format!(",x_source=\"{source}\"}} "));
    for row in [
        with_source(ROW, "azure"),
        with_source(r#"billed_cost{BilledCost="0.5",BillingCurrency="USD",Tags="k:v"} 0.5"#, "focus"),
    ] {
        shown(&address, &row).with_context(|| exporter.printed().unwrap_or_default())?;
    }
    let printed = exporter.printed()?;
    ensure!(!printed.contains("tok-") && !printed.contains(cluster.token()), "a secret is shown: {printed}");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

//! The configurations of the systems that are replaced, as they stand (`fixtures/`), by the program: what is on `/metrics` is what
//! was recorded then, but for what was wrong. Only the server is another: one of ours, on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use chrono::Utc;
use costream_tests::azure_monitor::AzureMonitor;
use costream_tests::parts::{Suite, on_path};
use costream_tests::programs::{Program, free_address, get, until};
use costream_tests::rooms::Room;
use costream_tests::server::{Answer, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

const EXPORTER: &str = env!("CARGO_BIN_EXE_costream-exporter");
/// Two charges of a real report's form: nulls written out, times without a zone, tags as JSON, a custom column.
const REPORT: &str = r#""BilledCost","BillingCurrency","BillingPeriodStart","ChargeClass","ServiceName","Tags","x_Team"
0.00000000000,"USD","2024-09-01 00:00:00",NULL,"Storage Accounts","{""env"": ""prod"", ""org"": ""trey""}","a"
-0.00000021600,"USD","2024-09-01 00:00:00",NULL,"Storage Accounts","{""env"": ""prod""}","b"
"#;
/// As the exporters that are replaced show it.
const ROWS: [&str; 2] = [
    r#"billed_cost{BilledCost="-0.00000021600",BillingCurrency="USD",BillingPeriodStart="2024-09-01 00:00:00",ChargeClass="NULL",ServiceName="Storage Accounts",Tags="env: prod"} -2.16e-07"#,
    r#"billed_cost{BilledCost="0.00000000000",BillingCurrency="USD",BillingPeriodStart="2024-09-01 00:00:00",ChargeClass="NULL",ServiceName="Storage Accounts",Tags="env: prod; org: trey"} 0"#,
];
/// An answer of Azure Monitor: the points of which `metrics_usage.txt` was recorded.
const USAGE: &str = r#"{"cost": 0, "timespan": "2024-09-18T10:00:00Z/2024-09-18T11:00:00Z", "interval": "PT15M", "value": [{
  "id": "x", "type": "Microsoft.Insights/metrics", "name": {"value": "Percentage CPU", "localizedValue": "Percentage CPU"},
  "unit": "Percent", "timeseries": [{"metadatavalues": [], "data": [
    {"timeStamp": "2024-09-18T10:00:00Z", "average": 0.12345678901234}, {"timeStamp": "2024-09-18T10:15:00Z", "average": 5.25},
    {"timeStamp": "2024-09-18T10:30:00Z"}, {"timeStamp": "2024-09-18T10:45:00Z", "average": 1e-12}]}]}]}"#;
/// Rows of the larger of the reports whose memory is measured, and how many times fewer the smaller has.
const MANY_ROWS: usize = 300_000;
const TIMES_FEWER: usize = 10;

fn main() -> ExitCode {
    Suite::new()
        .claim("the_examples_are_those_that_were_recorded", recorded)
        .claim("the_smallest_cost_configuration_shows_the_rows_as_they_were", cost)
        .claim("the_smallest_usage_configuration_shows_each_point", usage)
        .claim("a_list_of_focus_configs_is_a_cost_report", focus_configs)
        .claim("rows_of_any_make_are_shown_as_they_were", generic)
        .claim("a_configuration_as_the_operator_writes_it_is_polled", operator)
        .claim("the_example_of_a_provider_has_its_machines_usage_polled", provider)
        .claim("the_example_with_the_old_keys_is_polled_once_it_is_filled_in", old_keys)
        .claim_with("without_a_flag_the_mounted_file_is_taken", Room::may_be_made(), |()| mounted())
        .claim_with("promtool_takes_what_is_shown", on_path("promtool", "prometheus"), |promtool| {
            promtool_takes(&promtool)
        })
        .claim_with("a_prometheus_has_the_rows", on_path("prometheus", "prometheus"), |prometheus| scraped(&prometheus))
        .claim("the_rows_of_a_larger_report_take_no_more_memory", memory)
        .run()
}

fn fixture(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// What lies beside the project, where it does.
fn beside(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !path.exists() {
        eprintln!("not compared: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

/// A running exporter of a configuration.
struct Run {
    exporter: Program,
    address: String,
    _folder: TempDir,
}

impl Run {
    /// Starts one whose resources are in a folder.
    fn start(config: &str, resources: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        fs::write(folder.path().join("config.yaml"), config).context("write the configuration")?;
        fs::create_dir(folder.path().join("resources")).context("make a folder")?;
        fs::write(folder.path().join("resources/all.yaml"), resources).context("write the resources")?;
        let address = free_address()?;
        let mut command = Command::new(EXPORTER);
        command.args(["--config.file", "config.yaml", "--config.resources-dir", "resources"]);
        command.args(["--web.listen-address", &address]).envs(variables.iter().copied());
        let exporter = Program::spawn("costream-exporter", folder.path(), &mut command)?;
        Ok(Self { exporter, address, _folder: folder })
    }

    fn metrics(&self) -> Result<String> {
        Ok(get(&format!("http://{}/metrics", self.address))?.map(|(_, text)| text).unwrap_or_default())
    }

    /// The samples of a metric, in order, as soon as there are any.
    fn samples(&self, metric: &str) -> Result<Vec<String>> {
        let mark = format!("{metric}{{");
        let samples = until(&format!("{metric} is shown"), || {
            let metrics = self.metrics()?;
            let mut samples: Vec<_> =
                metrics.lines().filter(|line| line.starts_with(&mark)).map(str::to_owned).collect();
            samples.sort_unstable();
            Ok((!samples.is_empty()).then_some(samples))
        });
        samples.with_context(|| self.exporter.printed().unwrap_or_default())
    }

    fn end(self) -> Result<()> {
        let status = self.exporter.terminate()?;
        ensure!(status.success(), "the exporter ended with {status}");
        Ok(())
    }
}

/// The Secret that the configurations name.
fn endpoint(server: &Server) -> String {
    secret("report-endpoint", &[("server-url", &server.url(""))])
}

fn secret(name: &str, keys: &[(&str, &str)]) -> String {
    let keys: String = keys.iter().map(|(key, text)| format!("  {key}: {text:?}\n")).collect();
    format!("---\nkind: Secret\nmetadata: {{name: {name}, namespace: finops}}\nstringData:\n{keys}")
}

/// A sample's labels that say something, and its value.
fn read(sample: &str) -> Result<(BTreeMap<&str, &str>, f64)> {
    let (labels, value) = sample.rsplit_once("} ").context("a sample")?;
    let (_, mut rest) = labels.split_once('{').context("labels")?;
    let mut labels = BTreeMap::new();
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut is_escaped = false;
        let end = after.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let (text, after) = after.split_at(end.context("a label's end")?);
        labels.insert(name.trim_start_matches(','), text);
        rest = &after[1..];
    }
    labels.retain(|_, text| !text.is_empty());
    Ok((labels, value.parse().context("a value")?))
}

/// Lines without their indentation, which the texts have lost where they were found.
fn squeezed(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.map(|line| if line == "- - -" { "---".to_owned() } else { line }).collect::<Vec<_>>().join("\n")
}

fn recorded() -> Result<()> {
    let Some(all) = beside("data/inherited") else { return Ok(()) };
    let mut readmes = Vec::new();
    for file in fs::read_dir(beside("seeds").context("the texts that they stand in")?)? {
        readmes.push(squeezed(&fs::read_to_string(file?.path())?));
    }
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        let text = fixture(&name)?;
        match name.as_str() {
            "README.md" => {}
            "exporter_scraper_config.yaml" | "provider_config.yaml" => {
                let text = squeezed(&text);
                ensure!(readmes.iter().any(|readme| readme.contains(&text)), "{name} stands nowhere");
            }
            name => ensure!(text == fs::read_to_string(all.join(name))?, "{name} is another"),
        }
    }
    Ok(())
}

fn cost() -> Result<()> {
    let server = Server::start(None, |_| Answer::new(200, REPORT))?;
    let run = Run::start(&fixture("exporter_config_sample.yaml")?, &endpoint(&server), &[])?;
    ensure!(run.samples("billed_cost")? == ROWS, "{:?}", run.samples("billed_cost"));
    ensure!(server.asked()[0].target == "/sample.csv", "{:?}", server.asked());
    run.end()?;

    // The two rows of the foundation's sample that were recorded.
    let Some((sample, recorded)) = beside("data/focus_sample.csv").zip(beside("data/inherited/metrics_cost.txt"))
    else {
        return Ok(());
    };
    let mut report = csv::Reader::from_path(sample)?;
    let header = report.headers()?.clone();
    let id_at = header.iter().position(|name| name == "Id").context("a column")?;
    let mut two = csv::Writer::from_writer(Vec::new());
    two.write_record(&header)?;
    for row in report.records() {
        let row = row?;
        if ["5336535", "5407480"].contains(&&row[id_at]) {
            two.write_record(&row)?;
        }
    }
    let two = two.into_inner()?;
    let server = Server::start(None, move |_| Answer::new(200, two.clone()))?;
    let run = Run::start(&fixture("exporter_config_sample.yaml")?, &endpoint(&server), &[])?;
    let shown = run.samples("billed_cost")?;
    let recorded = fs::read_to_string(recorded)?;
    let mut recorded: Vec<_> = recorded.lines().filter(|line| line.starts_with("billed_cost{")).collect();
    recorded.sort_unstable();
    ensure!(shown.len() == recorded.len(), "{shown:?}");
    for (shown, recorded) in shown.iter().zip(recorded) {
        ensure!(read(shown)? == read(recorded)?, "{shown}\nis not\n{recorded}");
    }
    run.end()
}

fn usage() -> Result<()> {
    let server = Server::start(None, |_| Answer::new(200, USAGE).with("Content-Type", "application/json"))?;
    let run = Run::start(&fixture("exporter_config_usage.yaml")?, &endpoint(&server), &[])?;
    let (shown, recorded) = (run.samples("percentage_cpu")?, fixture("metrics_usage.txt")?);
    ensure!(server.asked()[0].target == "/usage.json?ct=text/csv", "{:?}", server.asked());
    let mut exact =
        BTreeMap::from([("10:00", ("0.12345678901234", 0.123_456_789_012_34)), ("10:45", ("0.000000000001", 1e-12))]);
    let mut expected = Vec::new();
    for line in recorded.lines().filter(|line| line.starts_with("percentage_cpu{")) {
        let (mut labels, mut value) = read(line)?;
        let time = labels["timestamp"].get(11..16).context("a time")?;
        if let Some((average, exact)) = exact.remove(time) {
            labels.insert("average", average);
            value = exact;
        }
        // A point without a value was nought.
        if time != "10:30" {
            expected.push((labels, value));
        }
    }
    let mut shown = shown.iter().map(|line| read(line)).collect::<Result<Vec<_>>>()?;
    shown.sort_by_key(|(labels, _)| labels["timestamp"]);
    expected.sort_by_key(|(labels, _)| labels["timestamp"]);
    ensure!(shown == expected && shown.len() == 3, "{shown:?}\nis not\n{expected:?}");
    run.end()
}

fn focus_configs() -> Result<()> {
    let period = ("2024-09-01T00:00:00Z", "2024-10-01T00:00:00Z");
    let spec = json!({
        "billedCost": 0.0, "billingCurrency": "USD", "billingPeriodStart": period.0, "billingPeriodEnd": period.1,
        "chargePeriodStart": period.0, "chargePeriodEnd": period.1, "chargeCategory": "Usage", "chargeDescription": "plain",
        "consumedQuantity": 1, "consumedUnit": "h", "invoiceIssuerName": "M", "resourceId": "r1", "serviceCategory": "Compute",
        "tags": [{"key": "krateo-finops-focus-resource", "value": "vm-a"}],
    });
    let list = json!({"kind": "FocusConfigList", "items": [{"spec": {"focusSpec": spec}}]});
    let list = list.to_string().replace("\"billedCost\":0.0", "\"billedCost\":0.0960000000001");
    let server = Server::start(None, move |_| Answer::new(200, list.clone()).with("Content-Type", "application/json"))?;
    let run = Run::start(&fixture("exporter_config_focusconfig.yaml")?, &endpoint(&server), &[])?;
    let (shown, recorded) = (run.samples("billed_cost")?, fixture("metrics_focusconfig.txt")?);
    ensure!(server.asked()[0].target == "/focus.json", "{:?}", server.asked());
    let recorded = recorded.lines().find(|line| line.starts_with("billed_cost{")).context("a sample")?;
    let (mut expected, _) = read(recorded)?;
    // They rounded up to nano, and made a nought of each number that was not there.
    expected.insert("BilledCost", "0.0960000000001");
    expected.retain(|_, text| *text != "0");
    ensure!(shown.len() == 1 && read(&shown[0])? == (expected, 0.096_000_000_000_1), "{shown:?}");
    run.end()
}

fn generic() -> Result<()> {
    let recorded = fixture("metrics_generic.txt")?;
    let mut n_run = 0;
    for example in recorded.split("===== report ").filter(|example| !example.is_empty()) {
        let (head, rest) = example.split_once("\n--- report\n").context("a report")?;
        let (report, rest) = rest.split_once("\n--- /metrics\n").context("what was shown")?;
        let (name, place) = head.split_once(", generic: valueColumnIndex ").context("a place")?;
        let place = place.strip_suffix(", metricName My_Metric").context("a metric")?;
        let body = report.to_owned();
        let server = Server::start(None, move |_| Answer::new(200, body.clone()))?;
        let generic = format!("metricType: generic\n    generic: {{valueColumnIndex: {place}, metricName: My_Metric}}");
        let config = fixture("exporter_config_sample.yaml")?.replace("sample.csv", name);
        let run = Run::start(&config.replace("metricType: cost", &generic), &endpoint(&server), &[])?;
        let shown = run.samples("My_Metric")?;
        let mut shown = shown.iter().map(|line| read(line)).collect::<Result<Vec<_>>>()?;
        let mut expected = Vec::new();
        for line in rest.lines().filter(|line| line.starts_with("My_Metric{")) {
            let (labels, value) = read(line)?;
            // Of two rows of one series they showed the one, and we their sum.
            let is_twin = labels.get("team") == Some(&"ml");
            expected.push((labels, if is_twin { 2.0 * value } else { value }));
        }
        let by_text = |(labels, value): &(BTreeMap<&str, &str>, f64)| format!("{labels:?} {value}");
        shown.sort_by_key(by_text);
        expected.sort_by_key(by_text);
        ensure!(!expected.is_empty() && shown == expected, "{head}: {shown:?}\nis not\n{expected:?}");
        run.end()?;
        n_run += 1;
    }
    ensure!(n_run == 3, "{n_run} examples were run");
    Ok(())
}

fn operator() -> Result<()> {
    let server = Server::start(None, |_| Answer::new(200, REPORT))?;
    let resources = endpoint(&server) + "---\n" + &fixture("provider_config.yaml")?;
    let run = Run::start(&fixture("operator_config.yaml")?, &resources, &[])?;
    let shown = run.samples("billed_cost")?;
    ensure!(shown == ROWS, "{shown:?}");
    let asked = &server.asked()[0];
    ensure!(asked.target == "/subscriptions/123/x" && asked.header("accept") == Some("text/csv"), "{asked:?}");
    let metrics = run.metrics()?;
    ensure!(metrics.contains("costream_source_up{source=\"azure\"} 1\n"), "{metrics}");
    run.end()
}

fn provider() -> Result<()> {
    const VM: &str = "/subscriptions/123/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
    let azure = AzureMonitor::start(Utc::now())?;
    let report = format!("BilledCost,ResourceId,ResourceType\n1,{VM},Virtual machine\n2,{VM}-disk,Disk\n");
    azure.world().files.insert("/subscriptions/123/x".to_owned(), report);
    azure.world().trust("tok");
    let endpoint = secret("report-endpoint", &[("server-url", &azure.url()), ("token", "tok")]);
    let resources = endpoint + "---\n" + &fixture("provider_config.yaml")?;
    let run = Run::start(&fixture("operator_config.yaml")?, &resources, &[])?;
    let shown = run.samples("percentage_cpu")?;
    let of_machine = format!("percentage_cpu{{ResourceId=\"{VM}\",");
    ensure!(shown.iter().all(|line| line.starts_with(&of_machine)), "{shown:?}");
    let path = format!("{VM}/providers/microsoft.insights/metrics?api-version=2023-10-01&");
    let asked = azure.asked().into_iter().filter(|asked| asked.target != "/subscriptions/123/x");
    for asked in asked {
        ensure!(asked.target.starts_with(&path) && asked.target.contains("interval=PT15M"), "{asked:?}");
    }
    run.end()
}

/// The example of the README with its blanks filled in; each stands in it as many times as is said.
fn filled(blanks: &[(&str, &str, usize)]) -> Result<String> {
    let mut config = fixture("exporter_scraper_config.yaml")?;
    for (blank, with, times) in blanks {
        ensure!(
            config.matches(blank).count() == *times,
            "{blank:?} stands {} times in it",
            config.matches(blank).count()
        );
        config = config.replace(blank, with);
    }
    Ok(config)
}

fn old_keys() -> Result<()> {
    let server = Server::start(None, |asked| match (asked.header("authorization"), asked.target.as_str()) {
        (Some("Bearer tok-of-the-report"), "/2024/costs.csv") => Answer::new(200, REPORT),
        (None, "/2024/usage.json") => Answer::new(200, USAGE),
        _ => Answer::new(404, ""),
    })?;
    let host = format!("varName: {}", server.address());
    let common = [
        (" # DatabaseConfig name\n", " db\n", 1),
        (" # DatabaseConfig namespace", " finops", 1),
        (" # username string", " crate", 1),
        (
            "    name: # secret name\n    namespace: # secret namespace\n    key: # secret key",
            "    name: db\n    namespace: finops\n    key: password",
            1,
        ),
        (" # ExporterScraperConfig name\n", " old\n", 1),
        (" # ExporterScraperConfig namespace", " finops", 1),
        (" # name of the provider config", " ''", 1),
        (" # namespace of the provider config", " ''", 1),
        (" # int", " 12", 2),
        ("varName: sample", &host, 1),
        (" # tableName in the database to upload the data to", " focus_table", 1),
        (" # name of the databaseConfigRef CR", " db", 1),
        (" # namespace of the databaseConfigRef CR", " finops", 1),
    ];
    let url = " # url including http/https";
    let (yes_or_no, how) = (" # true/false", " # one of: bearer-token, cert-file");
    let with_token = [
        (url, " http://<varName>/<envExample>/costs.csv # url including http/https", 1),
        (yes_or_no, " true", 1),
        (how, " bearer-token", 1),
        ("    # bearerToken:", "    bearerToken:", 1),
        ("    #   name: # secret name", "      name: report-token", 1),
        ("    #   namespace: # secret namespace", "      namespace: finops", 1),
        ("    #   key: # key of the secret", "      key: token", 1),
        ("    # metricType: #", "    metricType: cost #", 1),
    ];
    let token = secret("report-token", &[("token", "tok-of-the-report\n")]);
    let year = [("FROM_THE_ENVIRONMENT", "2024")];
    let run = Run::start(&filled(&[&common[..], &with_token].concat())?, &token, &year)?;
    ensure!(run.samples("billed_cost")? == ROWS, "{:?}", run.samples("billed_cost"));
    let metrics = run.metrics()?;
    ensure!(metrics.contains("costream_source_up{source=\"old\"} 1\n"), "{metrics}");
    run.end()?;

    // Without a metricType it is usage.
    let without_token = [
        (url, " http://<varName>/<envExample>/usage.json # url including http/https", 1),
        (yes_or_no, " false", 1),
        (how, "", 1),
        ("      envExample:", "      ResourceId: /subscriptions/s1/vm1\n      envExample:", 1),
    ];
    let config = filled(&[&common[..], &without_token].concat())?;
    let run = Run::start(&config, "", &year)?;
    let shown = run.samples("percentage_cpu")?;
    ensure!(shown.len() == 3 && shown[0].contains("ResourceId=\"/subscriptions/s1/vm1\""), "{shown:?}");
    run.end()?;

    let refused = |config: &str, variables: &[(&str, &str)], says: &str| {
        let mut run = Run::start(config, "", variables)?;
        let status = until("it ends", || run.exporter.ended())?;
        let printed = run.exporter.printed()?;
        ensure!(status.code() == Some(2) && printed.contains(says), "{status}: {printed}");
        Ok(())
    };
    refused(&config, &[], "additionalVariables.envExample: environment variable FROM_THE_ENVIRONMENT is not set")?;
    let by_file = config.replace("requireAuthentication: false", "requireAuthentication: true");
    let by_file = by_file.replace("authenticationMethod:", "authenticationMethod: cert-file");
    refused(&by_file, &year, "old: spec.exporterConfig.authenticationMethod: cert-file ")
}

fn mounted() -> Result<()> {
    let server = Server::start(None, |_| Answer::new(200, REPORT))?;
    let room = Room::new()?;
    fs::write(room.folder("config")?.join("config.yaml"), fixture("exporter_config_sample.yaml")?)?;
    fs::write(room.folder("resources")?.join("secret.yaml"), endpoint(&server))?;
    let address = free_address()?;
    let flags = ["--web.listen-address", &address, "--config.resources-dir", "/resources"];
    let mut command = room.command(&[&[EXPORTER], &flags[..]].concat());
    let exporter = Program::spawn("costream-exporter", room.path(), &mut command)?;
    let run = Run { exporter, address, _folder: tempfile::tempdir()? };
    ensure!(run.samples("billed_cost")? == ROWS, "{:?}", run.samples("billed_cost"));
    run.end()
}

/// Exporters of all three kinds of rows, as they show something.
fn all_kinds(servers: &mut Vec<Server>) -> Result<Vec<(Run, &'static str)>> {
    let generic = "metricType: generic\n    generic: {valueColumnIndex: 2, metricName: My_Metric}";
    let sample = fixture("exporter_config_sample.yaml")?;
    let table = "team,month,tokens,note\nml,2024-09,12.5,\"a \"\"b\"\", c\\d\"\nweb,2024-09,3,\n";
    let mut runs = Vec::new();
    for (config, body, metric) in [
        (sample.clone(), REPORT, "billed_cost"),
        (fixture("exporter_config_usage.yaml")?, USAGE, "percentage_cpu"),
        (sample.replace("metricType: cost", generic), table, "My_Metric"),
    ] {
        let server = Server::start(None, move |_| Answer::new(200, body))?;
        let run = Run::start(&config, &endpoint(&server), &[])?;
        run.samples(metric)?;
        servers.push(server);
        runs.push((run, metric));
    }
    Ok(runs)
}

fn promtool_takes(promtool: &Path) -> Result<()> {
    for (run, metric) in all_kinds(&mut Vec::new())? {
        let mut check = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start promtool")?;
        check.stdin.take().context("promtool reads")?.write_all(run.metrics()?.as_bytes())?;
        let output = check.wait_with_output().context("wait for promtool")?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // What it does not like of names and help texts is as it always was; everything else is ours.
        let dictated: &[&str] = match metric {
            "My_Metric" => {
                &["My_Metric no help text", "My_Metric metric names should be written in 'snake_case' not 'camelCase'"]
            }
            "billed_cost" => &[
                "billed_cost no help text",
                "billed_cost label names should be written in 'snake_case' not 'camelCase'",
            ],
            _ => &[
                "percentage_cpu no help text",
                "percentage_cpu label names should be written in 'snake_case' not 'camelCase'",
            ],
        };
        let found: Vec<_> = said.lines().filter(|line| !dictated.contains(line)).collect();
        ensure!(found.is_empty() && matches!(output.status.code(), Some(0 | 3)), "{metric}: {}: {said}", output.status);
        run.end()?;
    }
    Ok(())
}

fn scraped(prometheus: &Path) -> Result<()> {
    let mut servers = Vec::new();
    let runs = all_kinds(&mut servers)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let targets: Vec<_> = runs.iter().map(|(run, _)| run.address.as_str()).collect();
    let jobs = json!([{"job_name": "costream", "static_configs": [{"targets": targets}]}]);
    let config = json!({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs});
    fs::write(folder.path().join("prometheus.yml"), config.to_string()).context("write its configuration")?;
    let address = free_address()?;
    let mut command = Command::new(prometheus);
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]);
    command.arg(format!("--web.listen-address={address}"));
    let _prometheus = Program::spawn("prometheus", folder.path(), &mut command)?;
    for (query, expected) in [
        ("sum(billed_cost)", "-2.16e-07"),
        ("count(billed_cost)", "2"),
        // Points of the past have their own times on /records; here each has its label.
        ("sum(percentage_cpu{average=\"5.25\"})", "5.25"),
        ("count(percentage_cpu)", "3"),
        ("sum(My_Metric{note=\"a \\\"b\\\", c\\\\d\"})", "12.5"),
    ] {
        let mut url = url::Url::parse(&format!("http://{address}/api/v1/query"))?;
        url.query_pairs_mut().append_pair("query", query);
        let found = until(&format!("Prometheus has {query}"), || {
            let Some((200, body)) = get(url.as_str())? else { return Ok(None) };
            let answer: Value = serde_json::from_str(&body).context("read Prometheus' answer")?;
            Ok(answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned))
        })?;
        ensure!(found == expected, "{query} is {found}, and not {expected}");
    }
    Ok(())
}

fn memory() -> Result<()> {
    let peak = |n_rows: usize| {
        let body: String = ["BilledCost,BillingCurrency,ResourceId,Tags\n".to_owned()]
            .into_iter()
            .chain((0..n_rows).map(row))
            .collect();
        let n_bytes = body.len();
        let server = Server::start(None, move |_| Answer::new(200, body.clone()))?;
        let run = Run::start(&fixture("exporter_config_sample.yaml")?, &endpoint(&server), &[])?;
        let shown = run.samples("billed_cost")?;
        ensure!(shown.len() == n_rows, "{} of {n_rows} rows are shown", shown.len());
        let status = fs::read_to_string(format!("/proc/{}/status", run.exporter.id())).context("ask for its memory")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
        let peak: usize = peak.trim().trim_end_matches(" kB").parse().context("a number")?;
        run.end()?;
        eprintln!("{n_rows} rows ({} KiB): {peak} KiB at the most", n_bytes >> 10);
        Ok(peak)
    };
    let (few, many) = (peak(MANY_ROWS / TIMES_FEWER)?, peak(MANY_ROWS)?);
    // The larger report alone is more than the difference that is allowed, and than the whole.
    ensure!(many < few + (16 << 10), "{few} KiB for {} rows, {many} KiB for {MANY_ROWS}", MANY_ROWS / TIMES_FEWER);
    Ok(())
}

/// A row unlike all others, of a few hundred bytes.
fn row(at: usize) -> String {
    let id = format!(
        "/subscriptions/s1/resourceGroups/group-{}/providers/Microsoft.Compute/virtualMachines/vm-{at}",
        at % 97
    );
    format!(
        "0.{at:06},USD,{id},\"{{\"\"org\"\": \"\"team-{}\"\", \"\"note\"\": \"\"{}\"\"}}\"\n",
        at % 13,
        "x".repeat(120)
    )
}

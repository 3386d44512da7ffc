//! Credentials from Kubernetes Secrets, by the real exporter, against a stand-in for the cluster; and a user's
//! password, which a handler is told and nobody else is.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use costream_tests::certificates::Authority;
use costream_tests::kubernetes::{Cluster, NAMESPACE};
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, client, free_address, get, program, runtime, until};
use costream_tests::server::{Answer, Server};

const REPORT: &str = "BilledCost,BillingCurrency,BillingPeriodStart\n1.25,USD,2026-08-01T00:00:00Z\n";

fn main() -> ExitCode {
    Suite::new()
        .claim("a_token_rotated_in_its_secret_is_sent_with_the_next_poll", rotated_token)
        .claim("a_users_password_is_in_no_argument_environment_log_error_or_metric", canary)
        .run()
}

fn rotated_token() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let (cluster, authority) = (Cluster::start()?, Authority::new()?);
    let reports = Server::start(Some(&authority.issue(&["127.0.0.1"])?), |_| Answer::new(200, REPORT))?;
    fs::write(folder.path().join("ca.pem"), authority.certificate()).context("write the authority")?;
    let address = free_address()?;
    let config = format!(
        "exporter:
  listen_address: {address}
  spool_dir: spool
  poll_interval: 200ms
  sources:
    - name: azure
      url: {}
      bearer_token: {{kubernetes: {{name: azure-cost, key: token}}}}
      headers: {{X-Api-Key: {{kubernetes: {{name: keys, key: api.key, namespace: elsewhere}}}}}}
      tls: {{ca_file: ca.pem}}
",
        reports.url("/costs.csv")
    );
    fs::write(folder.path().join("costream.yaml"), config).context("write the configuration")?;
    cluster.put("elsewhere", "keys", &[("api.key", b"k-of-elsewhere")]);
    cluster.put(NAMESPACE, "azure-cost", &[("token", b"tok-first\n")]);
    let mut exporter = start(folder.path(), &cluster)?;

    sent(&reports, "Bearer tok-first")?;
    cluster.put(NAMESPACE, "azure-cost", &[("token", b"tok-second\n")]);
    sent(&reports, "Bearer tok-second")?;
    let last = reports.asked().pop().context("it was asked")?;
    ensure!(last.header("x-api-key") == Some("k-of-elsewhere"), "{last:?}");
    let served =
        || Ok(get(&format!("http://{address}/metrics"))?.filter(|(_, text)| text.contains("costream_billed_cost{")));
    until("the report is served", served)?;

    cluster.forbid(NAMESPACE, "azure-cost");
    exporter.word_after("Kubernetes Secret finops/azure-cost, key token: forbidden")?;
    until("the failure shows", || {
        Ok(served()?.filter(|(_, text)| text.contains("costream_source_up{source=\"azure\"} 0")))
    })?;
    let printed = exporter.printed()?;
    ensure!(!printed.contains("tok-") && !printed.contains("k-of-elsewhere"), "a credential is shown: {printed}");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

fn start(folder: &Path, cluster: &Cluster) -> Result<Program> {
    let mut command = Command::new(program("costream-exporter")?);
    command.args(["--config.file", "costream.yaml", "--log.level", "debug"]);
    command.env("KUBECONFIG", cluster.kubeconfig(folder)?);
    Program::spawn("costream-exporter", folder, &mut command)
}

/// Waits until the report was asked for with this, and it was the last one.
fn sent(reports: &Server, authorization: &str) -> Result<()> {
    until(&format!("{authorization:?} is sent"), || {
        Ok(reports.asked().last().filter(|asked| asked.header("authorization") == Some(authorization)).map(|_| ()))
    })
}

/// A password that stands nowhere by chance, and the same in base64.
const CANARY: &str = "canary-5Qh2vX9rTz";

fn canary() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let hash = bcrypt::hash(CANARY, 4).context("hash the password")?;
    fs::write(folder.path().join("web.yml"), format!("basic_auth_users: {{ann: {hash}}}\n"))
        .context("write the users")?;
    let arguments = ["--web.listen-address", "127.0.0.1:0", "--web.config.file", "web.yml", "--log.level", "debug"];
    let mut handler = Program::start("costream-handler", folder.path(), &arguments)?;
    let url = handler.word_after("listening on")?;

    let encoded = BASE64.encode(CANARY);
    let record = |cost: &str| format!(r#"[{{"labels": {{"BilledCost": "{cost}", "ServiceName": "s"}}}}]"#);
    let statement = |text: &str| format!(r#"{{"stmt": "{text}"}}"#);
    let mut answers = String::new();
    for (path, body, password, status) in [
        ("/upload?table=t", record("1"), CANARY, 200),
        ("/upload?table=t", record("1"), &encoded, 200),
        ("/upload?table=t", record("oops"), CANARY, 400),
        ("/upload?table=t&rejects=keep", record("oops"), CANARY, 200),
        ("/upload?table=t", "{".to_owned(), CANARY, 400),
        ("/upload?table=t", record("1"), &format!("{CANARY}!"), 401),
        ("/_sql", statement("SELECT * FROM t"), CANARY, 200),
        ("/_sql?error_trace=true", statement("SELECT nope FROM t"), CANARY, 404),
        ("/_sql?error_trace=true", statement("SELEC"), &encoded, 400),
        ("/_sql", statement("SELECT 1"), &format!("x{CANARY}"), 401),
        ("/compute/nope", "{}".to_owned(), CANARY, 404),
        ("/nope", String::new(), CANARY, 404),
    ] {
        let (got, text) = post(&format!("{url}{path}"), password, body)?;
        ensure!(got == status, "{path}: {got}: {text}");
        answers += &text;
    }
    let metrics = client().get(format!("{url}/metrics")).basic_auth("ann", Some(CANARY));
    answers += &runtime().block_on(async { metrics.send().await?.text().await }).context("ask for metrics")?;
    ensure!(answers.contains("costream_uploads_total"), "{answers}");
    let mut seen = vec![("an answer", answers), ("the log", handler.printed()?)];
    for file in ["cmdline", "environ", "comm", "status"] {
        let path = format!("/proc/{}/{file}", handler.id());
        // Where there is no such thing nobody can look.
        let bytes = fs::read(path).unwrap_or_default();
        seen.push((file, String::from_utf8_lossy(&bytes).into_owned()));
    }
    for (place, text) in seen {
        ensure!(!text.contains(CANARY) && !text.contains(&encoded), "the password is in {place}: {text}");
    }
    let status = handler.terminate()?;
    ensure!(status.success(), "the handler ended with {status}");
    Ok(())
}

fn post(url: &str, password: &str, body: String) -> Result<(u16, String)> {
    runtime().block_on(async {
        let request = client().post(url).basic_auth("ann", Some(password)).header("content-type", "application/json");
        let response = request.body(body).send().await.with_context(|| format!("POST {url}"))?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.with_context(|| format!("read {url}"))?))
    })
}

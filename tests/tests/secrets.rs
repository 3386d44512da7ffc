//! Credentials from Kubernetes Secrets, by the real exporter, against a stand-in for the cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use costream_tests::certificates::Authority;
use costream_tests::kubernetes::{Cluster, NAMESPACE};
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, free_address, get, program, until};
use costream_tests::server::{Answer, Server};

const REPORT: &str = "BilledCost,BillingCurrency,BillingPeriodStart\n1.25,USD,2026-08-01T00:00:00Z\n";

fn main() -> ExitCode {
    Suite::new().claim("a_token_rotated_in_its_secret_is_sent_with_the_next_poll", rotated_token).run()
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

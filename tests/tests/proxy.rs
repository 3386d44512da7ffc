//! Proxies of the environment, by the real programs: a source that this machine cannot even
//! look up arrives through the proxy, and the proxy's password is nobody's to see.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, free_address, get, program, until};
use costream_tests::server::{Answer, Server};

/// A name that is reserved not to exist (RFC 2606).
const SOURCE: &str = "http://reports.example/focus/costs.csv?sig=hush-of-the-source";
const REPORT: &str = "BilledCost,BillingCurrency,BillingPeriodStart\n1.25,USD,2026-08-01T00:00:00Z\n";
/// All spellings of all of them: those of the machine that runs the test are none of ours.
const VARIABLES: [&str; 8] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

fn main() -> ExitCode {
    Suite::new()
        .claim("a_report_arrives_through_the_proxy", || through("http_proxy").and_then(|()| through("HTTP_PROXY")))
        .claim("a_proxy_that_fails_is_told_on_one_line_without_its_password", failing)
        .run()
}

fn through(variable: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let proxy = Server::start(None, |_| Answer::new(200, REPORT))?;
    let (exporter, address) = exporter(folder.path(), variable, &proxy.address().to_string())?;
    until("the report is served", || {
        let metrics = get(&format!("http://{address}/metrics"))?;
        Ok(metrics.filter(|(_, text)| {
            text.lines().any(|line| line.starts_with("costream_billed_cost{") && line.ends_with(" 1.25"))
        }))
    })?;
    let asked = proxy.asked();
    let asked = asked.first().context("the proxy was asked")?;
    ensure!(asked.target == SOURCE, "the proxy gets the whole URL: {asked:?}");
    // Basic authentication of ann and pw-of-the-proxy, RFC 7617.
    ensure!(asked.header("proxy-authorization") == Some("Basic YW5uOnB3LW9mLXRoZS1wcm94eQ=="), "{asked:?}");
    nothing_is_shown(exporter)
}

fn failing() -> Result<()> {
    let nobody = free_address()?;
    let refusing = Server::start(None, |_| Answer::new(407, "who are you"))?;
    for (proxy, says) in [
        (
            nobody,
            "(through the proxy of the environment): error sending request: client error (Connect): tcp connect error: Connection refused",
        ),
        (refusing.address().to_string(), "407"),
    ] {
        let folder = tempfile::tempdir().context("make a folder")?;
        let (mut exporter, _) = exporter(folder.path(), "http_proxy", &proxy)?;
        exporter.word_after("poll failed")?;
        let printed = exporter.printed()?;
        let lines: Vec<_> = printed.lines().filter(|line| line.contains("poll failed")).collect();
        ensure!(lines.len() == 1, "{printed}");
        ensure!(
            lines[0].contains("GET http://reports.example/focus/costs.csv?sig=***") && lines[0].contains(says),
            "{}",
            lines[0]
        );
        nothing_is_shown(exporter)?;
    }
    Ok(())
}

/// An exporter behind a proxy, and its address.
fn exporter(folder: &Path, variable: &str, proxy: &str) -> Result<(Program, String)> {
    let config = format!(
        "exporter:\n  spool_dir: spool\n  poll_interval: 1h\n  retry_for: 0s\n  sources: [{{url: '{SOURCE}'}}]\n"
    );
    fs::write(folder.join("costream.yaml"), config).context("write the configuration")?;
    let address = free_address()?;
    let mut command = Command::new(program("costream-exporter")?);
    command.args(["--config.file", "costream.yaml", "--log.level", "debug", "--web.listen-address", &address]);
    VARIABLES.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.env(variable, format!("http://ann:pw-of-the-proxy@{proxy}"));
    Ok((Program::spawn("costream-exporter", folder, &mut command)?, address))
}

/// Ends the exporter; the credentials are not in what it printed.
fn nothing_is_shown(exporter: Program) -> Result<()> {
    let printed = exporter.printed()?;
    ensure!(!printed.contains("pw-of-the-proxy") && !printed.contains("YW5uOn"), "a password is shown: {printed}");
    ensure!(!printed.contains("hush"), "the source's signature is shown: {printed}");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

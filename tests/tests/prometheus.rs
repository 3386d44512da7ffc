//! `/metrics`, held against the real thing: promtool finds nothing to say, and what a real
//! Prometheus scraped adds up to the report.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use bigdecimal::{BigDecimal, ToPrimitive as _};
use costream_tests::parts::{Suite, on_path};
use costream_tests::programs::{Program, free_address, get, run, until};
use costream_tests::report::sums;
use serde_json::Value;

fn main() -> ExitCode {
    Suite::new()
        .claim_with("promtool_finds_nothing_to_say", on_path("promtool", "prometheus"), promtool_finds_nothing_to_say)
        .claim_with(
            "prometheus_sums_equal_the_report",
            on_path("prometheus", "prometheus"),
            prometheus_sums_equal_the_report,
        )
        .run()
}

/// An exporter on a generated report: its folder, the program, its address, the report.
fn exporter(rows: u32) -> Result<(tempfile::TempDir, Program, String, PathBuf)> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let report = folder.path().join("report.csv");
    let rows = rows.to_string();
    let (status, _, errors) =
        run("costream", folder.path(), &["generate", "--rows", &rows, "--seed", "11", "--out", "report.csv"])?;
    ensure!(status == Some(0), "generate ended with {status:?}: {errors}");
    let config = "exporter:\n  spool_dir: spool\n  poll_interval: 1h\n  metrics: {max_series: 500}\n  sources:\n    - path: report.csv\n";
    fs::write(folder.path().join("costream.yaml"), config).context("write the configuration")?;
    let address = free_address()?;
    let exporter = Program::start(
        "costream-exporter",
        folder.path(),
        &["--config.file", "costream.yaml", "--web.listen-address", &address],
    )?;
    until("the exporter is ready", || {
        Ok(get(&format!("http://{address}/-/ready"))?.filter(|(status, _)| *status == 200))
    })?;
    Ok((folder, exporter, address, report))
}

fn promtool_finds_nothing_to_say(promtool: PathBuf) -> Result<()> {
    let (_folder, _exporter, address, _report) = exporter(2_000)?;
    let (_, metrics) = get(&format!("http://{address}/metrics"))?.context("the exporter answers")?;
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    check.stdin.take().context("promtool reads")?.write_all(metrics.as_bytes()).context("write to promtool")?;
    let output = check.wait_with_output().context("wait for promtool")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && said.is_empty(), "promtool says: {said}");
    Ok(())
}

fn prometheus_sums_equal_the_report(prometheus: PathBuf) -> Result<()> {
    let (folder, _exporter, target, report) = exporter(5_000)?;
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: costream\n    static_configs: [{{targets: ['{target}']}}]\n"
    );
    fs::write(folder.path().join("prometheus.yml"), config).context("write its configuration")?;
    let address = free_address()?;
    let _prometheus = Program::spawn(
        "prometheus",
        folder.path(),
        Command::new(prometheus)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"])
            .arg(format!("--web.listen-address={address}")),
    )?;

    let mut expected = BTreeMap::<String, BigDecimal>::new();
    for ((_, currency), sums) in sums(&report)? {
        *expected.entry(currency).or_default() += &sums.costs[0];
    }
    ensure!(expected.len() > 1, "the report has several currencies");
    let url = format!("http://{address}/api/v1/query?query=sum%20by%20(billing_currency)%20(costream_billed_cost)");
    let sums = until("Prometheus has scraped the exporter", || {
        let Some((200, body)) = get(&url)? else { return Ok(None) };
        let answer: Value = serde_json::from_str(&body).context("read Prometheus' answer")?;
        let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        Ok((!result.is_empty()).then_some(result))
    })?;
    let mut found = BTreeMap::new();
    for series in &sums {
        let currency = series["metric"]["billing_currency"].as_str().context("a currency")?;
        let value: f64 = series["value"][1].as_str().context("a value")?.parse().context("a number")?;
        found.insert(currency.to_owned(), value);
    }
    ensure!(found.keys().eq(expected.keys()), "currencies {:?} of {:?}", found.keys(), expected.keys());
    for (currency, expected) in &expected {
        // Prometheus adds doubles: a few hundred of them, each off by half a unit in the last place.
        let (found, expected) = (found[currency], expected.to_f64().context("a double")?);
        let off = (found - expected).abs() / expected.abs();
        ensure!(off < 1e-12, "{currency}: Prometheus has {found}, the report {expected}");
    }
    Ok(())
}

//! Scraper to handler over https: a certificate of an authority of our own, a user with a
//! bcrypt password, and a password that is wrong at first.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use costream_tests::certificates::Authority;
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, free_address, run, until};

/// bcrypt's least cost.
const COST: u32 = 4;
const REPORT: &str = "BilledCost,BillingCurrency,BillingPeriodStart
1.000000000000000001,USD,2026-08-01T00:00:00Z
2,USD,2026-08-01T00:00:00Z
";

fn main() -> ExitCode {
    Suite::new()
        .claim("a_wrong_password_is_told_and_with_the_right_one_everything_is_stored", wrong_password)
        .claim("a_handler_of_an_unknown_authority_is_told", unknown_authority)
        .run()
}

/// A folder with an exporter's report, a handler's web configuration and one file for all three.
fn house(scrapers_tls: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).context("write into the folder");
    let authority = Authority::new()?;
    let identity = authority.issue(&["127.0.0.1"])?;
    write("ca.pem", &authority.certificate())?;
    write("handler.pem", &identity.certificate)?;
    write("handler.key", &identity.key)?;
    let hash = bcrypt::hash("pw-right", COST).context("hash the password")?;
    write(
        "web.yml",
        &format!(
            "tls_server_config: {{cert_file: handler.pem, key_file: handler.key}}\nbasic_auth_users: {{scraper: {hash}}}\n"
        ),
    )?;
    write("report.csv", REPORT)?;
    write("password", "pw-wrong\n")?;
    let (exporter, handler) = (free_address()?, free_address()?);
    write(
        "costream.yaml",
        &format!(
            "exporter:
  listen_address: {exporter}
  spool_dir: spool
  sources: [{{name: bill, path: report.csv}}]
scraper:
  listen_address: 127.0.0.1:0
  retry_for: 1s
  handler:
    url: https://{handler}
    basic_auth: {{username: scraper, password: {{file: password}}}}
    tls: {{{scrapers_tls}}}
  targets:
    - {{url: 'http://{exporter}', interval: 500ms}}
handler:
  listen_address: {handler}
  data_dir: data
"
        ),
    )?;
    Ok(folder)
}

/// Exporter, handler (with TLS and its user) and scraper, in this order.
fn programs(folder: &Path) -> Result<[Program; 3]> {
    let start =
        |role, more: &[&str]| Program::start(role, folder, &[&["--config.file", "costream.yaml"], more].concat());
    Ok([
        start("costream-exporter", &[])?,
        start("costream-handler", &["--web.config.file", "web.yml"])?,
        start("costream-scraper", &[])?,
    ])
}

/// The store's answer, once there is one.
fn stored(folder: &Path) -> Result<Option<String>> {
    let statement = "SELECT count(*) AS n, sum(billedcost) AS billed FROM costs";
    let (status, rows, _) = run("costream", folder, &["sql", statement, "--data-dir", "data", "--format", "csv"])?;
    Ok((status == Some(0)).then_some(rows))
}

fn wrong_password() -> Result<()> {
    let folder = house("ca_file: ca.pem")?;
    let [exporter, handler, mut scraper] = programs(folder.path())?;
    scraper.word_after("not stored")?;
    ensure!(stored(folder.path())?.is_none_or(|rows| rows.lines().nth(1) == Some("0,")), "stored without a password");
    let printed = scraper.printed()?;
    let line = printed.lines().find(|line| line.contains("not stored")).context("a line says so")?;
    ensure!(line.contains("https://127.0.0.1") && line.contains("401"), "{line}");

    fs::write(folder.path().join("password"), "pw-right\n").context("write the password")?;
    let rows = until("everything is stored", || Ok(stored(folder.path())?.filter(|rows| !rows.contains("\n0,"))))?;
    ensure!(rows == "n,billed\n2,3.000000000000000001\n", "{rows}");
    for program in [scraper, handler, exporter] {
        let printed = program.printed()?;
        ensure!(!printed.contains("pw-"), "a password is shown: {printed}");
        let status = program.terminate()?;
        ensure!(status.success(), "a role ended with {status}");
    }
    Ok(())
}

fn unknown_authority() -> Result<()> {
    let folder = house("insecure_skip_verify: false")?;
    let [_exporter, _handler, mut scraper] = programs(folder.path())?;
    scraper.word_after("not stored")?;
    let printed = scraper.printed()?;
    let line = printed.lines().find(|line| line.contains("not stored")).context("a line says so")?;
    ensure!(line.contains("https://127.0.0.1") && line.contains("issuer of its certificate is unknown"), "{line}");
    Ok(())
}

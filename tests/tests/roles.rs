//! The three roles as programs of their own, from one configuration file over HTTP.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use bigdecimal::BigDecimal;
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, free_address, get, run, until};
use costream_tests::report::sums;

fn main() -> ExitCode {
    Suite::new()
        .claim("three_programs_store_what_the_report_says", || three_programs("arrow"))
        .claim("an_address_that_is_open_to_others_without_a_password_is_a_wrong_configuration", open_to_others)
        .claim("text_in_place_of_arrow_stores_the_same", || three_programs("text"))
        .run()
}

fn open_to_others() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let config = "exporter: {spool_dir: spool}\nscraper: {targets: [{url: 'http://127.0.0.1:1'}]}\n";
    fs::write(folder.path().join("costream.yaml"), config).context("write the configuration")?;
    for role in ["costream-exporter", "costream-scraper", "costream-handler"] {
        let arguments = ["--config.file", "costream.yaml", "--web.listen-address", "0.0.0.0:0"];
        let (status, _, errors) = run(role, folder.path(), &arguments)?;
        ensure!(status == Some(2), "{role} ended with {status:?}: {errors}");
        let told: Vec<_> = errors.lines().filter(|line| line.starts_with(role)).collect();
        ensure!(told.len() == 1 && told[0].contains("--web.allow-unauthenticated"), "{errors}");
    }
    Ok(())
}

fn three_programs(records: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    fs::create_dir(folder.path().join("reports")).context("make a folder")?;
    for (name, profile, seed) in [("aws.csv", "aws", "1"), ("azure.csv", "azure", "2"), ("all.csv", "auto", "3")] {
        let out = format!("reports/{name}");
        let arguments = ["generate", "--rows", "1000", "--seed", seed, "--profile", profile, "--out", &out];
        let (status, _, errors) = run("costream", folder.path(), &arguments)?;
        ensure!(status == Some(0), "generate ended with {status:?}: {errors}");
    }
    let (exporter, scraper, handler) = (free_address()?, free_address()?, free_address()?);
    let config = format!(
        "exporter:
  listen_address: {exporter}
  spool_dir: spool
  sources:
    - {{name: bill, path: reports}}
scraper:
  listen_address: {scraper}
  handler: {{url: 'http://{handler}'}}
  targets:
    - {{url: 'http://{exporter}', records: {records}, interval: 1s}}
handler:
  listen_address: {handler}
  data_dir: data
"
    );
    fs::write(folder.path().join("costream.yaml"), config).context("write the configuration")?;
    // In no order: each waits for the others.
    let mut programs = Vec::new();
    for role in ["costream-scraper", "costream-exporter", "costream-handler"] {
        programs.push(Program::start(role, folder.path(), &["--config.file", "costream.yaml"])?);
    }

    let url = format!("http://{handler}");
    let query = |statement: &str| {
        let (status, rows, errors) =
            run("costream", folder.path(), &["sql", statement, "--url", &url, "--format", "csv"])?;
        Ok::<_, anyhow::Error>((status == Some(0)).then_some((rows, errors)))
    };
    until("every report is stored", || {
        if get(&format!("{url}/-/ready"))?.is_none() {
            return Ok(None);
        }
        let counted = query("SELECT COUNT(*) AS n FROM costs")?;
        Ok(counted.filter(|(rows, _)| rows.lines().nth(1) == Some("3000")))
    })?;
    for name in ["aws.csv", "azure.csv", "all.csv"] {
        let mut expected: [BigDecimal; 4] = Default::default();
        for group in sums(&folder.path().join("reports").join(name))?.values() {
            expected.iter_mut().zip(&group.costs).for_each(|(sum, cost)| *sum += cost);
        }
        let (rows, _) = query(&format!(
            "SELECT SUM(billedcost), SUM(effectivecost), SUM(listcost), SUM(contractedcost) FROM costs WHERE x_scope LIKE '%{name}'"
        ))?
        .context("the handler answers")?;
        let line = rows.lines().nth(1).context("a row")?;
        let stored: Vec<BigDecimal> =
            line.split(',').map(str::parse).collect::<Result<_, _>>().context("read the sums")?;
        ensure!(stored == expected, "{name}: {stored:?} stored of {expected:?}");
    }
    for program in programs {
        let status = program.terminate()?;
        ensure!(status.success(), "a role ended with {status}");
    }
    Ok(())
}

//! Costream on clouds, as its users run it: the sample report into a bucket, asked and added up
//! there, by ourselves and by another engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use bigdecimal::BigDecimal;
use costream_tests::clouds::{Part, azurite, moto};
use costream_tests::parts::{Suite, python};
use costream_tests::programs::{free_address, run, run_with};
use costream_tests::report::sums_of;

fn main() -> ExitCode {
    let engine = || python(&["deltalake==1.6.6", "pyarrow==26.0.1"]);
    let mut suite = Suite::new().claim_with("another_engine_reads_the_store_of_a_directory", engine(), |engine| {
        let folder = tempfile::tempdir().context("make a folder")?;
        let (status, _, errors) = run("costream", folder.path(), &["run", "--once"])?;
        ensure!(status == Some(0), "run ended with {status:?}: {errors}");
        let table = folder.path().join("costream-data/store/costs");
        ensure_same(&read(&engine, &table.to_string_lossy(), &[])?, &expected(folder.path())?)
    });
    suite = suite.claim_with("an_export_in_s3_is_read_to_the_last_digit", moto(), |part| export(&part));
    for (name, part) in [("s3", moto as fn() -> Result<Part>), ("azure", azurite)] {
        let both = part().and_then(|part| Ok((part, engine()?)));
        suite = suite
            .claim_with(&format!("{name}_holds_the_bill_to_the_last_digit"), both, |(part, engine)| {
                bill(&part, &engine)
            })
            .claim_with(&format!("{name}_that_cannot_be_reached_ends_a_run"), part(), |part| unreachable(&part));
    }
    suite.run()
}

fn bill(part: &Part, engine: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cloud = part.start(folder.path())?;
    let place = format!("{}/bills/2026", cloud.bucket);
    fs::write(folder.path().join("costream.yaml"), format!("handler: {{store_url: '{place}'}}\n"))
        .context("write the configuration")?;
    let costream = |arguments: &[&str]| {
        let (status, out, errors) = run_with("costream", folder.path(), arguments, &cloud.variables)?;
        ensure!(status == Some(0), "{arguments:?} ended with {status:?}: {out}{errors}");
        ensure!(!format!("{out}{errors}").contains(cloud.secret), "{arguments:?} shows a credential");
        Ok(out)
    };
    // The second time everything is there already.
    for _ in 0..2 {
        let told = costream(&["run", "--once", "--config.file", "costream.yaml", "--log.level", "debug"])?;
        ensure!(differences_are_nought(&told), "{told}");
        let stored = costream(&[
            "sql",
            "SELECT billingcurrency, count(*), sum(billedcost) FROM costs GROUP BY 1 ORDER BY 1",
            "--url",
            &place,
            "--format",
            "csv",
        ])?;
        let stored: String = stored.lines().skip(1).map(|line| format!("{line}\n")).collect();
        ensure_same(&stored, &expected(folder.path())?)?;
    }
    for place in [&["--config.file", "costream.yaml"][..], &["--url", &place]] {
        let told = costream(&[&["reconcile"], place].concat())?;
        ensure!(differences_are_nought(&told), "{told}");
    }
    ensure!(!folder.path().join("costream-data/store").exists(), "nothing is stored on this machine");
    ensure_same(&read(engine, &format!("{place}/costs"), &cloud.variables)?, &expected(folder.path())?)
}

/// An AWS export of the sample report, of which one file is named by its manifest.
fn export(part: &Part) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cloud = part.start(folder.path())?;
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../resources/sample/focus.csv.gz");
    let report = fs::read(&sample).context("read the sample")?;
    let named = "exports/focus/data/BILLING_PERIOD=2024-09/2024-10-02T00:00:00.000Z-b/focus-00001.csv.gz";
    let manifest = format!("{{\"executionId\": \"b\", \"dataFiles\": [\"s3://billing/{named}\"]}}");
    cloud.put(named, report.clone())?;
    cloud.put(&named.replace("02T00:00:00.000Z-b", "01T00:00:00.000Z-a"), report)?;
    cloud.put("exports/focus/metadata/BILLING_PERIOD=2024-09/focus-Manifest.json", manifest.into_bytes())?;
    let place = format!("{}/exports/", cloud.bucket);
    let costream = |arguments: &[&str]| {
        let (status, out, errors) = run_with("costream", folder.path(), arguments, &cloud.variables)?;
        ensure!(status == Some(0), "{arguments:?} ended with {status:?}: {out}{errors}");
        ensure!(!format!("{out}{errors}").contains(cloud.secret), "{arguments:?} shows a credential");
        Ok::<_, anyhow::Error>(out)
    };
    for command in [&["run", "--once"][..], &["run", "--once"], &["reconcile"]] {
        let told = costream(&[command, &["--source", &place, "--data-dir", "data"]].concat())?;
        ensure!(differences_are_nought(&told), "{told}");
    }
    let stored = costream(&[
        "sql",
        "SELECT billingcurrency, count(*), sum(billedcost) FROM costs WHERE x_scope = 'focus/2024-09' GROUP BY 1 ORDER BY 1",
        "--data-dir",
        "data",
        "--format",
        "csv",
    ])?;
    let stored: String = stored.lines().skip(1).map(|line| format!("{line}\n")).collect();
    ensure_same(&stored, &sums(&sample)?)
}

fn unreachable(part: &Part) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cloud = part.start(folder.path())?;
    let missing = cloud.bucket.replace("costs", "nowhere");
    let endpoint = if cloud.bucket.starts_with("s3:") { "AWS_ENDPOINT_URL" } else { "AZURE_STORAGE_ENDPOINT" };
    let nobody = cloud.with(endpoint, &format!("http://{}", free_address()?));
    let wrong = cloud.with("AZURE_STORAGE_ACCOUNT_KEY", "dmVyeXNlY3JldA==");
    let mut cases = vec![(&missing, &cloud.variables), (&cloud.bucket, &nobody)];
    if cloud.bucket.starts_with("az:") {
        // moto takes any credential.
        cases.push((&cloud.bucket, &wrong));
    }
    for (place, variables) in cases {
        fs::write(folder.path().join("costream.yaml"), format!("handler: {{store_url: '{place}/a'}}\n"))
            .context("write the configuration")?;
        let place = format!("{place}/a");
        for arguments in [
            &["run", "--once", "--config.file", "costream.yaml"][..],
            &["reconcile", "--config.file", "costream.yaml"],
            &["sql", "SELECT count(*) FROM costs", "--url", &place],
        ] {
            let (status, out, errors) = run_with("costream", folder.path(), arguments, variables)?;
            let complaints: Vec<_> = errors.lines().filter(|line| line.starts_with("costream: ")).collect();
            ensure!(status == Some(1) && out.is_empty(), "{arguments:?} ended with {status:?}: {out}{errors}");
            ensure!(complaints.len() == 1 && complaints[0].contains(&place), "{arguments:?}: {errors}");
            let shown = errors.contains(cloud.secret) || errors.contains("dmVyeXNlY3JldA");
            ensure!(!shown, "{arguments:?} shows a credential: {errors}");
        }
    }
    Ok(())
}

/// Whether a printed table has differences and all of them are nought.
fn differences_are_nought(table: &str) -> bool {
    let mut lines = table.lines().filter_map(|line| line.split_once("difference")).peekable();
    lines.peek().is_some() && lines.all(|(_, rest)| rest.split_whitespace().all(|number| number == "0"))
}

/// What is in a table, as delta-rs for Python reads it.
fn read(engine: &Path, table: &str, variables: &[(String, String)]) -> Result<String> {
    let mut options: BTreeMap<&str, &str> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    options.insert("allow_http", "true");
    let options = serde_json::to_string(&options).context("write the options")?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/delta_sums.py");
    let output = Command::new(engine).arg(script).args([table, &options]).output().context("start Python")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Currency, rows and the sum of BilledCost of the sample report, by another hand.
fn expected(folder: &Path) -> Result<String> {
    sums(&folder.join("costream-data/sample/focus.csv.gz"))
}

fn sums(sample: &Path) -> Result<String> {
    let report = Command::new("gzip").arg("-dc").arg(sample).output().context("start gzip")?;
    ensure!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    let mut currencies = BTreeMap::<String, (u64, BigDecimal)>::new();
    for ((_, currency), group) in sums_of(report.stdout.as_slice())? {
        let (rows, billed) = currencies.entry(currency).or_default();
        *rows += group.rows;
        *billed += &group.costs[0];
    }
    Ok(currencies.into_iter().map(|(currency, (rows, billed))| format!("{currency},{rows},{billed}\n")).collect())
}

/// The same lines of currency, rows and sum, whatever zeros the sums end with.
fn ensure_same(left: &str, right: &str) -> Result<()> {
    let parse = |text: &str| {
        let line = |line: &str| {
            let (rest, sum) = line.rsplit_once(',').with_context(|| format!("read {line:?}"))?;
            Ok((rest.to_owned(), sum.parse::<BigDecimal>().with_context(|| format!("read {line:?}"))?.normalized()))
        };
        text.lines().map(line).collect::<Result<Vec<_>>>()
    };
    ensure!(!left.is_empty() && parse(left)? == parse(right)?, "{left} is not {right}");
    Ok(())
}

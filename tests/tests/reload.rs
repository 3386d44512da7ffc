//! A new configuration at SIGHUP, in each of the programs: a good one takes effect without a connection
//! being refused, one that is no good is told and changes nothing.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, client, free_address, get, runtime, until};
use tempfile::TempDir;

const FILE: &str = "costream.yaml";

fn main() -> ExitCode {
    Suite::new()
        .claim("a_source_that_was_added_is_served_and_nobody_was_refused", added_source)
        .claim("a_new_configuration_that_is_no_good_changes_nothing", no_good)
        .claim("a_new_address_takes_the_place_of_the_old_one", new_address)
        .claim("a_target_that_was_added_is_scraped", added_target)
        .claim("a_handler_takes_new_limits_and_without_a_file_it_goes_on", handler)
        .claim("the_all_in_one_stores_a_source_that_was_added", all_in_one)
        .run()
}

/// A folder with a report of each of these names, the billed cost of each in a currency of its own.
fn folder(reports: &[&str]) -> Result<TempDir> {
    let folder = tempfile::tempdir().context("make a folder")?;
    for name in reports {
        let report = format!("BilledCost,BillingCurrency,BillingPeriodStart\n1.25,{name},2026-08-01T00:00:00Z\n");
        fs::write(folder.path().join(format!("{name}.csv")), report).context("write a report")?;
    }
    Ok(folder)
}

fn configure(folder: &Path, text: &str) -> Result<()> {
    fs::write(folder.join(FILE), text).context("write the configuration")
}

fn exporter(address: &str, reports: &[&str]) -> String {
    let sources: String = reports.iter().map(|name| format!("    - {{name: {name}, path: {name}.csv}}\n")).collect();
    format!("exporter:\n  listen_address: {address}\n  spool_dir: spool\n  poll_interval: 200ms\n  sources:\n{sources}")
}

fn start(role: &str, folder: &Path) -> Result<Program> {
    let arguments: &[&str] =
        if role == "costream" { &["run", "--config.file", FILE] } else { &["--config.file", FILE] };
    let mut program = Program::start(role, folder, arguments)?;
    program.word_after("listen")?;
    Ok(program)
}

/// Waits until `/metrics` has a sum of each of these sources, and of no other.
fn serves(address: &str, reports: &[&str]) -> Result<()> {
    until(&format!("{reports:?} are served, and nothing else"), || {
        let Some((_, text)) = get(&format!("http://{address}/metrics"))? else { return Ok(None) };
        let shown = text.lines().filter(|line| line.starts_with("costream_billed_cost{")).collect::<Vec<_>>();
        let all = reports.iter().all(|name| shown.iter().any(|line| line.contains(&format!("source=\"{name}\""))));
        Ok((all && shown.len() == reports.len()).then_some(()))
    })
}

fn ends_well(program: Program) -> Result<()> {
    let status = program.terminate()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn added_source() -> Result<()> {
    let folder = folder(&["EUR", "USD"])?;
    let address = free_address()?;
    configure(folder.path(), &exporter(&address, &["EUR"]))?;
    let mut program = start("costream-exporter", folder.path())?;
    serves(&address, &["EUR"])?;
    let ended = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let refused = std::iter::repeat_with(|| TcpStream::connect(&address))
                .take_while(|_| !ended.load(Ordering::SeqCst))
                .filter(Result::is_err);
            refused.count()
        });
        let reloaded = [&["EUR", "USD"][..], &["USD"]].into_iter().try_for_each(|reports| {
            configure(folder.path(), &exporter(&address, reports))?;
            program.hang_up()?;
            serves(&address, reports)
        });
        ended.store(true, Ordering::SeqCst);
        let refused = connecting.join();
        reloaded.map(|()| refused)
    })?;
    ensure!(refused.is_ok_and(|refused| refused == 0), "somebody was refused");
    program.word_after("configuration read anew")?;
    ends_well(program)
}

fn no_good() -> Result<()> {
    let folder = folder(&["EUR", "USD"])?;
    let address = free_address()?;
    let good = exporter(&address, &["EUR"]);
    configure(folder.path(), &good)?;
    let program = start("costream-exporter", folder.path())?;
    serves(&address, &["EUR"])?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").context("take an address")?;
    let taken = taken.local_addr().context("ask for it")?.to_string();
    let both = exporter(&address, &["EUR", "USD"]);
    for (text, told) in [
        (both.replace("poll_interval", "pol_interval"), &[FILE, "line 4", "pol_interval"][..]),
        (both.replace("spool_dir: spool", "spool_dir: /dev/null/spool"), &["/dev/null/spool"]),
        (both.replace(&address, &taken), &[&taken]),
        (both.replace(&address, "0.0.0.0:0"), &["--web.allow-unauthenticated"]),
    ] {
        configure(folder.path(), &text)?;
        program.hang_up()?;
        until(&format!("{told:?} is told"), || {
            let printed = program.printed()?;
            let is_told = |line: &str| line.contains("ERROR") && told.iter().all(|word| line.contains(word));
            Ok(printed.lines().any(is_told).then_some(()))
        })?;
        serves(&address, &["EUR"])?;
    }
    let printed = program.printed()?;
    ensure!(printed.matches("the old one goes on").count() == 4, "each is told once: {printed}");
    configure(folder.path(), &both)?;
    program.hang_up()?;
    serves(&address, &["EUR", "USD"])?;
    ends_well(program)
}

fn new_address() -> Result<()> {
    let folder = folder(&["EUR"])?;
    let (old, new) = (free_address()?, free_address()?);
    configure(folder.path(), &exporter(&old, &["EUR"]))?;
    let program = start("costream-exporter", folder.path())?;
    serves(&old, &["EUR"])?;
    configure(folder.path(), &exporter(&new, &["EUR"]))?;
    program.hang_up()?;
    serves(&new, &["EUR"])?;
    ensure!(TcpStream::connect(&old).is_err(), "the old address is still listened on");
    ends_well(program)
}

fn added_target() -> Result<()> {
    let folder = folder(&[])?;
    let address = free_address()?;
    let scraper = |targets: &[&str]| {
        let targets: String = targets.iter().map(|url| format!("    - {{url: '{url}', interval: 200ms}}\n")).collect();
        format!("scraper:\n  listen_address: {address}\n  retry_for: 0s\n  targets:\n{targets}")
    };
    let targets = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
    configure(folder.path(), &scraper(&targets[..1]))?;
    let program = start("costream-scraper", folder.path())?;
    for known in [&targets[..1], &targets] {
        configure(folder.path(), &scraper(known))?;
        program.hang_up()?;
        until(&format!("{known:?} are scraped"), || {
            let metrics = get(&format!("http://{address}/metrics"))?;
            let shows = |(_, text): &(u16, String)| {
                targets.iter().all(|target| text.contains(&target["http://".len()..]) == known.contains(target))
            };
            Ok(metrics.filter(shows).map(drop))
        })?;
    }
    ends_well(program)
}

fn handler() -> Result<()> {
    let folder = folder(&[])?;
    let address = free_address()?;
    let asked = || {
        let body = r#"{"stmt": "SELECT 1 UNION ALL SELECT 2"}"#;
        let request = client().post(format!("http://{address}/_sql")).header("content-type", "application/json");
        let answer = runtime().block_on(async { request.body(body).send().await });
        answer.map(|answer| answer.status().is_success())
    };
    let answers = |good: bool| until("a statement is answered", || Ok(asked().ok().filter(|is| *is == good).map(drop)));
    configure(folder.path(), &format!("handler: {{listen_address: '{address}', data_dir: data}}\n"))?;
    let program = start("costream-handler", folder.path())?;
    answers(true)?;
    let limited = format!("handler: {{listen_address: '{address}', data_dir: data, query: {{max_rows: 1}}}}\n");
    configure(folder.path(), &limited)?;
    program.hang_up()?;
    answers(false)?;
    ends_well(program)?;

    let mut program = Program::start("costream-handler", folder.path(), &["--web.listen-address", &address])?;
    program.word_after("listening on")?;
    for times in 1..=2 {
        program.hang_up()?;
        until("it says that there is no file", || {
            let said = program.printed()?;
            Ok((said.matches("no configuration file").count() == times).then_some(()))
        })?;
        answers(true)?;
    }
    ends_well(program)
}

fn all_in_one() -> Result<()> {
    let folder = folder(&["EUR", "USD"])?;
    let (exporter_address, handler_address) = (free_address()?, free_address()?);
    let both = |reports: &[&str]| {
        let exporter = exporter(&exporter_address, reports);
        format!("{exporter}handler: {{listen_address: '{handler_address}', data_dir: data}}\n")
    };
    configure(folder.path(), &both(&["EUR"]))?;
    let program = start("costream", folder.path())?;
    serves(&exporter_address, &["EUR"])?;
    configure(folder.path(), &both(&["EUR"]).replace("sources", "source"))?;
    program.hang_up()?;
    until("the error is told", || {
        let is_told = |line: &str| line.contains("ERROR") && line.contains(FILE) && line.contains("line 5");
        Ok(program.printed()?.lines().any(is_told).then_some(()))
    })?;
    serves(&exporter_address, &["EUR"])?;
    configure(folder.path(), &both(&["EUR", "USD"]))?;
    program.hang_up()?;
    serves(&exporter_address, &["EUR", "USD"])?;
    let stored = || {
        let statement = r#"{"stmt": "SELECT x_source FROM costs ORDER BY 1"}"#;
        let request = client().post(format!("http://{handler_address}/_sql"));
        let request = request.header("content-type", "application/json").body(statement);
        let Ok(answer) = runtime().block_on(async { request.send().await?.text().await }) else { return Ok(None) };
        Ok(answer.contains(r#""rows":[["EUR"],["USD"]]"#).then_some(()))
    };
    until("both are stored", stored)?;
    ends_well(program)
}

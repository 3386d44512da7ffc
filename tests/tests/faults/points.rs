//! Kills at named points: a program stops dead exactly there, once with an empty store and once at
//! a restatement, and is started again.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use costream_tests::faults::VARIABLE;
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::store::{Store, each_file};
use costream_tests::faults::trial::Trial;
use costream_tests::parts::Suite;
use costream_tests::programs::{program, until};

/// Charges of a source that make two batches: the second passing of a point is in the middle.
const TWO_BATCHES: u64 = 2_600;
/// One batch.
const ONE_BATCH: u64 = 500;
/// Small files that housekeeping merges.
const N_SMALL_FILES: i64 = 8;
/// Longer than anything is kept.
const LONG_AGO: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// A claim for every point there is. Those of housekeeping have a story of their own.
pub(crate) fn claims(suite: Suite) -> Suite {
    // In the order of the data: the rejects of a source go before its rows, one batch and one commit each.
    let stories = [
        ("exporter.spool:2", TWO_BATCHES),
        ("exporter.before-swap", ONE_BATCH),
        ("exporter.after-swap", ONE_BATCH),
        ("exporter.send:3", TWO_BATCHES),
        ("scraper.between-batches:3", TWO_BATCHES),
        ("scraper.delivered:2", ONE_BATCH),
        ("handler.write:3", TWO_BATCHES),
        ("handler.before-commit:2", ONE_BATCH),
        ("handler.after-commit:2", ONE_BATCH),
    ];
    let told: Vec<_> =
        stories.iter().map(|(point, _)| name(point)).chain(["handler.merge", "handler.vacuum"]).collect();
    let suite = suite.claim("there_is_a_story_for_every_point", move || {
        let points = points()?;
        ensure!(points == told, "there are points {points:?}, and stories of {told:?}");
        Ok(())
    });
    let suite = stories.into_iter().fold(suite, |suite, (point, rows)| {
        let claim = format!("stopped_dead_at_{}_loses_and_doubles_nothing", name(point).replace(['.', '-'], "_"));
        suite.claim(&claim, move || at_point(point, rows))
    });
    suite.claim("stopped_dead_while_keeping_house_loses_and_doubles_nothing", keeping_house)
}

fn name(point: &str) -> &str {
    point.split(':').next().unwrap_or_default()
}

/// Every point there is, as the product itself lists them.
fn points() -> Result<Vec<String>> {
    let output = Command::new(program("costream-exporter")?).env(VARIABLE, "nowhere").output().context("start it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, points) = said.split_once(" is none of ").with_context(|| format!("it says {said:?}"))?;
    Ok(points.split_whitespace().map(str::to_owned).collect())
}

fn at_point(point: &'static str, rows: u64) -> Result<()> {
    let role = match name(point).split('.').next() {
        Some("exporter") => Role::Exporter,
        Some("scraper") => Role::Scraper,
        _ => Role::Handler,
    };
    Trial::new(Wiring::ThreePrograms, 7, rows, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        for _ in 0..2 {
            trial.house.kill(role)?;
            trial.restate()?;
            trial.house.start_until(role, point)?;
            trial.house.until_dead(role, point)?;
            trial.house.start(role)?;
            trial.until_stored()?;
        }
        trial.prove()?;
        trial.close()
    })
}

/// Samples make small files, which are merged: the handler dies when the merged file is there and
/// not yet the table's. Then all files are old, and what belongs to nobody is deleted: the
/// handler dies in the midst of that. What belongs to the past stays.
fn keeping_house() -> Result<()> {
    let trial = Trial::new(Wiring::ThreePrograms, 8, ONE_BATCH, |plan, source| {
        plan.series = Some(source.url("metrics"));
        plan.maintenance = "1s";
    })?;
    trial.tell(|trial| {
        let store = trial.house.store();
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;
        trial.house.kill(Role::Handler)?;
        trial.house.start_until(Role::Handler, "handler.merge")?;
        for sample in 1..N_SMALL_FILES {
            serve_sample(trial, sample);
            until_sampled(&store, sample)?;
        }
        serve_sample(trial, N_SMALL_FILES);
        trial.house.until_dead(Role::Handler, "handler.merge")?;
        let orphaned: Vec<_> =
            store.data_files("metrics")?.difference(&store.files_of_log("metrics")?).cloned().collect();
        ensure!(!orphaned.is_empty(), "a file was merged and belongs to nobody");

        trial.restate()?;
        make_old(store.folder())?;
        trial.house.start_until(Role::Handler, "handler.vacuum")?;
        trial.house.until_dead(Role::Handler, "handler.vacuum")?;
        trial.house.start(Role::Handler)?;
        trial.until_stored()?;
        until_sampled(&store, N_SMALL_FILES)?;
        until("small files are merged", || {
            Ok(store.log("metrics")?.iter().any(|commit| commit.operation == "OPTIMIZE").then_some(()))
        })?;
        for orphan in orphaned {
            ensure!(!store.data_files("metrics")?.contains(&orphan), "{orphan} is still there");
        }
        prove_samples(&store)?;
        trial.prove()?;
        trial.close()
    })
}

fn serve_sample(trial: &Trial, sample: i64) {
    let time = SAMPLED_FROM + sample * 1_000;
    trial.source.serve("metrics", format!("# TYPE usage gauge\nusage{{vm=\"a\"}} {sample}.5 {time}\n").into_bytes());
}

/// When the first sample was taken, in milliseconds.
const SAMPLED_FROM: i64 = 1_790_000_000_000;

fn until_sampled(store: &Store, sample: i64) -> Result<()> {
    until(&format!("sample {sample} is stored"), || {
        let found = store.ask("SELECT COUNT(*) FROM metrics WHERE value = ?", &[&format!("{sample}.5")], None)?;
        Ok(found.filter(|rows| rows.first().and_then(|row| row[0].as_i64()) == Some(1)).map(drop))
    })
}

fn prove_samples(store: &Store) -> Result<()> {
    let rows = store.ask("SELECT timestamp, value FROM metrics ORDER BY 1", &[], None)?.context("an answer")?;
    let found: Vec<_> = rows.iter().map(|row| (row[0].as_i64(), row[1].as_f64())).collect();
    let expected = (1..=N_SMALL_FILES).map(|n| (Some(SAMPLED_FROM + n * 1_000), format!("{n}.5").parse().ok()));
    let expected: Vec<_> = expected.collect();
    ensure!(found == expected, "samples {found:?}, expected {expected:?}");
    Ok(())
}

/// Makes every data file look as if it had been written long ago.
fn make_old(store: &Path) -> Result<()> {
    let long_ago = SystemTime::now() - LONG_AGO;
    each_file(store, &mut |path| {
        if path.extension().is_some_and(|suffix| suffix == "parquet") {
            let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
            file.set_modified(long_ago).with_context(|| format!("date {}", path.display()))?;
        }
        Ok(())
    })
}

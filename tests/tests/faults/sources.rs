//! Sources that fail: what they fail to say changes nothing, and what they say in the end is stored.

use std::fs::{self, File};
use std::io::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_compression::tokio::write::GzipEncoder;
use costream_tests::faults::compare;
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::ledger::Ledger;
use costream_tests::faults::script::report;
use costream_tests::faults::source::Fault;
use costream_tests::faults::trial::{SOURCES, Trial, path};
use costream_tests::parts::Suite;
use costream_tests::programs::{get, runtime, until};
use tokio::io::AsyncWriteExt as _;

const ROWS: u64 = 800;
/// More tries than a poll makes: some polls fail as a whole.
const N_TRIES: usize = 6;
/// The wait that a source asks for.
const ASKED_WAIT: Duration = Duration::from_secs(3);

/// Every way in which a source may fail.
pub(crate) fn claims(suite: Suite) -> Suite {
    suite
        .claim("a_body_that_breaks_off_changes_nothing", || failing(vec![Fault::Cut, Fault::Reset, Fault::TooLong]))
        .claim("an_error_in_the_place_of_a_report_changes_nothing", || {
            failing(vec![Fault::Status(500, None), Fault::Status(503, Some(0)), Fault::Status(404, None)])
        })
        .claim("a_body_that_is_no_report_changes_nothing", || {
            let whole = gzipped(&report(9, SOURCES[0], 1, ROWS))?;
            let torn = whole[..whole.len() * 2 / 3].to_vec();
            let page = b"<html><body>Please sign in</body></html>\n".to_vec();
            failing(vec![Fault::Instead(torn), Fault::Instead(page), Fault::Instead(Vec::new())])
        })
        .claim("a_source_that_drips_is_read_to_its_end", || {
            story(|trial| {
                trial.source.fail(&path(SOURCES[0]), [Fault::Drip(40, Duration::from_millis(50))]);
                Ok(())
            })
        })
        .claim("a_source_that_asks_for_time_gets_it", asked_for_time)
        .claim("a_gzip_is_stored_as_its_report", compressed)
        .claim("a_report_restated_between_two_polls_is_the_last_one", restated_twice)
        .claim("a_body_shorter_than_the_report_is_replaced_by_the_whole_one", announced_short)
        .claim("a_file_written_while_it_is_read_is_stored_when_it_is_whole", written_while_read)
}

/// A generation is stored, the next one fails in some way and then comes: in between the first one
/// stays what it was.
fn story(fail: impl FnOnce(&mut Trial) -> Result<()>) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 9, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;
        fail(trial)?;
        trial.restate()?;
        trial.until_stored()?;
        ensure!(trial.source.faults_left(&path(SOURCES[0])) == 0, "every fault has happened");
        trial.prove()?;
        trial.close()
    })
}

fn failing(faults: Vec<Fault>) -> Result<()> {
    story(|trial| {
        for fault in faults {
            let name = path(SOURCES[0]);
            trial.source.fail(&name, std::iter::repeat_n(fault.clone(), N_TRIES));
            until("the source is said to be down", || {
                let metrics = get(&format!("{}/metrics", trial.house.exporter_front().url()))?;
                let is_down = |(_, text): &(u16, String)| {
                    text.lines().any(|line| {
                        line.starts_with("costream_source_up") && line.contains(SOURCES[0]) && line.ends_with(" 0")
                    })
                };
                Ok(metrics.filter(is_down).map(drop))
            })
            .with_context(|| format!("after {fault:?}"))?;
            trial.prove().with_context(|| format!("after {fault:?}"))?;
            until("every fault has happened", || Ok((trial.source.faults_left(&name) == 0).then_some(())))?;
        }
        Ok(())
    })
}

fn asked_for_time() -> Result<()> {
    story(|trial| {
        let name = path(SOURCES[0]);
        trial.source.fail(&name, [Fault::Status(429, Some(ASKED_WAIT.as_secs()))]);
        until("the source has asked for time", || Ok((trial.source.faults_left(&name) == 0).then_some(())))?;
        let (began, asked) = (Instant::now(), trial.source.asked(&name));
        until("it is asked again", || Ok((trial.source.asked(&name) > asked).then_some(())))?;
        // What `until` itself takes to see it.
        let waited = began.elapsed() + Duration::from_millis(200);
        ensure!(waited >= ASKED_WAIT, "the source asked for {ASKED_WAIT:?} and was given {waited:?}");
        Ok(())
    })
}

fn gzipped(bytes: &[u8]) -> Result<Vec<u8>> {
    runtime().block_on(async {
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder.write_all(bytes).await.context("compress")?;
        encoder.shutdown().await.context("compress")?;
        Ok(encoder.into_inner())
    })
}

fn compressed() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 9, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        let name = SOURCES[0];
        trial.source.serve(&path(name), gzipped(&report(9, name, 0, ROWS))?);
        trial.until_stored()?;
        trial.prove_now()
    })
}

fn restated_twice() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 9, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        for _ in 0..3 {
            trial.restate()?;
            trial.restate()?;
            trial.until_stored()?;
            trial.prove_now()?;
        }
        trial.close()
    })
}

/// A server that announces less than the report has, and sends that, says that this is the
/// report. It is stored as such, and replaced when the server has come to its senses.
fn announced_short() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 9, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;
        // The short one comes first, or the test would end before it.
        let whole = report(9, SOURCES[0], 1, ROWS);
        trial.source.fail(&path(SOURCES[0]), [Fault::Instead(whole[..whole.len() / 2].to_vec())]);
        until("the short body was sent", || Ok((trial.source.faults_left(&path(SOURCES[0])) == 0).then_some(())))?;
        trial.restate()?;
        trial.until_stored()?;
        trial.prove_now()?;
        trial.close()
    })
}

/// A file is written in place, piece by piece, while the exporter reads it again and again.
fn written_while_read() -> Result<()> {
    const PIECES: usize = 400;
    const GENERATIONS: u32 = 10;
    let folder = tempfile::tempdir().context("make a folder")?;
    let file = folder.path().join("live.csv");
    let trial = Trial::new(Wiring::ThreePrograms, 9, ROWS, |plan, _| {
        plan.sources = vec![("live".to_owned(), file.display().to_string())];
    })?;
    trial.tell(|trial| {
        let store = trial.house.store();
        fs::write(&file, report(9, "live", 0, 4_000)).context("write the report")?;
        trial.house.start_all()?;
        // Which moment of a write a read meets is a matter of luck: as often as it takes.
        let met =
            |said: String| said.contains("changed while it was read") || said.contains("ends inside a quoted field");
        for generation in 1..=GENERATIONS {
            let whole = report(9, "live", generation, 12_000);
            let mut writing = File::create(&file).context("open the report")?;
            for piece in whole.chunks(whole.len().div_ceil(PIECES)) {
                writing.write_all(piece).context("write a piece")?;
                sleep(Duration::from_millis(2));
            }
            let expected = Ledger::of(&whole)?;
            until("the whole file is stored", || {
                store.is_stored("live", "live.csv", &generation.to_string(), &expected)
            })?;
            compare::same("the store", &expected, &store.ledger("live", &expected.columns, None)?)?;
            if generation > 1 && met(trial.house.printed(Role::Exporter)?) {
                return trial.close();
            }
        }
        bail!("no read has met a write in {GENERATIONS} generations")
    })
}

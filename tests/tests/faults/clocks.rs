//! Clocks that step back, by `faketime` (Debian: faketime).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::trial::{SOURCES, Trial};
use costream_tests::parts::Suite;
use costream_tests::programs::until;

const ROWS: u64 = 800;

/// A step back of each of the clocks that leave a trace.
pub(crate) fn claims(suite: Suite) -> Suite {
    suite
        .claim_with("an_exporters_clock_that_steps_back_loses_nothing", faketime(), |faketime| {
            steps_back(faketime, Role::Exporter)
        })
        .claim_with("a_handlers_clock_that_steps_back_loses_nothing", faketime(), |faketime| {
            steps_back(faketime, Role::Handler)
        })
        .claim_with("a_snapshot_older_than_the_stored_one_is_told", faketime(), older_than_stored)
}

/// The library, which is loaded into a program: the command `faketime` would stand between us and it.
fn faketime() -> Result<PathBuf> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    let library = PathBuf::from(library);
    ensure!(library.is_file(), "{} is not there (Debian: apt-get install faketime)", library.display());
    Ok(library)
}

/// The same command an hour ago.
fn an_hour_ago(faketime: &Path) -> impl FnOnce(&mut Command) {
    move |command| {
        // Durations are measured as ever.
        command.env("LD_PRELOAD", faketime).env("FAKETIME", "-3600").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

fn steps_back(faketime: PathBuf, role: Role) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 16, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;
        trial.house.kill(role)?;
        trial.house.start_with(role, an_hour_ago(&faketime))?;
        for _ in 0..2 {
            trial.restate()?;
            trial.until_stored()?;
        }
        // Snapshots and commits are in order in spite of the clock.
        trial.prove()?;
        trial.close()
    })
}

/// The exporter has lost its spool and its clock: what it polls looks older than what is stored. It is not
/// stored, since a snapshot never takes the place of a later one; that is said, and cured by the clock.
fn older_than_stored(faketime: PathBuf) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 17, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;
        trial.house.kill(Role::Exporter)?;
        fs::remove_dir_all(trial.house.folder().join("spool")).context("lose the spool")?;
        trial.house.start_with(Role::Exporter, an_hour_ago(&faketime))?;
        until("the scraper says that a snapshot is older than the stored one", || {
            let said = trial.house.printed(Role::Scraper)?;
            let told = |name: &&str| {
                said.lines().any(|line| {
                    line.contains("WARN") && line.contains("the store has a later snapshot") && line.contains(*name)
                })
            };
            Ok(SOURCES.iter().all(told).then_some(()))
        })?;
        trial.prove().context("while the exporter is behind")?;
        trial.house.kill(Role::Exporter)?;
        trial.restate()?;
        trial.house.start(Role::Exporter)?;
        trial.until_stored()?;
        trial.prove()?;
        let said = trial.house.printed(Role::Scraper)?;
        // For each table of each source, and once more when the list of snapshots has changed.
        ensure!(said.matches("the store has a later snapshot").count() <= 4 * SOURCES.len(), "too often: {said}");
        trial.close()
    })
}

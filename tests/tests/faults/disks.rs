//! Disks that get full: what is there stays, and what comes is stored when there is room again.

use anyhow::{Context as _, Result, ensure};
use costream_tests::faults::disk::Disk;
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::script::report;
use costream_tests::faults::trial::{SOURCES, Trial, path};
use costream_tests::parts::Suite;
use costream_tests::programs::until;

/// Room for a small report's generations, and not for a large one's.
const SMALL: u64 = 600 << 10;
const LARGE: u64 = 256 << 20;
const FEW_ROWS: u64 = 500;
const MANY_ROWS: u64 = 15_000;
const SEED: u64 = 13;
/// What the system says of a full disk.
const FULL: &str = "No space left on device";

/// A full disk below each of the two programs that write.
pub(crate) fn claims(suite: Suite) -> Suite {
    suite
        .claim_with("a_full_disk_below_the_spool_loses_nothing", Disk::may_mount(), |()| full(Role::Exporter))
        .claim_with("a_full_disk_below_the_store_loses_nothing", Disk::may_mount(), |()| full(Role::Handler))
}

fn full(role: Role) -> Result<()> {
    let disk = Disk::mount(SMALL)?;
    let trial = Trial::new(Wiring::ThreePrograms, SEED, FEW_ROWS, |plan, _| {
        let place = Some(disk.path().join("here"));
        if role == Role::Exporter { plan.spool_dir = place } else { plan.data_dir = place }
    })?;
    trial.tell(|trial| {
        trial.house.start_all()?;
        trial.restate()?;
        trial.until_stored()?;

        for name in SOURCES {
            trial.source.serve(&path(name), report(SEED, name, 1, MANY_ROWS));
        }
        is_full(trial, role)?;
        trial.prove_history().context("while the disk is full")?;
        trial.house.kill(role)?;
        trial.house.start(role)?;
        is_full(trial, role)?;
        trial.prove_history().context("started anew while the disk is full")?;
        if role == Role::Handler {
            gives_back(trial)?;
        }

        disk.grow_to(LARGE)?;
        trial.rows = MANY_ROWS;
        trial.restate()?;
        trial.until_stored()?;
        trial.prove()?;
        trial.close()
    })
}

/// Waits until a program has met the full disk.
fn is_full(trial: &Trial, role: Role) -> Result<()> {
    until(&format!("{role} finds the disk full"), || {
        // A handler tells its scraper, too; whoever is asked says it once at least.
        Ok(trial.house.printed(role)?.contains(FULL).then_some(()))
    })
}

/// What could not be stored takes no room: between two tries there are no files but the table's.
fn gives_back(trial: &Trial) -> Result<()> {
    let store = trial.house.store();
    until("the files of a failed delivery are gone", || {
        let left = store.data_files("costs")?.difference(&store.files_of_log("costs")?).count();
        Ok((left == 0).then_some(()))
    })?;
    ensure!(!store.data_files("costs")?.is_empty(), "the table's own files are there");
    Ok(())
}

//! A trial: reports are served and restated, programs are killed and started again, and at the
//! end the store is held against the ledgers, generation by generation.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::compare;
use super::house::{House, Plan, Wiring};
use super::ledger::Ledger;
use super::schedule::{End, Schedule};
use super::script::report;
use super::source::{Fault, Source};
use crate::programs::until;

/// The sources of a trial. One report each, so that a source's scope is its file.
pub const SOURCES: [&str; 2] = ["aws", "azure"];

/// What is served, and the house that is to store it.
pub struct Trial {
    /// The house.
    pub house: House,
    /// Where reports come from.
    pub source: Source,
    seed: u64,
    /// Charges of the next generation, about.
    pub rows: u64,
    /// What each source has served, by generation.
    served: [Vec<Ledger>; SOURCES.len()],
}

impl Trial {
    /// A house and a source that serves nothing yet. `change` is what is special about it.
    ///
    /// # Errors
    /// There is no room or no port for it.
    pub fn new(wiring: Wiring, seed: u64, rows: u64, change: impl FnOnce(&mut Plan, &Source)) -> Result<Self> {
        let source = Source::start()?;
        let sources = SOURCES.map(|name| (name.to_owned(), source.url(&path(name))));
        let mut plan = Plan::new(wiring, sources.into());
        change(&mut plan, &source);
        Ok(Self { house: House::build(plan)?, source, seed, rows, served: Default::default() })
    }

    /// Serves the next generation of every source from now on.
    ///
    /// # Errors
    /// The script is wrong.
    pub fn restate(&mut self) -> Result<()> {
        for (name, served) in SOURCES.iter().zip(&mut self.served) {
            let generation = u32::try_from(served.len()).unwrap_or(u32::MAX);
            let bytes = report(self.seed, name, generation, self.rows);
            served.push(Ledger::of(&bytes)?);
            self.source.serve(&path(name), bytes);
        }
        Ok(())
    }

    /// Waits until what is served is what is stored, its rejects included.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub fn until_stored(&self) -> Result<()> {
        let store = self.house.store();
        for (name, served) in SOURCES.iter().zip(&self.served) {
            let ledger = served.last().context("something is served")?;
            let generation = (served.len() - 1).to_string();
            let stored = until(&format!("generation {generation} of {name} is stored"), || {
                store.is_stored(name, &path(name), &generation, ledger)
            });
            if let Err(in_vain) = stored {
                // What is there instead says more.
                return Err(self.prove_now().err().map_or(in_vain, |difference| difference.context("in vain")));
            }
        }
        Ok(())
    }

    /// Starts the house, stores a generation, and comes to the middle of a poll of the next one: a source drips.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn to_the_middle_of_a_poll(&mut self) -> Result<()> {
        self.house.start_all()?;
        self.restate()?;
        self.until_stored()?;
        let name = path(SOURCES[0]);
        self.source.fail(&name, [Fault::Drip(10_000, Duration::from_millis(100))]);
        self.restate()?;
        until("the source drips", || Ok((self.source.faults_left(&name) == 0).then_some(())))
    }

    /// Starts the house, stores a generation, and comes to the middle of a delivery of the next one: it stands
    /// still until the handler's front is released.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn to_the_middle_of_a_delivery(&mut self) -> Result<()> {
        self.house.start_all()?;
        self.restate()?;
        self.until_stored()?;
        self.house.handler_front().hold_after(30_000);
        self.restate()?;
        until("a delivery stands still", || Ok((self.house.handler_front().n_held() > 0).then_some(())))
    }

    /// Proves that the store has what is served, row for row.
    ///
    /// # Errors
    /// It has not, and where.
    pub fn prove_now(&self) -> Result<()> {
        let store = self.house.store();
        for (name, served) in SOURCES.iter().zip(&self.served) {
            let last = served.last().context("something was served")?;
            compare::same(&format!("{name} now"), last, &store.ledger(name, &last.columns, None)?)?;
        }
        Ok(())
    }

    /// Proves the promise: every generation was committed once, in order; the store has the last
    /// one row for row, its rejects included, and as of each commit the generation that was
    /// committed.
    ///
    /// # Errors
    /// It does not hold, and where.
    pub fn prove(&self) -> Result<()> {
        self.prove_history()?;
        self.prove_now()
    }

    /// The part of the promise that holds at every moment, also while something is on its way: of the
    /// generations served so far each was committed once, and can be asked for.
    ///
    /// # Errors
    /// It does not hold, and where.
    pub fn prove_history(&self) -> Result<()> {
        let store = self.house.store();
        for (name, served) in SOURCES.iter().zip(&self.served) {
            let snapshots = store.snapshots("costs", name, &path(name))?;
            ensure!(
                snapshots.len() == served.len(),
                "{name}: {} commits for {} generations: {snapshots:?}",
                snapshots.len(),
                served.len()
            );
            ensure!(snapshots.is_sorted_by(|a, b| a.0 < b.0), "{name}: snapshots go back: {snapshots:?}");
            for (generation, (ledger, (_, time))) in served.iter().zip(&snapshots).enumerate() {
                let expected = Ledger { rejects: Default::default(), ..ledger.clone() };
                let found = store.ledger(name, &ledger.columns, Some(*time))?;
                compare::same(&format!("{name} as of generation {generation}"), &expected, &found)?;
            }
        }
        Ok(())
    }

    /// Ends every program as an operator does.
    ///
    /// # Errors
    /// One does not end well.
    pub fn close(&mut self) -> Result<()> {
        self.house.plan.wiring.roles().iter().try_for_each(|role| self.house.terminate(*role))
    }

    /// Runs a story on this trial; what fails is told with the programs' last words.
    ///
    /// # Errors
    /// The story's.
    pub fn tell(mut self, story: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        story(&mut self).map_err(|error| error.context(self.house.last_words()))
    }
}

/// The path a source's report is served at; also its scope's name.
pub fn path(source: &str) -> String {
    format!("{source}.csv")
}

/// The trial of a seed: random kills at random moments.
///
/// # Errors
/// The promise is broken: the error has the seed, the schedule and the difference.
pub fn of_seed(seed: u64) -> Result<()> {
    let schedule = Schedule::of(seed);
    let Schedule { wiring, records, rows, kills, .. } = &schedule;
    let trial = Trial::new(*wiring, seed, *rows, |plan, _| plan.records = records)?;
    let told = trial.tell(|trial| {
        trial.house.start_all()?;
        for kills in kills {
            trial.restate()?;
            for kill in kills {
                sleep(kill.after);
                match kill.end {
                    End::Killed => trial.house.kill(kill.role)?,
                    End::Asked => trial.house.terminate(kill.role)?,
                    End::Reloaded => {
                        trial.house.reload(kill.role)?;
                        continue;
                    }
                }
                sleep(kill.down);
                trial.house.start(kill.role)?;
            }
            trial.until_stored()?;
        }
        trial.prove()?;
        trial.close()
    });
    told.with_context(|| format!("seed {seed} (again: COSTREAM_FAULT_SEED={seed}): {schedule}"))
}

//! The ways between the programs break, and the programs have company.

use anyhow::{Result, ensure};
use costream_tests::faults::house::Wiring;
use costream_tests::faults::random::Random;
use costream_tests::faults::trial::Trial;
use costream_tests::parts::Suite;

const ROWS: u64 = 1_500;
/// Connections that are reset while a generation is on its way.
const N_CUTS: u64 = 6;

/// Every way in which programs may lose each other, or meet.
pub(crate) fn claims(suite: Suite) -> Suite {
    suite
        .claim("resets_between_scraper_and_exporter_lose_nothing_arrow", || resets("arrow", |_| Way::Exporter))
        .claim("resets_between_scraper_and_exporter_lose_nothing_text", || resets("text", |_| Way::Exporter))
        .claim("resets_between_scraper_and_handler_lose_nothing", || resets("arrow", |_| Way::Handler))
        .claim("a_handler_that_is_busy_is_asked_later", busy)
        .claim("two_scrapers_of_one_exporter_store_everything_once", || in_company(Wiring::TwoScrapers, 4))
        .claim("two_handlers_on_one_store_store_everything_once", || in_company(Wiring::TwoHandlers, 12))
}

enum Way {
    Exporter,
    Handler,
}

/// Resets connections of one way after random numbers of bytes, of which most lie in the middle
/// of a report.
fn resets(records: &'static str, way: fn(&Trial) -> Way) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 10, ROWS, |plan, _| plan.records = records)?.tell(|trial| {
        let mut random = Random::new(10, "resets");
        trial.house.start_all()?;
        for round in 1..=3 {
            trial.restate()?;
            let front = match way(trial) {
                Way::Exporter => trial.house.exporter_front(),
                Way::Handler => trial.house.handler_front(),
            };
            front.cut((0..N_CUTS).map(|_| random.between(1, 120_000)));
            trial.until_stored()?;
            ensure!(front.n_cut() >= round, "{} connections were reset in {round} rounds", front.n_cut());
        }
        trial.prove()?;
        trial.close()
    })
}

fn busy() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 11, ROWS, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        for _ in 0..2 {
            trial.restate()?;
            trial.house.handler_front().be_busy(4);
            trial.until_stored()?;
        }
        ensure!(trial.house.handler_front().busy_left() == 0, "the handler was asked while it was busy");
        trial.prove()?;
        trial.close()
    })
}

/// Small reports: programs meet where they commit, and not where they read.
fn in_company(wiring: Wiring, generations: usize) -> Result<()> {
    Trial::new(wiring, 12, 100, |_, _| {})?.tell(|trial| {
        trial.house.start_all()?;
        for _ in 0..generations {
            trial.restate()?;
            trial.until_stored()?;
        }
        trial.prove()?;
        trial.close()
    })
}

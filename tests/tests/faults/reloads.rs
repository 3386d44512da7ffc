//! Programs that get a new configuration (SIGHUP) in the middle of their work: what is under way is
//! finished or dropped, and what was dropped is done again.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::random::Random;
use costream_tests::faults::trial::Trial;
use costream_tests::parts::Suite;

const ROWS: u64 = 3_000;
/// Generations of a story of random reloads, and reloads while each is on its way.
const N_GENERATIONS: usize = 3;
const N_RELOADS: u64 = 4;

/// Every program in the middle of what it does, and at random moments.
pub(crate) fn claims(suite: Suite) -> Suite {
    let roles = [Role::Exporter, Role::Scraper, Role::Handler, Role::Costream];
    let suite = suite
        .claim("an_exporter_reloaded_in_the_middle_of_a_poll_loses_nothing", in_a_poll)
        .claim("a_scraper_reloaded_in_the_middle_of_a_delivery_loses_nothing", || in_a_delivery(Role::Scraper))
        .claim("a_handler_reloaded_in_the_middle_of_a_delivery_loses_nothing", || in_a_delivery(Role::Handler));
    roles.into_iter().fold(suite, |suite, role| {
        let claim = format!("reloads_at_random_moments_lose_nothing_{}", role.program().replace('-', "_"));
        suite.claim(&claim, move || at_random(role))
    })
}

fn in_a_poll() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 18, ROWS, |_, _| {})?.tell(|trial| {
        trial.to_the_middle_of_a_poll()?;
        trial.house.reload(Role::Exporter)?;
        trial.until_stored()?;
        trial.prove()?;
        trial.close()
    })
}

/// A delivery stands still in the middle; it is given the time that a drain has, and then broken off.
fn in_a_delivery(role: Role) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 19, ROWS, |_, _| {})?.tell(|trial| {
        trial.to_the_middle_of_a_delivery()?;
        trial.house.handler_front().release();
        trial.house.reload(role)?;
        trial.until_stored()?;
        trial.prove()?;
        trial.close()
    })
}

fn at_random(role: Role) -> Result<()> {
    let wiring = if role == Role::Costream { Wiring::AllInOne } else { Wiring::ThreePrograms };
    Trial::new(wiring, 20, ROWS, |_, _| {})?.tell(|trial| {
        let mut random = Random::new(20, role.program());
        trial.house.start_all()?;
        for _ in 0..N_GENERATIONS {
            trial.restate()?;
            for _ in 0..N_RELOADS {
                sleep(Duration::from_millis(random.between(0, 900)));
                trial.house.reload(role)?;
            }
            trial.until_stored()?;
        }
        trial.prove()?;
        trial.close()
    })
}

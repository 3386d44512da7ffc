//! Programs that are asked to end (SIGTERM) in the middle of their work: they end within the time
//! that the README states, and well.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use costream_tests::faults::house::{Role, Wiring};
use costream_tests::faults::trial::Trial;
use costream_tests::parts::Suite;

const ROWS: u64 = 3_000;
/// What a role may take to end, as the README has it, and what a loaded machine may take to notice.
const ENDS_WITHIN: Duration = Duration::from_secs(30 + 10);

/// Every program in the middle of what it does.
pub(crate) fn claims(suite: Suite) -> Suite {
    suite
        .claim("an_exporter_asked_to_end_in_the_middle_of_a_poll_ends_at_once", in_a_poll)
        .claim("a_scraper_asked_to_end_in_the_middle_of_a_delivery_ends_in_time", || in_a_delivery(Role::Scraper))
        .claim("a_handler_asked_to_end_in_the_middle_of_a_delivery_ends_in_time", || in_a_delivery(Role::Handler))
}

fn in_a_poll() -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 14, ROWS, |_, _| {})?.tell(|trial| {
        trial.to_the_middle_of_a_poll()?;
        let began = Instant::now();
        trial.house.terminate(Role::Exporter)?;
        ensure!(began.elapsed() < ENDS_WITHIN / 2, "it took {:?}", began.elapsed());
        trial.house.start(Role::Exporter)?;
        trial.until_stored()?;
        trial.prove()?;
        trial.close()
    })
}

/// A delivery stands still in the middle: each side waits for the other, which is there.
fn in_a_delivery(role: Role) -> Result<()> {
    Trial::new(Wiring::ThreePrograms, 15, ROWS, |_, _| {})?.tell(|trial| {
        trial.to_the_middle_of_a_delivery()?;
        let began = Instant::now();
        trial.house.terminate(role)?;
        ensure!(began.elapsed() < ENDS_WITHIN, "it took {:?}", began.elapsed());
        trial.house.handler_front().release();
        trial.house.kill(Role::Scraper)?;
        trial.house.kill(Role::Handler)?;
        trial.house.start(Role::Scraper)?;
        trial.house.start(Role::Handler)?;
        trial.until_stored()?;
        trial.prove()?;
        trial.close()
    })
}

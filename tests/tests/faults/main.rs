//! Nothing is lost and nothing doubled, whatever is killed or breaks, whenever. How it is proved:
//! `costream_tests::faults`; what is proved: `FAULTS.md`.
//!
//! `COSTREAM_FAULT_SEEDS=200` tries so many seeds, `COSTREAM_FAULT_SEED=17` begins there, and tries that
//! one alone unless told how many.

mod clocks;
mod disks;
mod endings;
mod points;
mod reloads;
mod sources;
mod statements;
mod ways;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use costream_tests::faults::trial;
use costream_tests::parts::Suite;

/// Seeds tried when nobody says otherwise.
const N_SEEDS: u64 = 20;
/// Claims proved at the same time: each waits more than it works.
const N_AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let seeds = match seeds() {
        Ok(seeds) => seeds,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let claims = [
        points::claims,
        sources::claims,
        ways::claims,
        disks::claims,
        endings::claims,
        reloads::claims,
        clocks::claims,
        statements::claims,
    ];
    let suite = claims.into_iter().fold(Suite::new(), |suite, claims| claims(suite));
    let suite = seeds.fold(suite, |suite, seed| {
        suite.claim(&format!("random_kills_lose_and_double_nothing_{seed}"), move || trial::of_seed(seed))
    });
    suite.at_once(N_AT_ONCE).run()
}

/// The seeds to try.
fn seeds() -> Result<std::ops::Range<u64>> {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().with_context(|| format!("{name}={text:?} is no number"))).transpose()
    };
    let (first, n) = (number("COSTREAM_FAULT_SEED")?, number("COSTREAM_FAULT_SEEDS")?);
    let n = n.unwrap_or(if first.is_some() { 1 } else { N_SEEDS });
    let first = first.unwrap_or(1);
    Ok(first..first + n)
}

//! Who is killed when: a pure function of the seed, and it prints itself.

use std::fmt;
use std::time::Duration;

use super::house::{Role, Wiring};
use super::random::Random;

/// A seed's trial.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Who it is of.
    pub seed: u64,
    /// Which programs there are.
    pub wiring: Wiring,
    /// How the scraper asks for rows: `arrow` or `text`.
    pub records: &'static str,
    /// Charges of each source's report, about.
    pub rows: u64,
    /// The kills while each generation is on its way; as many generations as there are entries.
    pub kills: Vec<Vec<Kill>>,
}

/// How a program is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGKILL: nothing of it runs any more.
    Killed,
    /// SIGTERM: it finishes what is under way, and must do so well.
    Asked,
    /// SIGHUP with a changed configuration: it ends and begins anew within its process.
    Reloaded,
}

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// How long after what came before: the restatement, or the last kill's restart.
    pub after: Duration,
    /// Who.
    pub role: Role,
    /// In which way.
    pub end: End,
    /// How long it is gone; nothing is, that was only reloaded.
    pub down: Duration,
}

impl Schedule {
    /// The trial of a seed: one to three restatements, one to three kills each, and perhaps a reload.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, "schedule");
        let wiring = *random.pick(&[
            Wiring::ThreePrograms,
            Wiring::ThreePrograms,
            Wiring::ThreePrograms,
            Wiring::AllInOne,
            Wiring::AllInOne,
            Wiring::TwoScrapers,
            Wiring::TwoHandlers,
        ]);
        let records = if random.chance(70) { "arrow" } else { "text" };
        let rows = random.between(1_000, 2_500);
        let n_generations = 1 + random.between(1, 3);
        let kills = (0..n_generations).map(|_| {
            let n = random.between(1, 3);
            (0..n).map(|_| Kill::random(&mut random, wiring)).collect()
        });
        let mut kills: Vec<Vec<Kill>> = kills.collect();
        let mut random = Random::new(seed, "reloads");
        for kills in &mut kills {
            if random.chance(40) {
                let kill = Kill { end: End::Reloaded, down: Duration::ZERO, ..Kill::random(&mut random, wiring) };
                let at = usize::try_from(random.between(0, kills.len() as u64)).unwrap_or_default();
                kills.insert(at, kill);
            }
        }
        Self { seed, wiring, records, rows, kills }
    }
}

impl Kill {
    fn random(random: &mut Random, wiring: Wiring) -> Self {
        Self {
            after: Duration::from_millis(random.between(0, 1_200)),
            role: *random.pick(wiring.roles()),
            end: if random.chance(80) { End::Killed } else { End::Asked },
            down: Duration::from_millis(random.between(0, 400)),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wiring, records, rows, kills, .. } = self;
        write!(f, "{wiring:?}, records as {records}, about {rows} rows a source")?;
        for (generation, kills) in kills.iter().enumerate() {
            write!(f, "\n  generation {generation}:")?;
            for Kill { after, role, end, down } in kills {
                let end = match end {
                    End::Killed => "is killed",
                    End::Asked => "is asked to end",
                    End::Reloaded => "is reloaded",
                };
                write!(f, " {after:?} later {role} {end}, for {down:?};")?;
            }
        }
        Ok(())
    }
}

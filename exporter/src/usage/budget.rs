//! How many requests a subscription may be asked: never more than so many in any hour, a tenth of them at once
//! and the rest evenly; and none while its server has asked for patience. Holds a time per subscription.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
/// The part of an hour's requests that may be made at once.
const BURST_PART: u32 = 10;

/// The budgets of a source's subscriptions.
#[derive(Debug)]
pub(super) struct Budget {
    pace: Pace,
    subscriptions: Mutex<HashMap<String, Account>>,
}

/// A request takes its `step` of the time that a subscription has; what was not taken is kept up to `slack`.
#[derive(Clone, Copy, Debug)]
struct Pace {
    step: Duration,
    slack: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    /// Up to when the time has been taken.
    taken_until: Instant,
    /// When the server wants to be asked again.
    closed_until: Instant,
}

impl Budget {
    pub(super) fn new(requests_per_hour: u32) -> Self {
        let burst = (requests_per_hour / BURST_PART).max(1);
        let step = HOUR / (requests_per_hour.saturating_sub(burst)).max(1);
        Self { pace: Pace { step, slack: step * (burst - 1) }, subscriptions: Mutex::default() }
    }

    /// Waits for the turn of one request.
    pub(super) async fn take(&self, subscription: &str) {
        let now = Instant::now();
        let turn = self.account(subscription, now, |account, pace| account.turn(now, pace));
        tokio::time::sleep(turn.saturating_duration_since(now)).await;
    }

    /// Keeps a subscription's requests back.
    pub(super) fn close(&self, subscription: &str, wait: Duration) {
        let now = Instant::now();
        self.account(subscription, now, |account, _| account.closed_until = account.closed_until.max(now + wait));
    }

    fn account<T>(&self, subscription: &str, now: Instant, work: impl FnOnce(&mut Account, Pace) -> T) -> T {
        // Nobody panics while holding it; were one to, a time would still be a time.
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let account =
            subscriptions.entry(subscription.to_owned()).or_insert(Account { taken_until: now, closed_until: now });
        work(account, self.pace)
    }
}

impl Account {
    /// When a request that is wanted now may be made.
    fn turn(&mut self, now: Instant, pace: Pace) -> Instant {
        let turn = self.taken_until.checked_sub(pace.slack).map_or(now, |turn| turn.max(now));
        self.taken_until = self.taken_until.max(now) + pace.step;
        turn.max(self.closed_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_has_more_requests_than_it_may() {
        for per_hour in [1, 2, 10, 12_000] {
            let budget = Budget::new(per_hour);
            let began = Instant::now();
            let mut account = Account { taken_until: began, closed_until: began };
            // All are wanted at once, and later, after an hour of quiet, again.
            let mut turns: Vec<Instant> = (0..3 * per_hour).map(|_| account.turn(began, budget.pace)).collect();
            let quiet = *turns.last().expect("some") + 2 * HOUR;
            turns.extend((0..per_hour).map(|_| account.turn(quiet, budget.pace)));
            assert!(turns.is_sorted());
            for (first, turn) in turns.iter().enumerate() {
                let within = turns[first..].iter().take_while(|later| **later < *turn + HOUR).count();
                assert!(within <= per_hour as usize, "{within} of {per_hour} in an hour");
            }
            let at_once = turns.iter().take_while(|turn| **turn == began).count();
            assert_eq!(at_once, (per_hour / 10).max(1) as usize);
        }
    }

    #[test]
    fn who_is_to_wait_waits_and_others_do_not() {
        let budget = Budget::new(12_000);
        budget.close("a", Duration::from_secs(60));
        let now = Instant::now();
        let turn = |subscription| budget.account(subscription, now, |account, pace| account.turn(now, pace));
        assert!(turn("a") > now + Duration::from_secs(59));
        assert_eq!(turn("b"), now);
    }
}

//! How many requests a subscription may be asked, by all sources together: never more than so many in any hour, a tenth
//! of them at once and the rest evenly; and none while its server has asked for patience. Where sources of one subscription
//! have different limits, the lowest counts. Holds a time per subscription, for as long as a configuration is in effect.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
/// The part of an hour's requests that may be made at once.
const BURST_PART: u32 = 10;

/// The time that each subscription has left, which all sources share.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<String, Account>>);

/// What a source may take of that.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pace: Pace,
    subscriptions: Arc<Subscriptions>,
}

/// A request takes its `step` of the time that a subscription has; what was not taken is kept up to `slack`. The greater
/// one is the slower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pace {
    step: Duration,
    slack: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    pace: Pace,
    /// Up to when the time has been taken.
    taken_until: Instant,
    /// When the server wants to be asked again.
    closed_until: Instant,
}

impl Budget {
    pub(super) fn new(requests_per_hour: u32, subscriptions: Arc<Subscriptions>) -> Self {
        let burst = (requests_per_hour / BURST_PART).max(1);
        let step = HOUR / (requests_per_hour.saturating_sub(burst)).max(1);
        Self { pace: Pace { step, slack: step * (burst - 1) }, subscriptions }
    }

    /// Waits for the turn of one request.
    pub(super) async fn take(&self, subscription: &str) {
        let now = Instant::now();
        let turn = self.account(subscription, now, |account| account.turn(now));
        tokio::time::sleep(turn.saturating_duration_since(now)).await;
    }

    /// Keeps a subscription's requests back.
    pub(super) fn close(&self, subscription: &str, wait: Duration) {
        let now = Instant::now();
        self.account(subscription, now, |account| account.closed_until = account.closed_until.max(now + wait));
    }

    fn account<T>(&self, subscription: &str, now: Instant, work: impl FnOnce(&mut Account) -> T) -> T {
        // Nobody panics while holding it; were one to, a time would still be a time.
        let mut subscriptions = self.subscriptions.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Account { pace: self.pace, taken_until: now, closed_until: now };
        let account = subscriptions.entry(subscription.to_owned()).or_insert(new);
        account.pace = account.pace.max(self.pace);
        work(account)
    }
}

impl Account {
    /// When a request that is wanted now may be made.
    fn turn(&mut self, now: Instant) -> Instant {
        let turn = self.taken_until.checked_sub(self.pace.slack).map_or(now, |turn| turn.max(now));
        self.taken_until = self.taken_until.max(now) + self.pace.step;
        turn.max(self.closed_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When requests get their turns that are wanted at a time, each within one of these budgets in turn.
    fn turns(budgets: &[Budget], n: u32, wanted: Instant) -> Vec<Instant> {
        let turn = |budget: &Budget| budget.account("s1", wanted, |account| account.turn(wanted));
        budgets.iter().cycle().take(n as usize).map(turn).collect()
    }

    fn assert_no_hour_has_more(turns: &[Instant], per_hour: u32) {
        assert!(turns.is_sorted());
        for (first, turn) in turns.iter().enumerate() {
            let within = turns[first..].iter().take_while(|later| **later < *turn + HOUR).count();
            assert!(within <= per_hour as usize, "{within} of {per_hour} in an hour");
        }
    }

    #[test]
    fn no_hour_has_more_requests_than_it_may_however_many_sources_ask() {
        for (per_hour, n_sources) in [(1, 1), (2, 2), (10, 1), (10, 3), (12_000, 1), (12_000, 2)] {
            let subscriptions = Arc::new(Subscriptions::default());
            let sources = vec![Budget::new(per_hour, subscriptions); n_sources];
            let began = Instant::now();
            // All are wanted at once, and later, after an hour of quiet, again.
            let mut all = turns(&sources, 3 * per_hour, began);
            let quiet = *all.last().expect("some") + 2 * HOUR;
            all.extend(turns(&sources, per_hour, quiet));
            assert_no_hour_has_more(&all, per_hour);
            let at_once = all.iter().take_while(|turn| **turn == began).count();
            assert_eq!(at_once, (per_hour / 10).max(1) as usize);
        }
    }

    #[test]
    fn of_different_limits_the_lowest_counts() {
        let subscriptions = Arc::new(Subscriptions::default());
        let sources = [12_000, 600, 6_000].map(|per_hour| Budget::new(per_hour, Arc::clone(&subscriptions)));
        let began = Instant::now();
        // The first request does not know of the others' limits.
        let all = turns(&sources, 2_000, began);
        assert_no_hour_has_more(&all, 601);
        let another = Budget::new(12_000, subscriptions);
        assert_eq!(another.account("s2", began, |account| account.pace), another.pace, "of this subscription alone");
    }

    #[test]
    fn who_is_to_wait_waits_and_others_do_not() {
        let subscriptions = Arc::new(Subscriptions::default());
        let [budget, other] = [12_000, 6_000].map(|per_hour| Budget::new(per_hour, Arc::clone(&subscriptions)));
        budget.close("a", Duration::from_secs(60));
        let now = Instant::now();
        let turn = |of: &Budget, subscription| of.account(subscription, now, |account| account.turn(now));
        assert!(turn(&budget, "a") > now + Duration::from_secs(59));
        assert!(turn(&other, "a") > now + Duration::from_secs(59), "the subscription is closed, whoever asks");
        assert_eq!(turn(&budget, "b"), now);
    }
}

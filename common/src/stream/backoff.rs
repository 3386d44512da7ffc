//! The only place that knows the `backoff` crate: how long to wait before the next try.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Waits between tries: exponential, with jitter, within bounds, and never shorter than what
/// a server asked for.
#[derive(Debug)]
pub struct Waits(ExponentialBackoff);

impl Waits {
    /// Waits that start near `first`, grow by half each time up to `longest`, and end after
    /// `give_up_after` in all (`None`: never).
    pub fn new(first: Duration, longest: Duration, give_up_after: Option<Duration>) -> Self {
        let mut policy = ExponentialBackoff {
            initial_interval: first,
            max_interval: longest,
            max_elapsed_time: give_up_after,
            ..ExponentialBackoff::default()
        };
        policy.reset();
        Self(policy)
    }

    /// The next wait, at least `retry_after` (a server's `Retry-After`); nothing when it is
    /// time to give up.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        let wait = self.0.next_backoff()?;
        Some(retry_after.map_or(wait, |asked| wait.max(asked)))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// `interval`, up to a tenth longer or shorter at random, so that many pollers do not march
/// in step.
pub fn jittered(interval: Duration) -> Duration {
    let mut policy = ExponentialBackoff {
        initial_interval: interval,
        randomization_factor: 0.1,
        max_interval: interval,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    policy.reset();
    policy.next_backoff().unwrap_or(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_for_time_gets_it() {
        let mut waits = Waits::new(Duration::from_millis(1), Duration::from_millis(2), None);
        assert_eq!(waits.next(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert!(waits.next(None).is_some_and(|wait| wait < Duration::from_millis(10)));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(100);
        for _ in 0..100 {
            let wait = jittered(interval);
            assert!(wait >= Duration::from_secs(90) && wait <= Duration::from_secs(110), "{wait:?}");
        }
    }
}

//! Who may poll, and when: so many polls at once, of them so many of one host, first come, first served. Days of usage
//! have places of their own, since they may wait for a budget for long. Holds a semaphore for every host that was asked.
//!
//! However many are configured, threads are left: a poll takes one of the runtime's for as long as it writes, and one
//! more while it reads JSON or Parquet. Were all of them taken by polls that wait for their second, nobody would go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::locked;

/// Threads that the runtime has for work that blocks (tokio's default).
const N_THREADS: usize = 512;
/// Most polls of reports at once, whatever is configured.
const MAX_PLACES: usize = 128;
/// Most days of usage that are asked for at once.
const MAX_USAGE: usize = 128;
/// Most sources that watch at once for a change of what has them fail: each takes connections.
const MAX_WATCHING: usize = 32;
// Some are left for who reads the spool, and for short work.
const _: () = assert!(2 * MAX_PLACES + MAX_USAGE <= N_THREADS * 3 / 4);

/// The places for polls under way, of all sources and of each host.
#[derive(Debug)]
pub(crate) struct Places {
    pub(super) n_places: usize,
    n_of_host: usize,
    all: Semaphore,
    usage: Semaphore,
    watching: Semaphore,
    hosts: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// A place that is taken, for as long as it lives.
pub(super) struct Place<'a> {
    _of_all: Option<SemaphorePermit<'a>>,
    _of_host: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// So many places, but at most [`MAX_PLACES`], of them so many for each host.
    pub(crate) fn new(n_places: usize, n_of_host: usize) -> Self {
        let n_places = n_places.min(MAX_PLACES);
        let [all, usage, watching] = [n_places, MAX_USAGE, MAX_WATCHING].map(Semaphore::new);
        Self { n_places, n_of_host, all, usage, watching, hosts: Mutex::default() }
    }

    /// Waits for a place to ask for a day of usage.
    pub(super) async fn take_for_usage(&self) -> Place<'_> {
        Place { _of_all: self.usage.acquire().await.ok(), _of_host: None }
    }

    /// Waits for a place to watch for a change.
    pub(super) async fn take_to_watch(&self) -> Place<'_> {
        Place { _of_all: self.watching.acquire().await.ok(), _of_host: None }
    }

    /// Waits for a place. The host's comes first: who waits for a slow host must not sit on a place of all.
    pub(super) async fn take(&self, host: Option<String>) -> Place<'_> {
        let of_host = match host {
            Some(host) => {
                let of_host = || Arc::new(Semaphore::new(self.n_of_host));
                let places = Arc::clone(locked(&self.hosts).entry(host).or_insert_with(of_host));
                places.acquire_owned().await.ok()
            }
            None => None,
        };
        // Nobody closes them.
        Place { _of_all: self.all.acquire().await.ok(), _of_host: of_host }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn however_many_places_are_configured_threads_are_left() {
        let places = Places::new(600, 600);
        let host = |n: usize| Some(format!("h{}", n % 2));
        let taken: Vec<_> = (0..600).map_while(|n| places.take(host(n)).now_or_never()).collect();
        let of_usage: Vec<_> = (0..600).map_while(|_| places.take_for_usage().now_or_never()).collect();
        assert_eq!((taken.len(), of_usage.len()), (MAX_PLACES, MAX_USAGE));
        drop(taken);
        assert!(places.take(None).now_or_never().is_some(), "the next in line");
    }
}

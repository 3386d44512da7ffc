//! Who may poll, and when: so many polls at once, of them so many of one host, first come, first served. Holds a
//! semaphore for every host that was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::locked;

/// The places for polls under way, of all sources and of each host.
#[derive(Debug)]
pub(crate) struct Places {
    pub(super) n_places: usize,
    n_of_host: usize,
    all: Semaphore,
    hosts: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// A place that is taken, for as long as it lives.
pub(super) struct Place<'a> {
    _of_all: Option<SemaphorePermit<'a>>,
    _of_host: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// So many places, of them so many for each host.
    pub(crate) fn new(n_places: usize, n_of_host: usize) -> Self {
        Self { n_places, n_of_host, all: Semaphore::new(n_places), hosts: Mutex::default() }
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

//! The polls under way, and how far they are: counted by those who poll, and shown to those who wait. Holds a key and two
//! numbers for each.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use costream_common::record::ScopeKey;

use super::locked;

/// A poll under way, for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The report.
    pub key: ScopeKey,
    /// Rows taken so far.
    pub rows: u64,
    /// Rows refused so far.
    pub rejected: u64,
}

/// What has been counted of a poll.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) rows: AtomicU64,
    pub(super) rejected: AtomicU64,
}

/// The polls under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeMap<ScopeKey, Arc<Flight>>>);

/// Shows a poll as under way for as long as it lives.
pub(super) struct InFlight<'a> {
    flights: &'a Flights,
    key: ScopeKey,
    flight: Arc<Flight>,
}

impl Flights {
    pub(super) fn begin(&self, key: ScopeKey) -> InFlight<'_> {
        let flight = Arc::new(Flight::default());
        locked(&self.0).insert(key.clone(), Arc::clone(&flight));
        InFlight { flights: self, key, flight }
    }

    pub(super) fn progress(&self) -> Vec<Progress> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let flights = locked(&self.0);
        let progress = |(key, flight): (&ScopeKey, &Arc<Flight>)| Progress {
            key: key.clone(),
            rows: count(&flight.rows),
            rejected: count(&flight.rejected),
        };
        flights.iter().map(progress).collect()
    }
}

impl Deref for InFlight<'_> {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.flight
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        locked(&self.flights.0).remove(&self.key);
    }
}

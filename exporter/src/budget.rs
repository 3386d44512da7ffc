//! Bytes that may stand on the spool's disk, shared by all who write there: snapshots, and reports that are kept while
//! they are read. Whoever takes some gives them back when they are gone.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes taken, and the most there may be.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    used: AtomicU64,
    max: Option<u64>,
}

impl Budget {
    pub(crate) fn new(max: Option<u64>) -> Self {
        Self { used: AtomicU64::new(0), max }
    }

    /// Bytes taken.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub(crate) fn max(&self) -> Option<u64> {
        self.max
    }

    /// Takes bytes before they are written.
    ///
    /// # Errors
    /// There would be too many: none is taken.
    pub(crate) fn take(&self, bytes: u64) -> io::Result<()> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        match self.max {
            Some(max) if before.saturating_add(bytes) > max => {
                self.give_back(bytes);
                Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!("the spool's budget of {max} bytes (spool_max_bytes) is used up"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Counts bytes that are there already, whatever the most is.
    pub(crate) fn found(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

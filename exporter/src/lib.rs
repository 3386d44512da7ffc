//! The exporter: sources of cost reports in, snapshots of exact records out, over HTTP.
//!
//! A report meets the modules in this order, and a module uses only those before it: profile, budget, decode, dimensions,
//! config, inherited, source, convert, report, assemble, points, generic, rollup, rows, snapshot, sums, telemetry, usage, poll, expose.
//! Usage is asked for in `usage`, piece by piece, where a report is fetched by `source`.
//!
//! Peak memory: per poll under way a few batches on each side of the disk, per reader one batch;
//! and the series of one budget, four times over while they are made. Nothing grows with a report.

mod assemble;
mod budget;
pub mod config;
pub mod convert;
pub mod decode;
mod dimensions;
mod expose;
mod generic;
pub mod inherited;
mod points;
mod poll;
pub mod profile;
pub mod report;
mod rollup;
mod rows;
mod snapshot;
mod source;
mod sums;
mod telemetry;
mod usage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use costream_common::record::{Snapshot, SourceName};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::ExporterConfig;
use crate::poll::{Places, Polling, Polls};
use crate::snapshot::Spool;
use crate::source::Source;
use crate::telemetry::Telemetry;

pub use crate::dimensions::{DimensionError, Dimensions};
pub use crate::expose::ARROW;
pub use crate::generic::GenericError;
pub use crate::points::report::PointsError;
pub use crate::poll::{PollError, PollOutcome, Polled, Progress};
pub use crate::snapshot::{SpoolError, spooled_snapshots};
pub use crate::source::SourceError;
pub use crate::usage::{AskError, TokenError, UsageError};

/// How long a poll that was dropped may take to put away what it has written.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);

/// An exporter that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExporterError {
    /// A source's certificates or headers cannot be used.
    #[error("source {name}")]
    Source {
        /// The source.
        name: SourceName,
        /// What is wrong.
        #[source]
        source: SourceError,
    },
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// A running exporter. Cheap to clone: every clone is the same one.
#[derive(Clone, Debug)]
pub struct Exporter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) sources: Vec<Arc<Polling>>,
    pub(crate) polls: Polls,
    pub(crate) started_nanos: u128,
}

impl Inner {
    /// A source that has neither been polled nor reloaded.
    pub(crate) fn waiting_for(&self) -> Option<&SourceName> {
        let current = self.polls.spool.current();
        let loaded: BTreeSet<&SourceName> = current.iter().map(|generation| &generation.key().source).collect();
        let mut waiting = self.sources.iter().filter(|polling| polling.status().up.is_none());
        waiting.find(|polling| !loaded.contains(&polling.source.name)).map(|polling| &polling.source.name)
    }
}

impl Exporter {
    /// Holds a configuration against the machine: certificates are there, headers are some.
    ///
    /// # Errors
    /// A source cannot be asked.
    pub fn check(config: &ExporterConfig) -> Result<(), ExporterError> {
        sources(config).map(|_| ())
    }

    /// Opens the spool and serves what it holds; does not poll yet.
    ///
    /// # Errors
    /// A source cannot be asked, or the spool cannot be used.
    pub async fn start(config: ExporterConfig) -> Result<Self, ExporterError> {
        let sources = sources(&config)?;
        let names: BTreeSet<SourceName> = sources.iter().map(|polling| polling.source.name.clone()).collect();
        let ExporterConfig {
            spool_dir,
            spool_max_bytes,
            metrics,
            retry_for,
            limits,
            csv_reader,
            concurrent_polls,
            concurrent_polls_per_host,
            ..
        } = config;
        let opening = tokio::task::spawn_blocking(move || {
            Spool::open(&spool_dir, spool_max_bytes, metrics.dimensions, metrics.max_series, metrics.rows, &names)
        });
        let spool = opening.await.map_err(|error| SpoolError::Gone(error.to_string()))??;
        let places = Places::new(concurrent_polls.get(), concurrent_polls_per_host.get());
        let polls = Polls::new(spool, Telemetry::new(), retry_for.0, limits, csv_reader, places);
        polls.ready.refresh(&polls.spool).await;
        let started_nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Self { inner: Arc::new(Inner { sources, polls, started_nanos }) })
    }

    /// What it serves.
    pub fn router(&self) -> axum::Router {
        expose::router(Arc::clone(&self.inner))
    }

    /// Polls every source once; the outcomes in order of the sources, then of their reports.
    pub async fn poll_all(&self) -> Vec<PollOutcome> {
        let mut outcomes = Vec::new();
        // Which resources are asked for their usage may be said by reports.
        for is_usage in [false, true] {
            let mut polling = JoinSet::new();
            let sources = self.inner.sources.iter().enumerate();
            for (at, source) in sources.filter(|(_, polling)| polling.is_usage() == is_usage) {
                let (inner, source) = (Arc::clone(&self.inner), Arc::clone(source));
                polling.spawn(async move { (at, source.poll(&inner.polls).await) });
            }
            outcomes.extend(polling.join_all().await);
        }
        outcomes.sort_by_key(|(at, _)| *at);
        outcomes.into_iter().flat_map(|(_, outcomes)| outcomes).collect()
    }

    /// The current snapshots, in order of source and scope.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.polls.spool.current().iter().map(|generation| generation.snapshot().clone()).collect()
    }

    /// The polls under way.
    pub fn progress(&self) -> Vec<Progress> {
        self.inner.polls.progress()
    }

    /// Polls every source on its schedule until told to stop. A source that was polled already waits for its
    /// next turn. A poll in flight at the end is dropped, and leaves the last snapshot.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut polling = JoinSet::new();
        for source in &self.inner.sources {
            let (inner, source, shutdown) = (Arc::clone(&self.inner), Arc::clone(source), shutdown.clone());
            polling.spawn(async move { source.keep_polling(&inner.polls, shutdown).await });
        }
        polling.join_all().await;
    }

    /// Waits until nobody uses the spool any more, so that another exporter can have it: until the threads of
    /// polls that were dropped have put their files away. Every other clone is to be gone.
    pub async fn close(self) {
        let free = self.inner.polls.spool.free();
        drop(self);
        if tokio::time::timeout(CLOSES_WITHIN, free.cancelled()).await.is_err() {
            tracing::warn!("the spool was still in use after {CLOSES_WITHIN:?}");
        }
    }
}

fn sources(config: &ExporterConfig) -> Result<Vec<Arc<Polling>>, ExporterError> {
    let subscriptions = Arc::default();
    let source = |source: &config::SourceConfig| {
        Source::new(source.clone(), config.poll_interval)
            .and_then(|source| Polling::new(source, &subscriptions))
            .map(Arc::new)
            .map_err(|error| ExporterError::Source { name: source.name.clone(), source: error })
    };
    config.sources.iter().map(source).collect()
}

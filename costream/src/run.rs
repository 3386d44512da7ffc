//! `costream run`: exporter, scraper and handler in one process, wired as three would be. The
//! scraper reads the exporter over HTTP on this machine; only what it found goes to the store in
//! process. First one pass over every source, then the table that proves it, then round and
//! round until a signal.
//!
//! At the end everybody is given [`DRAIN_WITHIN`] to finish what is under way; whatever is cut
//! off then is done again by the next run.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use costream_common::http::serve::{self, Exposure, Listener, ServeError};
use costream_common::report::one_line;
use costream_exporter::{Exporter, ExporterError};
use costream_handler::{Handler, HandlerError};
use costream_scraper::{ScrapeError, Scraper, ScraperConfig, Sink, TargetConfig};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::Status;
use crate::cli::RunArgs;
use crate::ledger::{self, Difference, Ledger};
use crate::lock::{DataLock, LockError};
use crate::settings::{Doors, SettingsError, Sources, handler_config};
use crate::shutdown;
use crate::sql::{Place, SqlError};

/// How long polls, scrapes and housekeeping may take to end, and then the servers.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Where the scraper finds the exporter when nobody else is to.
const NOBODY_ELSES: &str = "127.0.0.1:0";

/// A run that could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The command line or the configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An address.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The exporter's spool.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// The handler's store.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The scraper's settings.
    #[error(transparent)]
    Scraper(#[from] ScrapeError),
    /// The store could not be asked what it has.
    #[error("sum up the store")]
    Sums(#[from] SqlError),
    /// The output is closed or full.
    #[error("print the table")]
    Print(#[from] io::Error),
    /// A signal came first.
    #[error("ended by a signal before everything was stored")]
    Interrupted,
}

impl RunError {
    /// The status to end with.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Settings(error) if error.is_usage() => Status::Usage,
            _ => Status::Failed,
        }
    }
}

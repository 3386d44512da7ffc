//! `costream run`: exporter, scraper and handler in one process, wired as three would be. The
//! scraper reads the exporter over HTTP on this machine; only what it found goes to the store in
//! process. First one pass over every source, then the table that proves it, then round and
//! round until a signal.
//!
//! At the end everybody is given [`DRAIN_WITHIN`] to finish what is under way, and then the
//! servers are; whatever is cut off is done again by the next run, and nothing is lost.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use costream_common::http::serve::{self, Exposure, Listener, ServeError};
use costream_common::http::web::{WebConfig, WebConfigError};
use costream_common::report::one_line;
use costream_exporter::{Exporter, ExporterError, PollOutcome};
use costream_handler::{Handler, HandlerError};
use costream_scraper::config::{ScraperConfig, TargetConfig};
use costream_scraper::{Scraper, ScraperError, Sink};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::Status;
use crate::cli::RunArgs;
use crate::ledger::{self, Ledger};
use crate::lock::{DataLock, LockError};
use crate::settings::{Settings, SettingsError};
use crate::shutdown;
use crate::sql::{Place, SqlError};

/// How long polls, scrapes and housekeeping may take to end when they are told to.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How often a pass that takes its time says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often the exporter's snapshots are looked at: a look costs next to nothing.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);
/// An address for the scraper alone.
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
    /// TLS or users.
    #[error(transparent)]
    Web(#[from] WebConfigError),
    /// An address.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The exporter's spool or sources.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// The handler's store.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The scraper's settings.
    #[error(transparent)]
    Scraper(#[from] ScraperError),
    /// The store could not be asked what it has.
    #[error("sum up the store")]
    Sums(#[from] SqlError),
    /// The output is closed or full, or signals cannot be waited for.
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
            Self::Web(_) => Status::Usage,
            _ => Status::Failed,
        }
    }
}

/// `costream run`
///
/// # Errors
/// It could not start, or with `--once` could not go through. A source that cannot be polled is
/// no such error: it is said, the others go on, and the status of `--once` shows it.
pub(crate) async fn run(args: RunArgs) -> Result<Status, RunError> {
    let mut settings = Settings::new(&args.sources, args.data_dir.as_deref())?;
    settings.put_over(&args);
    let _lock = DataLock::take(&settings.data_dir)?;
    settings.lay_sample_down().await?;
    let shutdown = shutdown::on_signal()?;
    let house = House::open(&args, settings).await?;
    let verdict = match shutdown.run_until_cancelled(house.first_pass()).await {
        Some(verdict) => verdict,
        None => Err(RunError::Interrupted),
    };
    let status = match verdict {
        Ok(pass) => pass.told(args.once.then_some(args.allow_rejects)),
        Err(error) => {
            house.close(CancellationToken::new()).await;
            return Err(error);
        }
    };
    if !args.once {
        house.print_urls();
        shutdown.cancelled().await;
    }
    house.close(shutdown).await;
    Ok(status)
}

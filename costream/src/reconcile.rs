//! `costream reconcile`: the same sums from three places. The report is read anew from its
//! source, by another CSV reader than the exporter's, into a spool of its own that is thrown away; the exporter's are
//! those of the snapshots it keeps; the store's are SQL's.

use std::io;
use std::path::PathBuf;

use costream_common::http::client::{Access, Answer, Ask, Client, ClientError};
use costream_common::record::Snapshot;
use costream_common::report::one_line;
use costream_exporter::report::CsvReader;
use costream_exporter::{Exporter, ExporterError, SpoolError};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use url::Url;

use crate::Status;
use crate::cli::ReconcileArgs;
use crate::ledger::{self, Ledger};
use crate::settings::{Settings, SettingsError};
use crate::sql::{Place, SqlError};

/// The largest list of snapshots worth reading, in bytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// A comparison that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The command line or the configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no room to read the report anew.
    #[error("make a directory for the report's fresh copy")]
    Copy(#[source] io::Error),
    /// The report's source.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// The exporter's spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The exporter at a URL.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The exporter's list cannot be read.
    #[error("list of snapshots of {url}")]
    Index {
        url: Url,
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("sum up the store")]
    Store(#[from] SqlError),
    /// The output is closed or full.
    #[error("print the table")]
    Print(#[source] io::Error),
}

impl ReconcileError {
    /// The status to end with.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Settings(error) if error.is_usage() => Status::Usage,
            _ => Status::Failed,
        }
    }
}

/// `costream reconcile`
///
/// # Errors
/// One of the three cannot be asked.
pub(crate) async fn reconcile(args: ReconcileArgs) -> Result<Status, ReconcileError> {
    let data_dir = args.place.data_dir.as_deref();
    let settings = Settings::new(&args.sources, data_dir)?;
    settings.lay_sample_down().await?;
    let place = match args.place.url.clone() {
        Some(url) => Place::at(url)?,
        None => Place::configured(&settings.handler)?,
    };
    let sources = settings.source_names();
    let spool_dir = settings.exporter.spool_dir.clone();

    let mut status = Status::Good;
    let report = {
        let copy = tempfile::tempdir().map_err(ReconcileError::Copy)?;
        let mut config = settings.exporter;
        config.spool_dir = copy.path().to_owned();
        config.csv_reader = CsvReader::Automaton;
        // Others have no sums to agree on, and asking for usage takes from a budget.
        config.sources.retain(costream_exporter::config::SourceConfig::is_of_charges);
        let exporter = Exporter::start(config).await?;
        for outcome in exporter.poll_all().await {
            if let Err(error) = outcome.result {
                eprintln!("costream: poll of {}: {}", outcome.source, one_line(&error));
                status = Status::Failed;
            }
        }
        Ledger::of_snapshots(&exporter.snapshots())
    };
    let exporter = match (&args.exporter_url, &args.place.url) {
        (Some(url), _) => Some(announced(url).await?),
        (None, None) => Some(spooled(spool_dir).await?),
        // Somebody else's handler: where its exporter is, nobody said.
        (None, Some(_)) => None,
    };
    let exporter = exporter.map(|snapshots| Ledger::of_snapshots(&snapshots).of_sources(&sources));
    let store = Ledger::of_store(&place).await?.of_sources(&sources);

    let mut sides = vec![("report", &report)];
    sides.extend(exporter.as_ref().map(|ledger| ("exporter", ledger)));
    sides.push(("store", &store));
    ledger::print(io::stdout().lock(), &sides).map_err(ReconcileError::Print)?;
    for (name, side) in &sides[1..] {
        for difference in report.differences(name, side) {
            eprintln!("costream: {difference}");
            status = Status::Failed;
        }
    }
    Ok(status)
}

/// What a spool holds; an exporter may be running on it.
async fn spooled(dir: PathBuf) -> Result<Vec<Snapshot>, ReconcileError> {
    let reading = tokio::task::spawn_blocking(move || costream_exporter::spooled_snapshots(&dir));
    Ok(reading.await.map_err(|error| ReconcileError::Copy(io::Error::other(error)))??)
}

/// What an exporter announces.
async fn announced(url: &Url) -> Result<Vec<Snapshot>, ReconcileError> {
    #[derive(Deserialize)]
    struct Index {
        snapshots: Vec<Snapshot>,
    }
    let mut url = url.clone();
    let mut access = Access::default();
    access.take_userinfo(&mut url);
    let path = format!("{}/snapshots", url.path().trim_end_matches('/'));
    url.set_path(&path);
    let failed = |source| ReconcileError::Index { url: url.clone(), source };
    let Answer::Fresh(fresh) = Client::new(access)?.get(&url, Ask::default()).await? else {
        return Err(failed(io::Error::other("unchanged since never")));
    };
    let mut json = Vec::new();
    fresh.into_reader().take(MAX_INDEX_BYTES).read_to_end(&mut json).await.map_err(failed)?;
    let index: Index = serde_json::from_slice(&json).map_err(|error| failed(error.into()))?;
    Ok(index.snapshots)
}

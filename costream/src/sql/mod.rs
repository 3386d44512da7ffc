//! `costream sql`: a statement in, rows on standard output out. The statement goes to the store
//! in a directory, through the gateway's own engine, or to a handler's `_sql`; either way rows
//! are printed as they come.

mod print;
mod remote;

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use costream_common::config::{self, ConfigError, Span};
use costream_common::http::client::ClientError;
use costream_handler::config::HandlerConfig;
use costream_handler::sql::cell;
pub(crate) use costream_handler::sql::cell::Cell;
use costream_handler::sql::{Engine, Limits, Options};
use costream_handler::store::StoreRead;
use costream_handler::store::delta::{DeltaOptions, DeltaStore, StoreUrl, StoreUrlError};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use url::Url;

pub(crate) use self::print::Printer;
use self::remote::Remote;
use crate::Status;
use crate::cli::{DATA_DIR, SqlArgs};
use crate::settings::ConfigFile;

/// What a statement of our own process may use: it is alone, and its reader says when it is enough.
const LIMITS: Limits = Limits {
    max_rows: u64::MAX,
    timeout: Span(Duration::from_secs(365 * 24 * 60 * 60)),
    max_memory_bytes: 512 << 20,
    concurrency: 1,
};

/// `costream sql`
///
/// # Errors
/// There is no answer, or not all of it: what was printed until then is not the whole.
pub(crate) async fn sql(args: SqlArgs) -> Result<Status, SqlError> {
    let place = match (args.place.url.clone(), args.place.data_dir.as_deref(), args.config_file.as_deref()) {
        (Some(url), ..) => Place::at(url)?,
        (None, Some(data_dir), _) => Place::in_directory(data_dir)?,
        (None, None, Some(path)) => Place::configured(&config::load::<ConfigFile>(path)?.handler)?,
        (None, None, None) => Place::in_directory(Path::new(DATA_DIR))?,
    };
    match print(&place, &args).await {
        // Whoever reads the output has had enough.
        Err(SqlError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Status::Good),
        Err(error) => Err(error),
        Ok(()) => Ok(Status::Good),
    }
}

async fn print(place: &Place, args: &SqlArgs) -> Result<(), SqlError> {
    let mut answer = place.query(&args.statement, args.as_of).await?;
    let mut printer = Printer::new(BufWriter::new(io::stdout()), args.format, answer.columns)?;
    while let Some(rows) = answer.rows.next().await {
        for row in rows? {
            printer.row(row)?;
        }
    }
    Ok(printer.end()?)
}

/// Where statements go.
pub(crate) enum Place {
    /// A store in this process.
    Local(Engine),
    /// A handler somewhere else.
    Remote(Box<Remote>),
}

impl Place {
    /// The handler at an http or https URL, or the store at another.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(crate) fn at(url: Url) -> Result<Self, SqlError> {
        match url.scheme() {
            "http" | "https" => Ok(Self::Remote(Box::new(Remote::new(url)?))),
            _ => Self::stored_at(url.try_into().map_err(|source| SqlError::Url { source })?),
        }
    }

    fn stored_at(place: StoreUrl) -> Result<Self, SqlError> {
        Ok(Self::local(Arc::new(DeltaStore::open(DeltaOptions::at(place))?)))
    }

    /// The store in a data directory, beside a process that writes to it.
    ///
    /// # Errors
    /// There is no such store, or it cannot be opened.
    pub(crate) fn in_directory(data_dir: &Path) -> Result<Self, SqlError> {
        let dir = data_dir.join("store");
        if !dir.is_dir() {
            return Err(SqlError::NoStore { path: data_dir.to_owned() });
        }
        let store = DeltaStore::open(DeltaOptions::in_directory(&dir)?)?;
        Ok(Self::local(Arc::new(store)))
    }

    /// The store that a configuration names.
    ///
    /// # Errors
    /// As [`Place::in_directory`].
    pub(crate) fn configured(config: &HandlerConfig) -> Result<Self, SqlError> {
        match &config.store_url {
            Some(url) => Self::stored_at(url.clone()),
            None => Self::in_directory(&config.data_dir),
        }
    }

    /// A store that is open already.
    pub(crate) fn local(store: Arc<dyn StoreRead>) -> Self {
        Self::Local(Engine::new(store, LIMITS))
    }

    /// Starts a statement.
    ///
    /// # Errors
    /// It is no good, or the store cannot be asked.
    pub(crate) async fn query(&self, statement: &str, as_of: Option<DateTime<Utc>>) -> Result<Answer, SqlError> {
        match self {
            Self::Local(engine) => {
                let rows = engine.execute(statement, &[], &Options { as_of, ..Options::default() }).await?;
                let columns = rows.columns().to_vec();
                let rows = stream::try_unfold(rows, |mut rows| async move {
                    let Some(batch) = rows.next().await? else { return Ok(None) };
                    Ok(Some((cell::rows(&batch)?, rows)))
                });
                Ok(Answer { columns, rows: rows.boxed() })
            }
            Self::Remote(remote) => remote.query(statement, as_of).await,
        }
    }
}

/// Rows that come together.
pub(crate) type Rows = Vec<Vec<Cell>>;

/// What a statement gives.
pub(crate) struct Answer {
    /// The columns' names.
    pub(crate) columns: Vec<String>,
    /// The rows, pulled a chunk at a time.
    pub(crate) rows: BoxStream<'static, Result<Rows, SqlError>>,
}

impl SqlError {
    /// The status to end with.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Config(_) => Status::Usage,
            _ => Status::Failed,
        }
    }
}

/// A statement that gave no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nothing to ask.
    #[error("no store in {}: `costream run --data-dir {0}` makes one", path.display())]
    NoStore { path: PathBuf },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] costream_handler::store::StoreError),
    /// The statement is no good, or the store failed.
    #[error(transparent)]
    Statement(#[from] costream_handler::sql::SqlError),
    /// A value has no text.
    #[error("show a value of the answer")]
    Show(#[from] ArrowError),
    /// A URL that cannot be asked.
    #[error("--url, which is no handler's (http, https)")]
    Url {
        #[source]
        source: StoreUrlError,
    },
    /// The handler cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The handler said no.
    #[error("{url}: {message}")]
    Refused { url: String, message: String },
    /// The handler's answer cannot be read.
    #[error("answer of {url}")]
    Answer {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    /// A row of a kind that was not asked for.
    #[error("the store's sums are of another form than asked for")]
    Unexpected,
    /// The output is closed or full.
    #[error("print the answer")]
    Print(#[from] io::Error),
}

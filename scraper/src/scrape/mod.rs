//! A body in, batches that can be stored out: [`records`] of one snapshot, checked against what
//! was announced before the last batch is let go, or the [`series`] of somebody else's endpoint.
//! Batches are pulled by the store; whoever holds them up holds up the body.
//!
//! Peak memory: one batch and one message or line, whatever the size of the report.

pub mod series;
pub mod text;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use costream_common::fault::{self, Point};
use costream_common::record::{
    Group, GroupTotals, POINT_COLUMNS, Snapshot, Totals, TotalsError, TotalsMismatch, announced_snapshots,
};
use costream_common::stream::ipc::{IpcError, Reader};
use costream_handler::store::Batches;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::target::{Body, Form, Part, TargetError};
use series::{SeriesError, SeriesReader};
use text::{TextError, TextReader};

/// A scrape that brought nothing that may be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScrapeError {
    /// The target gave no body.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The Arrow stream is cut or malformed.
    #[error("GET {url}")]
    Arrow {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: IpcError,
    },
    /// The text is cut, malformed or not what was asked for.
    #[error("GET {url}")]
    Text {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: TextError,
    },
    /// A Prometheus target's scrape is cut, malformed or beyond a limit.
    #[error("GET {url}")]
    Series {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: SeriesError,
    },
    /// The stream does not announce the one snapshot that was asked for.
    #[error("GET {url}: {reason}")]
    Announcement {
        /// The URL without secrets.
        url: String,
        /// What it announces instead.
        reason: String,
    },
    /// A snapshot is of a kind whose rows cannot be stored as it says.
    #[error("snapshot of {scope}: {reason}")]
    Kind {
        /// The snapshot's scope and source.
        scope: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What arrived is not what was announced.
    #[error("GET {url}: {source}")]
    Totals {
        /// The URL without secrets.
        url: String,
        /// Where they differ.
        source: TotalsMismatch,
    },
    /// The totals could not be kept.
    #[error("GET {url}: {source}")]
    Uncountable {
        /// The URL without secrets.
        url: String,
        /// Why.
        source: TotalsError,
    },
    /// It took too long.
    #[error("scrape of {target} took longer than {}s", timeout.as_secs_f64())]
    TimedOut {
        /// The target's name.
        target: String,
        /// The time it was given.
        timeout: Duration,
    },
    /// The scraper is to stop.
    #[error("stopped before the whole snapshot had arrived: nothing of it is stored")]
    Shutdown,
}

impl ScrapeError {
    /// Whether the same scrape may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Target(error) => error.is_retryable(),
            Self::Arrow { source, .. } => matches!(source, IpcError::Body(_) | IpcError::Cut),
            // A snapshot may have been superseded, which the next list of them says.
            Self::Text { source, .. } => {
                matches!(
                    source,
                    TextError::Body(_) | TextError::Cut | TextError::Elsewhere { .. } | TextError::Totals(_)
                )
            }
            Self::Series { source, .. } => matches!(source, SeriesError::Body(_)),
            Self::Announcement { .. } | Self::Totals { .. } | Self::TimedOut { .. } => true,
            Self::Kind { .. } | Self::Uncountable { .. } | Self::Shutdown => false,
        }
    }

    /// What went wrong, in one of a few words.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Target(TargetError::Client(error)) if error.status().is_none() => "unreachable",
            Self::Target(TargetError::Client(_)) => "refused",
            Self::Target(TargetError::Broken { .. }) => "cut",
            Self::Target(_) => "malformed",
            Self::Arrow { source: IpcError::Body(_) | IpcError::Cut, .. } => "cut",
            Self::Text { source: TextError::Body(_) | TextError::Cut, .. } => "cut",
            Self::Text { source: TextError::Totals(_), .. } | Self::Totals { .. } => "totals",
            Self::Text { source: TextError::Elsewhere { .. }, .. } | Self::Announcement { .. } => "superseded",
            Self::Series { source: SeriesError::Body(_), .. } => "cut",
            Self::Series { source: SeriesError::Limit { .. }, .. } => "limit",
            Self::Arrow { .. } | Self::Text { .. } | Self::Series { .. } => "malformed",
            Self::Kind { .. } | Self::Uncountable { .. } => "malformed",
            Self::TimedOut { .. } => "timeout",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A part of a snapshot on its way.
pub struct Scraped {
    /// The snapshot that arrives: the one asked for, or its successor.
    pub snapshot: Snapshot,
    /// The totals of what arrives: the snapshot's, or those of its rejects.
    pub totals: Totals,
    /// The columns of every batch.
    pub schema: SchemaRef,
    /// The batches. The last one is followed by an error when the body was not whole or its totals differ.
    pub batches: Batches,
}

/// Begins to read a part of `asked`'s scope, up to its columns.
///
/// # Errors
/// The body breaks off or is not what was asked for.
pub async fn records(
    part: Part,
    body: Body,
    asked: &Snapshot,
    shutdown: CancellationToken,
) -> Result<Scraped, ScrapeError> {
    let Body { url, form, chunks, .. } = body;
    let (pull, snapshot, schema) = match form {
        Form::Arrow => {
            let reader =
                Reader::open(chunks).await.map_err(|source| ScrapeError::Arrow { url: url.clone(), source })?;
            let snapshot = announced(&url, &reader.schema(), asked)?;
            let schema = reader.schema();
            (Pull::Arrow(Box::new(reader)), snapshot, schema)
        }
        Form::Text(format) => {
            let reader = TextReader::open(format, chunks, asked);
            let reader = reader.await.map_err(|source| ScrapeError::Text { url: url.clone(), source })?;
            let schema = reader.schema();
            (Pull::Text(Box::new(reader)), asked.clone(), schema)
        }
    };
    let totals = totals(part, &snapshot);
    let arriving = Arriving { pull, url, announced: totals.clone(), arrived: Totals::default() };
    Ok(Scraped { snapshot, totals, schema, batches: until(shutdown, arriving) })
}

impl Scraped {
    /// Of points only their own columns: a row of theirs belongs to no snapshot. The totals stay, since they are of rows.
    ///
    /// # Errors
    /// A column is not there.
    pub fn of_points(self) -> Result<Self, ArrowError> {
        let places = POINT_COLUMNS.iter().map(|(name, _)| self.schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let schema = Arc::new(self.schema.project(&places)?);
        let batches = self.batches.map(move |batch| Ok(batch?.project(&places)?)).boxed();
        Ok(Self { schema, batches, ..self })
    }
}

/// The totals of a part of a snapshot. Rejects are counted and have no sums.
fn totals(part: Part, snapshot: &Snapshot) -> Totals {
    match part {
        Part::Records => snapshot.totals.clone(),
        Part::Rejects => {
            let mut totals = Totals::default();
            if snapshot.rejected > 0 {
                let group = Group { billing_period: None, currency: None };
                totals.add_group(group, &GroupTotals { rows: snapshot.rejected, ..GroupTotals::default() });
            }
            totals
        }
    }
}

/// The one snapshot that an Arrow stream announces: of the scope asked for, and no older.
fn announced(url: &str, schema: &SchemaRef, asked: &Snapshot) -> Result<Snapshot, ScrapeError> {
    let wrong = |reason: String| ScrapeError::Announcement { url: url.to_owned(), reason };
    let snapshots =
        announced_snapshots(schema).map_err(|error| wrong(format!("its announcement cannot be read: {error}")))?;
    let snapshot = match snapshots.as_deref() {
        Some([snapshot]) => snapshot.clone(),
        Some(several) => return Err(wrong(format!("announces {} snapshots, one was asked for", several.len()))),
        None => return Err(wrong("announces no snapshot".to_owned())),
    };
    if snapshot.key != asked.key {
        return Err(wrong(format!("announces {}, not {}", snapshot.key, asked.key)));
    }
    if snapshot.snapshot < asked.snapshot {
        return Err(wrong(format!("announces snapshot {}, older than {}", snapshot.snapshot, asked.snapshot)));
    }
    Ok(snapshot)
}

/// The batches of a Prometheus target's scrape.
pub fn series_batches(url: String, reader: SeriesReader, shutdown: CancellationToken) -> Batches {
    until(
        shutdown,
        Arriving {
            pull: Pull::Series(Box::new(reader)),
            url,
            announced: Totals::default(),
            arrived: Totals::default(),
        },
    )
}

enum Pull {
    Arrow(Box<Reader>),
    Text(Box<TextReader>),
    Series(Box<SeriesReader>),
}

/// A body, and what has been counted of it.
struct Arriving {
    pull: Pull,
    url: String,
    announced: Totals,
    arrived: Totals,
}

impl Arriving {
    async fn next(&mut self) -> Result<Option<RecordBatch>, ScrapeError> {
        let url = || self.url.clone();
        let batch = match &mut self.pull {
            Pull::Arrow(reader) => reader.next().await.map_err(|source| ScrapeError::Arrow { url: url(), source })?,
            Pull::Text(reader) => reader.next().await.map_err(|source| ScrapeError::Text { url: url(), source })?,
            // A scrape without a snapshot announces nothing; it was found whole before.
            Pull::Series(reader) => {
                return reader.next().await.map_err(|source| ScrapeError::Series { url: url(), source });
            }
        };
        match &batch {
            Some(batch) => {
                fault::point(Point::BetweenBatches);
                self.arrived.add_batch(batch).map_err(|source| ScrapeError::Uncountable { url: url(), source })?;
            }
            None => self.arrived.check(&self.announced).map_err(|source| ScrapeError::Totals { url: url(), source })?,
        }
        Ok(batch)
    }
}

/// The batches as a stream that ends with an error as soon as the scraper is to stop: a store
/// then drops what it has of them, and commits nothing.
fn until(shutdown: CancellationToken, arriving: Arriving) -> Batches {
    futures::stream::unfold(Some(arriving), move |arriving| {
        let shutdown = shutdown.clone();
        async move {
            let mut arriving = arriving?;
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => Err(ScrapeError::Shutdown),
                next = arriving.next() => next,
            };
            match next {
                Ok(Some(batch)) => Some((Ok(batch), Some(arriving))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    })
    .boxed()
}

/// The scrape's own error behind a store's: what the store says of a delivery that was cut is
/// that it was cut.
pub fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a ScrapeError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<ScrapeError>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

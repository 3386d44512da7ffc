//! Where what was scraped goes: a handler in this process, or one asked over HTTP. Both pull the
//! batches, so that a slow store slows the target, and both answer when the store has committed.
//!
//! Over HTTP a delivery is one `POST /upload` whose body, an Arrow IPC stream, is encoded batch by batch as the
//! handler takes it; holds one batch. A delivery that fails on its way ends the body without its
//! end mark, and nothing of it is stored.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use costream_common::http::client::{Access, Answer, Ask, Client, ClientError, public_url};
use costream_common::record::{SNAPSHOTS_METADATA, ScopeKey, Snapshot, SnapshotId, Totals};
use costream_common::stream::ipc::{self, Writer};
use costream_handler::ident::TableName;
use costream_handler::ingest::{Ingest, IngestError, Receipt};
use costream_handler::store::{BatchError, Batches, Delivery, Upsert};
use futures::{Stream, StreamExt as _};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::config::HandlerAccess;

/// How long a handler may take nothing of a delivery, or go on storing what it has taken.
const STALLED: Duration = Duration::from_secs(600);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The largest receipt or error text worth reading, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// As much of a handler's error text as ours repeats, in characters.
const MAX_SHOWN: usize = 300;

/// Where batches go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Into a store of this process.
    InProcess(Ingest),
    /// To a handler.
    Http(HttpSink),
}

/// A delivery that was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The store of this process did not take it.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The batches ended with an error.
    #[error("delivery to table {table} was cut")]
    Cut {
        /// The table.
        table: String,
        /// What the scrape said.
        #[source]
        source: BatchError,
    },
    /// The request could not be made, or the handler did not answer it as asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The handler could not be reached, or broke off.
    #[error("POST {url}")]
    Send {
        /// The URL without secrets.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The handler refused.
    #[error("POST {url}: {status}{text}")]
    Refused {
        /// The URL without secrets.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What it said, cut.
        text: String,
        /// Whether it said that another try may go well.
        retryable: bool,
        /// The wait it asked for.
        retry_after: Option<Duration>,
    },
    /// The handler took nothing for [`STALLED`].
    #[error("POST {url}: nothing has moved for {}s", STALLED.as_secs())]
    Stalled {
        /// The URL without secrets.
        url: String,
    },
    /// The answer is no receipt.
    #[error("POST {url}: the answer is no receipt")]
    Receipt {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl SinkError {
    /// Whether the same delivery may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Ingest(error) => error.is_retryable(),
            Self::Client(error) => error.is_retryable(),
            Self::Refused { retryable, .. } => *retryable,
            Self::Cut { .. } | Self::Send { .. } | Self::Stalled { .. } => true,
            Self::Receipt { .. } => false,
        }
    }

    /// The wait the handler asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Client(error) => error.retry_after(),
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Sink {
    /// The snapshot that a scope has in a table.
    ///
    /// # Errors
    /// The store or the handler could not be asked.
    pub async fn committed(&self, table: &TableName, key: &ScopeKey) -> Result<Option<SnapshotId>, SinkError> {
        match self {
            Self::InProcess(ingest) => Ok(ingest.committed(table, key).await?),
            Self::Http(sink) => sink.0.committed(table, key).await,
        }
    }

    /// Puts a snapshot in the place of its scope's rows; `totals` are those of the batches.
    ///
    /// # Errors
    /// It was not stored.
    pub async fn deliver(
        &self,
        table: TableName,
        snapshot: Snapshot,
        totals: Totals,
        schema: SchemaRef,
        batches: Batches,
    ) -> Result<Receipt, SinkError> {
        match self {
            Self::InProcess(ingest) => {
                let delivery = Delivery { table, key: snapshot.key, snapshot: snapshot.snapshot, schema, batches };
                Ok(ingest.deliver(delivery, Some(totals)).await?)
            }
            Self::Http(sink) => sink.0.deliver(&table, Snapshot { totals, ..snapshot }, &schema, batches).await,
        }
    }

    /// Stores rows by key.
    ///
    /// # Errors
    /// They were not stored.
    pub async fn upsert(&self, upsert: Upsert) -> Result<Receipt, SinkError> {
        match self {
            Self::InProcess(ingest) => Ok(ingest.upsert(upsert).await?),
            Self::Http(sink) => sink.0.upsert(upsert).await,
        }
    }
}

/// A handler that is asked over HTTP. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpSink(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    url: Url,
    client: Client,
    uploads: Client,
}

#[derive(Deserialize)]
struct CommittedAnswer {
    snapshot: Option<SnapshotId>,
}

/// How a handler says no.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    retryable: Option<bool>,
}

impl HttpSink {
    /// Prepares the connection, and makes none.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or a header's name is none.
    pub fn new(config: &HandlerAccess) -> Result<Self, ClientError> {
        let mut url = config.url.clone();
        let mut access: Access = config.access();
        access.take_userinfo(&mut url);
        let (client, uploads) = (Client::new(access.clone())?, Client::uploading(access)?);
        Ok(Self(Arc::new(Connection { url, client, uploads })))
    }
}

impl Connection {
    async fn committed(&self, table: &TableName, key: &ScopeKey) -> Result<Option<SnapshotId>, SinkError> {
        let mut url = self.below("upload/committed");
        url.query_pairs_mut()
            .append_pair("table", table.as_str())
            .append_pair("source", key.source.as_str())
            .append_pair("scope", key.scope.as_str());
        let shown = public_url(&url);
        // Nothing was asked conditionally, so there is an answer or an error.
        let Answer::Fresh(fresh) =
            self.client.get(&url, Ask { accept: Some("application/json"), ..Ask::default() }).await?
        else {
            return Ok(None);
        };
        let json = bounded(fresh.into_stream()).await?;
        let answer: CommittedAnswer =
            serde_json::from_slice(&json).map_err(|source| SinkError::Receipt { url: shown, source })?;
        Ok(answer.snapshot)
    }

    async fn deliver(
        &self,
        table: &TableName,
        snapshot: Snapshot,
        schema: &SchemaRef,
        batches: Batches,
    ) -> Result<Receipt, SinkError> {
        let mut url = self.below("upload");
        url.query_pairs_mut()
            .append_pair("table", table.as_str())
            .append_pair("source", snapshot.key.source.as_str())
            .append_pair("scope", snapshot.key.scope.as_str())
            .append_pair("snapshot", &snapshot.snapshot.to_string());
        let announced = serde_json::to_string(&[snapshot])
            .map_err(|source| SinkError::Receipt { url: public_url(&url), source })?;
        let schema =
            Schema::new_with_metadata(schema.fields().clone(), [(SNAPSHOTS_METADATA.to_owned(), announced)].into());
        self.post(url, table, schema, batches).await
    }

    async fn upsert(&self, upsert: Upsert) -> Result<Receipt, SinkError> {
        let mut url = self.below("upload");
        let key: Vec<&str> = upsert.key.iter().map(|column| column.as_str()).collect();
        url.query_pairs_mut().append_pair("table", upsert.table.as_str()).append_pair("key", &key.join(","));
        let schema = Schema::new(upsert.schema.fields().clone());
        self.post(url, &upsert.table, schema, upsert.batches).await
    }

    async fn post(&self, url: Url, table: &TableName, schema: Schema, batches: Batches) -> Result<Receipt, SinkError> {
        let shown = public_url(&url);
        let progress = Progress::default();
        let body = Body::wrap_stream(encoded(schema, batches, progress.clone()));
        let request =
            self.uploads.request(Method::POST, &url).await?.header(CONTENT_TYPE, ipc::CONTENT_TYPE).body(body);
        let answered = tokio::select! {
            answered = request.send() => answered,
            () = progress.stalled() => return Err(SinkError::Stalled { url: shown }),
        };
        // Why the body was not whole says more than what became of the connection.
        if let Some(source) = progress.cut() {
            return Err(SinkError::Cut { table: table.to_string(), source });
        }
        let response =
            answered.map_err(|source| SinkError::Send { url: shown.clone(), source: source.without_url() })?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        let failed = |source: reqwest::Error| SinkError::Send { url: shown.clone(), source: source.without_url() };
        let answer = bounded(response.bytes_stream().map(|chunk| chunk.map_err(failed))).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&answer).map_err(|source| SinkError::Receipt { url: shown, source });
        }
        let Refusal { error, retryable } = serde_json::from_slice(&answer)
            .unwrap_or_else(|_| Refusal { error: String::from_utf8_lossy(&answer).trim().to_owned(), retryable: None });
        let text: String = error.chars().take(MAX_SHOWN).collect();
        let text = if text.is_empty() { text } else { format!(": {text}") };
        let by_status = matches!(status.as_u16(), 408 | 425 | 429)
            || (status.is_server_error() && !matches!(status.as_u16(), 501 | 505));
        Err(SinkError::Refused { url: shown, status, text, retryable: retryable.unwrap_or(by_status), retry_after })
    }

    fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        url
    }
}

/// What an upload has come to, shared between the body and whoever waits for the answer.
#[derive(Clone)]
struct Progress(Arc<Mutex<State>>);

struct State {
    moved: Instant,
    cut: Option<BatchError>,
}

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { moved: Instant::now(), cut: None })))
    }
}

impl Progress {
    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        use_state(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn moved(&self) {
        self.with(|state| state.moved = Instant::now());
    }

    fn cut(&self) -> Option<BatchError> {
        self.with(|state| state.cut.take())
    }

    /// Waits until nothing has moved for too long.
    async fn stalled(&self) {
        while self.with(|state| state.moved.elapsed()) < STALLED {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The batches as chunks of a body: the schema first, the end mark last, unless they end with an
/// error, which is kept aside.
fn encoded(
    schema: Schema,
    batches: Batches,
    progress: Progress,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    enum Next {
        Schema(Schema),
        Batch(Box<Writer>),
        Nothing,
    }
    futures::stream::unfold((Next::Schema(schema), batches, progress), |(next, mut batches, progress)| async move {
        let made: Result<Option<(Bytes, Next)>, BatchError> = async {
            let mut writer = match next {
                Next::Schema(schema) => {
                    let mut writer = Writer::new(&schema, None)?;
                    return Ok(Some((writer.take(), Next::Batch(Box::new(writer)))));
                }
                Next::Batch(writer) => writer,
                Next::Nothing => return Ok(None),
            };
            match batches.next().await.transpose()? {
                Some(batch) => Ok(Some((writer.write(&batch)?, Next::Batch(writer)))),
                None => Ok(Some((writer.finish()?, Next::Nothing))),
            }
        }
        .await;
        progress.moved();
        match made {
            Ok(made) => made.map(|(chunk, next)| (Ok(chunk), (next, batches, progress))),
            Err(error) => {
                progress.with(|state| state.cut = Some(error));
                Some((Err(std::io::Error::other("the delivery was cut")), (Next::Nothing, batches, progress)))
            }
        }
    })
}

/// A small body, whole. What is beyond the bound is left out.
async fn bounded<E>(chunks: impl Stream<Item = Result<Bytes, E>>) -> Result<Vec<u8>, E> {
    let mut chunks = pin!(chunks);
    let mut body = Vec::new();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() >= MAX_ANSWER_BYTES {
            body.truncate(MAX_ANSWER_BYTES);
            break;
        }
    }
    Ok(body)
}

/// The wait asked for, when it is a number of seconds, which is what a handler sends.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

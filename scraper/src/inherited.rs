//! A scraper of an inherited configuration: an exporter's text in, uploads of JSON to the handler at
//! `URL_DB_WEBSERVICE` out, as the scraper that is replaced sends them: records of labels, value and time, with the
//! database's user and password. Each batch is acknowledged before the next is read, so that a slow handler slows the
//! exporter; what may go well a little later is tried again. What a cycle that failed has uploaded already stays, and
//! is uploaded again: handlers keep such rows by their keys.
//!
//! Credentials are read anew for each cycle, and once more when they are turned down. Takes the
//! samples that are rows, and not what an exporter says of itself, and leaves out those that are no number. Memory: one batch, at most
//! [`MAX_BATCH_RECORDS`] records or about [`MAX_BATCH_BYTES`], and a chunk of the text.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use bytes::Bytes;
use costream_common::exposition::Format;
use costream_common::exposition::decode::{DecodeError, Decoder, Entry, Limits, Sample};
use costream_common::exposition::escape::unescape_name;
use costream_common::http::client::{Access, Answer, Ask, BasicAuth, Client, ClientError, Fresh, Method, public_url};
use costream_common::inherited::{
    Call, CallError, Inherited, Login, MetricType, ObjectRef, Resolved, ResourceError, Resources, ScraperPart,
};
use costream_common::report::one_line;
use costream_common::secret::{Held, SecretSource};
use costream_common::stream::backoff::{Waits, jittered};
use futures::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::FIRST_WAIT;
use crate::telemetry::{Measured, Telemetry};

/// Where the handler is.
pub const HANDLER: &str = "URL_DB_WEBSERVICE";
/// Most records of one upload.
const MAX_BATCH_RECORDS: usize = 1_000;
/// About the largest upload, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How long one upload is tried again.
const RETRY_FOR: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// As much of a handler's error text as ours repeats, in characters.
const MAX_SHOWN: usize = 300;
/// The largest answer worth reading, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// The metric of cost rows, and the label that usage rows have.
const COSTS: &str = "billed_cost";
const RESOURCE_ID: &str = "ResourceId";

/// An inherited configuration that a scraper cannot follow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritedError {
    /// It has nothing to scrape.
    #[error("it has neither a scraperConfig nor an exporter: there is nothing to scrape")]
    Nothing,
    /// It does not say where the exporter is.
    #[error("table {0}: it has neither `api` nor `url`: where the exporter is, is not known")]
    NoExporter(String),
    /// It does not say who stores.
    #[error("table {0}: it refers to no DatabaseConfig: as whom to upload, is not known")]
    NoDatabase(String),
    /// Nobody says where the handler is.
    #[error("environment variable {HANDLER} is not set: it says where the handler is")]
    NoHandler,
    /// It is no URL.
    #[error("environment variable {HANDLER} is no URL of http or https")]
    Handler,
}

/// Why a cycle failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The exporter cannot be asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The exporter did not answer.
    #[error(transparent)]
    Exporter(ClientError),
    /// It answered with something else than an exposition.
    #[error("{of}")]
    Exposition {
        /// The exporter.
        of: String,
        /// Where it goes wrong.
        #[source]
        source: DecodeError,
    },
    /// The database's user is not known.
    #[error(transparent)]
    Database(#[from] ResourceError),
    /// The handler cannot be asked.
    #[error(transparent)]
    Client(ClientError),
    /// The handler did not take it.
    #[error("POST {url}: {status}{text}")]
    Refused {
        /// The URL.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What it said, cut.
        text: String,
        /// The wait it asked for.
        retry_after: Option<Duration>,
    },
}

impl UploadError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Refused { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) | Self::Exporter(_) => "unreachable",
            Self::Exposition { .. } => "malformed",
            _ => "store",
        }
    }
}

/// Scrapes and uploads. Cheap to clone.
#[derive(Clone)]
pub struct Uploader {
    parts: Arc<Vec<Arc<Part>>>,
    telemetry: Arc<Telemetry>,
}

/// One table, and where its rows come from.
struct Part {
    call: Call,
    database: ObjectRef,
    table: String,
    metric_type: MetricType,
    interval: Duration,
    url: Url,
    resources: Resources,
}

/// What a cycle came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Records that the handler has acknowledged.
    pub records: u64,
    /// Samples that are no number, and were left out.
    pub left_out: u64,
    received_bytes: u64,
}

impl Uploader {
    /// Prepares the tables, and asks nobody.
    ///
    /// # Errors
    /// The configuration does not say from where, to where or as whom.
    pub fn new(inherited: &Inherited, handler: Option<&str>) -> Result<Self, InheritedError> {
        let handler: Url = handler.ok_or(InheritedError::NoHandler)?.parse().map_err(|_| InheritedError::Handler)?;
        if !matches!(handler.scheme(), "http" | "https") {
            return Err(InheritedError::Handler);
        }
        let part = |part: &ScraperPart| {
            let ScraperPart { call, table, metric_type, interval, database } = part.clone();
            Ok(Arc::new(Part {
                call: call.ok_or_else(|| InheritedError::NoExporter(table.clone()))?,
                database: database.ok_or_else(|| InheritedError::NoDatabase(table.clone()))?,
                url: upload_url(&handler, &table, &metric_type),
                table,
                metric_type,
                interval,
                resources: inherited.resources.for_one(),
            }))
        };
        let parts = inherited.scrapers.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        if parts.is_empty() {
            return Err(InheritedError::Nothing);
        }
        Ok(Self { parts: Arc::new(parts), telemetry: Arc::new(Telemetry::new()) })
    }

    /// One cycle of every table.
    pub async fn cycle_once(&self) -> Vec<Result<Uploaded, UploadError>> {
        futures::future::join_all(self.parts.iter().map(|part| part.measured(&self.telemetry))).await
    }

    /// Cycle after cycle of every table, each at its own pace, until told to stop; a cycle under way is then dropped.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tables = JoinSet::new();
        for part in self.parts.iter() {
            let (part, telemetry, shutdown) = (Arc::clone(part), Arc::clone(&self.telemetry), shutdown.clone());
            tables.spawn(async move { shutdown.run_until_cancelled(part.keep_on(&telemetry)).await });
        }
        tables.join_all().await;
    }

    /// The scraper's own `/metrics`, `/-/healthy` and `/-/ready`.
    pub fn router(&self) -> Router {
        crate::routes(Arc::clone(&self.telemetry))
    }
}

/// `POST /upload?table=T&type=cost`, below the handler's address.
fn upload_url(handler: &Url, table: &str, metric_type: &MetricType) -> Url {
    let mut url = handler.clone();
    url.set_path(&format!("{}/upload", handler.path().trim_end_matches('/')));
    url.query_pairs_mut().append_pair("table", table).append_pair("type", metric_type.as_str());
    if let MetricType::Generic(generic) = metric_type {
        url.query_pairs_mut().append_pair("value", &generic.value_column_index.to_string());
    }
    url
}

impl Part {
    async fn keep_on(&self, telemetry: &Telemetry) {
        let mut failed = Waits::new(FIRST_WAIT.min(self.interval), self.interval, None);
        loop {
            let started = Instant::now();
            self.resources.forget();
            match self.measured(telemetry).await {
                Ok(Uploaded { records, left_out, .. }) => {
                    tracing::info!(table = self.table, records, left_out, "uploaded");
                    failed.reset();
                    sleep(jittered(self.interval).saturating_sub(started.elapsed())).await;
                }
                Err(error) => {
                    tracing::warn!(table = self.table, error = one_line(&error), "not all of it is uploaded");
                    let asked = error.retry_after();
                    tokio::select! {
                        () = sleep(failed.next(asked).unwrap_or(self.interval)) => {}
                        () = self.resources.changed(), if asked.is_none() => {
                            tracing::info!(table = self.table, "a resource that it was asked with has changed: again at once");
                        }
                    }
                }
            }
        }
    }

    async fn measured(&self, telemetry: &Telemetry) -> Result<Uploaded, UploadError> {
        let started = Instant::now();
        let mut uploaded = Uploaded::default();
        let result = self.cycle(&mut uploaded).await;
        telemetry.record(
            &self.call.shown(),
            &Measured {
                up: result.is_ok(),
                seconds: started.elapsed().as_secs_f64(),
                received_bytes: uploaded.received_bytes,
                lag_seconds: 0.0,
                pending: 0,
                rows: vec![(&self.table, uploaded.records)],
                failures: result.as_ref().err().map(UploadError::reason).into_iter().collect(),
                now: since_the_epoch().as_secs_f64(),
            },
        );
        result.map(|()| uploaded)
    }

    async fn cycle(&self, uploaded: &mut Uploaded) -> Result<(), UploadError> {
        let exposition = self.scrape().await?;
        let of = exposition.url().to_owned();
        let format = Format::of_content_type(exposition.header(&CONTENT_TYPE).unwrap_or_default());
        let malformed = |source| UploadError::Exposition { of: format!("GET {of}"), source };
        let mut decoder = Decoder::new(format, Limits::default());
        let mut batch = Batch::new();
        let mut handler = self.handler().await?;
        let mut chunks = Box::pin(exposition.into_stream());
        while let Some(chunk) = chunks.next().await.transpose().map_err(UploadError::Exporter)? {
            uploaded.received_bytes += chunk.len() as u64;
            let mut rest: &[u8] = &chunk;
            while let Some(entry) = decoder.decode(&mut rest).map_err(malformed)? {
                self.take(&entry, &mut batch, uploaded);
                if batch.is_full() {
                    self.upload(&mut handler, &mut batch, uploaded).await?;
                }
            }
        }
        if let Some(entry) = decoder.finish().map_err(malformed)? {
            self.take(&entry, &mut batch, uploaded);
        }
        if batch.records > 0 {
            self.upload(&mut handler, &mut batch, uploaded).await?;
        }
        Ok(())
    }

    /// Adds what is a row, and a number.
    fn take(&self, entry: &Entry<'_>, batch: &mut Batch, uploaded: &mut Uploaded) {
        let Entry::Sample(sample) = entry else { return };
        let is_row = match &self.metric_type {
            MetricType::Cost => sample.name == COSTS,
            // An exporter may have both, and charges have resources too.
            MetricType::Resource => sample.name != COSTS && sample.labels.get(RESOURCE_ID).is_some(),
            MetricType::Generic(generic) => unescape_name(sample.name) == generic.metric_name,
        };
        if is_row {
            let before = batch.json.len();
            match batch.write(sample) {
                Some(()) => batch.records += 1,
                None => {
                    batch.json.truncate(before);
                    uploaded.left_out += 1;
                }
            }
        }
    }

    /// What the exporter has; with credentials read anew when it turned down those before.
    async fn scrape(&self) -> Result<Fresh, UploadError> {
        let mut turned_down = false;
        loop {
            let Resolved { url, access, proxy, .. } = self.call.resolve(&self.resources).await?;
            let client = match &proxy {
                Some(proxy) => Client::through(access, proxy),
                None => Client::new(access),
            };
            let client = client.map_err(UploadError::Exporter)?;
            if client.is_insecure() {
                tracing::warn!(exporter = self.call.shown(), "insecure: whoever answers is believed");
            }
            let Call { verb, payload, .. } = &self.call;
            let is_get = *verb == Method::GET && payload.is_empty();
            let ask = Ask { request: (!is_get).then_some((verb, payload.as_str())), ..Ask::default() };
            match client.get(&url, ask).await {
                Ok(Answer::Fresh(fresh)) => return Ok(fresh),
                // Without a condition there is no such answer; the next cycle asks again.
                Ok(Answer::Unchanged) => continue,
                Err(error) if !turned_down && error.status() == Some(StatusCode::UNAUTHORIZED) => turned_down = true,
                Err(error) => return Err(UploadError::Exporter(error)),
            }
        }
    }

    /// The handler, as the database's user.
    async fn handler(&self) -> Result<Client, UploadError> {
        let Login { username, password } = self.resources.login(&self.database).await?;
        let login = BasicAuth { username, password: SecretSource::Held(Held(password)) };
        Client::uploading(Access { basic_auth: Some(login), ..Access::default() }).map_err(UploadError::Client)
    }

    /// Uploads a batch until it is acknowledged, and empties it.
    async fn upload(
        &self,
        handler: &mut Client,
        batch: &mut Batch,
        uploaded: &mut Uploaded,
    ) -> Result<(), UploadError> {
        let (body, records) = batch.end();
        let mut waits = Waits::new(FIRST_RETRY, LONGEST_RETRY, Some(RETRY_FOR));
        let mut turned_down = false;
        loop {
            let error = match self.try_upload(handler, body.clone()).await {
                Ok(()) => break,
                Err(UploadError::Refused { status: StatusCode::UNAUTHORIZED, .. }) if !turned_down => {
                    turned_down = true;
                    *handler = self.handler().await?;
                    continue;
                }
                Err(error) => error,
            };
            match waits.next(error.retry_after()).filter(|_| error.is_retryable()) {
                Some(wait) => {
                    tracing::debug!(table = self.table, error = one_line(&error), ?wait, "tries again");
                    sleep(wait).await;
                }
                None => return Err(error),
            }
        }
        uploaded.records += records;
        Ok(())
    }

    async fn try_upload(&self, handler: &Client, body: Bytes) -> Result<(), UploadError> {
        let request = handler.request(Method::POST, &self.url).await.map_err(UploadError::Client)?;
        let sent = request.header(CONTENT_TYPE, "application/json").body(body).send().await;
        let response = sent.map_err(|error| UploadError::Client(ClientError::unanswered(&self.url, error)))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(());
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let mut said = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            said.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - said.len())]);
            if said.len() == MAX_ANSWER_BYTES {
                break;
            }
        }
        let said: String = String::from_utf8_lossy(&said).trim().chars().take(MAX_SHOWN).collect();
        Err(UploadError::Refused {
            url: public_url(&self.url),
            status,
            text: if said.is_empty() { said } else { format!(": {said}") },
            retry_after: retry_after.map(Duration::from_secs),
        })
    }
}

/// An upload being made.
struct Batch {
    json: Vec<u8>,
    records: u64,
    seconds: u64,
}

impl Batch {
    fn new() -> Self {
        Self { json: vec![b'['], records: 0, seconds: since_the_epoch().as_secs() }
    }

    fn is_full(&self) -> bool {
        self.records >= MAX_BATCH_RECORDS as u64 || self.json.len() >= MAX_BATCH_BYTES
    }

    /// `{"labels":{...},"value":1.2,"timestamp":1700000000}`, the value as it was written.
    fn write(&mut self, sample: &Sample<'_>) -> Option<()> {
        let value = match serde_json::from_str::<&RawValue>(sample.value) {
            Ok(number) if sample.value.parse::<f64>().is_ok_and(f64::is_finite) => number.get().to_owned(),
            _ => Some(sample.value.parse::<f64>().ok()?).filter(|value| value.is_finite())?.to_string(),
        };
        let seconds = match sample.timestamp_ms {
            Some(ms) => ms.div_euclid(1000),
            None => i64::try_from(self.seconds).ok()?,
        };
        let json = &mut self.json;
        json.extend_from_slice(if self.records == 0 { b"{\"labels\":{" } else { b",{\"labels\":{" });
        for (nth, (name, text)) in sample.labels.iter().enumerate() {
            if nth > 0 {
                json.push(b',');
            }
            serde_json::to_writer(&mut *json, unescape_name(name).as_ref()).ok()?;
            json.push(b':');
            serde_json::to_writer(&mut *json, text).ok()?;
        }
        json.extend_from_slice(format!("}},\"value\":{value},\"timestamp\":{seconds}}}").as_bytes());
        Some(())
    }

    /// The body, and how many records it has; the next one begins.
    fn end(&mut self) -> (Bytes, u64) {
        let mut json = std::mem::replace(&mut self.json, vec![b'[']);
        json.push(b']');
        (json.into(), std::mem::take(&mut self.records))
    }
}

fn since_the_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;

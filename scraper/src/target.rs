//! A target: what it is asked, and its answers as bodies that arrive while they are read. Each
//! request is made once; [`crate::cycle`] says when there is another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use costream_common::exposition::Format;
use costream_common::http::client::{Answer, Ask, Client, ClientError, Fresh, Validators, public_url};
use costream_common::record::{ScopeKey, Snapshot};
use costream_common::stream::ipc::{self, BodyError};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};
use url::Url;

use crate::config::{Records, TargetConfig};

/// The largest list of snapshots worth reading, in bytes: a few hundred for each billing period.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// Bytes decompressed at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// What Prometheus itself sends, less the forms that only it reads.
const ACCEPT_METRICS: &str = "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const ACCEPT_TEXT: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
const COMPRESSED: &str = "zstd, gzip;q=0.5";

/// An answer that is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There was none.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A body is compressed in a way that was not asked for.
    #[error("GET {url}: unknown content encoding {encoding:?}")]
    Encoding {
        /// The URL without secrets.
        url: String,
        /// What the answer said.
        encoding: String,
    },
    /// A body is of another type than asked for.
    #[error("GET {url}: content type {found:?} is neither an arrow stream nor an exposition")]
    Type {
        /// The URL without secrets.
        url: String,
        /// What the answer said.
        found: String,
    },
    /// The list of snapshots is too large.
    #[error("GET {url}: larger than {MAX_INDEX_BYTES} bytes")]
    TooLarge {
        /// The URL without secrets.
        url: String,
    },
    /// The list of snapshots broke off.
    #[error("GET {url}: broke off")]
    Broken {
        /// The URL without secrets.
        url: String,
        /// What went wrong.
        #[source]
        source: BodyError,
    },
    /// The list of snapshots is none.
    #[error("GET {url}: no list of snapshots: is it an exporter of costream?")]
    Index {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl TargetError {
    /// Whether the same request may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Broken { .. } => true,
            _ => false,
        }
    }
}

/// What of a snapshot is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The rows that were refused.
    Rejects,
    /// The rows that were taken.
    Records,
}

impl Part {
    /// The path below the exporter's address.
    fn path(self) -> &'static str {
        match self {
            Self::Rejects => "rejects",
            Self::Records => "records",
        }
    }
}

/// A body that has begun to arrive, decompressed.
pub struct Body {
    /// Where it comes from, without secrets.
    pub url: String,
    /// How it is to be read.
    pub form: Form,
    /// What to ask with the next time.
    pub validators: Validators,
    /// The bytes.
    pub chunks: BoxStream<'static, Result<Bytes, BodyError>>,
}

/// A body's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An Arrow IPC stream.
    Arrow,
    /// An exposition.
    Text(Format),
}

/// A target, and the connection to it.
#[derive(Debug)]
pub struct Target {
    name: String,
    url: Url,
    client: Client,
    records: Records,
    /// Bytes received, as they were on the wire.
    received: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Index {
    snapshots: Vec<Snapshot>,
}

impl Target {
    /// Prepares the connection, and makes none.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or a header's name is none.
    pub fn new(config: &TargetConfig) -> Result<Self, ClientError> {
        let mut url = config.url.clone();
        let mut access = config.access();
        access.take_userinfo(&mut url);
        Ok(Self {
            name: config.name(),
            url,
            client: Client::new(access)?,
            records: config.records,
            received: Arc::default(),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes received so far, as they were on the wire.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// An exporter's snapshots; nothing when they are still those of `validators`.
    ///
    /// # Errors
    /// There is no answer, or it is no list of snapshots.
    pub async fn snapshots(
        &self,
        validators: Option<&Validators>,
    ) -> Result<Option<(Vec<Snapshot>, Validators)>, TargetError> {
        let url = self.below("snapshots", None);
        let ask =
            Ask { accept: Some("application/json"), accept_encoding: self.compression(), validators, request: None };
        let Some(mut body) = self.ask(&url, ask, |_| Some(Form::Arrow)).await? else { return Ok(None) };
        let mut json = Vec::new();
        while let Some(chunk) = body.chunks.next().await {
            let chunk = chunk.map_err(|source| TargetError::Broken { url: body.url.clone(), source })?;
            if json.len() + chunk.len() > MAX_INDEX_BYTES {
                return Err(TargetError::TooLarge { url: body.url });
            }
            json.extend_from_slice(&chunk);
        }
        let index: Index =
            serde_json::from_slice(&json).map_err(|source| TargetError::Index { url: body.url, source })?;
        Ok(Some((index.snapshots, body.validators)))
    }

    /// A part of a scope's snapshot: as Arrow when that is to be had, which the rejects are
    /// always.
    ///
    /// # Errors
    /// There is no answer, or of another form.
    pub async fn scope(&self, part: Part, key: &ScopeKey) -> Result<Body, TargetError> {
        let url = self.below(part.path(), Some(key));
        let arrow = |media: &str| (media == ipc::CONTENT_TYPE).then_some(Form::Arrow);
        if part == Part::Rejects || self.records == Records::Arrow {
            let ask = Ask { accept: Some(ipc::CONTENT_TYPE), accept_encoding: self.compression(), ..Ask::default() };
            match self.ask(&url, ask, arrow).await {
                Ok(body) => return body.ok_or_else(|| unasked(&url)),
                Err(TargetError::Client(error))
                    if part == Part::Records && error.status() == Some(StatusCode::NOT_ACCEPTABLE) =>
                {
                    tracing::debug!(target = self.name, "no arrow stream to be had, asking for text");
                }
                Err(error) => return Err(error),
            }
        }
        let ask = Ask { accept: Some(ACCEPT_TEXT), accept_encoding: self.compression(), ..Ask::default() };
        let text = |media: &str| {
            ["text/plain", "application/openmetrics-text"]
                .contains(&media)
                .then_some(Form::Text(Format::of_content_type(media)))
        };
        self.ask(&url, ask, text).await?.ok_or_else(|| unasked(&url))
    }

    /// A Prometheus endpoint's metrics; nothing when they are still those of `validators`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn metrics(&self, validators: Option<&Validators>) -> Result<Option<Body>, TargetError> {
        let ask = Ask { accept: Some(ACCEPT_METRICS), accept_encoding: Some("gzip"), validators, request: None };
        self.ask(&self.url, ask, |media| Some(Form::Text(Format::of_content_type(media)))).await
    }

    async fn ask(
        &self,
        url: &Url,
        ask: Ask<'_>,
        form: impl FnOnce(&str) -> Option<Form>,
    ) -> Result<Option<Body>, TargetError> {
        let Answer::Fresh(fresh) = self.client.get(url, ask).await? else { return Ok(None) };
        let url = fresh.url().to_owned();
        let found = fresh.header(&CONTENT_TYPE).unwrap_or_default();
        let media = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let form = form(&media).ok_or_else(|| TargetError::Type { url: url.clone(), found: found.to_owned() })?;
        let validators = fresh.validators();
        Ok(Some(Body { url, form, validators, chunks: self.decompressed(fresh)? }))
    }

    fn decompressed(&self, fresh: Fresh) -> Result<BoxStream<'static, Result<Bytes, BodyError>>, TargetError> {
        let encoding = fresh.header(&CONTENT_ENCODING).unwrap_or("identity").trim().to_ascii_lowercase();
        let url = fresh.url().to_owned();
        let received = self.received.clone();
        let chunks = fresh.into_stream().inspect_ok(move |chunk| {
            received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        let reader = |chunks| StreamReader::new(chunks);
        match encoding.as_str() {
            "identity" | "" => Ok(chunks.map_err(Into::into).boxed()),
            "gzip" | "x-gzip" => {
                let mut decoder = GzipDecoder::new(reader(chunks.map_err(io::Error::other).boxed()));
                decoder.multiple_members(true);
                Ok(ReaderStream::with_capacity(decoder, CHUNK_BYTES).map_err(Into::into).boxed())
            }
            "zstd" => {
                let mut decoder = ZstdDecoder::new(reader(chunks.map_err(io::Error::other).boxed()));
                decoder.multiple_members(true);
                Ok(ReaderStream::with_capacity(decoder, CHUNK_BYTES).map_err(Into::into).boxed())
            }
            _ => Err(TargetError::Encoding { url, encoding }),
        }
    }

    /// What to compress with on the way: nothing, where the way is no longer than the machine.
    fn compression(&self) -> Option<&'static str> {
        let loopback = match self.url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        (!loopback).then_some(COMPRESSED)
    }

    /// A URL below the exporter's address, whose own query is kept: it may hold a key.
    fn below(&self, path: &str, key: Option<&ScopeKey>) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        if let Some(key) = key {
            url.query_pairs_mut().append_pair("source", key.source.as_str()).append_pair("scope", key.scope.as_str());
        }
        url
    }
}

/// A 304 to a request without conditions, which the client does not let through.
fn unasked(url: &Url) -> TargetError {
    TargetError::Type { url: public_url(url), found: String::new() }
}

//! An upload of JSON, from its body to the commit: `[{"labels": {...}, "value": 1.2, "timestamp": 1700000000}, ...]`.
//!
//! The body is cut into records, which go to a thread that decodes them; its batches come back, and the store pulls them.
//! Whoever is slow slows the body.
//! One commit for the whole request, or none: a record that cannot be stored ends it ([`Rejects::Refuse`]), or is
//! quarantined while the rest is stored ([`Rejects::Keep`]).
//!
//! A row takes the place of the one with the same key:
//!
//! | type | key |
//! |---|---|
//! | `cost` | every column that is neither an amount nor a quantity (`is_amount` in `rows`), and the row's number among equal ones of the request |
//! | `resource` | `resourceid`, `metricname`, `timestamp`; of equal ones the last counts |
//! | `generic` | every column but the one of the value, and the row's number among equal ones of the request |
//!
//! A column that is null, empty or not there is the same for the key, so that rows of before a
//! column came are found again. `cost` and `generic` keep the key as a digest in `x_key` and the number in `x_row`;
//! `cost` rows also say `x_source` = `upload`, and no scope or snapshot: they stand in a table beside those of snapshots, and neither touches the other.
//!
//! Peak memory: [`N_FRAMES`] chunks' records, one more, two batches, 26 MiB of keys counted (`number`), and the store's.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::body::Incoming;
use super::elements::{Element, Elements, ElementsError, Frame};
use super::number::{Aside, Numbers};
use super::record::{Record, RecordError};
use super::reject::{self, Fault, Quarantine, Reason, Rejected};
use super::rows::{Kind, Rows};
use crate::ident::{ColumnName, TableName};
use crate::ingest::{Ingest, IngestError};
use crate::store::{StoreError, Upsert, Upserted};

/// Chunks of a body whose records wait for their decoder.
const N_FRAMES: usize = 4;
/// Batches waiting for the store; one ready, one in the making.
const N_READY_BATCHES: usize = 1;

/// An upload as it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The table, created when it is not there.
    pub(crate) table: TableName,
    pub(crate) kind: Kind,
    pub(crate) rejects: Rejects,
    /// Where records may wait on the disk.
    pub(crate) directory: PathBuf,
}

/// What becomes of a record that cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejects {
    /// Nothing of the request is stored.
    Refuse,
    /// It is quarantined, and the rest is stored.
    Keep,
}

/// What became of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Records in the request.
    pub(crate) received: u64,
    /// Of them, those that are stored.
    pub(crate) stored: u64,
    /// Of them, those that are quarantined.
    pub(crate) rejected: u64,
}

/// Why nothing of an upload was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The client went away, stalled, or was not understood.
    #[error("read the body")]
    Body(#[source] axum::Error),
    /// The body is no list.
    #[error("Data must be a list of records")]
    NoList,
    /// The body is not JSON from some place on.
    #[error("Request must be JSON")]
    NotJson {
        /// Where, and what is wrong.
        reason: String,
    },
    /// A record cannot be stored.
    #[error("{0}")]
    Rejected(Rejected),
    /// A record could not wait on the disk.
    #[error("lay records aside")]
    Aside(#[from] std::io::Error),
    /// A batch could not be made.
    #[error("make a batch")]
    Batch(#[from] ArrowError),
    /// The rest of the records is not wanted any more: something else has failed, and said so.
    #[error("the upload was broken off")]
    Unwanted,
    /// The decoder broke off.
    #[error("decode the body")]
    Thread(#[from] tokio::task::JoinError),
    /// The store did not take it.
    #[error(transparent)]
    Ingest(IngestError),
}

impl JsonError {
    /// Whether the fault lies with what was sent, rather than with the store or the machine.
    pub fn is_callers(&self) -> bool {
        match self {
            Self::Body(_) | Self::NoList | Self::NotJson { .. } | Self::Rejected(_) => true,
            Self::Aside(_) | Self::Batch(_) | Self::Unwanted | Self::Thread(_) => false,
            Self::Ingest(error) => error.is_callers(),
        }
    }
}

/// An error of ours that ended the store's stream comes back as itself.
impl From<IngestError> for JsonError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Store(StoreError::Cut { table, source }) => match source.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(source) => Self::Ingest(IngestError::Store(StoreError::Cut { table, source })),
            },
            other => Self::Ingest(other),
        }
    }
}

type Batches = mpsc::Sender<Result<RecordBatch, JsonError>>;
type ReadyBatches = mpsc::Receiver<Result<RecordBatch, JsonError>>;

/// Stores an upload.
///
/// # Errors
/// Nothing of it is stored.
pub(crate) async fn store(ingest: &Ingest, request: Request, body: &Incoming) -> Result<Taken, JsonError> {
    let (frames, incoming) = mpsc::channel(N_FRAMES);
    let (batches, ready) = mpsc::channel(N_READY_BATCHES);
    let (rejects, ready_rejects) = mpsc::channel(N_READY_BATCHES);
    let Request { table, kind, .. } = request.clone();
    let decoder = tokio::task::spawn_blocking(move || Decoder::new(request, batches, rejects).run(incoming));
    let framed = framed(body, frames);
    let rows = upserted(ingest, table, kind.key(), kind.fields(), ready);
    let fields = reject::schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let quarantined = upserted(ingest, TableName::rejects(), reject::key(), fields, ready_rejects);
    let ((), rows, quarantined) = futures::join!(framed, rows, quarantined);
    let taken = decoder.await?;
    match (rows, quarantined) {
        (Ok(_), Ok(_)) => Ok(taken),
        (Err(JsonError::Unwanted), Err(error)) | (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Cuts a body into records.
async fn framed(body: &Incoming, frames: mpsc::Sender<Result<Frame, JsonError>>) {
    let mut elements = Elements::default();
    while let Some(chunk) = body.next().await {
        let (frame, read) = match chunk {
            Ok(chunk) => elements.frame(&chunk),
            Err(error) => {
                let _ = frames.send(Err(JsonError::Body(error))).await;
                return;
            }
        };
        if frames.send(Ok(frame)).await.is_err() {
            return;
        }
        if let Err(error) = read {
            let _ = frames.send(Err(error.into())).await;
            return;
        }
    }
    if let Err(error) = elements.end() {
        let _ = frames.send(Err(error.into())).await;
    }
}

/// Upserts the batches that come; nothing, when none does.
async fn upserted(
    ingest: &Ingest,
    table: TableName,
    key: Vec<ColumnName>,
    mut fields: Vec<Field>,
    mut ready: ReadyBatches,
) -> Result<Upserted, JsonError> {
    let Some(first) = ready.recv().await.transpose()? else { return Ok(Upserted::default()) };
    let more = first.schema();
    let more = more.fields().iter().filter(|field| !fields.iter().any(|known| known.name() == field.name()));
    let more: Vec<Field> = more.map(|field| field.as_ref().clone()).collect();
    fields.extend(more);
    let rest = stream::poll_fn(move |cx| ready.poll_recv(cx)).map(|batch| batch.map_err(Into::into));
    let batches = stream::iter([Ok(first)]).chain(rest).boxed();
    Ok(ingest.rows(Upsert { table, key, schema: Arc::new(Schema::new(fields)), batches }).await?)
}

/// Decodes one body, on a thread of its own.
struct Decoder {
    rejects: Rejects,
    directory: PathBuf,
    record: Record,
    rows: Rows,
    /// Nothing where equal records are not told apart.
    numbers: Option<Numbers>,
    aside: Option<Aside>,
    quarantine: Quarantine,
    batches: Batches,
    rejected: Batches,
    taken: Taken,
}

impl Decoder {
    fn new(request: Request, batches: Batches, rejected: Batches) -> Self {
        let Request { table, kind, rejects, directory } = request;
        Self {
            rejects,
            directory,
            record: Record::default(),
            rows: Rows::new(kind),
            numbers: kind.is_numbered().then(Numbers::default),
            aside: None,
            quarantine: Quarantine::new(&table),
            batches,
            rejected,
            taken: Taken::default(),
        }
    }

    /// Sends the batches of a body, or why there are no more.
    fn run(mut self, frames: mpsc::Receiver<Result<Frame, JsonError>>) -> Taken {
        if let Err(error) = self.decode(frames) {
            // Neither may take what came so far for all of it; whoever has gone has said why.
            let _ = self.rejected.blocking_send(Err(JsonError::Unwanted));
            let _ = self.batches.blocking_send(Err(error));
        }
        self.taken
    }

    fn decode(&mut self, mut frames: mpsc::Receiver<Result<Frame, JsonError>>) -> Result<(), JsonError> {
        while let Some(frame) = frames.blocking_recv() {
            for element in frame?.elements() {
                let index = self.taken.received;
                self.taken.received += 1;
                match element {
                    Element::Whole(text) => self.take(index, text)?,
                    Element::TooLong(text) => {
                        self.refuse(Fault::new(None, Reason::TooLong, &String::from_utf8_lossy(text)).at(index))?;
                    }
                }
            }
        }
        while let Some(aside) = self.aside.take() {
            self.numbers.iter_mut().for_each(Numbers::clear);
            let mut records = aside.into_records()?;
            while let Some((index, text)) = records.next()? {
                self.take(index, text)?;
            }
        }
        self.flush()?;
        if let Some(batch) = self.quarantine.finish()? {
            send(&self.rejected, batch)?;
        }
        Ok(())
    }

    fn take(&mut self, index: u64, text: &[u8]) -> Result<(), JsonError> {
        match self.record.read(text) {
            Ok(()) => {}
            Err(RecordError::NotJson(error)) => {
                return Err(JsonError::NotJson { reason: format!("record {index}: {error}") });
            }
            Err(RecordError::NoRecord(_)) => {
                return self.refuse(Fault::new(None, Reason::NoRecord, &String::from_utf8_lossy(text)).at(index));
            }
        }
        if let Err(fault) = self.rows.read(&self.record) {
            return self.refuse(fault.at(index));
        }
        let identity = match &mut self.numbers {
            None => None,
            Some(numbers) => {
                let key = self.rows.key(&self.record);
                let Some(number) = numbers.number(key) else {
                    let aside = match &mut self.aside {
                        Some(aside) => aside,
                        none => none.insert(Aside::in_directory(&self.directory)?),
                    };
                    return Ok(aside.push(index, text)?);
                };
                Some((key, number))
            }
        };
        self.rows.append(&self.record, identity)?;
        self.taken.stored += 1;
        if self.rows.is_full() { self.flush() } else { Ok(()) }
    }

    fn refuse(&mut self, rejected: Rejected) -> Result<(), JsonError> {
        if self.rejects == Rejects::Refuse {
            return Err(JsonError::Rejected(rejected));
        }
        self.taken.rejected += 1;
        match self.quarantine.add(&rejected)? {
            Some(batch) => send(&self.rejected, batch),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), JsonError> {
        match self.rows.finish()? {
            Some(batch) => send(&self.batches, batch),
            None => Ok(()),
        }
    }
}

fn send(to: &Batches, batch: RecordBatch) -> Result<(), JsonError> {
    to.blocking_send(Ok(batch)).map_err(|_| JsonError::Unwanted)
}

impl From<ElementsError> for JsonError {
    fn from(error: ElementsError) -> Self {
        match error {
            ElementsError::NoArray => Self::NoList,
            error => Self::NotJson { reason: error.to_string() },
        }
    }
}

//! A report opened: bytes in, typed batches and rejected rows out, in the report's order.
//!
//! ```text
//! bytes -> decode (sniff, decompress; a task or thread: rows) -> bounded channel -> convert (the caller's task) -> batches
//! ```
//!
//! Peak memory is the decoder's ([`crate::decode`]), one open batch (2 MiB, or one row) and one being handed over.
//! Nothing is deduplicated: two identical rows are two charges.

pub mod generic;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use costream_common::focus;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::convert::{Converter, header};
pub use crate::convert::{Reject, Rejected};
use crate::decode::chunk::{Chunk, Message};
use crate::decode::{self, BILLED_COST, Columns, Opened, Reading};
pub use crate::decode::{CsvReader, DecodeError, Limits, Scratch};
use crate::profile::{self, ProfileName, RuleCounts};

/// How to read a report.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// The leniency to read it with.
    pub profile: ProfileName,
    /// How rejected rows and errors name it.
    pub file: String,
    /// What it may ask of us at most.
    pub limits: Limits,
    /// What takes its text apart, when it is CSV.
    pub csv_reader: CsvReader,
    /// Where it is kept while it is read, when it is not.
    pub scratch: Scratch,
    /// Whether every batch has, behind all other columns, one of the rows' labels as the inherited `/metrics` has them,
    /// in the report's own texts.
    pub keep_labels: bool,
}

impl DecodeOptions {
    /// To read a report found out by itself, within the default limits.
    pub fn new(file: impl Into<String>) -> Self {
        Self {
            profile: ProfileName::Auto,
            file: file.into(),
            limits: Limits::default(),
            csv_reader: CsvReader::default(),
            scratch: Scratch::default(),
            keep_labels: false,
        }
    }
}

/// What comes out of a report.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// Rows that were taken.
    Batch(RecordBatch),
    /// A row that was refused.
    Rejected(Rejected),
}

/// A report whose header has been read. Dropping it ends its reading.
pub struct Report {
    file: String,
    profile: ProfileName,
    version: Option<focus::Version>,
    converter: Converter,
    rules: RuleCounts,
    chunks: mpsc::Receiver<Result<Message, DecodeError>>,
    open: OpenChunk,
    /// The ordinal of the row read last.
    row: i64,
    state: State,
    _reader: AbortOnDropHandle<()>,
}

/// A chunk, and how far it has been converted.
#[derive(Default)]
struct OpenChunk {
    chunk: Chunk,
    is_utf8: bool,
    next: usize,
}

impl From<Chunk> for OpenChunk {
    fn from(chunk: Chunk) -> Self {
        Self { is_utf8: chunk.is_utf8(), chunk, next: 0 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come from the reader.
    Reading,
    /// The reader came to the report's end.
    Ended,
    /// An error was handed out; there is no more to come.
    Failed,
}

/// The rows by which a report is recognised.
const N_FIRST_ROWS: usize = 100;

impl Report {
    /// Reads the columns' names and, to recognise the report, its first rows.
    ///
    /// # Errors
    /// The bytes cannot be read, are no report, have no column `BilledCost`, or columns beyond the limits.
    pub async fn open(
        bytes: impl AsyncRead + Send + Unpin + 'static,
        options: DecodeOptions,
    ) -> Result<Self, DecodeError> {
        let DecodeOptions { profile, file, limits, csv_reader, scratch, keep_labels } = options;
        let leniency = profile.leniency();
        let reading =
            Reading { file: file.clone(), leniency, limits, csv_reader, scratch, columns: Columns::AsTheyCome };
        let Opened { names, rules: applied, mut chunks, reader } = decode::open(bytes, reading).await?;
        let mut rules = RuleCounts::default();
        applied.iter().for_each(|rule| rules.count(*rule));

        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let columns = header::columns(&names, leniency, &mut rules);
        if !columns.iter().any(|column| column.name == BILLED_COST) {
            return Err(DecodeError::MissingColumn { file, column: BILLED_COST });
        }
        let version = focus::detect_version(&columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>());

        let mut state = State::Reading;
        let open = match chunks.recv().await {
            Some(Ok(Message::Chunk(chunk))) => OpenChunk::from(chunk),
            Some(Ok(Message::End)) => {
                state = State::Ended;
                OpenChunk::default()
            }
            Some(Err(error)) => return Err(error),
            None => return Err(DecodeError::Stopped { file, row: 0 }),
        };
        let resolved = match profile {
            ProfileName::Auto => {
                let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
                let first_rows = (0..open.chunk.len().min(N_FIRST_ROWS)).filter_map(|at| open.chunk.row(at));
                profile::recognise(&names, first_rows.map(|row| row.fields()))
            }
            named => named,
        };
        rules.show();
        let mut converter = Converter::new(columns, leniency, &limits);
        if keep_labels {
            converter.keep_labels();
        }
        Ok(Self { file, profile: resolved, version, converter, rules, chunks, open, row: 0, state, _reader: reader })
    }

    /// The schema of every batch: the report's columns in its order, then `x_row`.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(self.converter.schema())
    }

    /// The profile asked for, or what the report looks like when that was left to us;
    /// [`ProfileName::Auto`] when it looks like none we know.
    pub fn profile(&self) -> ProfileName {
        self.profile
    }

    /// The FOCUS version the header was written for; nothing when it is another make's.
    pub fn version(&self) -> Option<focus::Version> {
        self.version
    }

    /// The leniency rules applied so far, each with its count: once a report for what concerns the
    /// file or a column, once a field for what concerns a field. Those of rejected rows are left out.
    pub fn rules(&self) -> &BTreeMap<&'static str, u64> {
        self.rules.shown()
    }

    /// The next batch or rejected row; nothing at the report's end. May be dropped and called again.
    ///
    /// # Errors
    /// The report cannot be read to its end: what came before is no report.
    pub async fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let decoded = self.advance().await;
        self.rules.show();
        if decoded.is_err() {
            self.state = State::Failed;
            self.open = OpenChunk::default();
        }
        decoded
    }

    async fn advance(&mut self) -> Result<Option<Decoded>, DecodeError> {
        loop {
            while let Some(row) = self.open.chunk.row(self.open.next) {
                if self.converter.is_full_for(row)
                    && let Some(batch) = finish(&mut self.converter, &self.file, self.row)?
                {
                    return Ok(Some(Decoded::Batch(batch)));
                }
                self.open.next += 1;
                self.row += 1;
                if let Err(rejected) = self.converter.take(row, self.row, self.open.is_utf8, &mut self.rules) {
                    return Ok(Some(Decoded::Rejected(rejected)));
                }
            }
            match self.state {
                State::Reading => {}
                State::Ended => return Ok(finish(&mut self.converter, &self.file, self.row)?.map(Decoded::Batch)),
                State::Failed => return Err(self.stopped()),
            }
            match self.chunks.recv().await {
                Some(Ok(Message::Chunk(chunk))) => self.open = OpenChunk::from(chunk),
                Some(Ok(Message::End)) => self.state = State::Ended,
                Some(Err(error)) => return Err(error),
                None => return Err(self.stopped()),
            }
        }
    }

    fn stopped(&self) -> DecodeError {
        DecodeError::Stopped { file: self.file.clone(), row: self.row.unsigned_abs() }
    }
}

fn finish(converter: &mut Converter, file: &str, row: i64) -> Result<Option<RecordBatch>, DecodeError> {
    converter.finish().map_err(|source| DecodeError::Batch { file: file.to_owned(), row: row.unsigned_abs(), source })
}

#[cfg(test)]
mod tests;

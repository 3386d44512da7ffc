//! Bytes of a report in, its rows out. What the bytes are is found out from themselves ([`sniff`]): CSV, JSON or
//! Parquet; gzip (every member) and zstd (every frame) are undone on the way. Refuses what is something else, what
//! ends too early, and what is beyond [`Limits`].
//!
//! CSV is read as it comes: at most [`chunk::N_READY_CHUNKS`] chunks are read ahead, so a slow reader slows the source.
//! The columns of a JSON report are known when all of it has been read, and a Parquet file is read from its end: these
//! are first put on the disk ([`Scratch`]), at the pace of the disk.
//!
//! Peak memory: the decompressor's window (32 KiB for gzip, at most 128 MiB for zstd), one
//! record ([`Limits::max_record_bytes`], and eight bytes a field of it), and four chunks of 256 KiB of text and a
//! record; a chunk takes up to 17 times its text when every row is one byte long. For Parquet, see [`parquet`].

pub(crate) mod chunk;
pub(crate) mod csv;
mod json;
mod parquet;
mod scratch;
mod sniff;

use std::io::Cursor;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::chunk::{Chunk, Message, N_READY_CHUNKS};
pub use self::csv::CsvReader;
use self::csv::Records;
pub(crate) use self::json::Columns;
use self::scratch::Kept;
pub use self::scratch::Scratch;
use crate::profile::{Leniency, Rule};
use sniff::{Compression, Content};

/// What a report may ask of us at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest row, in bytes as read; a longer one ends the report. Of Parquet, it is rejected.
    pub max_record_bytes: u64,
    /// The longest header of a CSV, in bytes.
    pub max_header_bytes: u64,
    /// The longest field, in bytes; a longer one rejects its row.
    pub max_field_bytes: usize,
    /// The most columns.
    pub max_columns: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_record_bytes: 16 << 20, max_header_bytes: 1 << 20, max_field_bytes: 1 << 20, max_columns: 2_000 }
    }
}

/// The longest column name, in bytes: it stands in every sample of the exposition.
const MAX_COLUMN_NAME_BYTES: usize = 256;

/// Why a report cannot be read, or not to its end. Each names the file; rows count from 1,
/// without the header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The source failed, or the compressed body is corrupt.
    #[error("read {file}{} after row {row}", Compressed(*.compression))]
    Read {
        /// The report.
        file: String,
        /// How it is compressed.
        compression: Option<&'static str>,
        /// The last row that was read.
        row: u64,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The body ended before its end.
    #[error("{file}{} is cut off after row {row}", Compressed(*.compression))]
    Truncated {
        /// The report.
        file: String,
        /// How it is compressed.
        compression: Option<&'static str>,
        /// The last row that was read.
        row: u64,
        /// What noticed it.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in it, not even a header.
    #[error("{file} is empty")]
    Empty {
        /// The report.
        file: String,
    },
    /// It is something else.
    #[error("{file} is {what}, not CSV, JSON or Parquet")]
    NotAReport {
        /// The report.
        file: String,
        /// What it is.
        what: &'static str,
    },
    /// It lacks a column that no cost report can do without.
    #[error("{file} has no column {column}")]
    MissingColumn {
        /// The report.
        file: String,
        /// The column.
        column: &'static str,
    },
    /// Its header is not UTF-8.
    #[error("column {column} of the header of {file} is not UTF-8")]
    HeaderNotUtf8 {
        /// The report.
        file: String,
        /// The column's position, from 1.
        column: usize,
    },
    /// Its header, or one name in it, is beyond [`Limits`].
    #[error("the header of {file} has {size} {unit}, and {max} are the most")]
    HeaderTooLarge {
        /// The report.
        file: String,
        /// What is too many.
        unit: &'static str,
        /// How many there are.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// A row is longer than [`Limits::max_record_bytes`].
    #[error("row {row} of {file} (line {line}) is longer than {max} bytes: a quote may be missing")]
    RecordTooLong {
        /// The report.
        file: String,
        /// The row.
        row: u64,
        /// The line it starts in.
        line: u64,
        /// The bound.
        max: u64,
    },
    /// It ends inside a quoted field.
    #[error("{file} ends inside a quoted field of row {row} (line {line})")]
    UnterminatedQuote {
        /// The report.
        file: String,
        /// The row; 0 is the header.
        row: u64,
        /// The line it starts in.
        line: u64,
    },
    /// It is JSON that ends before all that was opened is closed.
    #[error("{file} is JSON that ends early, after row {row} (line {line})")]
    UnfinishedJson {
        /// The report.
        file: String,
        /// The last row that was whole.
        row: u64,
        /// The line the next one would have been in.
        line: u64,
    },
    /// It is JSON in which no rows are to be found.
    #[error("{file} is JSON without an array of objects")]
    NoList {
        /// The report.
        file: String,
    },
    /// Its rows are not divided as JSON divides them.
    #[error("{file} is no JSON after row {row} (line {line}): {found:?} is out of place")]
    NotJson {
        /// The report.
        file: String,
        /// The last row that was whole.
        row: u64,
        /// The line.
        line: u64,
        /// What stands there.
        found: char,
    },
    /// It is Parquet that cannot be read.
    #[error("read the Parquet file {file} after row {row}")]
    Parquet {
        /// The report.
        file: String,
        /// The last row that was read.
        row: u64,
        /// What is wrong with it.
        #[source]
        source: ::parquet::errors::ParquetError,
    },
    /// It cannot be put on the disk, where it is read from.
    #[error("keep {file} on the disk while it is read")]
    Keep {
        /// The report.
        file: String,
        /// What the operating system, or the spool's budget, said.
        #[source]
        source: std::io::Error,
    },
    /// Its rows do not fit a batch: a defect of ours.
    #[error("build a batch of {file} after row {row}")]
    Batch {
        /// The report.
        file: String,
        /// The last row that was read.
        row: u64,
        /// What Arrow said.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// The task that reads it ended without a word, or it was read on after an error.
    #[error("the reader of {file} stopped after row {row}")]
    Stopped {
        /// The report.
        file: String,
        /// The last row that was read.
        row: u64,
    },
}

impl DecodeError {
    /// Whether asking the source again may help: the connection broke, the file was still
    /// being written.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Truncated { .. }
                | Self::UnterminatedQuote { .. }
                | Self::UnfinishedJson { .. }
                | Self::Empty { .. }
        )
    }
}

struct Compressed(Option<&'static str>);

impl std::fmt::Display for Compressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |compression| write!(f, " ({compression})"))
    }
}

/// How a report is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// How errors name it.
    pub(crate) file: String,
    pub(crate) leniency: Leniency,
    pub(crate) limits: Limits,
    pub(crate) csv_reader: CsvReader,
    pub(crate) scratch: Scratch,
    /// What the columns of JSON are.
    pub(crate) columns: Columns,
}

/// A report that was opened, with its rows on their way. Dropping it ends its reading.
pub(crate) struct Opened {
    /// Its columns, as it writes them.
    pub(crate) names: Vec<String>,
    /// The rules applied so far.
    pub(crate) rules: Vec<Rule>,
    pub(crate) chunks: mpsc::Receiver<Result<Message, DecodeError>>,
    pub(crate) reader: AbortOnDropHandle<()>,
}

/// Finds out what the bytes are, reads the columns' names, and has the rows read.
pub(crate) async fn open(
    bytes: impl AsyncRead + Send + Unpin + 'static,
    reading: Reading,
) -> Result<Opened, DecodeError> {
    let body = body(bytes, &reading.file).await?;
    let file = reading.file.clone();
    let opened = match body.content {
        Content::Csv => open_csv(body, reading).await?,
        Content::Json => {
            let rules = body.rules();
            open_kept(body, reading, rules, json::Rows::open).await?
        }
        Content::Parquet => open_kept(body, reading, Vec::new(), parquet::Rows::open).await?,
        Content::Other(what) => return Err(DecodeError::NotAReport { file, what }),
    };
    match opened.names.iter().find(|name| name.len() > MAX_COLUMN_NAME_BYTES) {
        Some(name) => {
            let (size, max) = (name.len() as u64, MAX_COLUMN_NAME_BYTES as u64);
            Err(DecodeError::HeaderTooLarge { file, unit: "bytes in one name", size, max })
        }
        None => Ok(opened),
    }
}

async fn open_csv(body: Body, reading: Reading) -> Result<Opened, DecodeError> {
    let Reading { file, leniency, limits, csv_reader, .. } = reading;
    let text = text(body, &file, leniency, limits.max_header_bytes).await?;
    let rules = text.rules.clone();
    let (records, header) = Records::open(text, &file, &limits, csv_reader).await?;
    let Some(written) = header.row(0) else { return Err(DecodeError::Empty { file }) };
    if written.n_fields > limits.max_columns {
        return Err(too_many_columns(&file, written.n_fields, &limits));
    }
    let mut names = Vec::with_capacity(written.n_fields);
    for (at, name) in written.fields().enumerate() {
        let not_utf8 = |_| DecodeError::HeaderNotUtf8 { file: file.clone(), column: at + 1 };
        names.push(std::str::from_utf8(name).map_err(not_utf8)?.to_owned());
    }
    let (sender, chunks) = mpsc::channel(N_READY_CHUNKS);
    let reader = AbortOnDropHandle::new(tokio::spawn(records.send(sender)));
    Ok(Opened { names, rules, chunks, reader })
}

/// Reads rows from a report that is on the disk.
trait KeptRows {
    /// The columns' names as they are written.
    fn names(&self) -> Vec<String>;

    /// The next rows; nothing at the end. Blocks.
    fn next(&mut self) -> Result<Option<Chunk>, DecodeError>;
}

/// Brings the whole body to the disk and reads it from there, in a thread of its own: it ends when nobody listens.
async fn open_kept<R: KeptRows>(
    body: Body,
    reading: Reading,
    rules: Vec<Rule>,
    open: impl FnOnce(Kept, &Reading) -> Result<R, DecodeError> + Send + 'static,
) -> Result<Opened, DecodeError> {
    let kept = reading.scratch.keep(body.bytes, &reading.file, body.compression).await?;
    // A thread cannot be ended from outside: until it has somebody to send to, it is told.
    let dropped = kept.unwanted.clone().drop_guard();
    let stopped = DecodeError::Stopped { file: reading.file.clone(), row: 0 };
    let (name, named) = oneshot::channel();
    let (sender, chunks) = mpsc::channel(N_READY_CHUNKS);
    // The second thread of a poll, beside the writer's: of the runtime's 512, a poll must be able to have both.
    let reader = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
        let mut rows = match open(kept, &reading) {
            Ok(rows) => rows,
            // Nobody listens: nobody wants to know.
            Err(error) => return drop(name.send(Err(error))),
        };
        if name.send(Ok(rows.names())).is_err() {
            return;
        }
        loop {
            let (message, is_last) = match rows.next() {
                Ok(Some(chunk)) => (Ok(Message::Chunk(chunk)), false),
                Ok(None) => (Ok(Message::End), true),
                Err(error) => (Err(error), true),
            };
            if sender.blocking_send(message).is_err() || is_last {
                return;
            }
        }
    }));
    let names = named.await.map_err(|_| stopped)??;
    dropped.disarm();
    Ok(Opened { names, rules, chunks, reader })
}

fn too_many_columns(file: &str, columns: usize, limits: &Limits) -> DecodeError {
    let (size, max) = (columns as u64, limits.max_columns as u64);
    DecodeError::HeaderTooLarge { file: file.to_owned(), unit: "columns", size, max }
}

/// A body, decompressed.
struct Body {
    /// Without its byte order mark.
    bytes: Box<dyn AsyncRead + Send + Unpin>,
    compression: Option<&'static str>,
    content: Content,
    has_byte_order_mark: bool,
}

/// A body that was found to be CSV.
pub(crate) struct Text {
    /// The text, without its byte order mark.
    pub(crate) bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// How it was compressed.
    pub(crate) compression: Option<&'static str>,
    /// What divides its fields.
    pub(crate) delimiter: u8,
    /// The rules applied so far.
    pub(crate) rules: Vec<Rule>,
}

/// The buffer in front of a decompressor.
const BUFFER_BYTES: usize = 64 << 10;
/// The column by which a header is told.
pub(crate) const BILLED_COST: &str = "BilledCost";

impl Body {
    fn rules(&self) -> Vec<Rule> {
        self.has_byte_order_mark.then_some(Rule::ByteOrderMark).into_iter().collect()
    }
}

/// Finds out what the bytes are, and undoes their compression.
async fn body(mut body: impl AsyncRead + Send + Unpin + 'static, file: &str) -> Result<Body, DecodeError> {
    let plain_error = |source| DecodeError::Read { file: file.to_owned(), compression: None, row: 0, source };
    let magic = read_up_to(&mut body, Vec::new(), sniff::MAGIC_BYTES).await.map_err(plain_error)?;
    let compression = sniff::compression(&magic);
    let body = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(body));
    let (mut bytes, compression): (Box<dyn AsyncRead + Send + Unpin>, _) = match compression {
        Compression::None => (Box::new(body), None),
        Compression::Gzip => {
            let mut decoder = GzipDecoder::new(body);
            decoder.multiple_members(true);
            (Box::new(decoder), Some("gzip"))
        }
        Compression::Zstd => {
            let mut decoder = ZstdDecoder::new(body);
            decoder.multiple_members(true);
            (Box::new(decoder), Some("zstd"))
        }
    };

    let failed = |source| read_error(file, compression, 0, source);
    let start = read_up_to(&mut bytes, Vec::new(), sniff::MAGIC_BYTES).await.map_err(failed)?;
    let byte_order_mark = sniff::byte_order_mark(&start);
    if start.len() == byte_order_mark {
        return Err(DecodeError::Empty { file: file.to_owned() });
    }
    let content = sniff::content(&start);
    let mut start = Cursor::new(start);
    start.set_position(byte_order_mark as u64);
    let has_byte_order_mark = byte_order_mark > 0;
    Ok(Body { bytes: Box::new(start.chain(bytes)), compression, content, has_byte_order_mark })
}

/// Finds the delimiter of a CSV: the header's line tells it, and the reader must know it beforehand.
async fn text(body: Body, file: &str, leniency: Leniency, max_header_bytes: u64) -> Result<Text, DecodeError> {
    let mut rules = body.rules();
    let Body { mut bytes, compression, .. } = body;
    let line_end = |bytes: &[u8]| bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
    let max_header_bytes = usize::try_from(max_header_bytes).unwrap_or(usize::MAX);
    let mut start = Vec::new();
    while line_end(&start).is_none() && start.len() < max_header_bytes {
        let before = start.len();
        let wanted = (before * 2).max(sniff::MAGIC_BYTES);
        start =
            read_up_to(&mut bytes, start, wanted).await.map_err(|source| read_error(file, compression, 0, source))?;
        if start.len() == before {
            break;
        }
    }
    let line = &start[..line_end(&start).unwrap_or(start.len())];
    let (delimiter, rule) = match sniff::delimiter(line, BILLED_COST) {
        b';' if leniency.takes(Rule::DelimiterSemicolon) => (b';', Some(Rule::DelimiterSemicolon)),
        b'\t' if leniency.takes(Rule::DelimiterTab) => (b'\t', Some(Rule::DelimiterTab)),
        _ => (b',', None),
    };
    rules.extend(rule);
    Ok(Text { bytes: Box::new(Cursor::new(start).chain(bytes)), compression, delimiter, rules })
}

/// A failure to read, told apart from a body that was cut off.
pub(crate) fn read_error(
    file: &str,
    compression: Option<&'static str>,
    row: u64,
    source: std::io::Error,
) -> DecodeError {
    let file = file.to_owned();
    if source.kind() == std::io::ErrorKind::UnexpectedEof {
        DecodeError::Truncated { file, compression, row, source }
    } else {
        DecodeError::Read { file, compression, row, source }
    }
}

/// Reads on until there are `bytes`, or the body ends.
async fn read_up_to(body: &mut (impl AsyncRead + Unpin), mut start: Vec<u8>, bytes: usize) -> std::io::Result<Vec<u8>> {
    let wanted = bytes.saturating_sub(start.len()) as u64;
    body.take(wanted).read_to_end(&mut start).await?;
    Ok(start)
}

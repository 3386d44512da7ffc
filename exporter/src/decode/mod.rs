//! Bytes of a report in, records of its CSV out. What the bytes are is found out from
//! themselves ([`sniff`]); gzip (every member) and zstd (every frame) are undone on the way.
//! Pull-driven: at most [`csv::N_READY_CHUNKS`] chunks are read ahead, so a slow reader slows
//! the source. Refuses what is not CSV, what ends too early, and what is beyond [`Limits`].
//!
//! Peak memory: the decompressor's window (32 KiB for gzip, at most 128 MiB for zstd), one
//! record ([`Limits::max_record_bytes`], and eight bytes a field of it), and four chunks of 256 KiB of text and a
//! record; a chunk takes up to 17 times its text when every row is one byte long.

pub(crate) mod csv;
mod sniff;

use std::io::Cursor;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

pub use self::csv::CsvReader;
use crate::profile::{Leniency, Rule};
use sniff::{Compression, Content};

/// What a report may ask of us at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest row, in bytes as read; a longer one ends the report.
    pub max_record_bytes: u64,
    /// The longest header, in bytes.
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
pub(crate) const MAX_COLUMN_NAME_BYTES: usize = 256;

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
    #[error("{file} is {what}, not CSV")]
    NotCsv {
        /// The report.
        file: String,
        /// What it is.
        what: &'static str,
    },
    /// Its header lacks a column that no cost report can do without.
    #[error("{file} has no column {column} in its header")]
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
        matches!(self, Self::Read { .. } | Self::Truncated { .. } | Self::UnterminatedQuote { .. } | Self::Empty { .. })
    }
}

struct Compressed(Option<&'static str>);

impl std::fmt::Display for Compressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |compression| write!(f, " ({compression})"))
    }
}

/// A body that was found to be text.
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

/// Finds out what the bytes are and brings them to text.
pub(crate) async fn text(
    mut body: impl AsyncRead + Send + Unpin + 'static,
    file: &str,
    leniency: Leniency,
    max_header_bytes: u64,
) -> Result<Text, DecodeError> {
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
    let mut start = read_up_to(&mut bytes, Vec::new(), sniff::MAGIC_BYTES).await.map_err(failed)?;
    let byte_order_mark = match sniff::content(&start) {
        Content::Other(what) => return Err(DecodeError::NotCsv { file: file.to_owned(), what }),
        Content::Text { byte_order_mark } => byte_order_mark,
    };
    if start.len() == byte_order_mark {
        return Err(DecodeError::Empty { file: file.to_owned() });
    }

    // The header's line tells the delimiter, which the CSV reader must know beforehand.
    let line_end = |bytes: &[u8]| bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
    let max_header_bytes = usize::try_from(max_header_bytes).unwrap_or(usize::MAX);
    while line_end(&start).is_none() && start.len() < max_header_bytes {
        let before = start.len();
        start = read_up_to(&mut bytes, start, before * 2).await.map_err(failed)?;
        if start.len() == before {
            break;
        }
    }
    let line = &start[byte_order_mark..line_end(&start).unwrap_or(start.len())];
    let (delimiter, rule) = match sniff::delimiter(line, BILLED_COST) {
        b';' if leniency.takes(Rule::DelimiterSemicolon) => (b';', Some(Rule::DelimiterSemicolon)),
        b'\t' if leniency.takes(Rule::DelimiterTab) => (b'\t', Some(Rule::DelimiterTab)),
        _ => (b',', None),
    };
    let mark = (byte_order_mark > 0).then_some(Rule::ByteOrderMark);
    let mut start = Cursor::new(start);
    start.set_position(byte_order_mark as u64);
    Ok(Text {
        bytes: Box::new(start.chain(bytes)),
        compression,
        delimiter,
        rules: mark.into_iter().chain(rule).collect(),
    })
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

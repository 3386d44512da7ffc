//! The same records by another hand: an automaton that looks at every byte, `csv-async`'s. Slower than
//! [`super::split`], and asked where a total is to be found out independently of what it is held against.
//!
//! A record half read cannot be taken up again, so this runs in a task of its own. Two ends that the automaton cannot
//! tell from good ones are told apart by an [`END_MARK`] behind the text: it comes out as a record of its own, unless
//! the text ended inside a quoted field.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use csv_async::{AsyncReader, AsyncReaderBuilder, ByteRecord, ErrorKind};
use tokio::io::{AsyncRead, ReadBuf};

use super::super::chunk::{Bound, CHUNK_BYTES, Chunk, Empty, Record};
use super::super::{DecodeError, Text, read_error};

/// The CSV reader's own buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// A record buffer that grew beyond this is given back.
const KEPT_RECORD_BYTES: usize = 1 << 20;
/// Stands behind the text, as a line of its own.
const END_MARK: &[u8] = b"\n\x04\n";
/// The record that the mark is read as.
const END_RECORD: &[u8] = b"\x04";

/// Reads the records of a text.
pub(crate) struct Automaton {
    csv: AsyncReader<Guard>,
    record: ByteRecord,
    file: String,
    compression: Option<&'static str>,
    pub(super) max_fields: usize,
    pub(super) max_record_bytes: u64,
    pub(super) is_at_end: bool,
    bytes: Vec<u8>,
    bounds: Vec<Bound>,
    records: Vec<Record>,
    /// Records read, the header among them.
    n_read: u64,
}

impl Automaton {
    pub(super) fn new(text: Text, file: &str) -> Self {
        let guard = Guard { text: text.bytes, delivered: 0, record_at: 0, max: u64::MAX, end: None, tripped: false };
        let csv = AsyncReaderBuilder::new()
            .delimiter(text.delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .create_reader(guard);
        Self {
            csv,
            record: ByteRecord::new(),
            file: file.to_owned(),
            compression: text.compression,
            max_fields: usize::MAX,
            max_record_bytes: u64::MAX,
            is_at_end: false,
            bytes: Vec::new(),
            bounds: Vec::new(),
            records: Vec::new(),
            n_read: 0,
        }
    }

    /// Whole records that can be taken.
    pub(super) fn n_records(&self) -> usize {
        self.records.len()
    }

    /// The whole records.
    pub(super) fn take(&mut self) -> Chunk {
        let (bytes, bounds) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.bounds));
        Chunk::new(bytes, bounds, std::mem::take(&mut self.records), Empty::Null)
    }

    /// Reads until there are `most` records, or as many as make a chunk, or the text ends.
    pub(super) async fn fill(&mut self, most: usize) -> Result<(), DecodeError> {
        let from = self.csv.position().byte();
        while self.records.len() < most && self.csv.position().byte() - from < CHUNK_BYTES as u64 {
            if !self.read().await? {
                self.is_at_end = true;
                return Ok(());
            }
            self.keep();
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.n_read += 1;
        self.records.push(Record { bounds_at: self.bounds.len(), n_fields: self.record.len(), fault: None });
        let start = self.bytes.len();
        for field in 0..self.record.len().min(self.max_fields) {
            let range = self.record.range(field).unwrap_or_default();
            self.bounds.push(Bound::new(start + range.start, start + range.end));
        }
        self.bytes.extend_from_slice(self.record.as_slice());
        if self.record.as_slice().len() > KEPT_RECORD_BYTES {
            self.record = ByteRecord::new();
        }
    }

    /// Reads one record; says whether there was one.
    async fn read(&mut self) -> Result<bool, DecodeError> {
        let (start, max) = (self.csv.position().clone(), self.max_record_bytes);
        let guard = self.csv.get_mut();
        guard.record_at = start.byte();
        guard.max = max;
        let too_long = |records: &Self| DecodeError::RecordTooLong {
            file: records.file.clone(),
            row: records.n_read,
            line: start.line(),
            max,
        };
        let is_record = match self.csv.read_byte_record(&mut self.record).await {
            Ok(is_record) => is_record,
            Err(_) if self.csv.get_ref().tripped => return Err(too_long(self)),
            Err(error) => {
                let source = match error.into_kind() {
                    ErrorKind::Io(source) => source,
                    other => io::Error::other(format!("{other:?}")),
                };
                return Err(read_error(&self.file, self.compression, self.n_read.saturating_sub(1), source));
            }
        };
        let here = self.csv.position().byte();
        // Beyond the text's end, a record is either the mark or one that swallowed it; the last record of a
        // text without a line break at its end takes the mark's first byte.
        if self.csv.get_ref().end.is_some() && here > self.csv.get_ref().delivered + 1 || !is_record {
            if self.record.len() == 1 && self.record.as_slice() == END_RECORD {
                return Ok(false);
            }
            return Err(DecodeError::UnterminatedQuote {
                file: self.file.clone(),
                row: self.n_read,
                line: start.line(),
            });
        }
        if here - start.byte() > max {
            return Err(too_long(self));
        }
        Ok(true)
    }
}

/// In front of the CSV reader: stops a record that grows beyond its bound while it is read,
/// and puts the [`END_MARK`] behind the text.
struct Guard {
    text: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes of the text handed out.
    delivered: u64,
    /// Where the record being read starts.
    record_at: u64,
    /// The most bytes it may have.
    max: u64,
    /// What is left of the mark, once the text has ended.
    end: Option<&'static [u8]>,
    /// Whether a record was too long.
    tripped: bool,
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.is_none() {
            // The CSV reader asks when it has used up all it was given: all since `record_at`
            // is one record.
            if this.delivered.saturating_sub(this.record_at) > this.max {
                this.tripped = true;
                return Poll::Ready(Err(io::Error::other("record too long")));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.text).poll_read(cx, buf))?;
            let n_bytes = buf.filled().len() - before;
            if n_bytes > 0 || buf.remaining() == 0 {
                this.delivered += n_bytes as u64;
                return Poll::Ready(Ok(()));
            }
            this.end = Some(END_MARK);
        }
        if let Some(rest) = this.end {
            let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
            buf.put_slice(now);
            this.end = Some(later);
        }
        Poll::Ready(Ok(()))
    }
}

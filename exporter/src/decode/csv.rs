//! Text in, records out, in [`Chunk`]s. Reads in a task of its own, since a record half read
//! cannot be taken up again; a bounded channel makes the task wait for its reader.
//!
//! Quotes are read as the `csv` crate reads them: a quote inside an unquoted field is a
//! character, what follows a closing quote belongs to the field. Line breaks are `\n`, `\r` or
//! `\r\n`; empty lines are no records. A record with too few or too many fields is handed on,
//! cut to the header's fields and with its own count. Two ends that the CSV reader cannot tell from good ones are told
//! apart by an [`END_MARK`] behind the text: it comes out as a record of its own, unless the
//! text ended inside a quoted field. A record that grows beyond its bound stops the reading.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use csv_async::{AsyncReader, AsyncReaderBuilder, ByteRecord, ErrorKind};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::{DecodeError, Limits, Text, read_error};

/// Chunks waiting for the converter: one ready, one being filled.
pub(crate) const N_READY_CHUNKS: usize = 2;
/// A chunk is full when it stands for this many bytes of text.
const CHUNK_BYTES: u64 = 256 << 10;
/// The CSV reader's own buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// A record buffer that grew beyond this is given back.
const KEPT_RECORD_BYTES: usize = 1 << 20;
/// Stands behind the text, as a line of its own.
const END_MARK: &[u8] = b"\n\x04\n";
/// The record that the mark is read as.
const END_RECORD: &[u8] = b"\x04";

/// What the reading task sends.
pub(crate) enum Message {
    /// Some records.
    Chunk(Chunk),
    /// The text was read to its end.
    End,
}

/// Records, their fields end to end.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    /// For each record its start in `bytes`, then the end of each of its fields.
    bounds: Vec<usize>,
    records: Vec<Record>,
}

struct Record {
    /// Where its bounds start.
    bounds_at: usize,
    /// The fields it had; no more than the header's are kept.
    n_fields: usize,
}

/// One record of a [`Chunk`].
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    bytes: &'a [u8],
    bounds: &'a [usize],
    /// The fields it had; no more than the header's are kept.
    pub(crate) n_fields: usize,
}

impl Chunk {
    /// An empty chunk with room for what a full one holds, going by `last`.
    fn after(last: &Self) -> Self {
        let most = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
        Self {
            bytes: Vec::with_capacity((last.bytes.len() * 9 / 8).min(most)),
            bounds: Vec::with_capacity((last.bounds.len() * 9 / 8).min(most)),
            records: Vec::with_capacity((last.records.len() * 9 / 8).min(most)),
        }
    }

    fn push(&mut self, record: &ByteRecord, max_fields: usize) {
        self.records.push(Record { bounds_at: self.bounds.len(), n_fields: record.len() });
        let start = self.bytes.len();
        self.bounds.push(start);
        let kept = record.len().min(max_fields);
        let mut end = 0;
        for field in 0..kept {
            end = record.range(field).map_or(end, |range| range.end);
            self.bounds.push(start + end);
        }
        self.bytes.extend_from_slice(&record.as_slice()[..end]);
    }

    /// The records it has.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether every field is UTF-8. All in one go: a field by itself costs many times as much.
    pub(crate) fn is_utf8(&self) -> bool {
        let text = std::str::from_utf8(&self.bytes);
        text.is_ok_and(|text| self.bounds.iter().all(|bound| text.is_char_boundary(*bound)))
    }

    /// A record, by its position.
    pub(crate) fn row(&self, at: usize) -> Option<Row<'_>> {
        let record = self.records.get(at)?;
        let bounds_end = self.records.get(at + 1).map_or(self.bounds.len(), |next| next.bounds_at);
        Some(Row { bytes: &self.bytes, bounds: &self.bounds[record.bounds_at..bounds_end], n_fields: record.n_fields })
    }
}

impl<'a> Row<'a> {
    /// The field at a position below the header's count and [`Row::n_fields`].
    pub(crate) fn field(&self, at: usize) -> &'a [u8] {
        &self.bytes[self.bounds[at]..self.bounds[at + 1]]
    }

    /// The fields kept, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.bounds.windows(2).map(move |bounds| &bytes[bounds[0]..bounds[1]])
    }

    /// The bytes of all fields kept.
    pub(crate) fn n_bytes(&self) -> usize {
        self.bounds[self.bounds.len() - 1] - self.bounds[0]
    }
}

/// Reads the records of a text, the header first.
pub(crate) struct Records {
    csv: AsyncReader<Guard>,
    record: ByteRecord,
    file: String,
    compression: Option<&'static str>,
    max_record_bytes: u64,
    /// Records read, the header not counted.
    rows: u64,
}

impl Records {
    /// Reads the header.
    pub(crate) async fn open(text: Text, file: &str, limits: &Limits) -> Result<(Self, ByteRecord), DecodeError> {
        let guard = Guard {
            text: text.bytes,
            delivered: 0,
            record_at: 0,
            max: limits.max_header_bytes,
            end: None,
            tripped: false,
        };
        let csv = AsyncReaderBuilder::new()
            .delimiter(text.delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .create_reader(guard);
        let mut records = Self {
            csv,
            record: ByteRecord::new(),
            file: file.to_owned(),
            compression: text.compression,
            max_record_bytes: limits.max_record_bytes,
            rows: 0,
        };
        let max = limits.max_header_bytes;
        let header = match records.read(max).await {
            Ok(true) => std::mem::take(&mut records.record),
            Ok(false) => return Err(DecodeError::Empty { file: records.file }),
            Err(DecodeError::RecordTooLong { file, .. }) => {
                return Err(DecodeError::HeaderTooLarge { file, unit: "bytes or more", size: max + 1, max });
            }
            Err(DecodeError::UnterminatedQuote { file, line, .. }) => {
                return Err(DecodeError::UnterminatedQuote { file, row: 0, line });
            }
            Err(error) => return Err(error),
        };
        Ok((records, header))
    }

    /// Reads to the end, a chunk at a time; ends early when nobody listens. The last word is
    /// [`Message::End`] or an error, so that a reader that died is not taken for an end.
    pub(crate) async fn send(mut self, n_columns: usize, chunks: mpsc::Sender<Result<Message, DecodeError>>) {
        let mut chunk = Chunk::default();
        let mut chunk_at = self.csv.position().byte();
        loop {
            let last_word = match self.read(self.max_record_bytes).await {
                Ok(true) => {
                    self.rows += 1;
                    chunk.push(&self.record, n_columns);
                    if self.record.as_slice().len() > KEPT_RECORD_BYTES {
                        self.record = ByteRecord::new();
                    }
                    if self.csv.position().byte() - chunk_at < CHUNK_BYTES {
                        continue;
                    }
                    None
                }
                Ok(false) => Some(Ok(Message::End)),
                Err(error) => Some(Err(error)),
            };
            chunk_at = self.csv.position().byte();
            if chunk.len() > 0 {
                let next = Chunk::after(&chunk);
                let full = std::mem::replace(&mut chunk, next);
                if chunks.send(Ok(Message::Chunk(full))).await.is_err() {
                    return;
                }
            }
            if let Some(last_word) = last_word {
                // Nobody listens: nobody wants to know.
                let _ = chunks.send(last_word).await;
                return;
            }
        }
    }

    /// Reads one record; says whether there was one.
    async fn read(&mut self, max: u64) -> Result<bool, DecodeError> {
        let start = self.csv.position().clone();
        let guard = self.csv.get_mut();
        guard.record_at = start.byte();
        guard.max = max;
        let too_long = |records: &Self| DecodeError::RecordTooLong {
            file: records.file.clone(),
            row: records.rows + 1,
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
                return Err(read_error(&self.file, self.compression, self.rows, source));
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
                row: self.rows + 1,
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

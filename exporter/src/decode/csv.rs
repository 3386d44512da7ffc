//! Text in, records out, in [`Chunk`]s. Reads in a task of its own, so that taking a text apart and converting it
//! go on side by side; a bounded channel makes the task wait for its reader. What a record is, [`split`] says.
//!
//! A record with too few or too many fields is handed on, cut to the header's fields and with its own count. A text
//! that ends inside a quoted field, and a record that grows beyond its bound, stop the reading.

mod automaton;
mod split;

use bytes::BufMut as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use self::automaton::Automaton;
use self::split::{Splitter, TooLong, Unterminated};
use super::chunk::{CHUNK_BYTES, Chunk, Message};
use super::{DecodeError, Limits, Text, read_error};

/// What is read at a time of a record that fills more than a chunk.
const READ_BYTES: usize = 64 << 10;

/// What takes a text apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CsvReader {
    /// Ours, which searches for the ends of fields.
    #[default]
    Searching,
    /// `csv-async`'s automaton: an independent witness, at a third of the speed.
    Automaton,
}

/// Reads the records of a text, the header first.
pub(crate) enum Records {
    /// By searching.
    Searching(Box<Searching>),
    /// By the automaton.
    Automaton(Box<Automaton>),
}

/// A [`Splitter`] and what it is fed with.
pub(crate) struct Searching {
    text: Box<dyn AsyncRead + Send + Unpin>,
    splitter: Splitter,
    is_at_end: bool,
    file: String,
    compression: Option<&'static str>,
    /// Records handed on, the header among them.
    n_taken: u64,
}

impl Records {
    /// Reads the header, the only record of its chunk.
    pub(crate) async fn open(
        text: Text,
        file: &str,
        limits: &Limits,
        reader: CsvReader,
    ) -> Result<(Self, Chunk), DecodeError> {
        let max = limits.max_header_bytes;
        let mut records = match reader {
            CsvReader::Searching => Self::Searching(Box::new(Searching::new(text, file))),
            CsvReader::Automaton => Self::Automaton(Box::new(Automaton::new(text, file))),
        };
        // More fields are an error.
        records.bound(limits.max_columns, max);
        match records.fill(1).await {
            Err(DecodeError::RecordTooLong { file, max, .. }) => {
                return Err(DecodeError::HeaderTooLarge { file, unit: "bytes or more", size: max + 1, max });
            }
            filled => filled?,
        }
        if records.n_records() == 0 {
            return Err(DecodeError::Empty { file: file.to_owned() });
        }
        let header = records.take();
        let n_columns = header.row(0).map_or(0, |row| row.n_fields);
        records.bound(n_columns, limits.max_record_bytes);
        Ok((records, header))
    }

    /// Reads to the end, a chunk at a time; ends early when nobody listens. The last word is
    /// [`Message::End`] or an error, so that a reader that died is not taken for an end.
    pub(crate) async fn send(mut self, chunks: mpsc::Sender<Result<Message, DecodeError>>) {
        loop {
            let last_word = match self.fill(usize::MAX).await {
                Ok(()) => self.is_at_end().then_some(Ok(Message::End)),
                Err(error) => Some(Err(error)),
            };
            if self.n_records() > 0 && chunks.send(Ok(Message::Chunk(self.take()))).await.is_err() {
                return;
            }
            if let Some(last_word) = last_word {
                // Nobody listens: nobody wants to know.
                let _ = chunks.send(last_word).await;
                return;
            }
        }
    }

    /// Sets how many fields of a record are kept, and how many bytes it may have.
    fn bound(&mut self, fields: usize, bytes: u64) {
        let (max_fields, max_record_bytes) = match self {
            Self::Searching(reader) => (&mut reader.splitter.max_fields, &mut reader.splitter.max_record_bytes),
            Self::Automaton(reader) => (&mut reader.max_fields, &mut reader.max_record_bytes),
        };
        (*max_fields, *max_record_bytes) = (fields, bytes);
    }

    /// Reads until there are `most` records, or as many as make a chunk, or the text ends.
    async fn fill(&mut self, most: usize) -> Result<(), DecodeError> {
        match self {
            Self::Searching(reader) => reader.fill(most).await,
            Self::Automaton(reader) => reader.fill(most).await,
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::Searching(reader) => reader.is_at_end,
            Self::Automaton(reader) => reader.is_at_end,
        }
    }

    /// Whole records that can be taken.
    fn n_records(&self) -> usize {
        match self {
            Self::Searching(reader) => reader.splitter.n_records(),
            Self::Automaton(reader) => reader.n_records(),
        }
    }

    fn take(&mut self) -> Chunk {
        match self {
            Self::Searching(reader) => reader.take(),
            Self::Automaton(reader) => reader.take(),
        }
    }
}

impl Searching {
    fn new(text: Text, file: &str) -> Self {
        Self {
            text: text.bytes,
            splitter: Splitter::new(text.delimiter),
            is_at_end: false,
            file: file.to_owned(),
            compression: text.compression,
            n_taken: 0,
        }
    }

    async fn fill(&mut self, most: usize) -> Result<(), DecodeError> {
        loop {
            self.splitter.split(most).map_err(|TooLong| DecodeError::RecordTooLong {
                file: self.file.clone(),
                row: self.row(),
                line: self.splitter.record_line(),
                max: self.splitter.max_record_bytes,
            })?;
            let n_records = self.splitter.n_records();
            let text = self.splitter.text();
            if n_records >= most || n_records > 0 && text.len() >= CHUNK_BYTES {
                return Ok(());
            }
            let wanted = CHUNK_BYTES.saturating_sub(text.len()).max(READ_BYTES);
            text.reserve(wanted);
            let read = self.text.read_buf(&mut text.limit(wanted)).await;
            self.is_at_end |= read.map_err(|source| self.broken(source))? == 0;
            if self.is_at_end {
                return self.splitter.finish().map_err(|Unterminated| DecodeError::UnterminatedQuote {
                    file: self.file.clone(),
                    row: self.row(),
                    line: self.splitter.record_line(),
                });
            }
        }
    }

    fn take(&mut self) -> Chunk {
        self.n_taken += self.splitter.n_records() as u64;
        self.splitter.take(CHUNK_BYTES + READ_BYTES)
    }

    /// The row that is read, from 1; the header is 0.
    fn row(&self) -> u64 {
        self.n_taken + self.splitter.n_records() as u64
    }

    fn broken(&self, source: std::io::Error) -> DecodeError {
        read_error(&self.file, self.compression, self.row().saturating_sub(1), source)
    }
}

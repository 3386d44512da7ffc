//! The rows that were refused: where they stood, which column, why, and their text, gathered into
//! batches. Holds one page.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use costream_common::record::row_field;

use crate::convert::Rejected;

/// Rejects in one batch, and the bytes at which it is full earlier.
pub(super) const REJECTS_PER_BATCH: usize = 1024;
const REJECT_BYTES_PER_BATCH: usize = 1 << 20;

/// The columns of the quarantine.
pub(crate) fn schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("source", false),
        text("file", false),
        Field::new("row", DataType::Int64, false),
        text("column", true),
        text("reason", false),
        text("text", false),
        row_field(),
    ]))
}

/// The refused rows of one report, file by file, on their way to the disk.
pub(super) struct Quarantine<W: Write> {
    source: String,
    file: String,
    writer: StreamWriter<W>,
    page: Page,
    count: u64,
    reasons: BTreeMap<String, u64>,
}

/// What was refused, once all of it is written.
pub(super) struct Refused<W: Write> {
    pub(super) writer: StreamWriter<W>,
    /// How many rows.
    pub(super) count: u64,
    /// How many for each reason.
    pub(super) reasons: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Page {
    rows: Int64Builder,
    columns: StringBuilder,
    reasons: StringBuilder,
    texts: StringBuilder,
    length: usize,
}

impl<W: Write> Quarantine<W> {
    /// An empty one, of a source's file, into a stream of the [`schema`].
    pub(super) fn new(source: String, file: String, writer: StreamWriter<W>) -> Self {
        Self { source, file, writer, page: Page::default(), count: 0, reasons: BTreeMap::new() }
    }

    /// What comes next is another file's.
    pub(super) fn part(&mut self, file: String) -> Result<(), ArrowError> {
        self.flush()?;
        self.file = file;
        Ok(())
    }

    /// Takes a refused row.
    pub(super) fn add(&mut self, rejected: &Rejected) -> Result<(), ArrowError> {
        let reason = rejected.reason.as_str();
        self.count += 1;
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        let page = &mut self.page;
        page.rows.append_value(i64::try_from(rejected.row).unwrap_or(i64::MAX));
        page.columns.append_option(rejected.column.as_deref());
        page.reasons.append_value(reason);
        page.texts.append_value(&rejected.text);
        page.length += 1;
        let bytes = page.columns.values_slice().len() + page.texts.values_slice().len();
        if page.length >= REJECTS_PER_BATCH || bytes >= REJECT_BYTES_PER_BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what is left. The stream is not ended.
    pub(super) fn end(mut self) -> Result<Refused<W>, ArrowError> {
        self.flush()?;
        Ok(Refused { writer: self.writer, count: self.count, reasons: self.reasons })
    }

    fn flush(&mut self) -> Result<(), ArrowError> {
        let Page { mut rows, mut columns, mut reasons, mut texts, length } = std::mem::take(&mut self.page);
        if length == 0 {
            return Ok(());
        }
        let constant = |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, length)));
        let last = i64::try_from(self.count).unwrap_or(i64::MAX);
        let first = last - i64::try_from(length).unwrap_or_default() + 1;
        let batch = RecordBatch::try_new(
            schema(),
            vec![
                constant(&self.source),
                constant(&self.file),
                Arc::new(rows.finish()),
                Arc::new(columns.finish()),
                Arc::new(reasons.finish()),
                Arc::new(texts.finish()),
                Arc::new(Int64Array::from_iter_values(first..=last)),
            ],
        )?;
        self.writer.write(&batch)
    }
}

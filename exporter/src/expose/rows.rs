//! The rows of `/metrics` as the inherited exporters have them: the files of [`crate::rows`] in, chunks of text out, a
//! sample a series. Rows of one series are one sample, their sum. Holds a batch, and a chunk.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray, RecordBatch};
use arrow::datatypes::Decimal128Type;
use bytes::{BufMut as _, BytesMut};
use costream_common::exposition::escape::escape_value;
use costream_common::money::Amount;
use costream_common::record::X_SOURCE;

use super::chunks::{CHUNK_BYTES, Write};
use super::records::RecordsError;
use crate::rows::{Shown, go_float};
use crate::snapshot::{Batches, Generation, SpoolError};

/// What stands before the samples, as Go's client library writes it.
const FAMILY: &str = "# HELP billed_cost \n# TYPE billed_cost gauge\n";
const SAMPLE: &str = "billed_cost{";

/// Writes the rows.
pub(super) struct RowsText {
    generations: std::vec::IntoIter<Arc<Generation>>,
    /// Whether each sample says of which source it is, since there are several.
    with_source: bool,
    open: Option<Open>,
    is_begun: bool,
}

/// A snapshot that is being read.
struct Open {
    batches: Batches,
    shown: Shown,
    batch: Option<(RecordBatch, usize)>,
    /// What each of its samples ends in.
    end: Vec<u8>,
    /// Keeps the files.
    _generation: Arc<Generation>,
}

impl RowsText {
    pub(super) fn new(generations: Vec<Arc<Generation>>, with_source: bool) -> Self {
        Self { generations: generations.into_iter(), with_source, open: None, is_begun: false }
    }
}

impl Write for RowsText {
    fn step(&mut self, text: &mut BytesMut) -> Result<bool, RecordsError> {
        let Some(open) = &mut self.open else {
            let Some(generation) = self.generations.next() else { return Ok(false) };
            if let Some((batches, shown)) = generation.rows()? {
                let mut end = Vec::new();
                if self.with_source {
                    end.extend_from_slice(format!(",{X_SOURCE}=\"").as_bytes());
                    escape_value(generation.key().source.as_str(), |bytes| end.extend_from_slice(bytes));
                    end.push(b'"');
                }
                end.extend_from_slice(b"} ");
                self.open = Some(Open { batches, shown, batch: None, end, _generation: generation });
            }
            return Ok(true);
        };
        let Some((batch, from)) = open.batch.take() else {
            match open.batches.next().transpose()? {
                Some(batch) => open.batch = Some((batch, 0)),
                None => self.open = None,
            }
            return Ok(true);
        };
        let labels = batch.column(0).as_string::<i32>();
        let billed = batch.column(1).as_primitive::<Decimal128Type>();
        let mut row = from;
        while row < batch.num_rows() && text.len() < CHUNK_BYTES {
            let own = billed.is_valid(row).then(|| Amount::from_units(billed.value(row))).flatten();
            let value = open.shown.value(own).map_err(SpoolError::twins)?;
            if let Some(value) = value {
                if !self.is_begun {
                    text.put_slice(FAMILY.as_bytes());
                    self.is_begun = true;
                }
                for part in
                    [SAMPLE.as_bytes(), labels.value(row).as_bytes(), &open.end, go_float(value).as_bytes(), b"\n"]
                {
                    text.put_slice(part);
                }
            }
            row += 1;
        }
        open.batch = (row < batch.num_rows()).then_some((batch, row));
        Ok(true)
    }
}

//! A Parquet file on the disk in, its rows out, in [`Chunk`]s of fields as a CSV of the same report would have them
//! ([`text`]): so amounts, times and tags are read, and rows refused, by the same rules. Reads row group by row group;
//! texts that the file keeps in a dictionary stay in one until they are fields. What other programs put beside the
//! schema (Arrow's own, pandas's) is left alone.
//!
//! Refuses a footer that says what cannot be: pages outside the file, more rows than there are, more columns than
//! [`Limits::max_columns`]. A row longer than [`Limits::max_record_bytes`] is a bad one.
//!
//! Peak memory: the footer (up to [`MAX_FOOTER_BYTES`], several times over when it is read), one page of every column,
//! as large as its writer made it (1 MiB is usual, and the crate believes what a page says of itself), [`MAX_ROWS`] rows
//! of these, fewer when the footer says that they are long, a chunk.
//!
//! Spec: <https://parquet.apache.org/docs/file-format/>.

mod text;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;

use self::text::Column;
use super::chunk::{Chunk, ChunkBuilder};
use super::scratch::Kept;
use super::{DecodeError, KeptRows, Limits, Reading, too_many_columns};

/// The longest footer.
const MAX_FOOTER_BYTES: u64 = 32 << 20;
/// Rows read at a time at most.
const MAX_ROWS: usize = 1_024;
/// Bytes that rows read at a time have at most, by what the footer says.
const ROWS_BYTES: usize = 4 << 20;
/// The bytes at both ends of a file.
const MAGIC: &[u8] = b"PAR1";
/// The footer's length, and the magic behind it.
const TAIL_BYTES: u64 = 8;

/// The rows of a Parquet report.
pub(super) struct Rows {
    kept: Kept,
    metadata: ArrowReaderMetadata,
    file: String,
    limits: Limits,
    /// The row group to be opened next.
    group: usize,
    open: Option<ParquetRecordBatchReader>,
    batch: Option<RecordBatch>,
    /// The batch's row to be taken next.
    at: usize,
    n_read: u64,
    chunk: ChunkBuilder,
}

impl Rows {
    /// Reads the footer.
    pub(super) fn open(kept: Kept, reading: &Reading) -> Result<Self, DecodeError> {
        let Reading { file, limits, .. } = reading;
        let failed = |source| DecodeError::Parquet { file: file.clone(), row: 0, source };
        check_tail(&kept.file, kept.bytes).map_err(failed)?;
        let metadata = metadata(&kept.file).map_err(failed)?;
        let parquet = metadata.metadata().file_metadata();
        let n_columns = metadata.schema().fields().len().max(parquet.schema_descr().num_columns());
        if n_columns > limits.max_columns {
            return Err(too_many_columns(file, n_columns, limits));
        }
        check_groups(metadata.metadata().row_groups(), parquet.num_rows(), kept.bytes).map_err(failed)?;
        let mut rows = Self {
            kept,
            metadata,
            file: file.clone(),
            limits: *limits,
            group: 0,
            open: None,
            batch: None,
            at: 0,
            n_read: 0,
            chunk: ChunkBuilder::default(),
        };
        rows.batch = rows.read().map_err(failed)?;
        Ok(rows)
    }

    /// Opens the next row group; says whether there is one.
    fn open_group(&mut self) -> Result<bool, ParquetError> {
        let groups = self.metadata.metadata().row_groups();
        let Some(group) = groups.get(self.group) else { return Ok(false) };
        let per_row = |total: i64| usize::try_from(total / group.num_rows().max(1)).unwrap_or(0).max(1);
        let n_rows = (ROWS_BYTES / per_row(group.total_byte_size())).clamp(1, MAX_ROWS);
        let file = self.kept.file.try_clone()?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![self.group])
            .with_batch_size(n_rows)
            .build()?;
        self.open = Some(reader);
        self.group += 1;
        Ok(true)
    }

    /// Reads the next rows of the open row group; nothing at the end of the last.
    fn read(&mut self) -> Result<Option<RecordBatch>, ParquetError> {
        loop {
            match self.open.as_mut().and_then(Iterator::next) {
                Some(batch) => return batch.map(Some).map_err(unwrapped),
                None if self.open_group()? => {}
                None => return Ok(None),
            }
        }
    }

    fn failed(&self, source: ParquetError) -> DecodeError {
        DecodeError::Parquet { file: self.file.clone(), row: self.n_read, source }
    }
}

impl KeptRows for Rows {
    fn names(&self) -> Vec<String> {
        self.metadata.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    fn next(&mut self) -> Result<Option<Chunk>, DecodeError> {
        while !self.chunk.is_full() {
            let Some(batch) = self.batch.clone() else { break };
            let columns = text::columns(&batch).map_err(|error| self.failed(error.into()))?;
            while self.at < batch.num_rows() && !self.chunk.is_full() {
                row(&columns, self.at, self.limits.max_record_bytes, &mut self.chunk)
                    .map_err(|error| self.failed(error.into()))?;
                self.at += 1;
                self.n_read += 1;
            }
            if self.at == batch.num_rows() {
                self.batch = self.read().map_err(|error| self.failed(error))?;
                self.at = 0;
            }
        }
        let chunk = self.chunk.take();
        let promised = self.metadata.metadata().file_metadata().num_rows();
        if chunk.is_none() && u64::try_from(promised) != Ok(self.n_read) {
            return Err(self.failed(general(format!("the footer says that there are {promised} rows"))));
        }
        Ok(chunk)
    }
}

/// Writes a row, its fields in the order of the columns.
fn row(columns: &[Column<'_>], row: usize, max_bytes: u64, chunk: &mut ChunkBuilder) -> Result<(), ArrowError> {
    for column in columns {
        if column.write(row, chunk.text())? {
            chunk.end_field();
        } else {
            chunk.push_null();
        }
        if chunk.row_bytes() as u64 > max_bytes {
            chunk.end_long_row();
            return Ok(());
        }
    }
    chunk.end_row();
    Ok(())
}

/// The reader hands its errors out as Arrow's, which would say everything twice.
fn unwrapped(error: ArrowError) -> ParquetError {
    match error {
        ArrowError::ParquetError(said) => general(said.strip_prefix("Parquet error: ").unwrap_or(&said).to_owned()),
        other => other.into(),
    }
}

fn general(what: String) -> ParquetError {
    ParquetError::General(what)
}

/// Looks at the end of the file, before anything is believed of it.
fn check_tail(file: &File, bytes: u64) -> Result<(), ParquetError> {
    let cut_off = || general("it does not end as Parquet does: it is cut off".to_owned());
    let at = bytes.checked_sub(TAIL_BYTES).filter(|at| *at >= MAGIC.len() as u64).ok_or_else(cut_off)?;
    let (mut length, mut magic) = ([0; 4], [0; 4]);
    file.read_exact_at(&mut length, at)?;
    file.read_exact_at(&mut magic, at + 4)?;
    if magic != MAGIC {
        return Err(cut_off());
    }
    let length = u64::from(u32::from_le_bytes(length));
    let most = MAX_FOOTER_BYTES.min(at - MAGIC.len() as u64);
    if length > most {
        return Err(general(format!("the footer says that it has {length} bytes, and {most} are the most")));
    }
    Ok(())
}

/// Reads the footer; the columns are what Parquet says, texts in dictionaries.
fn metadata(file: &File) -> Result<ArrowReaderMetadata, ParquetError> {
    let plain = ArrowReaderMetadata::load(file, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
    let column = |field: &FieldRef| match field.data_type() {
        text @ (DataType::Utf8 | DataType::Binary) => {
            let coded = DataType::Dictionary(Box::new(DataType::Int32), Box::new(text.clone()));
            Arc::new(Field::clone(field).with_data_type(coded))
        }
        _ => with_offsets(field),
    };
    let fields: Vec<FieldRef> = plain.schema().fields().iter().map(column).collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options)
}

/// The same field with times in the zone `+00:00`: Arrow shows none in a zone that has a name, and Parquet's is `UTC`.
fn with_offsets(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(element) => DataType::List(with_offsets(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(with_offsets).collect()),
        DataType::Map(entries, is_sorted) => DataType::Map(with_offsets(entries), *is_sorted),
        other => other.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

/// Holds what the footer says of the row groups against the file, and against itself.
fn check_groups(groups: &[RowGroupMetaData], n_rows: i64, bytes: u64) -> Result<(), ParquetError> {
    let mut found: i64 = 0;
    for (at, group) in groups.iter().enumerate() {
        let rows = Some(group.num_rows()).filter(|rows| *rows >= 0);
        found = rows
            .and_then(|rows| found.checked_add(rows))
            .ok_or_else(|| general(format!("the footer says that row group {at} has {} rows", group.num_rows())))?;
        if let Some(column) = group.columns().iter().find(|column| !is_within(column, bytes)) {
            let path = column.column_path().string();
            return Err(general(format!("the footer says that column {path} of row group {at} is outside the file")));
        }
    }
    if found != n_rows {
        return Err(general(format!("the footer says that there are {n_rows} rows, and {found} in its row groups")));
    }
    Ok(())
}

fn is_within(column: &ColumnChunkMetaData, bytes: u64) -> bool {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let end = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
    let end = end.and_then(|(start, length)| start.checked_add(length));
    end.is_some_and(|end| end <= bytes) && column.data_page_offset() >= 0 && column.num_values() >= 0
}

#[cfg(test)]
mod tests {
    use ::parquet::basic::Type as Physical;
    use ::parquet::schema::types::{SchemaDescriptor, Type};

    use super::*;

    fn group(rows: i64, offset: i64, length: i64) -> RowGroupMetaData {
        let column = Type::primitive_type_builder("a", Physical::INT64).build().expect("a column");
        let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(column)]).build().expect("a schema");
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        let column = ColumnChunkMetaData::builder(schema.column(0))
            .set_data_page_offset(offset)
            .set_total_compressed_size(length)
            .build()
            .expect("a column");
        RowGroupMetaData::builder(schema)
            .set_num_rows(rows)
            .set_column_metadata(vec![column])
            .build()
            .expect("a row group")
    }

    #[test]
    fn a_footer_that_lies_is_not_believed() {
        let outside = "column a of row group 1 is outside the file";
        for (second, n_rows, lie) in [
            (group(2, 4, 96), 3, None),
            (group(2, 5, 96), 3, Some(outside)),
            (group(2, i64::MAX, i64::MAX), 3, Some(outside)),
            (group(2, -1, 1), 3, Some(outside)),
            (group(2, 4, -1), 3, Some(outside)),
            (group(-2, 4, 1), -1, Some("row group 1 has -2 rows")),
            (group(i64::MAX, 4, 1), i64::MAX, Some("row group 1 has 9223372036854775807 rows")),
            (group(2, 4, 1), 1_000, Some("there are 1000 rows, and 3 in its row groups")),
        ] {
            let checked = check_groups(&[group(1, 4, 10), second], n_rows, 100);
            let expected = lie.map(|lie| format!("Parquet error: the footer says that {lie}"));
            assert_eq!(checked.err().map(|error| error.to_string()), expected);
        }
    }
}

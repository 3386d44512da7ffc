//! Batches in, one parquet file in an object store out. The columns of a batch are encoded by as many threads as there
//! are processors, at most [`MAX_ENCODERS`]: encoding is most of what storing a row costs. Each takes the next
//! column that nobody has, so none waits for a wide one.
//!
//! Whoever writes waits until a batch is encoded, and a full row group until the store has taken it, column by column.
//! Holds one row group, encoded, one column of it once more, and what the upload buffers. A writer whose call was
//! dropped before its end is of no more use.

use std::io::{self, Write};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::SerializedFileWriter;
use tokio::io::AsyncWriteExt as _;

/// With more threads a batch is too small to share.
const MAX_ENCODERS: usize = 4;

/// Writes one file.
pub(super) struct FileWriter {
    fields: Vec<FieldRef>,
    /// Makes the file of row groups.
    file: SerializedFileWriter<Made>,
    made: Made,
    row_groups: ArrowRowGroupWriterFactory,
    upload: BufWriter,
    /// The columns of the open row group; none when there is none.
    columns: Vec<Column>,
    rows: usize,
    max_row_group_rows: usize,
}

/// A column of a row group; of a map its keys and its values.
struct Column {
    at: usize,
    leaves: Vec<ArrowColumnWriter>,
}

impl FileWriter {
    pub(super) fn new(
        upload: BufWriter,
        schema: SchemaRef,
        options: ArrowWriterOptions,
        max_row_group_rows: usize,
    ) -> Result<Self, ParquetError> {
        let fields = schema.fields().iter().cloned().collect();
        let made = Made::default();
        let writer = ArrowWriter::try_new_with_options(made.clone(), schema, options)?;
        let (file, row_groups) = writer.into_serialized_writer()?;
        Ok(Self { fields, file, made, row_groups, upload, columns: Vec::new(), rows: 0, max_row_group_rows })
    }

    /// Writes a batch of the file's schema.
    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if self.columns.is_empty() {
            self.columns = self.begin()?;
        }
        let (fields, n_rows) = (self.fields.clone(), batch.num_rows());
        let batch = batch.clone();
        self.columns = shared_out(std::mem::take(&mut self.columns), move |mut column| {
            let leaves = compute_leaves(&fields[column.at], batch.column(column.at))?;
            if leaves.len() != column.leaves.len() {
                return Err(unknown(&fields[column.at]));
            }
            for (writer, leaf) in column.leaves.iter_mut().zip(&leaves) {
                writer.write(leaf)?;
            }
            Ok(column)
        })
        .await?;
        self.rows += n_rows;
        if self.rows >= self.max_row_group_rows { self.flush().await } else { Ok(()) }
    }

    /// Ends the open row group and sends it on.
    pub(super) async fn flush(&mut self) -> Result<(), ParquetError> {
        let columns = std::mem::take(&mut self.columns);
        if columns.is_empty() {
            return Ok(());
        }
        let mut chunks = shared_out(columns, |column| {
            let chunks = column.leaves.into_iter().map(ArrowColumnWriter::close);
            Ok((column.at, chunks.collect::<Result<Vec<ArrowColumnChunk>, _>>()?))
        })
        .await?;
        chunks.sort_unstable_by_key(|(at, _)| *at);
        let mut row_group = self.file.next_row_group()?;
        for mut chunk in chunks.into_iter().flat_map(|(_, chunks)| chunks) {
            let_go_of_batch(&mut chunk)?;
            chunk.append_to_row_group(&mut row_group)?;
            self.upload.put(self.made.take()).await.map_err(refused)?;
        }
        row_group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Ends the file: what it holds, and how many bytes it has.
    pub(super) async fn finish(mut self) -> Result<(ParquetMetaData, usize), ParquetError> {
        self.flush().await?;
        let metadata = self.file.finish()?;
        self.upload.put(self.made.take()).await.map_err(refused)?;
        self.upload.shutdown().await?;
        Ok((metadata, self.file.bytes_written()))
    }

    /// Bytes held of the open row group.
    pub(super) fn memory_size(&self) -> usize {
        self.leaves().map(ArrowColumnWriter::memory_size).sum()
    }

    /// Bytes of the file so far, the open row group's by estimate.
    pub(super) fn size(&self) -> usize {
        self.file.bytes_written() + self.leaves().map(ArrowColumnWriter::get_estimated_total_bytes).sum::<usize>()
    }

    fn leaves(&self) -> impl Iterator<Item = &ArrowColumnWriter> {
        self.columns.iter().flat_map(|column| &column.leaves)
    }

    fn begin(&self) -> Result<Vec<Column>, ParquetError> {
        let n_before = self.file.flushed_row_groups().len();
        let mut leaves = self.row_groups.create_column_writers(n_before)?.into_iter();
        let columns = self.fields.iter().enumerate().map(|(at, field)| {
            let n_leaves = n_leaves(field.data_type()).ok_or_else(|| unknown(field))?;
            Ok(Column { at, leaves: leaves.by_ref().take(n_leaves).collect() })
        });
        columns.collect()
    }
}

/// Copies the bounds of a column of fixed length (our amounts), which are kept until the file ends. The writer takes them for
/// slices of the batch in which it found them, and each holds all the amounts of that batch.
fn let_go_of_batch(chunk: &mut ArrowColumnChunk) -> Result<(), ParquetError> {
    let metadata = &mut chunk.close_mut().metadata;
    let Some(Statistics::FixedLenByteArray(bounds)) = metadata.statistics() else { return Ok(()) };
    let copied = |bound: Option<&FixedLenByteArray>| {
        bound.map(|bound| FixedLenByteArray::from(ByteArray::from(bound.data().to_vec())))
    };
    let (min, max) = (copied(bounds.min_opt()), copied(bounds.max_opt()));
    let copy = ValueStatistics::new(min, max, bounds.distinct_count(), bounds.null_count_opt(), false)
        .with_min_is_exact(bounds.min_is_exact())
        .with_max_is_exact(bounds.max_is_exact())
        .with_backwards_compatible_min_max(bounds.is_min_max_backwards_compatible());
    *metadata = metadata.clone().into_builder().set_statistics(copy.into()).build()?;
    Ok(())
}

/// The bytes made of a file, for whoever sends them on.
#[derive(Clone, Default)]
struct Made(Arc<Mutex<Vec<u8>>>);

impl Made {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refused(error: object_store::Error) -> ParquetError {
    ParquetError::External(error.into())
}

/// The columns that a parquet file has for one of ours; nothing for types that no table has.
fn n_leaves(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Map(entries, _) | DataType::List(entries) => n_leaves(entries.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| n_leaves(field.data_type())).sum(),
        DataType::Dictionary(..) => Some(1),
        other => (!other.is_nested()).then_some(1),
    }
}

fn unknown(field: &FieldRef) -> ParquetError {
    ParquetError::General(format!("column {} is {}, which no table has", field.name(), field.data_type()))
}

/// Does some work on each of several things, on several threads. An error leaves the rest undone.
async fn shared_out<T, R>(
    things: Vec<T>,
    work: impl Fn(T) -> Result<R, ParquetError> + Send + Sync + 'static,
) -> Result<Vec<R>, ParquetError>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_ENCODERS);
    let shared = Arc::new((Mutex::new(things), work));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let shared = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || {
                let (things, work) = &*shared;
                // A statement of its own: the lock is let go before the work begins.
                let next = || things.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut done = Vec::new();
                while let Some(thing) = next() {
                    done.push(work(thing)?);
                }
                Ok::<_, ParquetError>(done)
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.map_err(|error| ParquetError::External(error.into()))??);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use arrow::array::Decimal128Array;
    use arrow::datatypes::{Field, Schema};
    use costream_common::record::MAX_BATCH_ROWS;
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    use super::*;

    /// The bounds of every row group, as the file says them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn amounts_keep_their_bounds() {
        let (store, path) = (Arc::new(InMemory::new()), Path::from("amounts.parquet"));
        let schema = Arc::new(Schema::new(vec![Field::new("amount", DataType::Decimal128(38, 18), true)]));
        let upload = BufWriter::new(store.clone(), path.clone());
        let mut writer =
            FileWriter::new(upload, schema.clone(), ArrowWriterOptions::new(), MAX_BATCH_ROWS).expect("a writer");
        let groups: [[Option<i128>; 3]; 3] =
            [[Some(7), None, Some(-(10_i128.pow(37)))], [Some(i128::MAX / 2), Some(0), None], [None, None, None]];
        for amounts in groups {
            let column = Decimal128Array::from(amounts.to_vec()).with_data_type(DataType::Decimal128(38, 18));
            let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(column)]).expect("a batch");
            writer.write(&batch).await.expect("written");
            writer.flush().await.expect("a row group");
        }
        writer.finish().await.expect("a file");
        let bytes = store.get(&path).await.expect("a file").bytes().await.expect("bytes");
        let reader = SerializedFileReader::new(bytes).expect("a file");
        let read: Vec<_> = reader
            .metadata()
            .row_groups()
            .iter()
            .map(|group| {
                let bounds = group.column(0).statistics().expect("statistics");
                let amount = |bytes: &[u8]| i128::from_be_bytes(bytes.try_into().expect("16 bytes"));
                assert_eq!(bounds.min_is_exact() && bounds.max_is_exact(), bounds.min_bytes_opt().is_some());
                (bounds.min_bytes_opt().map(amount), bounds.max_bytes_opt().map(amount), bounds.null_count_opt())
            })
            .collect();
        let expected = groups.map(|amounts| {
            let there = || amounts.iter().copied().flatten();
            (there().min(), there().max(), Some(amounts.iter().filter(|amount| amount.is_none()).count() as u64))
        });
        assert_eq!(read, expected);
    }
}

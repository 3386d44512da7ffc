//! Record batches in, parquet files of a table out, one set per partition, with the [`Add`]
//! actions that make them part of it. Nothing is visible until those are committed; files
//! that are not committed are deleted when the writer is dropped.
//!
//! Peak memory: [`MAX_ENCODED_BYTES`] of encoded rows, for each of [`MAX_OPEN_FILES`] at most two
//! upload buffers of [`UPLOAD_BUFFER_BYTES`], and one batch.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use costream_common::record::{MAX_BATCH_ROWS, X_ROW};
use deltalake::kernel::{Action, Add, DeletionVectorDescriptor, Remove};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::encode::FileWriter;
use super::stats;

/// Files written at the same time: one for each of the partitions last written to.
const MAX_OPEN_FILES: usize = 8;
/// Encoded rows kept in memory, over all open files; beyond it the largest row group is written.
const MAX_ENCODED_BYTES: usize = 16 << 20;
/// Rows of one row group.
const MAX_ROW_GROUP_ROWS: usize = 128 << 10;
/// Rows of one page, which is what is compressed at once: until then a row takes twice the memory.
const MAX_PAGE_ROWS: usize = 4 << 10;
/// What an upload buffers: the least that object stores take as a part.
const UPLOAD_BUFFER_BYTES: usize = 5 << 20;
/// Files that one commit may add: a report scattered over more partitions is a mistake.
const MAX_FILES: usize = 20_000;

/// Values of the partition columns, in their order, as the Delta log spells them.
pub(super) type PartitionValues = Vec<Option<String>>;

/// What went wrong with a table's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A batch could not be taken apart or put together.
    #[error("arrange rows by partition")]
    Arrow(#[from] ArrowError),
    /// A file could not be encoded, read or written.
    #[error("parquet file")]
    Parquet(#[from] ParquetError),
    /// Partition columns are text or timestamps.
    #[error("column {0} cannot be partitioned by")]
    Partition(String),
    /// Another program has marked rows of it as deleted, which is not understood here.
    #[error("a file with a deletion vector cannot be rewritten")]
    DeletionVector,
    /// Too many partitions in one delivery.
    #[error("more than {MAX_FILES} files in one commit: too many billing periods")]
    TooManyFiles,
}

/// Writes batches of one schema into files by partition.
pub(super) struct PartitionWriter {
    store: Arc<dyn ObjectStore>,
    /// Folder of the files, below the table's.
    folder: String,
    schema: SchemaRef,
    partition_columns: Vec<String>,
    /// Partition columns with one value for all rows; batches do not have them.
    fixed: HashMap<String, Option<String>>,
    target_bytes: usize,
    /// Most recently written last.
    open: Vec<OpenFile>,
    written: Written,
    /// Files begun so far.
    begun: u32,
    rows: u64,
}

/// Where a row was written: the file, by the order in which the writer began them, and the row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u32,
    pub(super) row: u32,
}

/// The rows of a batch that belong to one partition.
struct Part {
    values: PartitionValues,
    batch: RecordBatch,
    /// Which rows they were; all of them when nothing.
    rows: Option<UInt32Array>,
}

/// Finished files; deleted when dropped before [`Written::keep`].
pub(super) struct Written {
    store: Arc<dyn ObjectStore>,
    adds: Vec<Add>,
    /// The files' numbers in the order in which they were begun.
    numbers: Vec<u32>,
    /// Files begun and not finished.
    begun: Vec<Path>,
}

struct OpenFile {
    number: u32,
    /// Rows written to it so far.
    rows: u32,
    values: PartitionValues,
    path: Path,
    writer: FileWriter,
}

impl PartitionWriter {
    /// `schema`: of every batch, the partition columns that are not `fixed` among them.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        folder: String,
        schema: SchemaRef,
        partition_columns: Vec<String>,
        fixed: HashMap<String, Option<String>>,
        target_bytes: usize,
    ) -> Self {
        let written = Written { store: store.clone(), adds: Vec::new(), numbers: Vec::new(), begun: Vec::new() };
        let open = Vec::new();
        Self { store, folder, schema, partition_columns, fixed, target_bytes, open, written, begun: 0, rows: 0 }
    }

    /// Rows written so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        self.rows += batch.num_rows() as u64;
        for Part { values, batch, .. } in self.by_partition(batch)? {
            self.write_part(values, &batch).await?;
        }
        Ok(())
    }

    /// Writes a batch, and says where each of its rows went.
    pub(super) async fn write_placed(&mut self, batch: &RecordBatch) -> Result<Vec<Place>, FileError> {
        self.rows += batch.num_rows() as u64;
        let mut places = vec![Place { file: 0, row: 0 }; batch.num_rows()];
        for Part { values, batch, rows } in self.by_partition(batch)? {
            let first = self.write_part(values, &batch).await?;
            let placed = (first.row..).map(|row| Place { row, ..first });
            match rows {
                None => places.iter_mut().zip(placed).for_each(|(place, placed)| *place = placed),
                Some(rows) => rows.values().iter().zip(placed).for_each(|(at, placed)| places[*at as usize] = placed),
            }
        }
        Ok(places)
    }

    /// The rows to come have more columns.
    pub(super) async fn widen(&mut self, schema: SchemaRef) -> Result<(), FileError> {
        self.close_all().await?;
        self.fixed.retain(|name, _| schema.field_with_name(name).is_err());
        self.schema = schema;
        Ok(())
    }

    /// Finishes the files that are open: what was written so far can be read.
    pub(super) async fn close_all(&mut self) -> Result<(), FileError> {
        while let Some(file) = self.open.pop() {
            self.close(file).await?;
        }
        Ok(())
    }

    /// Files begun so far.
    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    /// The files finished so far.
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    /// Finishes every file.
    pub(super) async fn finish(mut self) -> Result<Written, FileError> {
        self.close_all().await?;
        Ok(self.written)
    }

    /// The rows of a batch by partition, without the partition columns.
    fn by_partition(&self, batch: &RecordBatch) -> Result<Vec<Part>, FileError> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let data: Vec<usize> = (0..batch.num_columns())
            .filter(|at| !self.partition_columns.contains(batch.schema_ref().field(*at).name()))
            .collect();
        let whole = batch.project(&data)?;
        let varying = self.partition_columns.iter().filter(|name| !self.fixed.contains_key(*name));
        let keys =
            varying.map(|name| batch.column_by_name(name).cloned().ok_or_else(|| FileError::Partition(name.clone())));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Ok(vec![Part { values: self.values_at(batch, 0)?, batch: whole, rows: None }]);
        }
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&keys)?;
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let mut parts: Vec<Vec<u32>> = Vec::new();
        for (at, row) in (0_u32..).zip(rows.iter()) {
            let place = *places.entry(row.data()).or_insert_with(|| {
                parts.push(Vec::new());
                parts.len() - 1
            });
            parts[place].push(at);
        }
        let whole_at_once = parts.len() == 1;
        parts
            .into_iter()
            .map(|part| {
                let first = part.first().map_or(0, |at| *at as usize);
                let values = self.values_at(batch, first)?;
                if whole_at_once {
                    return Ok(Part { values, batch: whole.clone(), rows: None });
                }
                let rows = UInt32Array::from(part);
                Ok(Part { values, batch: take_record_batch(&whole, &rows)?, rows: Some(rows) })
            })
            .collect()
    }

    fn values_at(&self, batch: &RecordBatch, row: usize) -> Result<PartitionValues, FileError> {
        let value = |name: &String| match (self.fixed.get(name), batch.column_by_name(name)) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(column)) => partition_value(column, row, name),
            (None, None) => Err(FileError::Partition(name.clone())),
        };
        self.partition_columns.iter().map(value).collect()
    }

    /// Writes rows of one partition, and says where the first went.
    async fn write_part(&mut self, values: PartitionValues, part: &RecordBatch) -> Result<Place, FileError> {
        let place = self.open.iter().position(|file| file.values == values);
        let mut file = match place {
            Some(at) => self.open.remove(at),
            None => {
                if self.open.len() >= MAX_OPEN_FILES {
                    let least_recent = self.open.remove(0);
                    self.close(least_recent).await?;
                }
                self.begin(values)?
            }
        };
        file.writer.write(part).await?;
        let first = Place { file: file.number, row: file.rows };
        // A file is closed long before it has so many.
        file.rows += u32::try_from(part.num_rows()).unwrap_or(u32::MAX);
        if file.writer.size() >= self.target_bytes {
            self.close(file).await?;
        } else {
            self.open.push(file);
        }
        let encoded: usize = self.open.iter().map(|file| file.writer.memory_size()).sum();
        if encoded > MAX_ENCODED_BYTES {
            let largest = self.open.iter_mut().max_by_key(|file| file.writer.memory_size());
            if let Some(largest) = largest {
                largest.writer.flush().await?;
            }
        }
        Ok(first)
    }

    fn begin(&mut self, values: PartitionValues) -> Result<OpenFile, FileError> {
        if self.written.adds.len() + self.open.len() >= MAX_FILES {
            return Err(FileError::TooManyFiles);
        }
        let path = Path::from_iter([self.folder.as_str(), &format!("{}.parquet", uuid::Uuid::new_v4().simple())]);
        let fields = self.schema.fields().iter().filter(|field| !self.partition_columns.contains(field.name()));
        let schema = Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()));
        let upload =
            BufWriter::with_capacity(self.store.clone(), path.clone(), UPLOAD_BUFFER_BYTES).with_max_concurrency(1);
        let ordinal = ColumnPath::from(X_ROW);
        let properties = WriterProperties::builder()
            // Ordinals stand one after the other, and no two are the same.
            .set_column_dictionary_enabled(ordinal.clone(), false)
            .set_column_encoding(ordinal, Encoding::DELTA_BINARY_PACKED)
            .set_compression(Compression::SNAPPY)
            .set_data_page_row_count_limit(MAX_PAGE_ROWS)
            .set_created_by(format!("costream {}", env!("CARGO_PKG_VERSION")))
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = FileWriter::new(upload, schema, options, MAX_ROW_GROUP_ROWS)?;
        self.written.begun.push(path.clone());
        let number = self.begun;
        self.begun += 1;
        Ok(OpenFile { number, rows: 0, values, path, writer })
    }

    async fn close(&mut self, file: OpenFile) -> Result<(), FileError> {
        let (metadata, size) = file.writer.finish().await?;
        self.written.begun.retain(|path| *path != file.path);
        self.written.numbers.push(file.number);
        self.written.adds.push(Add {
            path: file.path.to_string(),
            partition_values: self.partition_columns.iter().cloned().zip(file.values).collect(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            modification_time: Utc::now().timestamp_millis(),
            data_change: true,
            stats: Some(stats::of_file(&metadata)),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        });
        Ok(())
    }
}

impl Written {
    pub(super) fn adds(&self) -> &[Add] {
        &self.adds
    }

    /// The files, with their numbers.
    pub(super) fn files(&self) -> impl Iterator<Item = (u32, DataFile)> {
        self.numbers.iter().copied().zip(self.adds.iter().map(DataFile::of))
    }

    /// Takes another's files in the place of some of its own, which are deleted.
    pub(super) async fn replace(&mut self, unwanted: impl Fn(u32) -> bool, mut others: Self) {
        let (mut adds, mut numbers, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for (number, add) in std::mem::take(&mut self.numbers).into_iter().zip(std::mem::take(&mut self.adds)) {
            if unwanted(number) {
                paths.push(Path::from(add.path));
            } else {
                adds.push(add);
                numbers.push(number);
            }
        }
        adds.append(&mut others.adds);
        numbers.append(&mut others.numbers);
        (self.adds, self.numbers) = (adds, numbers);
        delete(self.store.clone(), paths).await;
    }

    /// The files belong to the table now, or may: they stay.
    pub(super) fn keep(mut self) {
        self.adds.clear();
        self.begun.clear();
    }

    /// Deletes the files, as far as that succeeds; a vacuum takes the others.
    pub(super) async fn discard(mut self) {
        delete(self.store.clone(), self.take_paths()).await;
    }

    fn take_paths(&mut self) -> Vec<Path> {
        let finished = std::mem::take(&mut self.adds).into_iter().map(|add| Path::from(add.path));
        finished.chain(std::mem::take(&mut self.begun)).collect()
    }
}

/// Cut: what was written goes, in the background.
impl Drop for Written {
    fn drop(&mut self) {
        let paths = self.take_paths();
        if !paths.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(delete(self.store.clone(), paths));
        }
    }
}

async fn delete(store: Arc<dyn ObjectStore>, paths: Vec<Path>) {
    for path in paths {
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::debug!(%path, %error, "an unfinished file stays until the next vacuum"),
        }
    }
}

/// A partition column's value as the Delta log spells it. Empty text counts as null there.
fn partition_value(column: &ArrayRef, row: usize, name: &str) -> Result<Option<String>, FileError> {
    let wrong = || FileError::Partition(name.to_owned());
    if column.is_null(row) {
        return Ok(None);
    }
    match column.data_type() {
        DataType::Utf8 => Ok(Some(column.as_string::<i32>().value(row).to_owned())),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = DateTime::from_timestamp_micros(micros).ok_or_else(wrong)?;
            Ok(Some(time.to_rfc3339_opts(SecondsFormat::Micros, true)))
        }
        _ => Err(wrong()),
    }
}

/// A file of a table.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    pub(super) path: String,
    pub(super) size: i64,
    /// Values of the partition columns, as the log spells them.
    pub(super) partition: HashMap<String, Option<String>>,
    /// Bounds of the time columns, in microseconds.
    pub(super) times: BTreeMap<String, (i64, i64)>,
    /// Rows of it that another program has marked as deleted.
    pub(super) deletion_vector: Option<DeletionVectorDescriptor>,
}

impl DataFile {
    /// A file that was just written.
    fn of(add: &Add) -> Self {
        Self {
            path: add.path.clone(),
            size: add.size,
            partition: add.partition_values.clone(),
            times: BTreeMap::new(),
            deletion_vector: None,
        }
    }

    pub(super) fn object_store_path(&self) -> Path {
        Path::parse(&self.path).unwrap_or_else(|_| Path::from(self.path.as_str()))
    }

    /// What takes the file out of the table.
    pub(super) fn remove(&self, data_change: bool) -> Action {
        Action::Remove(Remove {
            path: self.path.clone(),
            data_change,
            deletion_timestamp: Some(Utc::now().timestamp_millis()),
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
            ..Remove::default()
        })
    }
}

/// The rows of a table's file, a batch at a time.
pub(super) type Rows = ParquetRecordBatchStream<FileReader>;

/// Reads a table's file, some or all of its columns.
pub(super) async fn read(
    store: &Arc<dyn ObjectStore>,
    file: &DataFile,
    columns: Option<&[String]>,
) -> Result<Rows, FileError> {
    if file.deletion_vector.is_some() {
        return Err(FileError::DeletionVector);
    }
    let size = u64::try_from(file.size).unwrap_or_default();
    let reader = FileReader { store: store.clone(), path: file.object_store_path(), size };
    let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    if let Some(columns) = columns {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
        builder = builder.with_projection(mask);
    }
    Ok(builder.with_batch_size(MAX_BATCH_ROWS).build()?)
}

/// A file in the table's object store.
pub(super) struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(error.into())
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// A column that says the same in every row, from a partition value of the log.
fn constant(value: Option<&str>, data_type: &DataType, rows: usize) -> Result<ArrayRef, FileError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(new_null_array(data_type, rows));
    };
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows)));
    Ok(if *data_type == DataType::Utf8 { text } else { arrow::compute::cast(&text, data_type)? })
}

/// A file's rows with the columns of `schema`, those among them that stand in the log alone.
pub(super) fn whole(
    file: &DataFile,
    batch: RecordBatch,
    schema: &SchemaRef,
    partition_columns: &[String],
) -> Result<RecordBatch, FileError> {
    let (mut fields, mut arrays) = (batch.schema_ref().fields().to_vec(), batch.columns().to_vec());
    for name in partition_columns {
        if let Ok(field) = schema.field_with_name(name) {
            let value = file.partition.get(name).and_then(Option::as_deref);
            arrays.push(constant(value, field.data_type(), batch.num_rows())?);
            fields.push(Arc::new(field.clone()));
        }
    }
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &rows)?;
    Ok(conform(&batch, schema)?)
}

/// A batch with the columns of `schema`, in its order: those that the batch lacks are null.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => arrow::compute::cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &rows)
}

//! Rows by key: batches in, and the files that hold rows of the same keys rewritten without
//! them. One commit per group of rows; a group that was stored and is sent again leaves the
//! same rows.
//!
//! Memory: one group ([`MAX_GROUP_ROWS`] rows or [`MAX_GROUP_BYTES`]) and its keys, and what
//! [`super::files`] needs. Work: every file whose times and partition may hold a key of the
//! group has its key columns read, and is rewritten when it does. For series in order of time
//! that is the newest file or none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use costream_common::record::{X_SNAPSHOT, X_SOURCE};
use deltalake::kernel::Action;
use futures::StreamExt as _;

use super::files::{self, DataFile, FileError, PartitionWriter};
use super::table::{Outcome, Table};
use super::{MAX_TRIES, Shared, check_columns, folder_of, nullable, wait};
use crate::store::{StoreError, Upsert, Upserted};

/// Rows committed together.
const MAX_GROUP_ROWS: usize = 64 << 10;
/// Their size in memory, about.
const MAX_GROUP_BYTES: usize = 32 << 20;

/// The columns that make a row's identity.
struct Key {
    columns: Vec<String>,
    converter: RowConverter,
}

/// Rows waiting to be stored, one for each key.
struct Group {
    batches: Vec<RecordBatch>,
    /// Where each key's last row is: batch and row.
    rows: HashMap<Box<[u8]>, (usize, usize)>,
    bytes: usize,
    /// Least and greatest value of the key's time columns.
    times: HashMap<String, (i64, i64)>,
    /// The values of the key's text columns, by which partitions are passed over.
    texts: HashMap<String, HashSet<String>>,
}

impl Shared {
    pub(super) async fn upsert(self: &Arc<Self>, upsert: Upsert) -> Result<Upserted, StoreError> {
        let Upsert { table: name, key, schema, mut batches } = upsert;
        let table = self.table(&name)?;
        let columns: Vec<String> = key.iter().map(ToString::to_string).collect();
        let key = Arc::new(Key::new(&table, columns, &schema)?);
        let mut done = Upserted::default();
        let mut group = Group::new();
        loop {
            let batch = match batches.next().await {
                Some(batch) => Some(batch.map_err(|source| StoreError::Cut { table: name.clone(), source })?),
                None => None,
            };
            let ended = batch.is_none();
            if let Some(batch) = batch {
                check_columns(&table, &batch, &schema)?;
                done.received += batch.num_rows() as u64;
                group.add(&key, batch).map_err(|e| table.file_failed("write", e))?;
            }
            if group.is_full() || (ended && !group.rows.is_empty()) {
                let full = std::mem::replace(&mut group, Group::new());
                done.stored += full.rows.len() as u64;
                // Seen through to its end, whoever waits for it.
                let task = tokio::spawn(self.clone().store_group(table.clone(), key.clone(), schema.clone(), full));
                task.await.map_err(|e| table.failed("write", e))??;
            }
            if ended {
                return Ok(done);
            }
        }
    }

    async fn store_group(
        self: Arc<Self>,
        table: Arc<Table>,
        key: Arc<Key>,
        schema: SchemaRef,
        group: Group,
    ) -> Result<(), StoreError> {
        let _turn = table.commit.lock().await;
        let new_rows = group.last_rows().map_err(|e| table.file_failed("write", e))?;
        let settings = self.options.settings();
        for attempt in 1..=MAX_TRIES {
            let state = table.state().await?;
            let layout = table.layout(state.as_deref(), &nullable(&schema), &settings)?;
            if layout.schema.field(X_SNAPSHOT).is_some() {
                return Err(
                    table.column_error(X_SNAPSHOT, "the table's rows are replaced by snapshot, not kept by key")
                );
            }
            let columns = table.arrow_schema(&layout.schema)?;
            let store = table.object_store();
            let folder = folder_of("", X_SOURCE);
            let partition_columns = layout.partition_columns.clone();
            let mut writer = PartitionWriter::new(
                store,
                folder,
                columns.clone(),
                partition_columns,
                HashMap::new(),
                self.options.target_file_bytes,
            );
            let mut actions = layout.change;
            if let Some(state) = &state {
                for file in state.files.values().filter(|file| group.may_touch(file)) {
                    let rewritten =
                        rewrite_without(&table, &key, &group, file, &columns, &layout.partition_columns, &mut writer)
                            .await;
                    if rewritten.map_err(|e| table.file_failed("rewrite a file of", e))? {
                        actions.push(file.remove(true));
                    }
                }
            }
            let rows = files::conform(&new_rows, &columns).map_err(|e| table.failed("write", e))?;
            writer.write(&rows).await.map_err(|e| table.file_failed("write", e))?;
            let written = writer.finish().await.map_err(|e| table.file_failed("write", e))?;
            actions.extend(written.adds().iter().cloned().map(Action::Add));
            match table.commit(state.as_deref(), "MERGE", actions).await {
                Ok(Outcome::Committed) => {
                    written.keep();
                    return Ok(());
                }
                Ok(Outcome::Lost) => {
                    written.discard().await;
                    wait(attempt).await;
                }
                Err(error) => {
                    written.keep();
                    return Err(error);
                }
            }
        }
        Err(StoreError::Contended { table: table.name.clone(), tries: MAX_TRIES })
    }
}

/// Copies a file's rows but those of the group's keys; nothing when it has none of those.
async fn rewrite_without(
    table: &Table,
    key: &Key,
    group: &Group,
    file: &DataFile,
    columns: &SchemaRef,
    partition_columns: &[String],
    writer: &mut PartitionWriter,
) -> Result<bool, FileError> {
    let store = table.object_store();
    let whole = |batch: RecordBatch, columns: &SchemaRef| -> Result<RecordBatch, FileError> {
        let (mut fields, mut arrays) = (batch.schema_ref().fields().to_vec(), batch.columns().to_vec());
        for name in partition_columns {
            if let Ok(field) = columns.field_with_name(name) {
                let value = file.partition.get(name).and_then(Option::as_deref);
                arrays.push(files::constant(value, field.data_type(), batch.num_rows())?);
                fields.push(Arc::new(field.clone()));
            }
        }
        let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &rows)?;
        Ok(files::conform(&batch, columns)?)
    };

    let key_fields: Vec<Field> =
        key.columns.iter().filter_map(|name| columns.field_with_name(name).ok().cloned()).collect();
    let key_columns = Arc::new(Schema::new(key_fields));
    let mut batches = files::read(&store, file, Some(&key.columns)).await?;
    let mut touched = false;
    while !touched && let Some(batch) = batches.next().await {
        let batch = whole(batch?, &key_columns)?;
        touched = key.rows(&batch)?.iter().any(|row| group.rows.contains_key(row.data()));
    }
    if !touched {
        return Ok(false);
    }
    let mut batches = files::read(&store, file, None).await?;
    while let Some(batch) = batches.next().await {
        let batch = whole(batch?, columns)?;
        let keep: BooleanArray =
            key.rows(&batch)?.iter().map(|row| Some(!group.rows.contains_key(row.data()))).collect();
        writer.write(&filter_record_batch(&batch, &keep)?).await?;
    }
    Ok(true)
}

impl Key {
    fn new(table: &Table, columns: Vec<String>, schema: &SchemaRef) -> Result<Self, StoreError> {
        let mut fields = Vec::new();
        for name in &columns {
            let field = schema
                .field_with_name(name)
                .map_err(|_| table.column_error(name, "is part of the key and not delivered"))?;
            let text_or_number = matches!(
                field.data_type(),
                DataType::Utf8
                    | DataType::Int64
                    | DataType::Boolean
                    | DataType::Decimal128(..)
                    | DataType::Timestamp(TimeUnit::Microsecond, _)
            );
            if !text_or_number {
                return Err(table.column_error(name, format!("is {} and cannot be part of a key", field.data_type())));
            }
            fields.push(SortField::new(field.data_type().clone()));
        }
        if fields.is_empty() {
            return Err(table.column_error("*", "a key has no columns"));
        }
        let converter = RowConverter::new(fields).map_err(|e| table.failed("write", e))?;
        Ok(Self { columns, converter })
    }

    fn columns_of(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, FileError> {
        let column =
            |name: &String| batch.column_by_name(name).cloned().ok_or_else(|| FileError::Partition(name.clone()));
        self.columns.iter().map(column).collect()
    }

    /// Each row's key as bytes.
    fn rows(&self, batch: &RecordBatch) -> Result<arrow::row::Rows, FileError> {
        Ok(self.converter.convert_columns(&self.columns_of(batch)?)?)
    }
}

impl Group {
    fn new() -> Self {
        Self { batches: Vec::new(), rows: HashMap::new(), bytes: 0, times: HashMap::new(), texts: HashMap::new() }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= MAX_GROUP_ROWS || self.bytes >= MAX_GROUP_BYTES
    }

    fn add(&mut self, key: &Key, batch: RecordBatch) -> Result<(), FileError> {
        let at = self.batches.len();
        for (row, bytes) in key.rows(&batch)?.iter().enumerate() {
            self.rows.insert(bytes.data().into(), (at, row));
        }
        for (name, column) in key.columns.iter().zip(key.columns_of(&batch)?) {
            match column.data_type() {
                DataType::Timestamp(..) => {
                    let times = column.as_primitive::<TimestampMicrosecondType>();
                    // A null time is in no file's bounds: every file may hold it.
                    let (least, most) = if times.null_count() > 0 {
                        (Some(i64::MIN), Some(i64::MAX))
                    } else {
                        (arrow::compute::min(times), arrow::compute::max(times))
                    };
                    if let (Some(least), Some(most)) = (least, most) {
                        let bounds = self.times.entry(name.clone()).or_insert((least, most));
                        *bounds = (bounds.0.min(least), bounds.1.max(most));
                    }
                }
                DataType::Utf8 => {
                    let texts = self.texts.entry(name.clone()).or_default();
                    for text in column.as_string::<i32>() {
                        // The log spells null as empty text.
                        let text = text.unwrap_or_default();
                        if !texts.contains(text) {
                            texts.insert(text.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
        Ok(())
    }

    /// One row for each key, in the order of delivery.
    fn last_rows(&self) -> Result<RecordBatch, FileError> {
        let mut rows: Vec<(usize, usize)> = self.rows.values().copied().collect();
        rows.sort_unstable();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Ok(interleave_record_batch(&batches, &rows)?)
    }

    /// Whether a file may hold a row of one of the keys, by what the log says of it.
    fn may_touch(&self, file: &DataFile) -> bool {
        let elsewhere = file.partition.iter().any(|(column, value)| {
            let texts = self.texts.get(column);
            texts.is_some_and(|texts| !texts.contains(value.as_deref().unwrap_or_default()))
        });
        let at_another_time = self.times.iter().any(|(column, (least, most))| {
            let bounds = file.times.get(column);
            bounds.is_some_and(|(low, high)| high < least || low > most)
        });
        !elsewhere && !at_another_time
    }
}

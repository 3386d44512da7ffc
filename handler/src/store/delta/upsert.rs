//! Rows by key: batches in, and the files that hold rows of the same keys rewritten without
//! them, in one commit. The rows are streamed into files that nobody sees; only when all of them
//! have come is the table looked at.
//!
//! Memory: the digests of [`MAX_KEYS`] keys (26 MiB, and half as much again while they grow), one bit for every row of
//! the files that are rewritten, and what [`super::files`] needs twice. A longer delivery is read again from the
//! files it was written to, so many keys at a time. Work: every file whose times and partition
//! may hold a key of the delivery has its key columns read, once for so many keys, and is rewritten when it does. For series
//! in order of time that is the newest file or none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use costream_common::record::{X_SCOPE, X_SNAPSHOT, X_SOURCE};
use deltalake::kernel::Action;
use futures::StreamExt as _;

use super::files::{self, DataFile, FileError, PartitionWriter, Place, Written};
use super::keys::{Digest, Key, Reach, RowSet};
use super::table::{Layout, Outcome, State, Table};
use super::{MAX_TRIES, Shared, folder_of, nullable, wait};
use crate::store::{StoreError, Upsert, Upserted};

/// Keys remembered at a time: as many as a table of a million places holds.
const MAX_KEYS: usize = if cfg!(test) { 64 } else { 7 << 17 };

impl Shared {
    pub(super) async fn upsert(self: &Arc<Self>, upsert: Upsert) -> Result<Upserted, StoreError> {
        let Upsert { table: name, key, schema, mut batches } = upsert;
        let table = self.table(&name)?;
        let key = Key::new(&table, key.iter().map(ToString::to_string).collect(), &schema)?;
        let state = table.state().await?;
        check_not_declared(&table, state.as_deref())?;
        let layout = table.layout(state.as_deref(), &nullable(&schema), &self.options.settings())?;
        drop(state);
        let mut incoming = Incoming::new(self, table, key, schema, &layout);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|source| StoreError::Cut { table: name.clone(), source })?;
            incoming.take(batch).await?;
        }
        if incoming.received == 0 {
            return Ok(Upserted::default());
        }
        let merge = incoming.end().await?;
        // Seen through to its end, whoever waits for it.
        let merged = tokio::spawn(merge.run()).await;
        merged.unwrap_or_else(|source| {
            Err(StoreError::Table { attempt: "commit to", table: name, source: source.into() })
        })
    }

    fn keyed_writer(&self, table: &Table, schema: SchemaRef, partition_columns: &[String]) -> PartitionWriter {
        let is_missing = |name: &&String| schema.field_with_name(name).is_err();
        let fixed = partition_columns.iter().filter(is_missing).map(|name| (name.clone(), None)).collect();
        PartitionWriter::new(
            table.object_store(),
            folder_of("", X_SOURCE),
            schema,
            partition_columns.to_vec(),
            fixed,
            self.options.target_file_bytes,
        )
    }
}

/// A delivery while its rows come.
struct Incoming {
    shared: Arc<Shared>,
    table: Arc<Table>,
    key: Key,
    /// The columns so far.
    schema: SchemaRef,
    partition_columns: Vec<String>,
    writer: PartitionWriter,
    /// Where each key was last written, of the files since `first_file`.
    places: HashMap<Digest, Place>,
    /// The first file of those whose keys are in `places`.
    first_file: u32,
    /// Rows whose key came once more, by file.
    superseded: HashMap<u32, RowSet>,
    reach: Reach,
    received: u64,
}

impl Incoming {
    fn new(shared: &Arc<Shared>, table: Arc<Table>, key: Key, schema: SchemaRef, layout: &Layout) -> Self {
        let schema = Arc::new(Schema::new(nullable(&schema)));
        let partition_columns = layout.partition_columns.clone();
        Self {
            shared: shared.clone(),
            writer: shared.keyed_writer(&table, schema.clone(), &partition_columns),
            table,
            key,
            schema,
            partition_columns,
            places: HashMap::new(),
            first_file: 0,
            superseded: HashMap::new(),
            reach: Reach::default(),
            received: 0,
        }
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<(), StoreError> {
        self.take_columns(&batch).await?;
        let failed = |error| self.table.file_failed("write", error);
        let batch = files::conform(&batch, &self.schema).map_err(|error| failed(error.into()))?;
        let digests = self.key.digests(&batch).map_err(failed)?;
        self.reach.add(&self.key, &batch);
        self.received += batch.num_rows() as u64;
        let places = self.writer.write_placed(&batch).await.map_err(|error| self.table.file_failed("write", error))?;
        for (digest, place) in digests.into_iter().zip(places) {
            if let Some(earlier) = self.places.insert(digest, place) {
                self.superseded.entry(earlier.file).or_default().insert(earlier.row);
            }
        }
        if self.places.len() >= MAX_KEYS {
            let found = self.supersede_earlier().await;
            found.map_err(|error| self.table.file_failed("read a file of", error))?;
            self.writer.close_all().await.map_err(|error| self.table.file_failed("write", error))?;
            self.first_file = self.writer.begun();
            self.places.clear();
        }
        Ok(())
    }

    /// A batch may have columns that those before it had not, and no others in another type.
    async fn take_columns(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        let mut new: Vec<Field> = Vec::new();
        for field in nullable(batch.schema_ref()) {
            match self.schema.field_with_name(field.name()) {
                Ok(known) if known.data_type() == field.data_type() => {}
                Ok(_) => return Err(self.table.column_error(field.name(), "is of another type than before")),
                Err(_) if *field.name() != field.name().to_lowercase() => {
                    return Err(self.table.column_error(field.name(), "is not in lower case"));
                }
                Err(_) => new.push(field),
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let known = self.schema.fields().iter().map(|field| field.as_ref().clone());
        self.schema = Arc::new(Schema::new(known.chain(new).collect::<Vec<_>>()));
        let widened = self.writer.widen(self.schema.clone()).await;
        widened.map_err(|error| self.table.file_failed("write", error))
    }

    /// Finds the rows of earlier files whose keys have come once more.
    async fn supersede_earlier(&mut self) -> Result<(), FileError> {
        if self.first_file == 0 {
            return Ok(());
        }
        self.writer.close_all().await?;
        for (number, file) in self.writer.written().files().filter(|(number, _)| *number < self.first_file) {
            let mut keys = self.key.of_file(&self.table, &file, &self.partition_columns).await?;
            while let Some((row, digest)) = keys.next().await? {
                if self.places.contains_key(&digest) {
                    self.superseded.entry(number).or_default().insert(row);
                }
            }
        }
        Ok(())
    }

    /// All rows have come: what is left of them is on the disk, each key once.
    async fn end(mut self) -> Result<Merge, StoreError> {
        let found = self.supersede_earlier().await;
        found.map_err(|error| self.table.file_failed("read a file of", error))?;
        let Self { shared, table, key, schema, partition_columns, writer, places, first_file, .. } = self;
        let failed = |error| table.file_failed("write", error);
        let mut written = writer.finish().await.map_err(failed)?;
        let mut rows = self.received;
        if !self.superseded.is_empty() {
            let mut writer = shared.keyed_writer(&table, schema.clone(), &partition_columns);
            for (number, file) in written.files() {
                if let Some(superseded) = self.superseded.get(&number) {
                    rows -= superseded.len();
                    let copied = copy_without(&table, &file, superseded, &schema, &partition_columns, &mut writer);
                    copied.await.map_err(failed)?;
                }
            }
            let others = writer.finish().await.map_err(failed)?;
            written.replace(|number| self.superseded.contains_key(&number), others).await;
        }
        let mut reach = self.reach;
        reach.within(&key, &written, &partition_columns);
        // Of a longer delivery the last keys are here and the others are not.
        let keys = (first_file == 0).then(|| places.into_keys().collect());
        Ok(Merge {
            done: Upserted { received: self.received, stored: rows },
            shared,
            table,
            key,
            schema,
            partition_columns,
            written,
            keys,
            reach,
        })
    }
}

/// The last step of an upsert, which runs to its end whoever waits for it.
struct Merge {
    shared: Arc<Shared>,
    table: Arc<Table>,
    key: Key,
    schema: SchemaRef,
    partition_columns: Vec<String>,
    written: Written,
    /// The delivery's keys, when they are few enough to be known.
    keys: Option<HashSet<Digest>>,
    reach: Reach,
    done: Upserted,
}

/// Refuses to deliver into a table that statements keep.
fn check_not_declared(table: &Table, state: Option<&State>) -> Result<(), StoreError> {
    if state.is_some_and(|state| state.is_declared() && !state.is_dropped()) {
        return Err(table.column_error("*", "the table was made by CREATE TABLE: its rows come by INSERT"));
    }
    Ok(())
}

/// Rows of a table's files, by path.
type Found = HashMap<String, RowSet>;

impl Merge {
    async fn run(self) -> Result<Upserted, StoreError> {
        let table = &*self.table;
        let _turn = table.commit.lock().await;
        let settings = self.shared.options.settings();
        for attempt in 1..=MAX_TRIES {
            let state = table.state().await?;
            check_not_declared(table, state.as_deref())?;
            let layout = table.layout(state.as_deref(), &nullable(&self.schema), &settings)?;
            self.check(&layout)?;
            let columns = table.arrow_schema(&layout.schema)?;
            let mut writer = self.shared.keyed_writer(table, columns.clone(), &self.partition_columns);
            let mut actions = layout.change;
            if let Some(state) = &state {
                let rewrite = "rewrite a file of";
                let found = self.found(state).await.map_err(|error| table.file_failed(rewrite, error))?;
                for (path, rows) in found {
                    let Some(file) = state.files.get(&path) else { continue };
                    let copied = copy_without(table, file, &rows, &columns, &self.partition_columns, &mut writer);
                    copied.await.map_err(|error| table.file_failed(rewrite, error))?;
                    actions.push(file.remove(true));
                }
            }
            let rewritten = writer.finish().await.map_err(|error| table.file_failed("write", error))?;
            actions.extend(self.written.adds().iter().chain(rewritten.adds()).cloned().map(Action::Add));
            match table.commit(state.as_deref(), "MERGE", actions).await {
                Ok(Outcome::Committed) => {
                    rewritten.keep();
                    self.written.keep();
                    return Ok(self.done);
                }
                Ok(Outcome::Lost) => {
                    rewritten.discard().await;
                    wait(attempt).await;
                }
                Err(error) => {
                    // It may have been made all the same: then its files are the table's.
                    rewritten.keep();
                    self.written.keep();
                    return Err(error);
                }
            }
        }
        self.written.discard().await;
        Err(StoreError::Contended { table: table.name.clone(), tries: MAX_TRIES })
    }

    /// Whether the rows belong into a table like this one.
    fn check(&self, layout: &Layout) -> Result<(), StoreError> {
        if layout.partition_columns != self.partition_columns {
            return Err(self.table.failed("commit to", "another process has just created it with other partitions"));
        }
        let table_has_scopes = layout.schema.field(X_SNAPSHOT).is_some();
        let knows_of_scopes = self.schema.field_with_name(X_SNAPSHOT).is_ok();
        if table_has_scopes && !(knows_of_scopes && self.written.files().all(|(_, file)| is_of_no_scope(&file))) {
            let reason = "the table's rows are replaced by snapshot, not kept by key";
            return Err(self.table.column_error(X_SNAPSHOT, reason));
        }
        Ok(())
    }

    /// The rows of the table that have one of the delivery's keys. Rows of a scope have none of them.
    async fn found(&self, state: &State) -> Result<Found, FileError> {
        let may_touch = |file: &&Arc<DataFile>| {
            self.reach.may_touch(file) && (state.schema.field(X_SNAPSHOT).is_none() || is_of_no_scope(file))
        };
        let candidates: Vec<_> = state.files.values().filter(may_touch).cloned().collect();
        let mut found = Found::new();
        if candidates.is_empty() {
            return Ok(found);
        }
        if let Some(keys) = &self.keys {
            self.find(&candidates, keys, &mut found).await?;
            return Ok(found);
        }
        let mut keys = HashSet::new();
        for (_, file) in self.written.files() {
            let mut more = self.key.of_file(&self.table, &file, &self.partition_columns).await?;
            while let Some((_, digest)) = more.next().await? {
                keys.insert(digest);
                if keys.len() >= MAX_KEYS {
                    self.find(&candidates, &keys, &mut found).await?;
                    keys.clear();
                }
            }
        }
        self.find(&candidates, &keys, &mut found).await?;
        Ok(found)
    }

    /// Looks for keys in some of the table's files.
    async fn find(&self, files: &[Arc<DataFile>], keys: &HashSet<Digest>, found: &mut Found) -> Result<(), FileError> {
        for file in files {
            let mut there = self.key.of_file(&self.table, file, &self.partition_columns).await?;
            let mut rows = RowSet::default();
            while let Some((row, digest)) = there.next().await? {
                if keys.contains(&digest) {
                    rows.insert(row);
                }
            }
            if rows.len() > 0 {
                found.entry(file.path.clone()).or_default().extend(&rows);
            }
        }
        Ok(())
    }
}

/// Whether a file of a table with scopes has the rows that belong to none.
fn is_of_no_scope(file: &DataFile) -> bool {
    file.partition.get(X_SCOPE).is_some_and(|scope| scope.as_deref().unwrap_or_default().is_empty())
}

/// Copies a file's rows but some.
async fn copy_without(
    table: &Table,
    file: &DataFile,
    without: &RowSet,
    columns: &SchemaRef,
    partition_columns: &[String],
    writer: &mut PartitionWriter,
) -> Result<(), FileError> {
    let mut batches = files::read(&table.object_store(), file, None).await?;
    let mut at = 0;
    while let Some(batch) = batches.next().await {
        let batch = files::whole(file, batch?, columns, partition_columns)?;
        let keep: BooleanArray = (at..at + batch.num_rows()).map(|row| Some(!without.contains(row))).collect();
        at += batch.num_rows();
        writer.write(&filter_record_batch(&batch, &keep)?).await?;
    }
    Ok(())
}

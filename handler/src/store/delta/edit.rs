//! Tables of one's own in the log: a table's declaration stands among its settings, a change is a
//! commit that takes files out and puts in what is left of them and what is new, and a dropped
//! table is one whose last commit took out everything and says so. So making, changing and
//! dropping are won or lost like any other commit.
//!
//! Memory: what [`super::files`] needs, and what the change keeps. Work: the columns that the
//! change looks at, of all files; and the files it touches, which are written again. A statement
//! leaves a small file behind, so every change of a table with [`MAX_SMALL_FILES`] of them puts them together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, Metadata, MetadataExt as _, StructType, new_metadata};
use futures::StreamExt as _;

use super::files::{self, DataFile, FileError, PartitionWriter, Written};
use super::table::{Outcome, State, Table};
use super::{MAX_TRIES, Shared, folder_of, wait};
use crate::ident::TableName;
use crate::store::declared::SETTING;
use crate::store::{BatchError, Change, Declared, Ended, StoreError, TableInfo};
use costream_common::record::{X_SNAPSHOT, X_SOURCE};

/// Among a table's settings: it is there no more.
pub(super) const DROPPED: &str = "costream.dropped";
/// Size of a file of a declared table, about: a change of one row writes one file again.
const TARGET_FILE_BYTES: usize = 16 << 20;
/// A file below this is small.
const SMALL_FILE_BYTES: i64 = 1 << 20;
/// Small files before a change puts them together.
const MAX_SMALL_FILES: usize = 8;

impl Shared {
    pub(super) async fn describe(&self, name: &TableName) -> Result<Option<TableInfo>, StoreError> {
        let table = self.table(name)?;
        let state = table.state().await?.filter(|state| !state.is_dropped());
        state.map(|state| info(&table, &state.metadata, &state.schema)).transpose()
    }

    pub(super) async fn create(&self, name: &TableName, declared: &Declared) -> Result<bool, StoreError> {
        let table = self.table(name)?;
        let _turn = table.commit.lock().await;
        let failed = |source: BatchError| table.failed("describe", source);
        let schema: StructType =
            declared.stored_schema().as_ref().try_into_kernel().map_err(|e| table.failed("describe", e))?;
        let mut settings = self.options.settings();
        settings.insert(SETTING.to_owned(), declared.to_setting().map_err(|e| failed(e.into()))?);
        for attempt in 1..=MAX_TRIES {
            let state = table.state().await?;
            if state.as_ref().is_some_and(|state| !state.is_dropped()) {
                return Ok(false);
            }
            let metadata = new_metadata(&schema, Vec::<String>::new(), settings.iter());
            let metadata = metadata.map_err(|e| table.failed("describe", e))?;
            let actions = table.first_actions(state.as_deref(), metadata)?;
            match table.commit(state.as_deref(), "CREATE TABLE", actions).await? {
                Outcome::Committed => return Ok(true),
                Outcome::Lost => wait(attempt).await,
            }
        }
        Err(StoreError::Contended { table: name.clone(), tries: MAX_TRIES })
    }

    pub(super) async fn drop_table(&self, name: &TableName) -> Result<bool, StoreError> {
        let table = self.table(name)?;
        let _turn = table.commit.lock().await;
        for attempt in 1..=MAX_TRIES {
            let Some(state) = table.state().await?.filter(|state| !state.is_dropped()) else { return Ok(false) };
            if state.schema.field(X_SNAPSHOT).is_some() {
                return Err(table.column_error(X_SNAPSHOT, "the table is kept by snapshot and cannot be dropped"));
            }
            let metadata = state.metadata.clone().add_config_key(DROPPED.to_owned(), "true".to_owned());
            let mut actions = vec![Action::Metadata(metadata.map_err(|e| table.failed("describe", e))?)];
            actions.extend(state.files.values().map(|file| file.remove(true)));
            match table.commit(Some(&state), "DROP TABLE", actions).await? {
                Outcome::Committed => return Ok(true),
                Outcome::Lost => wait(attempt).await,
            }
        }
        Err(StoreError::Contended { table: name.clone(), tries: MAX_TRIES })
    }

    pub(super) async fn edit(&self, name: &TableName, change: &mut dyn Change) -> Result<bool, StoreError> {
        let table = self.table(name)?;
        let _turn = table.commit.lock().await;
        for attempt in 1..=MAX_TRIES {
            let Some(state) = table.state().await?.filter(|state| !state.is_dropped()) else { return Ok(false) };
            let Some((actions, written)) = self.changed(&table, &state, change).await? else { return Ok(true) };
            // A commit that has begun must be seen through: a caller who leaves now must not make
            // its files look unwanted.
            let committed = tokio::spawn(commit(table.clone(), state, actions, written)).await;
            match committed.map_err(|e| table.failed("commit to", e))?? {
                Outcome::Committed => return Ok(true),
                Outcome::Lost => wait(attempt).await,
            }
        }
        Err(StoreError::Contended { table: name.clone(), tries: MAX_TRIES })
    }

    /// What a change makes of a table, written and not yet committed; nothing when it changes nothing.
    async fn changed(
        &self,
        table: &Table,
        state: &State,
        change: &mut dyn Change,
    ) -> Result<Option<(Vec<Action>, Written)>, StoreError> {
        let info = info(table, &state.metadata, &state.schema)?;
        let columns = change.begin(&info).map_err(|e| refused(table, e))?;
        let partitions = state.metadata.partition_columns().to_vec();
        let target = match &info.declared {
            Some(_) => TARGET_FILE_BYTES.min(self.options.target_file_bytes),
            None => self.options.target_file_bytes,
        };
        let writer = PartitionWriter::new(
            table.object_store(),
            folder_of("", X_SOURCE),
            columns.clone(),
            partitions.clone(),
            HashMap::new(),
            target,
        );
        let mut rewriting = Rewriting { files: Files { table, columns, partitions }, writer };
        let mut actions = Vec::new();
        let mut small = Vec::new();
        let looks_at = change.looks_at();
        for file in state.files.values() {
            let touched = match &looks_at {
                None => false,
                Some(columns) if columns.is_empty() => true,
                Some(columns) => rewriting.files.is_touched(file, columns, change).await?,
            };
            if touched {
                rewriting.copy(file, Some(change)).await?;
                actions.push(file.remove(true));
            } else if file.size < SMALL_FILE_BYTES && file.deletion_vector.is_none() {
                small.push(file);
            }
        }
        let Ended { rows, declared } = change.end().map_err(|e| refused(table, e))?;
        for rows in &rows {
            rewriting.write(rows).await?;
        }
        if actions.is_empty() && rewriting.writer.rows() == 0 && declared.is_none() {
            return Ok(None);
        }
        if info.declared.is_some() && small.len() >= MAX_SMALL_FILES {
            for file in small {
                rewriting.copy(file, None).await?;
                actions.push(file.remove(true));
            }
        }
        if let Some(declared) = declared {
            let metadata = redeclared(&state.metadata, &declared).map_err(|e| table.failed("describe", e))?;
            actions.insert(0, Action::Metadata(metadata));
        }
        let written = rewriting.writer.finish().await.map_err(|e| table.file_failed("write", e))?;
        actions.extend(written.adds().iter().cloned().map(Action::Add));
        Ok(Some((actions, written)))
    }
}

/// A table for those who ask for it.
pub(super) fn info(table: &Table, metadata: &Metadata, schema: &StructType) -> Result<TableInfo, StoreError> {
    let declared = declared(metadata).map_err(|e| table.failed("open", e))?;
    let (schema, partitioned_by) = match &declared {
        Some(declared) => (declared.shown_schema(), declared.partitioned_by.clone()),
        None => (table.arrow_schema(schema)?, metadata.partition_columns().to_vec()),
    };
    Ok(TableInfo { name: table.name.clone(), schema, partitioned_by, declared })
}

/// What a table's settings declare it as.
pub(super) fn declared(metadata: &Metadata) -> Result<Option<Declared>, BatchError> {
    let setting = metadata.configuration().get(SETTING);
    Ok(setting.map(|setting| Declared::from_setting(setting)).transpose()?)
}

/// Whether a table's settings say that it is there no more.
pub(super) fn is_dropped(metadata: &Metadata) -> bool {
    metadata.configuration().contains_key(DROPPED)
}

fn redeclared(metadata: &Metadata, declared: &Declared) -> Result<Metadata, BatchError> {
    let schema: StructType = declared.stored_schema().as_ref().try_into_kernel()?;
    let metadata = metadata.clone().with_schema(&schema)?;
    Ok(metadata.add_config_key(SETTING.to_owned(), declared.to_setting()?)?)
}

fn refused(table: &Table, source: BatchError) -> StoreError {
    StoreError::Change { table: table.name.clone(), source }
}

async fn commit(
    table: Arc<Table>,
    state: Arc<State>,
    actions: Vec<Action>,
    written: Written,
) -> Result<Outcome, StoreError> {
    let outcome = table.commit(Some(&state), "WRITE", actions).await;
    match &outcome {
        Ok(Outcome::Lost) => written.discard().await,
        // It may have been made even if nobody says so: then its files are the table's.
        Ok(Outcome::Committed) | Err(_) => written.keep(),
    }
    outcome
}

/// Files on their way into new ones.
struct Rewriting<'a> {
    files: Files<'a>,
    writer: PartitionWriter,
}

impl Rewriting<'_> {
    /// Writes a file's rows again, as the change would have them.
    async fn copy(&mut self, file: &DataFile, mut change: Option<&mut dyn Change>) -> Result<(), StoreError> {
        let mut batches = self.files.read(file, None).await?;
        while let Some(batch) = batches.next().await {
            let mut batch = self.files.whole(file, batch.map_err(FileError::from), &self.files.columns)?;
            if let Some(change) = &mut change {
                batch = change.rewrite(batch).map_err(|e| refused(self.files.table, e))?;
            }
            self.write(&batch).await?;
        }
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StoreError> {
        let written = match files::conform(rows, &self.files.columns) {
            Ok(rows) => self.writer.write(&rows).await,
            Err(error) => Err(error.into()),
        };
        written.map_err(|e| self.files.table.file_failed("write", e))
    }
}

/// A table's files, read with the columns it has or shall have.
struct Files<'a> {
    table: &'a Table,
    columns: SchemaRef,
    partitions: Vec<String>,
}

impl Files<'_> {
    async fn is_touched(
        &self,
        file: &DataFile,
        columns: &[String],
        change: &mut dyn Change,
    ) -> Result<bool, StoreError> {
        let looked_at = self.columns.fields().iter().filter(|field| columns.contains(field.name())).cloned();
        let looked_at = Arc::new(Schema::new(looked_at.collect::<Vec<_>>()));
        let mut batches = self.read(file, Some(columns)).await?;
        while let Some(batch) = batches.next().await {
            let batch = self.whole(file, batch.map_err(FileError::from), &looked_at)?;
            if change.touches(&batch).map_err(|e| refused(self.table, e))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn read(&self, file: &DataFile, columns: Option<&[String]>) -> Result<files::Rows, StoreError> {
        files::read(&self.table.object_store(), file, columns).await.map_err(|e| self.table.file_failed("read", e))
    }

    fn whole(
        &self,
        file: &DataFile,
        batch: Result<RecordBatch, FileError>,
        columns: &SchemaRef,
    ) -> Result<RecordBatch, StoreError> {
        let whole = batch.and_then(|batch| files::whole(file, batch, columns, &self.partitions));
        whole.map_err(|e| self.table.file_failed("read", e))
    }
}

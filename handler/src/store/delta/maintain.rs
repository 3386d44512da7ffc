//! Housekeeping: small files of a partition become one, the log gets a checkpoint and loses
//! what is beyond the retention, and files that no version within it uses are deleted.
//!
//! Safe beside other processes: a merge is a commit like any other and gives way to what came
//! first; a file is deleted only when it left the table, or was last touched, longer ago than
//! the retention and [`LEAST_FILE_AGE`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::datatypes::Schema;
use chrono::Utc;
use costream_common::fault::{self, Point};
use costream_common::record::{X_SCOPE, X_SOURCE};
use deltalake::kernel::{Action, MetadataExt as _};
use deltalake::operations::vacuum::VacuumMode;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::files::{self, DataFile, PartitionWriter};
use super::table::{Outcome, Table};
use super::{MAX_TRIES, Shared, folder_of, wait};
use crate::store::StoreError;

/// Small files in a partition before they are merged.
const MIN_MERGED_FILES: usize = 8;
/// A file below this part of the target size is small.
const SMALL_PART: usize = 4;
/// A file younger than this may be one that somebody is still writing.
const LEAST_FILE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A partition's columns with their values, by name.
type Partition = BTreeMap<String, Option<String>>;

impl Shared {
    pub(super) async fn maintain(self: &Arc<Self>, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut failure = None;
        for name in super::read::table_names(self).await? {
            let table = self.table(&name)?;
            if let Err(error) = self.maintain_table(&table, &shutdown).await {
                failure.get_or_insert(error);
            }
        }
        if let Some(spill) = self.options.spill_dir.clone() {
            // What a killed process had spilled.
            let swept = tokio::task::spawn_blocking(move || sweep_spilled(&spill)).await;
            if let Ok(Err(error)) = swept {
                tracing::debug!(%error, "spilled rows of a process that is gone stay until the next round");
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn maintain_table(
        self: &Arc<Self>,
        table: &Arc<Table>,
        shutdown: &CancellationToken,
    ) -> Result<(), StoreError> {
        for step in 0_u8.. {
            if shutdown.is_cancelled() {
                break;
            }
            match step {
                0 => self.apply_settings(table).await?,
                1 => self.merge_small_files(table, shutdown).await?,
                2 => self.shorten_log(table).await?,
                3 => self.delete_old_files(table).await?,
                4 => self.sweep_unfinished(table).await,
                _ => break,
            }
        }
        Ok(())
    }

    /// Another retention has been configured: the table shall say so to others.
    async fn apply_settings(&self, table: &Table) -> Result<(), StoreError> {
        let _turn = table.commit.lock().await;
        let Some(state) = table.state().await? else { return Ok(()) };
        let mut metadata = state.metadata.clone();
        let mut changed = false;
        for (key, value) in self.options.settings() {
            if metadata.configuration().get(&key) != Some(&value) {
                metadata = metadata.add_config_key(key, value).map_err(|e| table.failed("describe", e))?;
                changed = true;
            }
        }
        if changed {
            // Lost to another commit: the next round tries again.
            table.commit(Some(&state), "SET TBLPROPERTIES", vec![Action::Metadata(metadata)]).await?;
        }
        Ok(())
    }

    async fn merge_small_files(&self, table: &Table, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let Some(state) = table.state().await? else { return Ok(()) };
        if state.is_declared() {
            // Its changes put its files together, and want them small.
            return Ok(());
        }
        let mut partitions: BTreeMap<Partition, Vec<Arc<DataFile>>> = BTreeMap::new();
        for file in state.files.values() {
            let small = usize::try_from(file.size).is_ok_and(|size| size < self.options.target_file_bytes / SMALL_PART);
            if small && file.deletion_vector.is_none() {
                let values: Partition = file.partition.clone().into_iter().collect();
                partitions.entry(values).or_default().push(file.clone());
            }
        }
        drop(state);
        for (values, small) in partitions {
            let mut run = Vec::new();
            let mut bytes = 0;
            for file in small {
                bytes += usize::try_from(file.size).unwrap_or_default();
                run.push(file);
                if bytes >= self.options.target_file_bytes {
                    self.merge(table, &values, &std::mem::take(&mut run)).await?;
                    bytes = 0;
                }
                if shutdown.is_cancelled() {
                    return Ok(());
                }
            }
            if run.len() >= MIN_MERGED_FILES {
                self.merge(table, &values, &run).await?;
            }
        }
        Ok(())
    }

    /// Puts the rows of some files of one partition into one.
    async fn merge(&self, table: &Table, values: &Partition, small: &[Arc<DataFile>]) -> Result<(), StoreError> {
        let Some(state) = table.state().await? else { return Ok(()) };
        let partition_columns = state.metadata.partition_columns().to_vec();
        let columns = table.arrow_schema(&state.schema)?;
        drop(state);
        let data: Vec<_> =
            columns.fields().iter().filter(|field| !partition_columns.contains(field.name())).cloned().collect();
        let data = Arc::new(Schema::new(data));
        let value = |name: &str| values.get(name).and_then(Option::as_deref).unwrap_or_default();
        let folder = folder_of(value(X_SOURCE), value(X_SCOPE));
        let fixed: HashMap<_, _> = values.clone().into_iter().collect();
        let store = table.object_store();
        let mut writer = PartitionWriter::new(
            store.clone(),
            folder,
            data.clone(),
            partition_columns,
            fixed,
            self.options.target_file_bytes,
        );
        for file in small {
            let mut batches = files::read(&store, file, None).await.map_err(|e| table.failed("merge files of", e))?;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(|e| table.failed("merge files of", e))?;
                let batch = files::conform(&batch, &data).map_err(|e| table.failed("merge files of", e))?;
                writer.write(&batch).await.map_err(|e| table.failed("merge files of", e))?;
            }
        }
        let written = writer.finish().await.map_err(|e| table.failed("merge files of", e))?;
        fault::point(Point::Merge);

        let _turn = table.commit.lock().await;
        for attempt in 1..=MAX_TRIES {
            let Some(state) = table.state().await? else { return Ok(()) };
            if !small.iter().all(|file| state.files.contains_key(&file.path)) {
                // A newer snapshot has taken their place: nothing to merge.
                written.discard().await;
                return Ok(());
            }
            let mut actions: Vec<Action> = small.iter().map(|file| file.remove(false)).collect();
            actions.extend(written.adds().iter().cloned().map(|mut add| {
                add.data_change = false;
                Action::Add(add)
            }));
            match table.commit(Some(&state), "OPTIMIZE", actions).await {
                Ok(Outcome::Committed) => {
                    written.keep();
                    return Ok(());
                }
                Ok(Outcome::Lost) => wait(attempt).await,
                Err(error) => {
                    written.keep();
                    return Err(error);
                }
            }
        }
        written.discard().await;
        Ok(())
    }

    /// Takes the log entries away that only versions beyond the retention need. The version
    /// that was current when the retention began is the oldest to be kept, with the
    /// checkpoint below it.
    async fn shorten_log(&self, table: &Table) -> Result<(), StoreError> {
        let Some(state) = table.state().await? else { return Ok(()) };
        let Ok(retention) = chrono::Duration::from_std(self.options.retention) else { return Ok(()) };
        let Some(start) = Utc::now().checked_sub_signed(retention) else { return Ok(()) };
        if let Some(oldest) = table.version_as_of(state.version, start).await? {
            let log = table.log().as_ref();
            let removed =
                deltalake::checkpoints::cleanup_expired_logs_for(oldest, log, start.timestamp_millis(), None).await;
            let removed = removed.map_err(|e| table.failed("shorten the log of", e))?;
            tracing::debug!(table = %table.name, removed, "log entries beyond the retention");
        }
        Ok(())
    }

    async fn delete_old_files(&self, table: &Table) -> Result<(), StoreError> {
        let Some(state) = table.latest().await? else { return Ok(()) };
        let Ok(age) = chrono::Duration::from_std(self.options.retention.max(LEAST_FILE_AGE)) else { return Ok(()) };
        // One listing for all: no folder's name means anything.
        let vacuum = state.vacuum().with_mode(VacuumMode::Full).with_retention_period(age).parallel_scan(false);
        let (_, deleted) = vacuum.await.map_err(|e| table.failed("delete old files of", e))?;
        if !deleted.files_deleted.is_empty() {
            fault::point(Point::Vacuum);
        }
        tracing::debug!(table = %table.name, deleted = deleted.files_deleted.len(), "files beyond the retention");
        Ok(())
    }

    /// Uploads into a directory that a killed process left behind; listings do not show them.
    async fn sweep_unfinished(&self, table: &Table) {
        let Ok(directory) = table.log().root_url().to_file_path() else { return };
        let swept = tokio::task::spawn_blocking(move || sweep(&directory)).await;
        if let Ok(Err(error)) = swept {
            tracing::debug!(table = %table.name, %error, "unfinished uploads stay until the next round");
        }
    }
}

fn sweep(table: &Path) -> std::io::Result<()> {
    for folder in std::fs::read_dir(table)?.filter_map(Result::ok) {
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder.path())?.filter_map(Result::ok) {
            let unfinished =
                file.file_name().to_str().is_some_and(|name| name.contains(".parquet#") || name.contains(".json#"));
            if unfinished && is_old(&file) {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

/// Takes files only: a folder may be that of a process that lives and has long not spilled.
fn sweep_spilled(spill: &Path) -> std::io::Result<()> {
    for folder in std::fs::read_dir(spill)?.filter_map(Result::ok) {
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder.path())?.filter_map(Result::ok) {
            if is_old(&file) && file.file_type()?.is_file() {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let touched = entry.metadata().and_then(|metadata| metadata.modified());
    touched.is_ok_and(|touched| SystemTime::now().duration_since(touched).is_ok_and(|age| age > LEAST_FILE_AGE))
}

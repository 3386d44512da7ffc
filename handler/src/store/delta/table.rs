//! One Delta table: its state, kept and brought up to date cheaply; its past; and the commit,
//! which is won or lost as a whole.
//!
//! Writers need little of a table: its columns, its files and their partitions, its scopes'
//! snapshots. That is kept in a [`State`] of our own, which reads each new commit once.
//! Queries need the files' statistics as well: theirs is the library's table, which is brought
//! up to date when somebody asks.
//!
//! Commits bear a time that never goes back (the later of the clock and one millisecond after
//! the commit before), so that "as of" finds one version for every time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use costream_common::fault::{self, Point};
use costream_common::record::{ColumnKind, ScopeKey, SnapshotId, X_SCOPE, X_SOURCE};
use deltalake::DeltaTable;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _};
use deltalake::kernel::transaction::TransactionError;
use deltalake::kernel::{
    Action, Add, CommitInfo, Metadata, MetadataExt as _, Protocol, StructField, StructType, new_metadata,
};
use deltalake::logstore::{CommitOrBytes, LogStoreRef, commit_uri_from_version};
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::files::{DataFile, FileError};
use super::{MAX_TRIES, edit, stats, wait};
use crate::ident::TableName;
use crate::store::declared::SETTING;
use crate::store::{BatchError, StoreError};

/// Partition column of tables that have it, behind source and scope.
pub(super) const PERIOD: &str = "billingperiodstart";
/// A checkpoint is written every so many commits, so that the log stays short to read; twice as
/// seldom for a table of twice [`CHECKPOINT_FILES`] files, since it lists them all, and so on.
const CHECKPOINT_INTERVAL: u64 = 20;
/// See [`CHECKPOINT_INTERVAL`].
const CHECKPOINT_FILES: u64 = 1024;
/// The library's table keeps a batch for every commit it follows; beyond so many it is read
/// anew from the last checkpoint.
const MAX_FOLLOWED: u64 = 50;
/// Versions whose commit times are remembered.
const MAX_REMEMBERED_TIMES: usize = 10_000;

/// A state older than this is read anew: the commits that follow it may have been cleaned away
/// unseen.
const MAX_STATE_AGE: Duration = Duration::from_secs(60 * 60);

/// A table, there or not yet.
pub(super) struct Table {
    pub(super) name: TableName,
    log: LogStoreRef,
    state: tokio::sync::Mutex<Option<Kept>>,
    latest: tokio::sync::Mutex<Option<Opened>>,
    /// The version last read as of a time.
    past: tokio::sync::Mutex<Option<DeltaTable>>,
    /// Held while a commit is prepared and made: writers of this process queue here rather
    /// than beat each other to it.
    pub(super) commit: tokio::sync::Mutex<()>,
    times: Mutex<BTreeMap<u64, i64>>,
}

/// The library's table.
#[derive(Clone)]
struct Opened {
    table: DeltaTable,
    /// The version at which it was read whole.
    since: u64,
}

struct Kept {
    state: Arc<State>,
    since: Instant,
}

/// What writers need to know of a table, as of one version.
#[derive(Clone)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) metadata: Metadata,
    pub(super) schema: Arc<StructType>,
    /// By path.
    pub(super) files: HashMap<String, Arc<DataFile>>,
    /// Scopes' snapshots by application id, as far as they were asked for or committed since
    /// the state was read.
    snapshots: Arc<Mutex<HashMap<String, Option<i64>>>>,
}

/// The columns a delivery calls for, against those the table has.
pub(super) struct Layout {
    /// All columns, the delivery's new ones last.
    pub(super) schema: StructType,
    pub(super) partition_columns: Vec<String>,
    /// What to put into the commit, if the table is new or has new columns.
    pub(super) change: Vec<Action>,
}

/// How a try to commit ended.
pub(super) enum Outcome {
    Committed,
    /// Another writer made this version, and ours is not and will not be in the log; the table
    /// must be looked at again.
    Lost,
}

impl Table {
    pub(super) fn new(name: TableName, log: LogStoreRef) -> Self {
        Self {
            name,
            log,
            state: tokio::sync::Mutex::default(),
            latest: tokio::sync::Mutex::default(),
            past: tokio::sync::Mutex::default(),
            commit: tokio::sync::Mutex::default(),
            times: Mutex::default(),
        }
    }

    pub(super) fn failed(&self, attempt: &'static str, source: impl Into<BatchError>) -> StoreError {
        StoreError::Table { attempt, table: self.name.clone(), source: source.into() }
    }

    /// What went wrong with the table's files; a fault of the rows is told as such.
    pub(super) fn file_failed(&self, attempt: &'static str, error: FileError) -> StoreError {
        match error {
            FileError::Partition(column) => {
                self.column_error(&column, "cannot be partitioned by: it is neither text nor a time")
            }
            error @ FileError::TooManyFiles => self.column_error(PERIOD, error.to_string()),
            error => self.failed(attempt, error),
        }
    }

    pub(super) fn column_error(&self, column: &str, reason: impl Into<String>) -> StoreError {
        StoreError::Column { table: self.name.clone(), column: column.to_owned(), reason: reason.into() }
    }

    /// The table's files.
    pub(super) fn object_store(&self) -> std::sync::Arc<dyn ObjectStore> {
        self.log.object_store(None)
    }

    pub(super) fn log(&self) -> &LogStoreRef {
        &self.log
    }

    /// The table as writers need it, as it is now, other processes' commits included; nothing
    /// when it is not there.
    pub(super) async fn state(&self) -> Result<Option<Arc<State>>, StoreError> {
        let mut kept = self.state.lock().await;
        if let Some(Kept { mut state, since }) = kept.take().filter(|kept| kept.since.elapsed() < MAX_STATE_AGE) {
            match self.follow(&mut state).await {
                Ok(()) => {
                    *kept = Some(Kept { state: state.clone(), since });
                    return Ok(Some(state));
                }
                // It may be another table by now, or one that the library alone understands.
                Err(error) => {
                    tracing::debug!(table = %self.name, error = costream_common::report::one_line(&error), "reading the table anew");
                }
            }
        }
        *self.latest.lock().await = None;
        self.remembered_times().clear();
        let Some(table) = self.latest().await? else { return Ok(None) };
        let state = Arc::new(State::of(&table).map_err(|e| self.failed("open", e))?);
        *kept = Some(Kept { state: state.clone(), since: Instant::now() });
        Ok(Some(state))
    }

    /// Reads the commits that were made since.
    async fn follow(&self, state: &mut Arc<State>) -> Result<(), StoreError> {
        loop {
            let version = state.version + 1;
            let entry = self.log.read_commit_entry(version).await.map_err(|e| self.failed("read the log of", e))?;
            let Some(entry) = entry else {
                // No newer one; unless the directory was cleared under our feet.
                let last = commit_uri_from_version(Some(state.version));
                self.object_store().head(&last).await.map_err(|e| self.failed("read the log of", e))?;
                return Ok(());
            };
            let next = Arc::make_mut(state);
            for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let action = serde_json::from_slice(line).map_err(|e| self.failed("read the log of", e))?;
                match action {
                    Action::Txn(txn) => drop(next.snapshots().insert(txn.app_id, Some(txn.version))),
                    action => next.apply(action).map_err(|e| self.failed("read the log of", e))?,
                }
            }
            next.version = version;
        }
    }

    /// The table as queries need it, as it is now; nothing when it is not there.
    pub(super) async fn latest(&self) -> Result<Option<DeltaTable>, StoreError> {
        Ok(self.opened().await?.map(|opened| opened.table))
    }

    async fn opened(&self) -> Result<Option<Opened>, StoreError> {
        let mut latest = self.latest.lock().await;
        if latest.is_none() && !self.log.is_delta_table_location().await.map_err(|e| self.failed("look for", e))? {
            return Ok(None);
        }
        // Taken out while it is updated: one that fails half-way is opened anew the next time.
        let known = latest
            .take()
            .filter(|known| known.table.version().is_some_and(|version| version < known.since + MAX_FOLLOWED));
        let mut table = known.as_ref().map_or_else(|| DeltaTable::new(self.log.clone()), |known| known.table.clone());
        table.update_incremental(None).await.map_err(|e| self.failed("open", e))?;
        let since = known.map_or_else(|| table.version().unwrap_or_default(), |known| known.since);
        let opened = Opened { table, since };
        *latest = Some(opened.clone());
        Ok(Some(opened))
    }

    /// The table as it was; nothing when it is not there.
    pub(super) async fn as_of(&self, time: DateTime<Utc>) -> Result<Option<DeltaTable>, StoreError> {
        let Some(latest) = self.latest().await? else { return Ok(None) };
        let version = match latest.version() {
            Some(newest) => self.version_as_of(newest, time).await?,
            None => None,
        };
        let version = version.ok_or_else(|| StoreError::NoHistory { table: self.name.clone(), as_of: time })?;
        if latest.version() == Some(version) {
            return Ok(Some(latest));
        }
        let mut past = self.past.lock().await;
        if let Some(table) = past.as_ref().filter(|table| table.version() == Some(version)) {
            return Ok(Some(table.clone()));
        }
        let mut table = DeltaTable::new(self.log.clone());
        table.load_version(version).await.map_err(|e| self.failed("open an earlier version of", e))?;
        *past = Some(table.clone());
        Ok(Some(table))
    }

    /// The last version committed at or before `time`, of those that can still be read.
    pub(super) async fn version_as_of(&self, newest: u64, time: DateTime<Utc>) -> Result<Option<u64>, StoreError> {
        let oldest = self.oldest_version().await?;
        let time = time.timestamp_millis();
        // The first version after `time` lies in low..=high.
        let (mut low, mut high) = (oldest, newest + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time_of(middle).await? <= time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok((low > oldest).then(|| low - 1))
    }

    /// The oldest version whose commit is still in the log: it, and all since, can be read.
    async fn oldest_version(&self) -> Result<u64, StoreError> {
        let files = self.object_store();
        let mut listing = files.list(Some(self.log.log_path()));
        let mut oldest = None;
        while let Some(file) = listing.try_next().await.map_err(|e| self.failed("list the log of", e))? {
            let version = file.location.filename().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
            if let Some(version) = version {
                oldest = Some(oldest.map_or(version, |oldest: u64| oldest.min(version)));
            }
        }
        Ok(oldest.unwrap_or(0))
    }

    /// When a version was committed, in milliseconds.
    async fn time_of(&self, version: u64) -> Result<i64, StoreError> {
        if let Some(time) = self.remembered_times().get(&version) {
            return Ok(*time);
        }
        let entry = self.log.read_commit_entry(version).await.map_err(|e| self.failed("read the log of", e))?;
        let entry = entry.ok_or_else(|| self.failed("read the log of", format!("version {version} is gone")))?;
        let mut time = None;
        for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Action::CommitInfo(info) =
                serde_json::from_slice(line).map_err(|e| self.failed("read the log of", e))?
            {
                time = info.in_commit_timestamp.or(info.timestamp);
                break;
            }
        }
        let time = time.ok_or_else(|| self.failed("read the log of", format!("version {version} bears no time")))?;
        self.remember_time(version, time);
        Ok(time)
    }

    fn remembered_times(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_time(&self, version: u64, time: i64) {
        let mut times = self.remembered_times();
        times.insert(version, time);
        if times.len() > MAX_REMEMBERED_TIMES {
            times.pop_first();
        }
    }

    /// The snapshot that a scope has.
    pub(super) async fn snapshot_of(&self, state: &State, key: &ScopeKey) -> Result<Option<SnapshotId>, StoreError> {
        let application = application_id(key);
        let known = state.snapshots().get(&application).copied();
        let version = match known {
            Some(version) => version,
            None => {
                // The library's table is never older than the version from which the state has
                // read every commit: what it says of this scope has not changed since.
                let opened = self.latest.lock().await.clone();
                let opened = match opened {
                    Some(opened) => Some(opened),
                    None => self.opened().await?,
                };
                let Some(opened) = opened else { return Ok(None) };
                let snapshot = opened.table.snapshot().map_err(|e| self.failed("open", e))?;
                let version = snapshot.transaction_version(self.log.as_ref(), &application).await;
                let version = version.map_err(|e| self.failed("read the log of", e))?;
                *state.snapshots().entry(application).or_insert(version)
            }
        };
        Ok(version.and_then(SnapshotId::from_version))
    }

    /// What a delivery with these columns needs the table to be. The columns' types are those
    /// of the table's, or the table is new.
    pub(super) fn layout(
        &self,
        state: Option<&State>,
        columns: &[Field],
        settings: &HashMap<String, String>,
    ) -> Result<Layout, StoreError> {
        let dropped = state.filter(|state| state.is_dropped());
        let state = state.filter(|state| !state.is_dropped());
        let mut columns = columns.to_vec();
        if state.is_none() && self.name == TableName::costs() && !columns.iter().any(|field| field.name() == PERIOD) {
            columns.insert(0, ColumnKind::Timestamp.field(PERIOD));
        }
        let wanted: StructType = (&Schema::new(columns)).try_into_kernel().map_err(|e| self.failed("describe", e))?;
        let Some(state) = state else {
            let partition_columns: Vec<String> = [X_SOURCE, X_SCOPE, PERIOD]
                .into_iter()
                .filter(|name| wanted.field(name).is_some())
                .map(str::to_owned)
                .collect();
            let metadata = new_metadata(&wanted, partition_columns.clone(), settings.iter())
                .map_err(|e| self.failed("describe", e))?;
            let change = self.first_actions(dropped, metadata)?;
            return Ok(Layout { schema: wanted, partition_columns, change });
        };
        let present = &state.schema;
        let mut new: Vec<StructField> = Vec::new();
        for field in wanted.fields() {
            match present.field(field.name()) {
                None => new.push(field.clone()),
                Some(there) if there.data_type() == field.data_type() => {}
                Some(there) => {
                    return Err(self.column_error(
                        field.name(),
                        format!("is {} and the table has {}", field.data_type(), there.data_type()),
                    ));
                }
            }
        }
        let metadata = &state.metadata;
        let partition_columns = metadata.partition_columns().to_vec();
        if new.is_empty() {
            return Ok(Layout { schema: present.as_ref().clone(), partition_columns, change: Vec::new() });
        }
        let schema =
            StructType::try_new(present.fields().cloned().chain(new)).map_err(|e| self.failed("describe", e))?;
        let metadata = metadata.clone().with_schema(&schema).map_err(|e| self.failed("describe", e))?;
        Ok(Layout { schema, partition_columns, change: vec![Action::Metadata(metadata)] })
    }

    /// What begins a table, or begins one anew that was dropped.
    pub(super) fn first_actions(&self, dropped: Option<&State>, metadata: Metadata) -> Result<Vec<Action>, StoreError> {
        let mut actions = vec![Action::Metadata(metadata)];
        if dropped.is_none() {
            // Anybody's reader takes these versions.
            let protocol: Protocol = serde_json::from_str(r#"{"minReaderVersion":1,"minWriterVersion":2}"#)
                .map_err(|e| self.failed("describe", e))?;
            actions.insert(0, Action::Protocol(protocol));
        }
        Ok(actions)
    }

    /// Commits `actions` as the version after `state`; a new table's first when there is none.
    ///
    /// # Errors
    /// The commit may or may not have been made.
    pub(super) async fn commit(
        &self,
        state: Option<&State>,
        operation: &str,
        actions: Vec<Action>,
    ) -> Result<Outcome, StoreError> {
        let read = state.map(|state| state.version);
        let version = read.map_or(0, |read| read + 1);
        let now = Utc::now().timestamp_millis();
        let time = match read {
            None => now,
            Some(read) => now.max(self.time_of(read).await? + 1),
        };
        let info = CommitInfo {
            timestamp: Some(time),
            operation: Some(operation.to_owned()),
            operation_parameters: Some(HashMap::new()),
            read_version: read,
            is_blind_append: Some(false),
            engine_info: Some(format!("costream/{}", env!("CARGO_PKG_VERSION"))),
            ..CommitInfo::default()
        };
        let mut entry = Vec::new();
        for action in std::iter::once(Action::CommitInfo(info)).chain(actions) {
            serde_json::to_writer(&mut entry, &action).map_err(|e| self.failed("commit to", e))?;
            entry.push(b'\n');
        }
        fault::point(Point::BeforeCommit);
        if !self.write_entry(version, entry.into()).await? {
            return Ok(Outcome::Lost);
        }
        fault::point(Point::AfterCommit);
        self.remember_time(version, time);
        let files = state.map_or(0, |state| state.files.len() as u64);
        if (version + 1).is_multiple_of(CHECKPOINT_INTERVAL * (files / CHECKPOINT_FILES).next_power_of_two()) {
            self.checkpoint().await;
        }
        Ok(Outcome::Committed)
    }

    /// Writes a log entry unless there is one of this version; says whether it is the one.
    ///
    /// Over a network, "there is one already" may be our own: the answer was lost on the way, and
    /// the client asked again. And while the store is busy with two of us it may refuse both. So
    /// what is there decides; when nothing is, the same bytes are sent again, and only they.
    ///
    /// # Errors
    /// The entry may or may not have been written.
    async fn write_entry(&self, version: u64, entry: Bytes) -> Result<bool, StoreError> {
        for attempt in 1..=MAX_TRIES {
            let bytes = CommitOrBytes::LogBytes(entry.clone());
            match self.log.write_commit_entry(version, bytes, uuid::Uuid::new_v4()).await {
                Ok(()) => return Ok(true),
                Err(TransactionError::VersionAlreadyExists(_)) => {}
                Err(error) => return Err(self.failed("commit to", error)),
            }
            let there = self.log.read_commit_entry(version).await.map_err(|e| self.failed("commit to", e))?;
            match there {
                Some(there) => return Ok(there == entry),
                None => wait(attempt).await,
            }
        }
        Err(self.failed("commit to", format!("version {version} was refused {MAX_TRIES} times, and nobody made it")))
    }

    /// Writes a checkpoint of the latest version. Only speed depends on it.
    pub(super) async fn checkpoint(&self) {
        let written = match self.latest().await {
            Ok(Some(table)) => {
                deltalake::checkpoints::create_checkpoint(&table, None).await.map_err(|e| self.failed("checkpoint", e))
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(table = %self.name, error = costream_common::report::one_line(&error), "no checkpoint written, the log stays long");
        }
    }

    /// The table's columns, in the types that queries see.
    pub(super) fn arrow_schema(&self, schema: &StructType) -> Result<SchemaRef, StoreError> {
        let schema: Schema = schema.try_into_arrow().map_err(|e| self.failed("describe", e))?;
        Ok(SchemaRef::new(schema))
    }
}

/// A scope's application transaction in the log: readable, and no two scopes' alike.
pub(super) fn application_id(key: &ScopeKey) -> String {
    format!("costream:{}:{}:{}", key.source.as_str().len(), key.source, key.scope)
}

impl State {
    fn of(table: &DeltaTable) -> Result<Self, BatchError> {
        let snapshot = table.snapshot()?;
        let schema = snapshot.schema();
        let data = snapshot.log_data();
        let files = data.iter().map(|file| {
            let stats = file.stats();
            let path = file.path().into_owned();
            let known = DataFile {
                times: stats::times(stats.as_deref(), &schema),
                path: path.clone(),
                size: file.size(),
                partition: file.partition_values_map(),
                deletion_vector: file.deletion_vector_descriptor(),
            };
            (path, Arc::new(known))
        });
        let (version, metadata, files) = (snapshot.version(), snapshot.metadata().clone(), files.collect());
        Ok(Self { version, metadata, files, schema, snapshots: Arc::default() })
    }

    fn snapshots(&self) -> MutexGuard<'_, HashMap<String, Option<i64>>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&mut self, action: Action) -> Result<(), BatchError> {
        match action {
            Action::Metadata(metadata) => {
                self.schema = Arc::new(metadata.parse_schema()?);
                self.metadata = metadata;
            }
            Action::Add(add) => {
                let Add { path, size, partition_values, stats, deletion_vector, .. } = add;
                let times = stats::times(stats.as_deref(), &self.schema);
                let file = DataFile { path: path.clone(), size, partition: partition_values, times, deletion_vector };
                self.files.insert(path, Arc::new(file));
            }
            Action::Remove(remove) => {
                // With a deletion vector, a file is removed and added under its path.
                let removed =
                    self.files.get(&remove.path).is_some_and(|file| file.deletion_vector == remove.deletion_vector);
                if removed {
                    self.files.remove(&remove.path);
                }
            }
            Action::Protocol(_) => return Err("the table's protocol has changed".into()),
            _ => {}
        }
        Ok(())
    }

    /// Whether the table is there no more: its last commit said so.
    pub(super) fn is_dropped(&self) -> bool {
        edit::is_dropped(&self.metadata)
    }

    /// Whether CREATE TABLE made it.
    pub(super) fn is_declared(&self) -> bool {
        self.metadata.configuration().contains_key(SETTING)
    }

    /// The files of a scope.
    pub(super) fn files_of(&self, key: &ScopeKey) -> impl Iterator<Item = &Arc<DataFile>> {
        let is = |file: &DataFile, column: &str, name: &str| {
            file.partition.get(column).and_then(Option::as_deref) == Some(name)
        };
        self.files
            .values()
            .filter(move |file| is(file, X_SOURCE, key.source.as_str()) && is(file, X_SCOPE, key.scope.as_str()))
    }
}

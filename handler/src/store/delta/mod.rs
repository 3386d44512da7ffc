//! The embedded store: Delta Lake tables in a directory (or an object store), queried in
//! process by DataFusion. Spark, Trino, DuckDB and others read the same tables.
//!
//! In: [`Delivery`]s and [`Upsert`]s. Out: tables under `<place>/<table>/`, with the log in
//! `_delta_log/` and data in `<digest of source and scope>/<random>.parquet`; partition values
//! stand in the log only. A replace streams its batches into files nobody sees, then makes
//! one commit: the scope's old files out, the new ones in, new columns, and the snapshot's
//! number as an application transaction. It is made on exactly the version that was looked at,
//! so a commit by another process in between means looking again, never a lost or doubled row.
//!
//! Memory: see [`files`] for a replace, [`upsert`] for an upsert, and
//! [`DeltaOptions::query_memory_bytes`] for queries; besides, the list of a table's files.

mod durable;
mod edit;
mod encode;
#[cfg(test)]
mod faults;
mod files;
mod keys;
mod maintain;
mod place;
mod read;
mod stats;
mod sum;
mod table;
#[cfg(test)]
mod tests;
mod upsert;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arrow::array::{ArrayRef, DictionaryArray, Int16Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use costream_common::fault::{self, Point};
use costream_common::record::{ColumnKind, ScopeKey, SnapshotId, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, Transaction};
use deltalake::logstore::{StorageConfig, default_logstore};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::ident::TableName;
use crate::store::{
    BatchError, Change, Committed, Declared, Delivery, Query, Store, StoreEdit, StoreError, StoreRead, StoreWrite,
    TableInfo, Upsert, Upserted,
};

pub use files::FileError;
use files::{PartitionWriter, Written};
pub use place::{StoreUrl, StoreUrlError};
use table::{Layout, Outcome, State, Table};

/// Tries at a commit before the others are given the field: each is lost to somebody's success.
const MAX_TRIES: u32 = 50;
/// Wait before another try, at most; other processes' tries shall not fall together with ours.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Beside the tables, and no table's name.
const SPILL_DIR: &str = ".spill";

/// Where a Delta store is, and its bounds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeltaOptions {
    /// The folder of the tables.
    pub place: StoreUrl,
    /// How long the past can be asked for.
    pub retention: Duration,
    /// What all queries together may hold in memory before they spill.
    pub query_memory_bytes: usize,
    /// Where queries spill to; the system's temporary directory when nothing, or when it cannot be made.
    pub spill_dir: Option<PathBuf>,
    /// What all queries together may spill.
    pub max_spill_bytes: u64,
    /// Size of a data file, about.
    pub target_file_bytes: usize,
}

impl DeltaOptions {
    /// A store in a directory, which is created when it is not there.
    ///
    /// # Errors
    /// The directory cannot be made, or its path is no text.
    pub fn in_directory(directory: &Path) -> Result<Self, StoreError> {
        let failed = |source: BatchError| StoreError::Place {
            attempt: "create",
            place: directory.display().to_string(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(|e| failed(e.into()))?;
        let directory = directory.canonicalize().map_err(|e| failed(e.into()))?;
        let place = Url::from_directory_path(&directory).map_err(|()| failed("not an absolute path".into()))?;
        let place = StoreUrl::try_from(place).map_err(|e| failed(e.into()))?;
        Ok(Self { spill_dir: Some(directory.join(SPILL_DIR)), ..Self::at(place) })
    }

    /// A store below a URL.
    pub fn at(place: StoreUrl) -> Self {
        Self {
            place,
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            query_memory_bytes: 128 << 20,
            spill_dir: None,
            max_spill_bytes: 16 << 30,
            target_file_bytes: 128 << 20,
        }
    }

    /// The settings that every table carries.
    fn settings(&self) -> HashMap<String, String> {
        let retention = format!("interval {} seconds", self.retention.as_secs());
        [
            ("delta.logRetentionDuration", retention.as_str()),
            ("delta.deletedFileRetentionDuration", &retention),
            // Our own housekeeping knows better which versions somebody may still ask for.
            ("delta.enableExpiredLogCleanup", "false"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
}

/// The embedded store. Cheap to clone.
#[derive(Clone)]
pub struct DeltaStore {
    shared: Arc<Shared>,
}

type ScopeLock = tokio::sync::Mutex<()>;

struct Shared {
    options: DeltaOptions,
    /// All that is reached: a bucket, or the file system.
    bucket: Arc<dyn ObjectStore>,
    /// The place in it.
    root: Arc<dyn ObjectStore>,
    tables: Mutex<HashMap<TableName, Arc<Table>>>,
    /// Who replaces a scope now: table and application id.
    scopes: Mutex<HashMap<(TableName, String), Weak<ScopeLock>>>,
    /// What every query's session starts from.
    session: SessionState,
}

impl std::fmt::Debug for DeltaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaStore")
            .field("place", &self.shared.options.place.as_url().as_str())
            .finish_non_exhaustive()
    }
}

impl From<DeltaStore> for Store {
    fn from(store: DeltaStore) -> Self {
        Self { write: Arc::new(store.clone()), read: Arc::new(store.clone()), edit: Arc::new(store) }
    }
}

impl DeltaStore {
    /// Opens the store, reached as the environment says. Tables are opened when they are first
    /// used; nothing is asked of a cloud before [`DeltaStore::reach`].
    ///
    /// # Errors
    /// The environment is no good, or the spill directory cannot be used.
    pub fn open(options: DeltaOptions) -> Result<Self, StoreError> {
        let bucket = options.place.connect(costream_common::cloud::environment());
        let bucket = bucket.map_err(|e| Self::failed("open", &options, e))?;
        Self::over(bucket, options)
    }

    /// The store in a bucket that is at hand.
    ///
    /// # Errors
    /// The spill directory cannot be used.
    pub fn over(bucket: Arc<dyn ObjectStore>, options: DeltaOptions) -> Result<Self, StoreError> {
        let prefix = object_store::path::Path::from_url_path(options.place.as_url().path());
        let prefix = prefix.map_err(|e| Self::failed("open", &options, e))?;
        let root = Arc::new(PrefixStore::new(bucket.clone(), prefix));
        let session = read::base_session(&options).map_err(|e| Self::failed("set up queries on", &options, e))?;
        let shared = Shared { options, bucket, root, tables: Mutex::default(), scopes: Mutex::default(), session };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Finds out whether the store can be reached and read, tables or none.
    ///
    /// # Errors
    /// Nobody answers, there is no such bucket, or the credentials are wrong.
    pub async fn reach(&self) -> Result<(), StoreError> {
        read::table_names(&self.shared).await.map(|_| ())
    }

    fn failed(attempt: &'static str, options: &DeltaOptions, source: impl Into<BatchError>) -> StoreError {
        StoreError::Place { attempt, place: options.place.to_string(), source: source.into() }
    }
}

impl StoreWrite for DeltaStore {
    fn replace_scope(&self, delivery: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.shared.replace_scope(delivery).boxed()
    }

    fn upsert(&self, upsert: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>> {
        self.shared.upsert(upsert).boxed()
    }

    fn committed<'a>(
        &'a self,
        table: &'a TableName,
        key: &'a ScopeKey,
    ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>> {
        async move {
            let table = self.shared.table(table)?;
            match table.state().await? {
                Some(state) => table.snapshot_of(&state, key).await,
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn maintain(&self, shutdown: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
        self.shared.maintain(shutdown).boxed()
    }
}

impl StoreRead for DeltaStore {
    fn query(&self, query: Query) -> BoxFuture<'_, Result<SendableRecordBatchStream, StoreError>> {
        read::query(&self.shared, query).boxed()
    }

    fn session(&self, as_of: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Option<SessionContext>, StoreError>> {
        async move { read::session(&self.shared, as_of).await.map(Some) }.boxed()
    }

    fn tables(&self) -> BoxFuture<'_, Result<Vec<TableInfo>, StoreError>> {
        read::tables(&self.shared).boxed()
    }
}

impl StoreEdit for DeltaStore {
    fn describe<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<Option<TableInfo>, StoreError>> {
        self.shared.describe(table).boxed()
    }

    fn create<'a>(&'a self, table: &'a TableName, declared: &'a Declared) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.shared.create(table, declared).boxed()
    }

    fn drop_table<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.shared.drop_table(table).boxed()
    }

    fn edit<'a>(&'a self, table: &'a TableName, change: &'a mut dyn Change) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.shared.edit(table, change).boxed()
    }
}

impl Shared {
    /// A table by name, whether it is there or not.
    fn table(&self, name: &TableName) -> Result<Arc<Table>, StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return Ok(table.clone());
        }
        let (url, config) = (self.options.place.folder(name), StorageConfig::default());
        let folder = config.decorate_store(self.bucket.clone(), &url);
        let folder =
            folder.map_err(|e| StoreError::Table { attempt: "open", table: name.clone(), source: e.into() })?;
        let log = default_logstore(Arc::new(folder), self.bucket.clone(), &url, &config);
        let table = Arc::new(Table::new(name.clone(), log));
        tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    /// Waits until nobody else in this process replaces the scope.
    async fn lock_scope(&self, table: &TableName, key: &ScopeKey) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
            scopes.retain(|_, lock| lock.strong_count() > 0);
            let entry = scopes.entry((table.clone(), table::application_id(key))).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let lock = Arc::default();
                *entry = Arc::downgrade(&lock);
                lock
            })
        };
        lock.lock_owned().await
    }

    async fn replace_scope(self: &Arc<Self>, delivery: Delivery) -> Result<Committed, StoreError> {
        let Delivery { table: name, key, snapshot, schema, mut batches } = delivery;
        let scope = self.lock_scope(&name, &key).await;
        let table = self.table(&name)?;
        let state = table.state().await?;
        if let Some(state) = &state
            && let Some(current) = table.snapshot_of(state, &key).await?
            && current >= snapshot
        {
            return Ok(Committed { rows: 0, already: true, current });
        }

        let stamp = Stamp::new(&table, &schema, snapshot)?;
        let layout = table.layout(state.as_deref(), &stamp.columns(), &self.options.settings())?;
        check_by_scope(&table, state.as_deref(), &layout)?;
        let mut writer = self.scope_writer(&table, &key, &stamp, &layout);
        drop(state);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|source| StoreError::Cut { table: name.clone(), source })?;
            let batch = stamp.apply(&table, &batch)?;
            writer.write(&batch).await.map_err(|e| table.file_failed("write", e))?;
            fault::point(Point::Write);
        }
        let rows = writer.rows();
        let written = writer.finish().await.map_err(|e| table.file_failed("write", e))?;

        // A commit that has begun must be seen through: a caller who leaves now must not make
        // its files look unwanted.
        let commit = ReplaceCommit {
            shared: self.clone(),
            table,
            key,
            snapshot,
            columns: stamp.columns(),
            layout,
            written,
            rows,
        };
        let committed = tokio::spawn(async move {
            let committed = commit.run().await;
            drop(scope);
            committed
        });
        match committed.await {
            Ok(committed) => committed,
            Err(source) => Err(StoreError::Table { attempt: "commit to", table: name, source: source.into() }),
        }
    }

    fn scope_writer(&self, table: &Table, key: &ScopeKey, stamp: &Stamp, layout: &Layout) -> PartitionWriter {
        let delivered = |name: &str| stamp.schema.field_with_name(name).is_ok();
        let fixed = layout.partition_columns.iter().filter_map(|name| match name.as_str() {
            X_SOURCE => Some((name.clone(), Some(key.source.to_string()))),
            X_SCOPE => Some((name.clone(), Some(key.scope.to_string()))),
            other => (!delivered(other)).then(|| (name.clone(), None)),
        });
        PartitionWriter::new(
            table.object_store(),
            folder_of(key.source.as_str(), key.scope.as_str()),
            stamp.schema.clone(),
            layout.partition_columns.clone(),
            fixed.collect(),
            self.options.target_file_bytes,
        )
    }
}

/// The last step of a replace, which runs to its end whoever waits for it.
struct ReplaceCommit {
    shared: Arc<Shared>,
    table: Arc<Table>,
    key: ScopeKey,
    snapshot: SnapshotId,
    columns: Vec<Field>,
    layout: Layout,
    written: Written,
    rows: u64,
}

impl ReplaceCommit {
    async fn run(self) -> Result<Committed, StoreError> {
        let Self { shared, table, key, snapshot, columns, layout, written, rows } = self;
        let _turn = table.commit.lock().await;
        let settings = shared.options.settings();
        let done = Committed { rows, already: false, current: snapshot };
        for attempt in 1..=MAX_TRIES {
            let state = table.state().await?;
            if let Some(state) = &state
                && let Some(current) = table.snapshot_of(state, &key).await?
                && current >= snapshot
            {
                written.discard().await;
                return Ok(Committed { rows: 0, already: true, current });
            }
            let now = table.layout(state.as_deref(), &columns, &settings)?;
            check_by_scope(&table, state.as_deref(), &now)?;
            if now.partition_columns != layout.partition_columns {
                return Err(table.failed("commit to", "another process has just created it with other partitions"));
            }
            let mut actions = now.change;
            let last_updated = Some(Utc::now().timestamp_millis());
            actions.push(Action::Txn(Transaction::new_with_last_update(
                table::application_id(&key),
                snapshot.version(),
                last_updated,
            )));
            if let Some(state) = &state {
                actions.extend(state.files_of(&key).map(|file| file.remove(true)));
            }
            actions.extend(written.adds().iter().cloned().map(Action::Add));
            match table.commit(state.as_deref(), "WRITE", actions).await {
                Ok(Outcome::Committed) => {
                    written.keep();
                    return Ok(done);
                }
                Ok(Outcome::Lost) => wait(attempt).await,
                Err(error) => {
                    // It may have been made all the same: then its files are the table's.
                    written.keep();
                    return Err(error);
                }
            }
        }
        written.discard().await;
        Err(StoreError::Contended { table: table.name.clone(), tries: MAX_TRIES })
    }
}

/// A short wait, random, before try `attempt + 1`.
async fn wait(attempt: u32) {
    let longest = LONGEST_WAIT.min(Duration::from_millis(4) * attempt);
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    tokio::time::sleep(longest * u32::from(random) / 256).await;
}

/// Refuses to replace rows in a table that is kept by key.
fn check_by_scope(table: &Table, state: Option<&State>, layout: &Layout) -> Result<(), StoreError> {
    let state = state.filter(|state| !state.is_dropped());
    let partitioned = |column: &str| layout.partition_columns.iter().any(|name| name == column);
    let stamped = state.is_none_or(|state| state.schema.field(X_SNAPSHOT).is_some());
    if stamped && partitioned(X_SOURCE) && partitioned(X_SCOPE) {
        Ok(())
    } else {
        Err(table.column_error(X_SCOPE, "the table's rows are kept by key, a snapshot cannot replace them"))
    }
}

/// Delivered rows as the table has them: with the snapshot's number in each. Source and scope
/// are partition columns and stand in the log.
struct Stamp {
    incoming: SchemaRef,
    schema: SchemaRef,
    snapshot: String,
}

impl Stamp {
    fn new(table: &Table, incoming: &SchemaRef, snapshot: SnapshotId) -> Result<Self, StoreError> {
        for field in incoming.fields() {
            let name = field.name();
            if [X_SOURCE, X_SCOPE, X_SNAPSHOT].contains(&name.as_str()) {
                return Err(table.column_error(name, "is the store's own"));
            }
            if *name != name.to_lowercase() || incoming.fields().iter().filter(|other| other.name() == name).count() > 1
            {
                return Err(table.column_error(name, "is not in lower case, or there twice"));
            }
        }
        let mut fields = nullable(incoming);
        fields.push(ColumnKind::Text.record_field(X_SNAPSHOT));
        Ok(Self { incoming: incoming.clone(), schema: Arc::new(Schema::new(fields)), snapshot: snapshot.to_string() })
    }

    /// The columns the table shall have: the report's, then ours.
    fn columns(&self) -> Vec<Field> {
        let fields = self.schema.fields().iter().map(|field| field.as_ref().clone());
        let (ours, mut columns): (Vec<_>, Vec<_>) =
            fields.partition(|field| [X_SNAPSHOT, X_ROW].contains(&field.name().as_str()));
        columns.extend([X_SOURCE, X_SCOPE].map(|name| ColumnKind::Text.field(name)));
        columns.extend(ours.into_iter().rev());
        columns
    }

    fn apply(&self, table: &Table, batch: &RecordBatch) -> Result<RecordBatch, StoreError> {
        check_columns(table, batch, &self.incoming)?;
        let snapshot = Arc::new(StringArray::from_iter_values([&self.snapshot]));
        let snapshot = DictionaryArray::try_new(Int16Array::from_value(0, batch.num_rows()), snapshot)
            .map_err(|e| table.failed("write", e))?;
        let columns = batch.columns().iter().cloned().chain([Arc::new(snapshot) as ArrayRef]).collect();
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows).map_err(|e| table.failed("write", e))
    }
}

/// A delivery's columns, each of which may be null in some other row of the table.
fn nullable(schema: &SchemaRef) -> Vec<Field> {
    schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect()
}

fn check_columns(table: &Table, batch: &RecordBatch, announced: &SchemaRef) -> Result<(), StoreError> {
    let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
    let fields = batch.schema_ref().fields();
    if fields.len() == announced.fields().len() && fields.iter().zip(announced.fields()).all(same) {
        Ok(())
    } else {
        Err(table.column_error("*", "a batch has other columns than its delivery"))
    }
}

/// The folder of a scope's files: short, and legal everywhere.
fn folder_of(source: &str, scope: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(source.len().to_le_bytes());
    digest.update(source);
    digest.update(scope);
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

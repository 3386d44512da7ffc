//! Stores: record batches in, tables out, SQL on the tables. One set of traits, one
//! [`conformance`] suite, and a store behind them: `delta` (Delta Lake in a directory or a bucket).
//!
//! The traits promise no transaction across calls and nothing about single rows, so that a
//! store without transactions (a cluster that loads a snapshot beside the current one and
//! then flips one row) can keep them too. What they do promise:
//!
//! - **Replace scope.** After [`StoreWrite::replace_scope`] has answered, readers see exactly
//!   the delivered rows for that scope; until then exactly the rows of the snapshot before.
//!   A delivery that fails, is cut or is dropped changes nothing that a reader can see.
//! - **Once.** A snapshot that the store has, or one that is older, writes nothing.
//! - **Upsert.** After [`StoreWrite::upsert`] has answered, readers see all of the delivered rows in the
//!   place of those with the same keys; until then none of them. Delivering the same rows twice, or half of them and then all, leaves what one
//!   delivery leaves.
//! - **Backpressure.** Batches are pulled one at a time; a slow store slows whoever made them.
//!
//! Tables are created on first use and take unknown columns; column names are lower case
//! ([`crate::ident`]). A column's type never changes.
//!
//! Beside what is delivered, a store keeps tables that statements make and change ([`StoreEdit`]).

#[cfg(test)]
pub mod conformance;
pub mod declared;
pub mod delta;
mod edit;
pub(crate) mod text;

use std::error::Error;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use costream_common::record::{ScopeKey, SnapshotId};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

pub use self::declared::Declared;
pub use self::edit::{Change, Ended, StoreEdit};
use crate::ident::{ColumnName, TableName};

/// What went wrong while the batches of a delivery were made.
pub type BatchError = Box<dyn Error + Send + Sync>;

/// The batches of a delivery, pulled one at a time. An error ends it, and nothing is stored.
pub type Batches = BoxStream<'static, Result<RecordBatch, BatchError>>;

/// One snapshot on its way into a table.
pub struct Delivery {
    /// The table, created when it is not there.
    pub table: TableName,
    /// What the snapshot replaces.
    pub key: ScopeKey,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The columns of every batch; a text may be of its table's type or of its record's. The store adds `x_source`,
    /// `x_scope` and `x_snapshot`.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Batches,
}

/// What became of a [`Delivery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Rows written by this delivery; nought when it was there already.
    pub rows: u64,
    /// This snapshot, or a later one, was stored before: nothing was read or written.
    pub already: bool,
    /// The scope's snapshot now: later than the delivered one when that was superseded.
    pub current: SnapshotId,
}

/// Rows to be stored by key: a row takes the place of the one with the same key; of several in one
/// delivery the last one wins.
pub struct Upsert {
    /// The table, created when it is not there.
    pub table: TableName,
    /// The columns that make a row's identity; all of them in `schema`. Nulls equal nulls.
    pub key: Vec<ColumnName>,
    /// The columns that are known beforehand. A batch may have others, in lower case: in the rows
    /// of batches without a column it is null.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Batches,
}

/// What became of an [`Upsert`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upserted {
    /// Rows delivered.
    pub received: u64,
    /// Rows written: of several with one key, the last.
    pub stored: u64,
}

/// The right to write: what a scraper has.
pub trait StoreWrite: Send + Sync {
    /// Puts a snapshot in the place of its scope's rows, all at once.
    ///
    /// # Errors
    /// The batches failed, a column is of another type than the table's, or the store did; nothing has changed.
    fn replace_scope(&self, delivery: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Stores rows by key, all at once. Of a delivery without rows nothing comes, no table either.
    ///
    /// # Errors
    /// As [`StoreWrite::replace_scope`].
    fn upsert(&self, upsert: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>>;

    /// The snapshot that a scope has in a table; nothing when there is no such table.
    ///
    /// # Errors
    /// The store could not be asked.
    fn committed<'a>(
        &'a self,
        table: &'a TableName,
        key: &'a ScopeKey,
    ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>>;

    /// One round of housekeeping: merges small files, removes what is beyond the retention.
    /// Never touches what a reader within the retention uses. Ends early, between two steps,
    /// when `shutdown` is cancelled.
    ///
    /// # Errors
    /// The store failed; what was done stays done, and the next round goes on.
    fn maintain(&self, shutdown: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// A statement to be read.
#[derive(Clone, Debug)]
pub struct Query {
    /// One SELECT statement. Tables without a schema are those of schema `doc`.
    pub sql: String,
    /// The values of `$1`, `$2`, ...
    pub params: Vec<ScalarValue>,
    /// The tables as they were at this time; as they are when nothing.
    pub as_of: Option<DateTime<Utc>>,
}

/// A table, as `information_schema` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its name.
    pub name: TableName,
    /// Its columns with their names, types and nullability, in order.
    pub schema: SchemaRef,
    /// The columns that its data is partitioned by.
    pub partitioned_by: Vec<String>,
    /// What `CREATE TABLE` said of it; nothing when a delivery has made it.
    pub declared: Option<Declared>,
}

/// The right to read: what a notebook has.
pub trait StoreRead: Send + Sync {
    /// Starts a query. Dropping the stream cancels it.
    ///
    /// # Errors
    /// The statement cannot be read or planned, or the store failed.
    fn query(&self, query: Query) -> BoxFuture<'_, Result<SendableRecordBatchStream, StoreError>>;

    /// A DataFusion session whose default schema `doc` (catalog `crate`) holds the tables as
    /// of now, or as of a time; for one statement. Each table is opened when the statement
    /// names it, and is then one version of it. Further schemas and functions may be
    /// registered in it. Nothing from a store that is a database of its own and takes
    /// [`StoreRead::query`] only.
    ///
    /// # Errors
    /// The store could not be asked.
    fn session(&self, as_of: Option<DateTime<Utc>>) -> BoxFuture<'_, Result<Option<SessionContext>, StoreError>>;

    /// The tables, by name.
    ///
    /// # Errors
    /// The store could not be asked.
    fn tables(&self) -> BoxFuture<'_, Result<Vec<TableInfo>, StoreError>>;
}

/// A store with all rights. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// The right to write.
    pub write: Arc<dyn StoreWrite>,
    /// The right to read.
    pub read: Arc<dyn StoreRead>,
    /// The right to keep tables of one's own.
    pub edit: Arc<dyn StoreEdit>,
}

/// What a store could not do. The table is named; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The batches ended with an error. The fault is the sender's.
    #[error("delivery to table {table} was cut")]
    Cut {
        /// The table.
        table: TableName,
        /// What the sender said.
        #[source]
        source: BatchError,
    },
    /// A delivery's column does not fit the table.
    #[error("column {column} of a delivery to table {table}: {reason}")]
    Column {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A table cannot be opened, read or written.
    #[error("{attempt} table {table}")]
    Table {
        /// What was attempted: `open`, `write`, `commit to`, ...
        attempt: &'static str,
        /// The table.
        table: TableName,
        /// The store's own error.
        #[source]
        source: BatchError,
    },
    /// Other writers committed first, time and again.
    #[error("commit to table {table}: gave up after {tries} tries, others were faster each time")]
    Contended {
        /// The table.
        table: TableName,
        /// How often it was tried.
        tries: u32,
    },
    /// The store's place cannot be used.
    #[error("{attempt} store {place}")]
    Place {
        /// What was attempted.
        attempt: &'static str,
        /// Its directory or URL, without secrets.
        place: String,
        /// The cause.
        #[source]
        source: BatchError,
    },
    /// There is no version of the table as old as was asked for.
    #[error("table {table} has no history as of {as_of}")]
    NoHistory {
        /// The table.
        table: TableName,
        /// The time asked for.
        as_of: DateTime<Utc>,
    },
    /// A change of a table's rows said no, in its own words.
    #[error("change rows of table {table}")]
    Change {
        /// The table.
        table: TableName,
        /// What the change said.
        #[source]
        source: BatchError,
    },
    /// A statement cannot be planned or run.
    #[error("query failed")]
    Query {
        /// The engine's error.
        #[source]
        source: Box<DataFusionError>,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Cut { .. } | Self::Table { .. } | Self::Contended { .. } | Self::Place { .. } => true,
            Self::Column { .. } | Self::NoHistory { .. } | Self::Change { .. } | Self::Query { .. } => false,
        }
    }

    /// Whether the fault lies with what was sent, rather than with the store.
    pub fn is_callers(&self) -> bool {
        matches!(
            self,
            Self::Cut { .. } | Self::Column { .. } | Self::NoHistory { .. } | Self::Change { .. } | Self::Query { .. }
        )
    }
}

impl From<DataFusionError> for StoreError {
    fn from(error: DataFusionError) -> Self {
        Self::Query { source: Box::new(error) }
    }
}

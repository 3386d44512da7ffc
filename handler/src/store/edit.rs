//! Tables of one's own: what statements make, change and drop, where deliveries have nothing to
//! say. A store that is a database of its own takes such statements itself and does without.
//!
//! - **All at once.** A change is one commit: readers see all of it or nothing.
//! - **On what was read.** A change is made on exactly the version of the table it looked at. When
//!   somebody else was faster it begins anew on theirs, so that of two changes none is lost.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;

use super::{BatchError, Declared, StoreError, TableInfo};
use crate::ident::TableName;

/// The right to keep tables.
pub trait StoreEdit: Send + Sync {
    /// A table as it is now; nothing when it is not there.
    ///
    /// # Errors
    /// The store could not be asked.
    fn describe<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<Option<TableInfo>, StoreError>>;

    /// Makes a table without rows; says whether it was not there.
    ///
    /// # Errors
    /// The store failed.
    fn create<'a>(&'a self, table: &'a TableName, declared: &'a Declared) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Drops a table; says whether it was there. What it was can be asked for as long as the past
    /// of other tables.
    ///
    /// # Errors
    /// The store failed, or a later delivery could not tell that the table has gone.
    fn drop_table<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Makes a change of a table's rows; says whether the table was there. Begins anew as often as
    /// others are faster. A caller who leaves early leaves the whole change or none.
    ///
    /// # Errors
    /// The change said no ([`StoreError::Change`]), or the store failed; nothing has changed.
    fn edit<'a>(&'a self, table: &'a TableName, change: &'a mut dyn Change) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// A change of a table's rows. It is shown the rows that may concern it, group by group; a group
/// with none that does stays as it is. Batches have the columns as they are stored.
pub trait Change: Send {
    /// A try begins, on a table of this kind: whatever an earlier try has found out is forgotten.
    /// Gives the columns that rows have from now on: the table's, and new ones behind them.
    ///
    /// # Errors
    /// The table is not of a kind that can be changed like this.
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError>;

    /// The columns by which [`Change::touches`] tells; nothing when no row concerns the change,
    /// none when all rows do.
    fn looks_at(&self) -> Option<Vec<String>>;

    /// Whether one of some rows is to go or to become another.
    ///
    /// # Errors
    /// The change cannot be made.
    fn touches(&mut self, rows: &RecordBatch) -> Result<bool, BatchError>;

    /// The rows that stand in the place of some of a touched group: all of them pass through here once.
    ///
    /// # Errors
    /// As [`Change::touches`].
    fn rewrite(&mut self, rows: RecordBatch) -> Result<RecordBatch, BatchError>;

    /// All rows have been shown.
    ///
    /// # Errors
    /// As [`Change::touches`].
    fn end(&mut self) -> Result<Ended, BatchError>;
}

/// What a change adds.
#[derive(Debug, Default)]
pub struct Ended {
    /// Rows.
    pub rows: Vec<RecordBatch>,
    /// What the table is declared as from now on; as it was when nothing.
    pub declared: Option<Declared>,
}

//! Statements that write, as they were read: names folded, expressions not yet looked at.

use std::fmt;

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, Query, SelectItem, Statement};

use super::value;
use crate::store::Declared;
use crate::store::declared::Type;

/// A statement.
#[derive(Debug)]
pub(super) enum Parsed {
    /// One that reads.
    Read(Box<Statement>),
    /// `SHOW CREATE TABLE`, which reads what a table was declared as.
    ShowCreate(ObjectName),
    /// One that writes.
    Write(Box<Write>),
}

/// A statement that writes.
#[derive(Debug)]
pub(super) enum Write {
    CreateTable { table: ObjectName, declared: Declared, if_not_exists: bool },
    AddColumns { table: ObjectName, columns: Vec<NewColumn> },
    DropTable { table: ObjectName, if_exists: bool },
    Refresh(Vec<ObjectName>),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
}

/// A column, or a key of an object, to be added.
#[derive(Debug)]
pub(super) struct NewColumn {
    pub(super) place: Place,
    pub(super) data_type: Type,
}

/// A column, or what stands in it below some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) column: String,
    pub(super) keys: Vec<String>,
}

/// `a['b']['c']`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: Vec<String> = std::iter::once(&self.column).chain(&self.keys).cloned().collect();
        f.write_str(&value::path(&path))
    }
}

#[derive(Debug)]
pub(super) struct Insert {
    pub(super) table: ObjectName,
    /// The columns that are named; the table's when none is.
    pub(super) columns: Option<Vec<String>>,
    pub(super) source: Source,
    pub(super) conflict: Conflict,
    /// What is told of the rows that were stored.
    pub(super) returning: Vec<SelectItem>,
}

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    Values(Vec<Vec<Expr>>),
    Query(Box<Query>),
}

/// What becomes of a row whose key is there.
#[derive(Debug)]
pub(super) enum Conflict {
    Fails,
    Nothing { key: Vec<String> },
    Updates { key: Vec<String>, assignments: Vec<Assignment> },
}

#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) place: Place,
    pub(super) value: Expr,
}

#[derive(Debug)]
pub(super) struct Update {
    pub(super) table: ObjectName,
    pub(super) alias: Option<Ident>,
    pub(super) assignments: Vec<Assignment>,
    pub(super) condition: Option<Expr>,
    /// What is told of the rows that were changed.
    pub(super) returning: Vec<SelectItem>,
}

#[derive(Debug)]
pub(super) struct Delete {
    pub(super) table: ObjectName,
    pub(super) alias: Option<Ident>,
    pub(super) condition: Option<Expr>,
}

impl Write {
    /// The tables that are written.
    pub(super) fn tables(&self) -> &[ObjectName] {
        match self {
            Self::CreateTable { table, .. } | Self::AddColumns { table, .. } | Self::DropTable { table, .. } => {
                std::slice::from_ref(table)
            }
            Self::Insert(Insert { table, .. })
            | Self::Update(Update { table, .. })
            | Self::Delete(Delete { table, .. }) => std::slice::from_ref(table),
            Self::Refresh(tables) => tables,
        }
    }

    /// What it does, as CrateDB says it.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::CreateTable { .. } => "CREATE",
            Self::AddColumns { .. } => "ALTER",
            Self::DropTable { .. } => "DROP",
            Self::Refresh(_) => "REFRESH",
            Self::Insert(_) => "INSERT",
            Self::Update(_) => "UPDATE",
            Self::Delete(_) => "DELETE",
        }
    }
}

//! Names that reach a table's definition or SQL: the only way to get there is through
//! [`TableName`] and [`ColumnName`], which are lower case and hold no character that Delta
//! Lake, CrateDB or a directory would trip over. Values never become names.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Longest table name, in bytes: it is a directory's name.
const MAX_TABLE_BYTES: usize = 100;
/// Longest column name, in bytes; a longer one is cut.
const MAX_COLUMN_BYTES: usize = 200;

/// A text that is no table's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no table name: letters a-z, digits, _ and -, a letter first, at most {MAX_TABLE_BYTES}")]
pub struct TableNameError(String);

/// A table's name: `[a-z][a-z0-9_-]*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TableName(String);

impl TableName {
    /// Takes a name, in lower case.
    ///
    /// # Errors
    /// It has a character that not every store takes, is empty or too long.
    pub fn new(name: &str) -> Result<Self, TableNameError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if starts_well && name.len() <= MAX_TABLE_BYTES && name.bytes().all(legal) {
            Ok(Self(name.to_ascii_lowercase()))
        } else {
            Err(TableNameError(name.chars().take(MAX_TABLE_BYTES).collect()))
        }
    }

    /// The table of charges.
    pub fn costs() -> Self {
        Self("costs".to_owned())
    }

    /// The table of quarantined rows.
    pub fn rejects() -> Self {
        Self("rejects".to_owned())
    }

    /// The table of series scraped from endpoints that are not ours.
    pub fn metrics() -> Self {
        Self("metrics".to_owned())
    }

    /// The table of notebooks.
    pub fn notebooks() -> Self {
        Self("notebooks".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for TableName {
    type Err = TableNameError;

    fn from_str(name: &str) -> Result<Self, TableNameError> {
        Self::new(name)
    }
}

impl<'de> Deserialize<'de> for TableName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A column's name in a table: lower case, each character that some store refuses (blank,
/// `,;{}()=.[]"`, control characters) replaced by `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ColumnName(String);

impl ColumnName {
    /// The table's name for a column that a report calls `name`.
    pub fn of(name: &str) -> Self {
        let refused = |c: char| {
            c.is_control()
                || c.is_whitespace()
                || matches!(c, ',' | ';' | '{' | '}' | '(' | ')' | '=' | '.' | '[' | ']' | '"' | '`')
        };
        let mut column: String = name.to_lowercase().chars().map(|c| if refused(c) { '_' } else { c }).collect();
        if column.len() > MAX_COLUMN_BYTES {
            let end = (0..=MAX_COLUMN_BYTES).rev().find(|end| column.is_char_boundary(*end)).unwrap_or(0);
            column.truncate(end);
        }
        if column.is_empty() {
            column.push_str("column");
        }
        Self(column)
    }

    /// The names of a report's columns, in order. A name that an earlier column has already
    /// gets `_2`, `_3` and so on.
    pub fn of_all<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut taken = std::collections::HashSet::new();
        let mut columns = Vec::new();
        for name in names {
            let first = Self::of(name);
            let mut column = first.clone();
            let mut number = 2_u32;
            while !taken.insert(column.clone()) {
                column = Self(format!("{first}_{number}"));
                number += 1;
            }
            columns.push(column);
        }
        columns
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ColumnName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::of(&name))
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_lower_case_and_fit_a_directory() {
        assert_eq!(TableName::new("Azure_Costs-2").map(|t| t.to_string()), Ok("azure_costs-2".to_owned()));
        for name in ["", "1a", "_a", "a.b", "a b", "../a", "a/b", "a\"b", "ä", &"a".repeat(101)] {
            assert!(TableName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn column_names_hold_no_character_that_a_store_refuses() {
        for (name, column) in [
            ("BilledCost", "billedcost"),
            ("x_Cost Center", "x_cost_center"),
            ("label.app", "label_app"),
            ("a,b;{c}(d)=\"e\"[f]\n", "a_b__c__d___e__f__"),
            ("Ärger", "ärger"),
            ("", "column"),
        ] {
            assert_eq!(ColumnName::of(name).as_str(), column);
        }
        assert_eq!(ColumnName::of(&"ü".repeat(150)).as_str(), "ü".repeat(100));
    }

    #[test]
    fn names_that_fall_together_are_told_apart() {
        let names = ColumnName::of_all(["Cost", "COST", "cost_2", "cost", "other"]);
        let names: Vec<_> = names.iter().map(ColumnName::as_str).collect();
        assert_eq!(names, ["cost", "cost_2", "cost_2_2", "cost_3", "other"]);
    }
}

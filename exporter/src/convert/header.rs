//! A header in, the columns of its records out: FOCUS's own spelling where FOCUS knows the name,
//! the report's where not, every name once.

use std::collections::HashSet;

use costream_common::focus;
use costream_common::record::{ColumnKind, X_ROW, X_SCOPE, X_SNAPSHOT, X_SOURCE};

use crate::profile::{Leniency, Rule, RuleCounts};

/// A column of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name in records.
    pub(crate) name: String,
    /// What it holds.
    pub(crate) kind: ColumnKind,
}

/// Names the columns. No name is lost and none stands twice, case ignored; names of our own columns
/// are taken before the report's.
pub(crate) fn columns(header: &[&str], leniency: Leniency, rules: &mut RuleCounts) -> Vec<Column> {
    let mut taken: HashSet<String> = [X_SOURCE, X_SCOPE, X_SNAPSHOT, X_ROW].map(str::to_owned).into();
    header
        .iter()
        .enumerate()
        .map(|(at, written)| {
            let name = named(written, at, leniency, rules);
            let name = unique(name, &mut taken, rules);
            Column { kind: focus::kind_of(&name), name }
        })
        .collect()
}

fn named(written: &str, at: usize, leniency: Leniency, rules: &mut RuleCounts) -> String {
    let mut name = written;
    if name.trim() != name && leniency.takes(Rule::HeaderBlanks) {
        rules.count(Rule::HeaderBlanks);
        name = name.trim();
    }
    if name.trim().is_empty() {
        rules.count(Rule::HeaderUnnamed);
        return format!("column_{}", at + 1);
    }
    match focus::canonical(name) {
        Some(canonical) => {
            if canonical != name {
                rules.count(Rule::HeaderCase);
            }
            canonical.to_owned()
        }
        None => name.to_owned(),
    }
}

fn unique(name: String, taken: &mut HashSet<String>, rules: &mut RuleCounts) -> String {
    if taken.insert(name.to_lowercase()) {
        return name;
    }
    rules.count(Rule::HeaderRenamed);
    let mut ordinal = 2_u64;
    loop {
        let other = format!("{name}_{ordinal}");
        if taken.insert(other.to_lowercase()) {
            return other;
        }
        ordinal += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProfileName;

    #[test]
    fn columns_are_named_once_and_as_focus_spells_them() {
        let header = [
            "billedcost",
            "Tags",
            " RegionId ",
            "x_Row",
            "BilledCost",
            "",
            "x_Team",
            "X_TEAM",
            "X_team_2",
            "BILLEDCOST",
            "Größe",
            "GRÖSSE",
            "größe",
        ];
        let mut rules = RuleCounts::default();
        let columns = columns(&header, ProfileName::Auto.leniency(), &mut rules);
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "BilledCost",
                "Tags",
                "RegionId",
                "x_Row_2",
                "BilledCost_2",
                "column_6",
                "x_Team",
                "X_TEAM_2",
                "X_team_2_2",
                "BilledCost_3",
                "Größe",
                "GRÖSSE",
                "größe_2"
            ]
        );
        assert_eq!(columns[0].kind, ColumnKind::Decimal);
        assert_eq!(columns[4].kind, ColumnKind::Text, "a kind follows from the name alone");
        rules.show();
        let counted: Vec<_> = rules.shown().iter().map(|(rule, count)| (*rule, *count)).collect();
        assert_eq!(counted, [("header_blanks", 1), ("header_case", 2), ("header_renamed", 6), ("header_unnamed", 1)]);
    }
}

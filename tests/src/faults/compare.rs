//! The difference between two ledgers, in words: which row is missing, which was stored twice,
//! which has another content, and which sum is off.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::ledger::Ledger;

/// Differences told in full.
const MAX_TOLD: usize = 8;

/// Holds what was found against what is expected.
///
/// # Errors
/// They differ, and where.
pub fn same(what: &str, expected: &Ledger, found: &Ledger) -> Result<()> {
    let mut all = rows("row", &expected.rows, &found.rows);
    all.extend(rows("reject", &expected.rejects, &found.rejects));
    let currencies: BTreeSet<_> = expected.sums.keys().chain(found.sums.keys()).collect();
    for currency in currencies {
        let (expected, found) = (expected.sums.get(currency), found.sums.get(currency));
        if expected != found {
            all.push(format!("sums of {currency}: expected {expected:?}, found {found:?}"));
        }
    }
    if all.is_empty() {
        return Ok(());
    }
    let more = all.len().saturating_sub(MAX_TOLD);
    all.truncate(MAX_TOLD);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    bail!(
        "{what}: {} rows expected, {} found\n  {}{more}",
        count(&expected.rows),
        count(&found.rows),
        all.join("\n  ")
    );
}

fn count(rows: &BTreeMap<u64, Vec<String>>) -> usize {
    rows.values().map(Vec::len).sum()
}

fn rows(what: &str, expected: &BTreeMap<u64, Vec<String>>, found: &BTreeMap<u64, Vec<String>>) -> Vec<String> {
    let numbers: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let mut differences = Vec::new();
    for number in numbers {
        match (expected.get(number), found.get(number)) {
            (Some(expected), Some(found)) if expected == found => {}
            (Some(expected), Some(found)) if expected.len() != found.len() => {
                differences.push(format!("{what} {number} is there {} times", found.len()));
                differences.extend(found.iter().filter(|row| !expected.contains(row)).map(|row| format!("  {row}")));
            }
            (Some(expected), Some(found)) => {
                differences.push(format!("{what} {number}: expected {expected:?}, found {found:?}"));
            }
            (Some(expected), None) => differences.push(format!("{what} {number} is missing: {expected:?}")),
            (None, Some(found)) => differences.push(format!("{what} {number} is not in the report: {found:?}")),
            (None, None) => {}
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::super::script::report;
    use super::*;

    fn told(change: impl FnOnce(&mut Ledger)) -> String {
        let expected = Ledger::of(&report(1, "aws", 1, 100)).expect("a report");
        let mut found = expected.clone();
        change(&mut found);
        same("the store", &expected, &found).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn every_way_to_be_wrong_is_told() {
        assert_eq!(told(|_| {}), "");
        assert!(told(|found| drop(found.rows.pop_last())).contains("is missing"));
        assert!(
            told(|found| drop(found.rejects.insert(999, vec!["oops".to_owned()]))).contains("reject 999 is not in")
        );
        let doubled = told(|found| {
            let row = found.rows.values_mut().next().expect("a row");
            row.push(row[0].clone());
        });
        assert!(doubled.contains("row 1 is there 2 times"), "{doubled}");
        let changed = told(|found| {
            let row = found.rows.values_mut().next().expect("a row");
            row[0].push('0');
        });
        assert!(changed.contains("row 1: expected"), "{changed}");
        let off = told(|found| found.sums.values_mut().for_each(|sums| sums.costs[3] += 1));
        assert!(off.contains("sums of CHF"), "{off}");
    }
}

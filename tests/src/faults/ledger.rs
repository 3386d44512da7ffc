//! What must be in the store, read from the very bytes that were served, by other people's hands:
//! the `csv` crate finds the records, `bigdecimal` reads and adds the amounts. What the store
//! has is brought into the same form ([`super::store`]), and [`super::compare`] holds the two
//! against each other.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bigdecimal::BigDecimal;

use super::script::{Kind, kind_of};
use crate::report::{COSTS, Sums};

/// The rows of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The columns, as the report writes them.
    pub columns: Vec<String>,
    /// By row number: the cells in the order of the report's columns. One of them each, unless a
    /// row was stored twice.
    pub rows: BTreeMap<u64, Vec<String>>,
    /// Rows and exact sums per currency.
    pub sums: BTreeMap<String, Sums>,
    /// Rows that cannot be read, by row number: the text of the amount that is none.
    pub rejects: BTreeMap<u64, Vec<String>>,
}

impl Ledger {
    /// What a store must have once it has stored this report.
    ///
    /// # Errors
    /// The report is no CSV of ours.
    pub fn of(report: &[u8]) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(report);
        let columns: Vec<_> = reader.headers().context("read the header")?.iter().map(str::to_owned).collect();
        let at = |name: &str| columns.iter().position(|column| column == name).context("a column of ours");
        let (billed, currency) = (at(COSTS[0])?, at("BillingCurrency")?);
        let costs = COSTS.map(at);
        let mut ledger = Self::default();
        for (record, number) in reader.records().zip(1..) {
            let record = record.context("read a record")?;
            let field = |at: usize| record.get(at).unwrap_or_default();
            if field(billed).parse::<BigDecimal>().is_err() {
                ledger.rejects.entry(number).or_default().push(field(billed).to_owned());
                continue;
            }
            let cells = columns.iter().zip(&record).map(|(column, text)| cell(kind_of(column), text));
            ledger.rows.entry(number).or_default().push(cells.collect::<Result<Vec<_>>>()?.join(" | "));
            let sums = ledger.sums.entry(field(currency).to_owned()).or_default();
            sums.rows += 1;
            for (sum, cost) in sums.costs.iter_mut().zip(&costs) {
                let text = field(*cost.as_ref().ok().context("a cost column")?);
                *sum += text.parse::<BigDecimal>().with_context(|| format!("read amount {text:?}"))?;
            }
        }
        Ok(Self { columns, ..ledger })
    }

    /// Charges, in all.
    pub fn n_rows(&self) -> u64 {
        self.sums.values().map(|sums| sums.rows).sum()
    }
}

/// A cell in the one form that the report's and the store's are brought into; null is `-`.
///
/// # Errors
/// It is none of its kind.
pub fn cell(kind: Kind, text: &str) -> Result<String> {
    if text.is_empty() {
        return Ok("-".to_owned());
    }
    Ok(match kind {
        Kind::Text => text.to_owned(),
        Kind::Amount => plain(text).with_context(|| format!("read amount {text:?}"))?,
        Kind::Time => {
            let time = chrono::DateTime::parse_from_rfc3339(text).with_context(|| format!("read time {text:?}"))?;
            time.timestamp_millis().to_string()
        }
        Kind::Tags => {
            let tags: BTreeMap<String, String> =
                serde_json::from_str(text).with_context(|| format!("read tags {text:?}"))?;
            format!("{tags:?}")
        }
    })
}

/// A plain decimal without the zeros that do not matter; nothing when it is none.
fn plain(text: &str) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if digits.is_empty() || !(whole.chars().chain(fraction.chars())).all(|c| c.is_ascii_digit()) {
        return None;
    }
    let sign = if whole.is_empty() && fraction.is_empty() { "" } else { sign };
    Some(format!("{sign}{}{whole}.{fraction}", if whole.is_empty() { "0" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::super::script::report;
    use super::*;

    #[test]
    fn amounts_are_the_same_when_they_are_equal() {
        for (one, other) in [("1.50", "01.5"), ("-0.0", "0"), ("100", "100.000000000000000000"), ("-.5", "-0.5")] {
            assert_eq!(plain(one), plain(other), "{one} and {other}");
        }
        assert_ne!(plain("10"), plain("1"));
        assert_ne!(plain("-1"), plain("1"));
        assert_eq!(plain("oops"), None);
    }

    #[test]
    fn a_scripted_report_has_all_that_makes_reports_hard() {
        let (first, second) = (report(1, "aws", 0, 2_000), report(1, "aws", 1, 2_000));
        assert_eq!(first, report(1, "aws", 0, 2_000), "the same arguments make the same bytes");
        let (before, after) = (Ledger::of(&first).expect("a report"), Ledger::of(&second).expect("a report"));
        assert!(!before.rejects.is_empty(), "some rows cannot be read");
        let (mut texts, n): (Vec<_>, _) = (before.rows.values().flatten().collect(), before.rows.len());
        texts.sort_unstable();
        texts.dedup();
        assert!(texts.len() < n, "some charges stand twice");
        assert_eq!(before.sums.len(), 4, "there are several currencies");
        assert_ne!(before.sums, after.sums, "a restatement changes the bill");
        assert_eq!(after.columns.len(), before.columns.len() + 1, "a restatement brings a column");
    }
}

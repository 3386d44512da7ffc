//! What is where, scope by scope: rows and exact sums per billing period and currency, as the
//! exporter announces them and as SQL finds them in the store; and the table that shows both.
//! Holds a line per scope, period and currency.

use std::collections::BTreeMap;
use std::io::{self, Write};

use chrono::{DateTime, Datelike as _, NaiveDateTime, SecondsFormat, Timelike as _, Utc};
use costream_common::record::{Group, GroupTotals, ScopeKey, ScopeName, Snapshot, SourceName, Totals};
use futures::StreamExt as _;

use crate::cli::Format;
use crate::sql::{Cell, Place, Printer, SqlError};

/// Totals by scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger(BTreeMap<ScopeKey, Totals>);

/// Sums that differ.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {side} against report: {reason}")]
pub(crate) struct Difference {
    pub(crate) key: ScopeKey,
    pub(crate) side: &'static str,
    pub(crate) reason: String,
}

/// The columns that a ledger sums, where a table has them.
const SUMMED: [&str; 4] = ["billedcost", "effectivecost", "listcost", "contractedcost"];

impl Ledger {
    /// What snapshots announce of charges.
    pub(crate) fn of_snapshots<'s>(snapshots: impl IntoIterator<Item = &'s Snapshot>) -> Self {
        let of_charges = snapshots.into_iter().filter(|snapshot| snapshot.kind.is_charges());
        Self(of_charges.map(|snapshot| (snapshot.key.clone(), snapshot.totals.clone())).collect())
    }

    /// What the table `costs` holds, summed by SQL.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(crate) async fn of_store(place: &Place) -> Result<Self, SqlError> {
        let mut ledger = Self::default();
        let known =
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'doc' AND table_name = 'costs'";
        let mut columns = Vec::new();
        let mut answer = place.query(known, None).await?;
        while let Some(rows) = answer.rows.next().await {
            columns.extend(rows?.iter().filter_map(|row| row.first()?.text().map(str::to_owned)));
        }
        if columns.is_empty() {
            return Ok(ledger);
        }
        // A report need not have every cost column; names here are constants.
        let known = |name: &&str| columns.iter().any(|column| column == name);
        let groups: Vec<_> = ["billingperiodstart", "billingcurrency"].into_iter().filter(known).collect();
        let sums: Vec<_> = SUMMED.into_iter().filter(known).collect();
        // Charges of no scope were uploaded: no report of ours has them.
        let statement = format!(
            "SELECT x_source, x_scope, count(*){} FROM costs WHERE x_scope IS NOT NULL GROUP BY x_source, x_scope{}",
            groups
                .iter()
                .map(|name| format!(", {name}"))
                .chain(sums.iter().map(|name| format!(", sum({name})")))
                .collect::<String>(),
            groups.iter().map(|name| format!(", {name}")).collect::<String>(),
        );
        let mut answer = place.query(&statement, None).await?;
        while let Some(rows) = answer.rows.next().await {
            for row in rows? {
                ledger.add_row(&row, &groups, &sums).ok_or(SqlError::Unexpected)?;
            }
        }
        Ok(ledger)
    }

    /// Adds a row of the store's answer; nothing when it is not as was asked for.
    fn add_row(&mut self, row: &[Cell], groups: &[&str], sums: &[&str]) -> Option<()> {
        let [source, scope, count, rest @ ..] = row else { return None };
        let key =
            ScopeKey { source: SourceName::new(source.text()?).ok()?, scope: ScopeName::new(scope.text()?).ok()? };
        let mut totals = GroupTotals { rows: count.text()?.parse().ok()?, ..GroupTotals::default() };
        let mut group = Group { billing_period: None, currency: None };
        for (name, cell) in groups.iter().chain(sums).zip(rest) {
            let Some(text) = cell.text() else { continue };
            match *name {
                "billingperiodstart" => group.billing_period = Some(time(text)?),
                "billingcurrency" => group.currency = Some(text.to_owned()),
                "billedcost" => totals.billed = text.parse().ok()?,
                "effectivecost" => totals.effective = text.parse().ok()?,
                "listcost" => totals.list = text.parse().ok()?,
                _ => totals.contracted = text.parse().ok()?,
            }
        }
        self.0.entry(key).or_default().add_group(group, &totals);
        Some(())
    }

    /// Only the scopes that `other` has too.
    pub(crate) fn within(mut self, other: &Self) -> Self {
        self.0.retain(|key, _| other.0.contains_key(key));
        self
    }

    /// Only the scopes of these sources.
    pub(crate) fn of_sources(mut self, sources: &[SourceName]) -> Self {
        self.0.retain(|key, _| sources.contains(&key.source));
        self
    }

    /// Where `side` differs from this.
    pub(crate) fn differences(&self, name: &'static str, side: &Self) -> Vec<Difference> {
        let nothing = Totals::default();
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(side.0.keys()).collect();
        let difference = |key: &ScopeKey| {
            let (own, other) = (self.0.get(key).unwrap_or(&nothing), side.0.get(key).unwrap_or(&nothing));
            let reason = other.check(own).err()?.to_string();
            Some(Difference { key: key.clone(), side: name, reason })
        };
        keys.into_iter().filter_map(difference).collect()
    }

    fn by_source(&self) -> BTreeMap<(&SourceName, &Group), GroupTotals> {
        let mut lines: BTreeMap<_, GroupTotals> = BTreeMap::new();
        for (key, totals) in &self.0 {
            for (group, totals) in totals.groups() {
                lines.entry((&key.source, group)).or_default().add(totals);
            }
        }
        lines
    }
}

/// Prints, per source, billing period and currency, a line for each side and one for the
/// difference of the last from the first.
///
/// # Errors
/// The output is closed or full.
pub(crate) fn print(out: impl Write, sides: &[(&str, &Ledger)]) -> io::Result<()> {
    let columns = ["source", "period", "currency", "", "rows", "billed", "effective"];
    let mut printer = Printer::new(out, Format::Table, columns.map(str::to_owned).to_vec())?;
    let sums: Vec<_> = sides.iter().map(|(name, ledger)| (*name, ledger.by_source())).collect();
    let keys: std::collections::BTreeSet<_> = sums.iter().flat_map(|(_, sums)| sums.keys().copied()).collect();
    for (source, group) in keys {
        let mut line = |name: &str, rows: String, billed: String, effective: String| {
            let period = group.billing_period.map_or(Cell::Null, |time| Cell::Text(shown_period(time)));
            let currency = group.currency.clone().map_or(Cell::Null, Cell::Text);
            printer.row(vec![
                Cell::Text(source.to_string()),
                period,
                currency,
                Cell::Text(name.to_owned()),
                Cell::Number(rows),
                Cell::Number(billed),
                Cell::Number(effective),
            ])
        };
        let of = |sums: &BTreeMap<_, GroupTotals>| sums.get(&(source, group)).cloned().unwrap_or_default();
        for (name, sums) in &sums {
            let totals = of(sums);
            line(name, totals.rows.to_string(), totals.billed.to_string(), totals.effective.to_string())?;
        }
        if let [(_, first), .., (_, last)] = sums.as_slice() {
            let (first, last) = (of(first), of(last));
            let rows = i128::from(first.rows) - i128::from(last.rows);
            let (billed, effective) = (first.billed.minus(last.billed), first.effective.minus(last.effective));
            line("difference", rows.to_string(), billed.to_string(), effective.to_string())?;
        }
    }
    printer.end()
}

/// A month as `2026-08`, any other beginning in full.
fn shown_period(time: DateTime<Utc>) -> String {
    if time.day() == 1 && time.num_seconds_from_midnight() == 0 && time.nanosecond() == 0 {
        time.format("%Y-%m").to_string()
    } else {
        time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let zoned = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    zoned.or_else(|| text.parse::<NaiveDateTime>().ok().map(|time| time.and_utc()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use arrow::datatypes::Schema;
    use costream_common::record::ColumnKind;
    use costream_handler::Handler;
    use costream_handler::config::HandlerConfig;
    use costream_handler::ident::{ColumnName, TableName};
    use costream_handler::store::Upsert;
    use futures::StreamExt as _;

    use super::*;

    fn ledger(scope: &str, rows: u64, billed: &str) -> Ledger {
        let key =
            ScopeKey { source: SourceName::new("s").expect("a name"), scope: ScopeName::new(scope).expect("a name") };
        let mut totals = Totals::default();
        let group = Group { billing_period: DateTime::from_timestamp(1_785_542_400, 0), currency: Some("USD".into()) };
        totals
            .add_group(group, &GroupTotals { rows, billed: billed.parse().expect("a sum"), ..GroupTotals::default() });
        Ledger(BTreeMap::from([(key, totals)]))
    }

    #[test]
    fn the_last_digit_makes_a_difference() {
        let report = ledger("a.csv", 2, "1.000000000000000001");
        assert_eq!(report.differences("store", &report), []);
        assert_eq!(report.differences("store", &ledger("a.csv", 2, "1.000000000000000002")).len(), 1);
        assert_eq!(
            report.differences("store", &ledger("b.csv", 2, "1.000000000000000001")).len(),
            2,
            "each scope by itself"
        );
        assert_eq!(report.differences("store", &Ledger::default()).len(), 1);
    }

    #[tokio::test]
    async fn uploaded_charges_are_in_no_report() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = HandlerConfig { data_dir: dir.path().to_owned(), ..HandlerConfig::default() };
        let handler = Handler::open(config).await.expect("a handler");
        let text = |name: &str| ColumnKind::Text.field(name);
        let schema = Arc::new(Schema::new(["x_source", "x_scope", "x_snapshot", "x_key"].map(text).to_vec()));
        let value = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let columns = [Some("upload"), None, None, Some("k")].map(value).to_vec();
        let batch = RecordBatch::try_new(schema.clone(), columns).expect("a batch");
        let (table, key) = (TableName::costs(), ["x_source", "x_key"].map(ColumnName::of).to_vec());
        let batches = futures::stream::iter([Ok(batch)]).boxed();
        handler.ingest().rows(Upsert { table, key, schema, batches }).await.expect("stored");
        let ledger = Ledger::of_store(&Place::local(handler.store().read.clone())).await.expect("a ledger");
        assert!(ledger.0.is_empty(), "{ledger:?}");
    }

    #[test]
    fn a_line_for_each_side_and_the_difference() {
        let mut out = Vec::new();
        print(&mut out, &[("report", &ledger("a", 2, "1.5")), ("store", &ledger("a", 1, "1"))]).expect("printed");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["s", "2026-08", "USD", "report", "2", "1.5", "0"]);
        assert_eq!(lines[3], ["s", "2026-08", "USD", "store", "1", "1", "0"]);
        assert_eq!(lines[4], ["s", "2026-08", "USD", "difference", "1", "0.5", "0"]);
    }
}

//! Batches in, the sums that `/metrics` shows out: rows and billed, effective, list and
//! contracted cost per source, billing period, currency and the configured dimensions.
//!
//! Memory and series are bounded whatever the report holds. While a report is read, the first
//! [`CANDIDATES_PER_SERIES`] times `max_series` distinct series get sums of their own, whole from the first row on; what comes
//! later goes to its period's and currency's remainder, a series with [`OTHER`] in every
//! dimension. Of the candidates the largest by billed cost are kept within the budget, the rest joins the
//! remainder. So the sum over a metric, by currency and period, is the report's to the last digit.
//! Should the periods alone be too many, the smallest are shown under the period [`OTHER`]; a
//! source's currencies are always told apart, and may exceed the budget.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, AsArray, Decimal128Array, MapArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};
use chrono::{DateTime, Datelike as _, NaiveTime, SecondsFormat, Utc};
use costream_common::money::{Amount, Sum};
use costream_common::record::{GroupTotals, Texts};
use serde::{Deserialize, Serialize};

use crate::dimensions::{Dimension, Dimensions, renamed};

/// What the remainder carries in every dimension.
pub(crate) const OTHER: &str = "other";
/// Series with sums of their own while a report is read, for each that may be shown.
const CANDIDATES_PER_SERIES: usize = 4;
/// Longest label value kept whole, in bytes.
const MAX_VALUE_BYTES: usize = 200;

/// A billing period as a label's value: `2024-09` when it begins a month, else the whole time; nothing when unknown.
pub(crate) fn period_label(period: Option<DateTime<Utc>>) -> String {
    match period {
        None => String::new(),
        Some(start) if start.day() == 1 && start.time() == NaiveTime::MIN => start.format("%Y-%m").to_string(),
        Some(start) => start.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    }
}

/// One series: its label values in the order of [`Dimensions::labels`], and its sums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Source, billing period, currency, then the dimensions. Empty: no such label.
    pub values: Vec<String>,
    /// Rows and sums.
    #[serde(flatten)]
    pub totals: GroupTotals,
}

/// Sums being made. Its keys are label values, each after its length.
#[derive(Debug)]
pub(crate) struct Rollup {
    dimensions: Dimensions,
    max_series: usize,
    series: HashMap<Box<[u8]>, GroupTotals>,
    remainder: HashMap<Box<[u8]>, GroupTotals>,
}

impl Rollup {
    /// Nothing, summed over `dimensions`, to be shown in at most `max_series` series.
    pub(crate) fn new(dimensions: Dimensions, max_series: usize) -> Self {
        Self { dimensions, max_series, series: HashMap::new(), remainder: HashMap::new() }
    }

    /// Adds every row of a source's batch. A column that is not there, or not of its kind, is a label without a value.
    pub(crate) fn add_batch(&mut self, source: &str, batch: &RecordBatch) {
        let costs = ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"]
            .map(|name| batch.column_by_name(name).and_then(|array| array.as_primitive_opt::<Decimal128Type>()));
        let periods =
            batch.column_by_name("BillingPeriodStart").and_then(|a| a.as_primitive_opt::<TimestampMicrosecondType>());
        let currencies = batch.column_by_name("BillingCurrency").and_then(Texts::of);
        let dimensions = std::mem::replace(&mut self.dimensions, Dimensions::none());
        let columns: Vec<Column<'_>> = dimensions.list.iter().map(|dimension| Column::of(dimension, batch)).collect();

        let mut key = Vec::new();
        let mut period: (Option<i64>, String) = (None, String::new());
        for row in 0..batch.num_rows() {
            let micros = periods.filter(|array| array.is_valid(row)).map(|array| array.value(row));
            if micros != period.0 {
                period = (micros, period_label(micros.and_then(DateTime::from_timestamp_micros)));
            }
            key.clear();
            push_part(&mut key, source);
            push_part(&mut key, &period.1);
            push_part(&mut key, currencies.and_then(|texts| texts.get(row)).unwrap_or_default());
            for column in &columns {
                column.push_value(row, &mut key);
            }
            add_row(self.sums_of(&key, &dimensions), &costs, row);
        }
        drop(columns);
        self.dimensions = dimensions;
    }

    /// Adds a series that was summed before, over the same dimensions.
    pub(crate) fn add_series(&mut self, series: &Series) {
        let mut key = Vec::new();
        for value in &series.values {
            push_part(&mut key, value);
        }
        let dimensions = std::mem::replace(&mut self.dimensions, Dimensions::none());
        self.sums_of(&key, &dimensions).add(&series.totals);
        self.dimensions = dimensions;
    }

    fn sums_of(&mut self, key: &[u8], dimensions: &Dimensions) -> &mut GroupTotals {
        let candidates = self.max_series.saturating_mul(CANDIDATES_PER_SERIES);
        // The borrow checker does not let a found entry out of an `if let` that goes on to insert.
        if self.series.contains_key(key) || self.series.len() < candidates {
            return entry(&mut self.series, key);
        }
        let remainder = folded(key, Fold::Dimensions, dimensions.list.len());
        if self.remainder.contains_key(&*remainder) || self.remainder.len() < candidates {
            return entry(&mut self.remainder, &remainder);
        }
        entry(&mut self.remainder, &folded(key, Fold::Period, dimensions.list.len()))
    }

    /// The series within the budget, in order of their labels.
    pub(crate) fn into_series(self) -> Vec<Series> {
        let (budget, free) = (self.max_series, self.dimensions.list.len());
        let mut all = self.series;
        merge(&mut all, self.remainder);
        for fold in [Fold::Dimensions, Fold::Period] {
            if all.len() > budget {
                all = within(all, budget, |key| folded(key, fold, free));
            }
        }
        let ordered: BTreeMap<Vec<String>, GroupTotals> =
            all.into_iter().map(|(key, totals)| (parts(&key), totals)).collect();
        ordered.into_iter().map(|(values, totals)| Series { values, totals }).collect()
    }
}

/// The largest series as they are and the others folded, so that all are at most `budget`,
/// unless what they fold into is more by itself.
fn within(
    all: HashMap<Box<[u8]>, GroupTotals>,
    budget: usize,
    fold: impl Fn(&[u8]) -> Box<[u8]>,
) -> HashMap<Box<[u8]>, GroupTotals> {
    let remainders: BTreeSet<Box<[u8]>> = all.keys().map(|key| fold(key)).collect();
    let (rest, mut ranked): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| remainders.contains(key));
    ranked.sort_by(|(a_key, a), (b_key, b)| {
        (Reverse(magnitude(a.billed)), a_key).cmp(&(Reverse(magnitude(b.billed)), b_key))
    });
    let folded = ranked.split_off(budget.saturating_sub(remainders.len()).min(ranked.len()));
    let mut kept: HashMap<_, _> = ranked.into_iter().chain(rest).collect();
    for (key, totals) in folded {
        entry(&mut kept, &fold(&key)).add(&totals);
    }
    kept
}

fn merge(into: &mut HashMap<Box<[u8]>, GroupTotals>, from: HashMap<Box<[u8]>, GroupTotals>) {
    for (key, totals) in from {
        into.entry(key).or_default().add(&totals);
    }
}

fn entry<'a>(map: &'a mut HashMap<Box<[u8]>, GroupTotals>, key: &[u8]) -> &'a mut GroupTotals {
    if !map.contains_key(key) {
        map.insert(key.into(), GroupTotals::default());
    }
    map.get_mut(key).expect("it was there or has been put there")
}

fn magnitude(sum: Sum) -> Sum {
    sum.max(Sum::default().minus(sum))
}

fn add_row(totals: &mut GroupTotals, costs: &[Option<&Decimal128Array>; 4], row: usize) {
    totals.rows += 1;
    let sums = [&mut totals.billed, &mut totals.effective, &mut totals.list, &mut totals.contracted];
    for (sum, amounts) in sums.into_iter().zip(costs) {
        let amount = amounts.filter(|array| array.is_valid(row)).map(|array| array.value(row));
        if let Some(amount) = amount.and_then(Amount::from_units) {
            sum.add(amount);
        }
    }
}

#[derive(Clone, Copy)]
enum Fold {
    Dimensions,
    Period,
}

fn folded(key: &[u8], fold: Fold, free: usize) -> Box<[u8]> {
    let mut key_parts = Parts(key);
    let mut fixed = || key_parts.next().unwrap_or_default();
    let (source, period, currency) = (fixed(), fixed(), fixed());
    let mut folded = Vec::with_capacity(key.len());
    push_part(&mut folded, source);
    push_part(&mut folded, if matches!(fold, Fold::Period) { OTHER } else { period });
    push_part(&mut folded, currency);
    for _ in 0..free {
        push_part(&mut folded, OTHER);
    }
    folded.into()
}

fn push_part(key: &mut Vec<u8>, value: &str) {
    let (value, mark) = if value.len() <= MAX_VALUE_BYTES {
        (value, "")
    } else {
        (&value[..value.floor_char_boundary(MAX_VALUE_BYTES)], "…")
    };
    let length = u32::try_from(value.len() + mark.len()).unwrap_or_default();
    key.extend_from_slice(&length.to_le_bytes());
    key.extend_from_slice(value.as_bytes());
    key.extend_from_slice(mark.as_bytes());
}

fn parts(key: &[u8]) -> Vec<String> {
    Parts(key).map(str::to_owned).collect()
}

struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        self.0 = rest;
        std::str::from_utf8(part).ok()
    }
}

/// A dimension's values in one batch.
enum Column<'a> {
    Absent,
    Text(Texts<'a>),
    Time(&'a TimestampMicrosecondArray),
    Tag { tags: &'a MapArray, keys: &'a StringArray, values: &'a StringArray, tag: &'a str },
}

impl<'a> Column<'a> {
    fn of(dimension: &'a Dimension, batch: &'a RecordBatch) -> Self {
        let array =
            batch.column_by_name(&dimension.column).or_else(|| batch.column_by_name(renamed(&dimension.column)?));
        let Some(array) = array else { return Self::Absent };
        if let Some(tag) = dimension.tag.as_deref() {
            let tags = array.as_map_opt();
            let entries =
                tags.and_then(|tags| Some((tags, tags.keys().as_string_opt()?, tags.values().as_string_opt()?)));
            return entries.map_or(Self::Absent, |(tags, keys, values)| Self::Tag { tags, keys, values, tag });
        }
        let text = Texts::of(array).map(Self::Text);
        text.or_else(|| array.as_primitive_opt().map(Self::Time)).unwrap_or(Self::Absent)
    }

    fn push_value(&self, row: usize, key: &mut Vec<u8>) {
        match self {
            Self::Text(texts) => push_part(key, texts.get(row).unwrap_or_default()),
            Self::Time(array) if array.is_valid(row) => {
                let time = DateTime::from_timestamp_micros(array.value(row));
                push_part(
                    key,
                    &time.map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
                );
            }
            Self::Tag { tags, keys, values, tag } if tags.is_valid(row) => {
                let ends = tags.value_offsets();
                let range = usize::try_from(ends[row]).unwrap_or(0)..usize::try_from(ends[row + 1]).unwrap_or(0);
                let at = range.into_iter().find(|at| keys.value(*at) == *tag && values.is_valid(*at));
                push_part(key, at.map_or("", |at| values.value(at)));
            }
            _ => push_part(key, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, MapBuilder, StringBuilder};
    use arrow::datatypes::Schema;
    use costream_common::money::{PRECISION, SCALE};
    use costream_common::record::Totals;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// (month, currency, service, billed)
    type Row = (u8, &'static str, u16, i64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let micros = |month: u8| i64::from(month) * 31 * 86_400_000_000;
        let periods: TimestampMicrosecondArray = rows.iter().map(|row| Some(micros(row.0))).collect();
        let currencies: StringArray = rows.iter().map(|row| Some(row.1)).collect();
        let services: StringArray = rows.iter().map(|row| Some(format!("service {}", row.2))).collect();
        let amounts: Decimal128Array = rows.iter().map(|row| Some(i128::from(row.3))).collect();
        let mut tags = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in rows {
            tags.keys().append_value("team");
            tags.values().append_value(if row.2 % 2 == 0 { "even" } else { "odd" });
            tags.append(true).expect("a map");
        }
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("BillingPeriodStart", Arc::new(periods.with_timezone("UTC"))),
            ("BillingCurrency", Arc::new(currencies)),
            ("ServiceName", Arc::new(services)),
            ("BilledCost", Arc::new(amounts.with_precision_and_scale(PRECISION, SCALE).expect("our own precision"))),
            ("Tags", Arc::new(tags.finish())),
        ];
        let fields: Vec<_> = columns
            .iter()
            .map(|(name, array)| arrow::datatypes::Field::new(*name, array.data_type().clone(), true))
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect())
            .expect("a batch")
    }

    fn dimensions(names: &[&str]) -> Dimensions {
        names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().try_into().expect("dimensions")
    }

    fn per_currency<'a>(sums: impl Iterator<Item = (&'a str, &'a GroupTotals)>) -> BTreeMap<&'a str, GroupTotals> {
        sums.fold(BTreeMap::new(), |mut all, (currency, totals)| {
            all.entry(currency).or_default().add(totals);
            all
        })
    }

    #[test]
    fn sums_are_by_dimension_period_and_currency() {
        let mut rollup = Rollup::new(dimensions(&["Tags.team", "RegionId"]), 100);
        rollup.add_batch("s", &batch(&[(0, "USD", 1, 5), (0, "USD", 3, 7), (0, "EUR", 2, 1)]));
        let shown: Vec<_> = rollup
            .into_series()
            .into_iter()
            .map(|s| (s.values.join("|"), s.totals.rows, s.totals.billed.to_string()))
            .collect();
        assert_eq!(
            shown,
            [
                ("s|1970-01|EUR|even|".to_owned(), 1, "0.000000000000000001".to_owned()),
                ("s|1970-01|USD|odd|".to_owned(), 2, "0.000000000000000012".to_owned()),
            ]
        );
    }

    #[test]
    fn a_value_beyond_measure_is_cut() {
        let mut key = Vec::new();
        push_part(&mut key, &"ü".repeat(1000));
        let parts = parts(&key);
        assert!(parts[0].ends_with("ü…") && parts[0].len() <= MAX_VALUE_BYTES + "…".len());
    }

    #[test]
    fn the_largest_keep_series_of_their_own() {
        let mut rollup = Rollup::new(dimensions(&["ServiceName"]), 3);
        rollup.add_batch(
            "s",
            &batch(&[(0, "USD", 1, 1), (0, "USD", 2, -9), (0, "USD", 3, 2), (0, "USD", 4, 3), (0, "USD", 5, 1)]),
        );
        let shown: Vec<_> = rollup.into_series().into_iter().map(|s| (s.values[3].clone(), s.totals.rows)).collect();
        assert_eq!(shown, [("other".to_owned(), 3), ("service 2".to_owned(), 1), ("service 4".to_owned(), 1)]);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_no_digit_is_lost(
            rows in prop::collection::vec((0..40_u8, prop::sample::select(vec!["USD", "EUR"]), 0..60_u16, any::<i64>()), 0..300),
            budget in 2..40_usize,
            cut in 0..300_usize,
        ) {
            let (first, second) = rows.split_at(cut.min(rows.len()));
            let mut totals = Totals::default();
            let mut rollup = Rollup::new(dimensions(&["ServiceName"]), budget);
            for rows in [first, second] {
                totals.add_batch(&batch(rows)).expect("totals");
                rollup.add_batch("s", &batch(rows));
            }
            let series = rollup.into_series();
            prop_assert!(series.len() <= budget);

            // Summed once more, as scopes are: the same holds.
            let mut merged = Rollup::new(dimensions(&["ServiceName"]), budget);
            series.iter().for_each(|series| merged.add_series(series));
            let merged = merged.into_series();
            prop_assert!(merged.len() <= budget);

            let expected = per_currency(totals.groups().map(|(group, totals)| (group.currency.as_deref().unwrap_or_default(), totals)));
            for series in [&series, &merged] {
                prop_assert_eq!(&per_currency(series.iter().map(|s| (s.values[2].as_str(), &s.totals))), &expected);
                let distinct: BTreeSet<_> = series.iter().map(|s| &s.values).collect();
                prop_assert_eq!(distinct.len(), series.len());
            }
        }
    }
}

//! Batches of generic rows in, the series of them out, as `/metrics` shows them: the columns are labels, rows of one
//! series are added up. Holds the series, as many as may be shown; the rows of others are left out, and counted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Decimal128Type;
use costream_common::money::{Amount, Sum};
use costream_common::record::{Texts, X_ROW};
use serde::{Deserialize, Serialize};

/// The series of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllSeries {
    /// The columns, in order.
    names: Vec<String>,
    pub(crate) all: Vec<Series>,
    /// Rows of series beyond the bound.
    pub(crate) left_out: u64,
}

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// In the order of the columns; empty: no such label.
    values: Vec<String>,
    pub(crate) sum: Sum,
}

impl AllSeries {
    /// A series' labels.
    pub(crate) fn labels<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = (&'a str, &'a str)> {
        let labels = self.names.iter().zip(&series.values).map(|(name, value)| (name.as_str(), value.as_str()));
        labels.filter(|(_, value)| !value.is_empty())
    }
}

/// Adds the series up.
#[derive(Debug)]
pub(crate) struct Finder {
    value: String,
    max_series: usize,
    names: Vec<String>,
    sums: BTreeMap<Vec<String>, Sum>,
    left_out: u64,
}

impl Finder {
    /// Of batches whose number is in the column `value`.
    pub(crate) fn new(value: String, max_series: usize) -> Self {
        Self { value, max_series, names: Vec::new(), sums: BTreeMap::new(), left_out: 0 }
    }

    pub(crate) fn add_batch(&mut self, batch: &RecordBatch) {
        let schema = batch.schema();
        let numbers = batch.column_by_name(&self.value).and_then(|array| array.as_primitive_opt::<Decimal128Type>());
        let Some(numbers) = numbers else { return };
        let mut columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| field.name())
            .zip(batch.columns())
            .filter(|(name, _)| *name != X_ROW)
            .collect();
        columns.sort_by_key(|(name, _)| *name);
        if self.names.is_empty() {
            self.names = columns.iter().map(|(name, _)| (*name).clone()).collect();
        }
        for row in 0..batch.num_rows() {
            let Some(number) = Amount::from_units(numbers.value(row)) else { continue };
            let value = |(_, array): &(&String, &_)| match Texts::of(array) {
                Some(texts) => texts.get(row).unwrap_or_default().to_owned(),
                None => number.to_string(),
            };
            let has_room = self.sums.len() < self.max_series;
            match self.sums.entry(columns.iter().map(value).collect()) {
                Entry::Occupied(mut sum) => sum.get_mut().add(number),
                Entry::Vacant(place) if has_room => drop(place.insert(number.into())),
                Entry::Vacant(_) => self.left_out += 1,
            }
        }
    }

    pub(crate) fn into_series(self) -> AllSeries {
        let all = self.sums.into_iter().map(|(values, sum)| Series { values, sum }).collect();
        AllSeries { names: self.names, all, left_out: self.left_out }
    }
}

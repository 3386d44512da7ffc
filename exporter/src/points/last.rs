//! Batches of points in, the last value of every series out: what `/metrics` shows of usage. Holds the series, as many
//! as may be shown; the points of others are left out, and counted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::rows;

/// The last values of points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    values: Vec<Value>,
    /// Points of series beyond the bound.
    pub(crate) left_out: u64,
}

/// The last value of a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) metric: String,
    pub(crate) resource: String,
    pub(crate) unit: Option<String>,
    pub(crate) micros: i64,
    /// The exact number's text.
    pub(crate) average: String,
}

/// Finds the last values out.
#[derive(Debug)]
pub(crate) struct Finder {
    max_series: usize,
    values: BTreeMap<(String, String), Value>,
    left_out: u64,
}

impl Finder {
    pub(crate) fn new(max_series: usize) -> Self {
        Self { max_series, values: BTreeMap::new(), left_out: 0 }
    }

    pub(crate) fn add_batch(&mut self, batch: &RecordBatch) {
        for row in rows(batch) {
            self.add(Value {
                metric: row.metric.to_owned(),
                resource: row.resource.to_owned(),
                unit: row.unit.map(str::to_owned),
                micros: row.micros,
                average: row.average.to_string(),
            });
        }
    }

    pub(crate) fn add_last(&mut self, last: Last) {
        last.values.into_iter().for_each(|value| self.add(value));
        self.left_out += last.left_out;
    }

    fn add(&mut self, value: Value) {
        let series = (value.metric.clone(), value.resource.clone());
        let has_room = self.values.len() < self.max_series;
        match self.values.entry(series) {
            Entry::Occupied(mut last) if last.get().micros <= value.micros => *last.get_mut() = value,
            Entry::Occupied(_) => {}
            Entry::Vacant(place) if has_room => drop(place.insert(value)),
            Entry::Vacant(_) => self.left_out += 1,
        }
    }

    pub(crate) fn into_last(self) -> Last {
        Last { values: self.values.into_values().collect(), left_out: self.left_out }
    }
}

impl Last {
    /// In order of metric and resource.
    pub(crate) fn into_values(self) -> impl Iterator<Item = Value> {
        self.values.into_iter()
    }
}

/// The metric's name for an exposition: in lower case, `_` for a blank and for what else no name has. Names that ours
/// begin with are kept for ours.
pub(crate) fn exposed_name(metric: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let name: String = metric.trim().to_lowercase().chars().map(|c| if legal(c) { c } else { '_' }).collect();
    let is_ours = ["costream_", "process_"].iter().any(|ours| name.starts_with(ours));
    let starts_well = name.starts_with(|c: char| !c.is_ascii_digit());
    if is_ours || !starts_well { format!("usage_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(resource: &str, micros: i64, average: &str) -> Value {
        Value { metric: "m".to_owned(), resource: resource.to_owned(), unit: None, micros, average: average.to_owned() }
    }

    #[test]
    fn the_last_value_is_the_latest_whatever_its_place() {
        let mut finder = Finder::new(2);
        for (resource, micros, average) in [("b", 2, "1"), ("a", 1, "2"), ("b", 1, "3"), ("b", 2, "4"), ("c", 9, "5")] {
            finder.add(value(resource, micros, average));
        }
        let last = finder.into_last();
        assert_eq!(last.values, [value("a", 1, "2"), value("b", 2, "4")]);
        assert_eq!(last.left_out, 1);
        let mut again = Finder::new(2);
        again.add_last(last.clone());
        assert_eq!(again.into_last(), last);
    }

    #[test]
    fn every_metric_has_a_name() {
        for (metric, name) in [
            ("Percentage CPU", "percentage_cpu"),
            ("Disk Read Bytes/sec", "disk_read_bytes_sec"),
            ("95th", "usage_95th"),
            ("costream_source_up", "usage_costream_source_up"),
            ("", "usage_"),
            ("Größe", "gr__e"),
        ] {
            assert_eq!(exposed_name(metric), name);
        }
    }
}

//! The points of usage of `/metrics` as the inherited exporters have them: snapshots of points in, chunks of text out, a
//! sample a point, the samples of a metric together. For that the snapshots are read once for each metric, and nothing but
//! a batch and a chunk is held.

use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use chrono::{DateTime, SecondsFormat};
use costream_common::exposition::escape::escape_value;
use costream_common::record::{POINT_KEY, RowKind, X_SOURCE};

use super::chunks::Write;
use super::records::RecordsError;
use crate::points::last::exposed_name;
use crate::points::{Row, rows};
use crate::rows::go_float;
use crate::snapshot::{Batches, Generation};

/// Writes the points.
pub(super) struct PointsText {
    generations: Vec<Arc<Generation>>,
    /// Whether each sample says of which source it is, since there are several.
    with_source: bool,
    /// The metric whose samples are written, by the name that it is exposed with; nothing while the first is looked for.
    family: Option<String>,
    /// The next one in order.
    next_family: Option<String>,
    /// The generation that is read, and its batches.
    at: usize,
    open: Option<Batches>,
}

impl PointsText {
    pub(super) fn new(generations: Vec<Arc<Generation>>, with_source: bool) -> Self {
        let is_usage = |generation: &Arc<Generation>| matches!(generation.snapshot().kind, RowKind::Points { .. });
        let generations = generations.into_iter().filter(is_usage).collect();
        Self { generations, with_source, family: None, next_family: None, at: 0, open: None }
    }
}

impl Write for PointsText {
    fn step(&mut self, text: &mut BytesMut) -> Result<bool, RecordsError> {
        let Some(generation) = self.generations.get(self.at).map(Arc::clone) else {
            let Some(family) = self.next_family.take() else { return Ok(false) };
            text.put_slice(format!("# HELP {family} \n# TYPE {family} gauge\n").as_bytes());
            (self.family, self.at) = (Some(family), 0);
            return Ok(true);
        };
        let batches = match &mut self.open {
            Some(batches) => batches,
            None => self.open.insert(generation.records()?),
        };
        let Some(batch) = batches.next().transpose()? else {
            (self.open, self.at) = (None, self.at + 1);
            return Ok(true);
        };
        for row in rows(&batch) {
            let name = exposed_name(row.metric);
            if self.family.as_ref() == Some(&name) {
                let source = self.with_source.then_some(generation.key().source.as_str());
                write(text, &name, &row, source);
            } else if self.family.as_ref().is_none_or(|family| name > *family)
                && self.next_family.as_ref().is_none_or(|next| name < *next)
            {
                self.next_family = Some(name);
            }
        }
        Ok(true)
    }
}

fn write(text: &mut BytesMut, name: &str, row: &Row<'_>, source: Option<&str>) {
    let average = row.average.to_string();
    let time = DateTime::from_timestamp_micros(row.micros).unwrap_or_default();
    let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let labels = [
        (POINT_KEY[0], Some(row.resource)),
        ("average", Some(&average)),
        (POINT_KEY[1], Some(row.metric)),
        (POINT_KEY[2], Some(&time)),
        ("unit", Some(row.unit.unwrap_or_default())),
        (X_SOURCE, source),
    ];
    let mut before = "{";
    text.put_slice(name.as_bytes());
    for (label, value) in labels.into_iter().filter_map(|(label, value)| Some((label, value?))) {
        for part in [before, label, "=\""] {
            text.put_slice(part.as_bytes());
        }
        escape_value(value, |bytes| text.put_slice(bytes));
        text.put_slice(b"\"");
        before = ",";
    }
    text.put_slice(format!("}} {}\n", go_float(row.average.to_f64())).as_bytes());
}

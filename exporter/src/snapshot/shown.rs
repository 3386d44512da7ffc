//! What `/metrics` shows of a snapshot, made of its batches as they are written, and kept beside it: the sums of charges,
//! the last values of points, or the sums of generic series. Holds the series that may be shown, and the candidates for them.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use costream_common::record::RowKind;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::generic::series::{self as generic, AllSeries};
use crate::points::last::{Finder, Last};
use crate::rollup::{Rollup, Series};

/// What `/metrics` shows of a generation, by its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) series: Vec<Series>,
    #[serde(default)]
    pub(crate) last: Last,
    #[serde(default)]
    pub(crate) generic: AllSeries,
}

/// What will be shown of batches, as they come.
pub(super) enum Showing {
    Sums(Box<Rollup>),
    Last(Finder),
    Generic(generic::Finder),
}

impl Showing {
    pub(super) fn of(kind: &RowKind, shared: &Shared) -> Self {
        match kind {
            RowKind::Charges => Self::Sums(Box::new(Rollup::new(shared.dimensions.clone(), shared.max_series))),
            RowKind::Points { .. } => Self::Last(Finder::new(shared.max_series)),
            RowKind::Generic { value, .. } => Self::Generic(generic::Finder::new(value.clone(), shared.max_series)),
        }
    }

    pub(super) fn add_batch(&mut self, source: &str, batch: &RecordBatch) {
        match self {
            Self::Sums(rollup) => rollup.add_batch(source, batch),
            Self::Last(finder) => finder.add_batch(batch),
            Self::Generic(finder) => finder.add_batch(batch),
        }
    }

    pub(super) fn end(self) -> Shown {
        match self {
            Self::Sums(rollup) => Shown { series: rollup.into_series(), ..Shown::default() },
            Self::Last(finder) => Shown { last: finder.into_last(), ..Shown::default() },
            Self::Generic(finder) => Shown { generic: finder.into_series(), ..Shown::default() },
        }
    }
}

#[derive(Serialize)]
struct Sums<'a> {
    over: String,
    #[serde(flatten)]
    shown: &'a Shown,
}

#[derive(Deserialize)]
pub(super) struct OwnedSums {
    pub(super) over: String,
    #[serde(flatten)]
    pub(super) shown: Shown,
}

pub(super) fn write_sums(writer: &mut impl Write, shared: &Shared, shown: &Shown) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, &Sums { over: shared.sums_over(), shown })?;
    writer.flush()
}

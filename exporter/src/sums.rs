//! What `/metrics` shows of the current snapshots, made ready when one is swapped in: the sums
//! over every source within one series budget, the control totals, the last values of usage within another, rejects and
//! rules. Holds the text of the budgets' series, and while it is made the candidates for them and one snapshot's series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{Format, Kind};
use costream_common::record::{GroupTotals, POINT_KEY, RowKind, ScopeKey, SourceName};

use crate::dimensions::Dimensions;
use crate::generic::series::AllSeries;
use crate::points::last::{self, Finder};
use crate::rollup::{Rollup, Series, period_label};
use crate::snapshot::{Generation, Spool, SpoolError};

/// While polls bring snapshot after snapshot, sums are made anew when this many times the time
/// that takes has gone by.
const PATIENCE: u32 = 10;

/// About the size of a chunk of text.
const CHUNK_BYTES: usize = 64 << 10;

/// A family of gauges: its name, help, and what it takes of a series.
type Family = (&'static str, &'static str, fn(&GroupTotals) -> String);

const COSTS: [Family; 5] = [
    ("costream_billed_cost", "Sum of BilledCost, in the billing currency", |totals| totals.billed.to_string()),
    ("costream_effective_cost", "Sum of EffectiveCost, in the billing currency", |totals| totals.effective.to_string()),
    ("costream_list_cost", "Sum of ListCost, in the billing currency", |totals| totals.list.to_string()),
    ("costream_contracted_cost", "Sum of ContractedCost, in the billing currency", |totals| {
        totals.contracted.to_string()
    }),
    ("costream_charges", "Charges, which are rows of the report", |totals| totals.rows.to_string()),
];
const CONTROLS: [Family; 5] = [
    ("costream_control_billed_cost", "Control total: sum of BilledCost", |totals| totals.billed.to_string()),
    ("costream_control_effective_cost", "Control total: sum of EffectiveCost", |totals| totals.effective.to_string()),
    ("costream_control_list_cost", "Control total: sum of ListCost", |totals| totals.list.to_string()),
    ("costream_control_contracted_cost", "Control total: sum of ContractedCost", |totals| {
        totals.contracted.to_string()
    }),
    ("costream_control_charges", "Control total: charges", |totals| totals.rows.to_string()),
];

/// The sums of the current snapshots.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// In chunks, the families of sums by source, period, currency and dimensions, those of the snapshots' control
    /// totals by source, period and currency, and the last values of usage. Gauges are written alike in every format.
    pub(crate) text: Vec<Bytes>,
    /// The series of generic rows, in order of their metrics and sources.
    pub(crate) generic: Vec<Generic>,
    /// Rows whose series are not shown, by source.
    pub(crate) left_out: BTreeMap<String, u64>,
    /// Refused rows, by source and reason.
    pub(crate) rejects: BTreeMap<(String, String), u64>,
    /// Applied rules, by source and rule.
    pub(crate) rules: BTreeMap<(String, String), u64>,
    /// When each snapshot was taken.
    pub(crate) snapshots: Vec<(ScopeKey, DateTime<Utc>)>,
}

/// The last value of a series of usage.
struct Usage {
    /// The metric's name in an exposition.
    name: String,
    source: String,
    last: last::Value,
}

/// The series of a snapshot of generic rows.
#[derive(Clone, Debug)]
pub(crate) struct Generic {
    pub(crate) metric: String,
    pub(crate) key: ScopeKey,
    pub(crate) series: AllSeries,
}

/// Of days of usage, the last so many are looked at: a series that has ended is shown for a day more.
const DAYS_SHOWN: usize = 2;

impl Sums {
    fn of(spool: &Spool) -> Result<Self, SpoolError> {
        let mut sums = Self::default();
        let mut series = Rollup::new(spool.dimensions().clone(), spool.max_series());
        let mut controls = Rollup::new(Dimensions::none(), spool.max_series());
        let mut points: BTreeMap<SourceName, Vec<Arc<Generation>>> = BTreeMap::new();
        for generation in spool.current() {
            let snapshot = generation.snapshot();
            let source = snapshot.key.source.as_str();
            if let RowKind::Generic { metric, .. } = &snapshot.kind {
                let series = generation.shown()?.generic;
                *sums.left_out.entry(source.to_owned()).or_default() += series.left_out;
                sums.generic.push(Generic { metric: metric.clone(), key: snapshot.key.clone(), series });
            } else if snapshot.kind.is_charges() {
                generation.shown()?.series.iter().for_each(|one| series.add_series(one));
                for (group, totals) in snapshot.totals.groups() {
                    let currency = group.currency.clone().unwrap_or_default();
                    let values = vec![source.to_owned(), period_label(group.billing_period), currency];
                    controls.add_series(&Series { values, totals: totals.clone() });
                }
            } else {
                points.entry(snapshot.key.source.clone()).or_default().push(Arc::clone(&generation));
            }
            let count = |counts: &mut BTreeMap<(String, String), u64>, of: &BTreeMap<String, u64>| {
                for (what, times) in of {
                    *counts.entry((source.to_owned(), what.clone())).or_default() += times;
                }
            };
            count(&mut sums.rejects, &generation.manifest.rejects);
            count(&mut sums.rules, &generation.manifest.report.rules);
            sums.snapshots.push((snapshot.key.clone(), snapshot.taken_at));
        }
        let (series, controls) = (series.into_series(), controls.into_series());
        let families = COSTS.iter().map(|family| (family, &series));
        for (family, series) in families.chain(CONTROLS.iter().map(|family| (family, &controls))) {
            write(family, spool.dimensions(), series, &mut sums.text);
        }
        let mut usage = Vec::new();
        for (source, generations) in points {
            sums.add_usage(source.as_str(), &generations, spool.max_series(), &mut usage)?;
        }
        // Where all rows are shown, these are among them.
        if !spool.has_rows() {
            usage.sort_by(|a, b| (&a.name, &a.source).cmp(&(&b.name, &b.source)));
            write_usage(&usage, &mut sums.text);
        }
        sums.generic.sort_by(|a, b| (&a.metric, &a.key).cmp(&(&b.metric, &b.key)));
        Ok(sums)
    }

    /// `generations` of one source, in order of their scopes.
    fn add_usage(
        &mut self,
        source: &str,
        generations: &[Arc<Generation>],
        max_series: usize,
        usage: &mut Vec<Usage>,
    ) -> Result<(), SpoolError> {
        let mut finder = Finder::new(max_series.saturating_sub(usage.len()));
        // Other answers than days have no order: all of them are shown.
        let days = generations.iter().filter(|generation| generation.seen().usage().is_some()).count();
        for generation in &generations[days.saturating_sub(DAYS_SHOWN)..] {
            finder.add_last(generation.shown()?.last);
        }
        let last = finder.into_last();
        self.left_out.insert(source.to_owned(), last.left_out);
        usage.extend(last.into_values().map(|last| Usage {
            name: last::exposed_name(&last.metric),
            source: source.to_owned(),
            last,
        }));
        Ok(())
    }
}

fn write((name, help, value): &Family, dimensions: &Dimensions, series: &[Series], chunks: &mut Vec<Bytes>) {
    let mut writer = TextWriter::new(Format::Text004);
    writer.family(name, Kind::Gauge, help);
    for Series { values, totals } in series {
        let labels = dimensions.labels().zip(values).filter(|(_, value)| !value.is_empty());
        writer.sample(name, labels, &value(totals), None);
        if writer.len() >= CHUNK_BYTES {
            chunks.push(writer.take());
        }
    }
    chunks.push(writer.take());
}

/// Values in order of their names: each name is a family.
fn write_usage(usage: &[Usage], chunks: &mut Vec<Bytes>) {
    let mut writer = TextWriter::new(Format::Text004);
    let mut family = "";
    for Usage { name, source, last } in usage {
        if family != name {
            family = name;
            writer.family(name, Kind::Gauge, "The last average of the metric that metricName tells");
        }
        let labels = [
            ("source", source.as_str()),
            (POINT_KEY[0], &last.resource),
            (POINT_KEY[1], &last.metric),
            ("unit", last.unit.as_deref().unwrap_or_default()),
        ];
        writer.sample(name, labels.into_iter().filter(|(_, value)| !value.is_empty()), &last.average, None);
        if writer.len() >= CHUNK_BYTES {
            chunks.push(writer.take());
        }
    }
    chunks.push(writer.take());
}

/// The sums, kept ready.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    sums: RwLock<Arc<Sums>>,
    changes: AtomicU64,
    /// Times that sums were asked for.
    asked: AtomicU64,
    /// The sums made last. One maker at a time.
    made: tokio::sync::Mutex<Option<Made>>,
}

/// A making of sums.
#[derive(Debug)]
struct Made {
    /// What had been asked for when it began, and so is answered by it.
    answers: u64,
    at: Instant,
    took: Duration,
}

impl Ready {
    /// The sums as they are now.
    pub(crate) fn get(&self) -> Arc<Sums> {
        Arc::clone(&self.sums.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number that is another one whenever `/metrics` shows another bill or another state of a source.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes that something else that is shown has changed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the sums anew if that was not done a moment ago.
    pub(crate) async fn refresh_if_due(&self, spool: &Spool) {
        let is_due = |made: &Made| made.at.elapsed() > made.took.saturating_mul(PATIENCE);
        if self.made.try_lock().is_ok_and(|made| made.as_ref().is_none_or(is_due)) {
            self.refresh(spool).await;
        }
    }

    /// Returns when there are sums that were begun after this was called: of many callers who wait for the one
    /// before them, one makes sums for all. When a snapshot cannot be read, the old ones stay, and it is said.
    pub(crate) async fn refresh(&self, spool: &Spool) {
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut made = self.made.lock().await;
        if made.as_ref().is_some_and(|made| made.answers >= asked) {
            return;
        }
        let (answers, began) = (self.asked.load(Ordering::Acquire), Instant::now());
        let spool = spool.clone();
        let sums = tokio::task::spawn_blocking(move || Sums::of(&spool)).await;
        match sums.unwrap_or_else(|error| Err(SpoolError::Gone(error.to_string()))) {
            Ok(sums) => *self.sums.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sums),
            Err(error) => tracing::error!(
                error = costream_common::report::one_line(&error),
                "the sums of /metrics stay as they were"
            ),
        }
        self.changed();
        *made = Some(Made { answers, at: Instant::now(), took: began.elapsed() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_making_answers_all_who_wait_for_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(dir.path(), None, Dimensions::none(), 100, false, &std::collections::BTreeSet::new());
        let (spool, ready) = (spool.expect("a spool"), Ready::default());
        futures::future::join_all((0..50).map(|_| ready.refresh(&spool))).await;
        // The first one's had begun before the others asked; the second's is for all the others.
        assert_eq!(ready.changes(), 2);
        ready.refresh(&spool).await;
        assert_eq!(ready.changes(), 3, "who asks afterwards gets sums of their own");
    }
}

//! One cycle: a target asked what it has, all of it that the store has not fetched and stored,
//! and a report of that. A cycle of a target never overlaps another of it.
//!
//! An exporter of ours is asked for its list of snapshots, and unless that is the list of the last cycle that stored all of it,
//! for each scope whose snapshot is not committed: its rejects, then its rows. Points of usage are stored by key, and belong to
//! no snapshot afterwards: those of a snapshot are delivered once in the scraper's life, which changes nothing the second time. What may go well a little later is tried
//! again, from the scope's beginning and with the snapshot that is current by then. A scope that
//! failed does not hold up the next; one that is gone from the list keeps its rows.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use costream_common::fault::{self, Point};
use costream_common::http::client::Validators;
use costream_common::record::{POINT_KEY, RowKind, ScopeKey, Snapshot, SnapshotId, X_SOURCE};
use costream_common::report::one_line;
use costream_common::stream::backoff::Waits;
use costream_handler::ident::{ColumnName, TableName};
use costream_handler::ingest::Receipt;
use costream_handler::store::Upsert;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{TargetConfig, TargetKind};
use crate::scrape::series::{SERIES, SeriesError, SeriesLimits, SeriesReader, Spooled, TIMESTAMP};
use crate::scrape::{self, ScrapeError, Scraped};
use crate::sink::{Sink, SinkError};
use crate::target::{Form, Part, Target};
use crate::telemetry::{Measured, Telemetry};

/// The wait before the first retry, about.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two tries of a cycle.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Why a cycle, or a delivery of it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CycleError {
    /// The target did not give what it should.
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
    /// The handler did not store it.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl CycleError {
    /// The scrape's error, when the handler failed for no other reason than that.
    fn scrape(&self) -> Option<&ScrapeError> {
        match self {
            Self::Scrape(error) => Some(error),
            Self::Sink(error) => scrape::cause(error),
        }
    }

    /// Whether another try may go well.
    pub fn is_retryable(&self) -> bool {
        match (self.scrape(), self) {
            (Some(error), _) => error.is_retryable(),
            (None, Self::Sink(error)) => error.is_retryable(),
            (None, Self::Scrape(_)) => false,
        }
    }

    /// What went wrong, in one of a few words: `unreachable`, `refused`, `cut`, `malformed`, `limit`,
    /// `superseded`, `totals`, `timeout`, `shutdown`, or `store` for all that the handler says.
    pub fn reason(&self) -> &'static str {
        self.scrape().map_or("store", ScrapeError::reason)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Sink(error) => error.retry_after(),
            Self::Scrape(ScrapeError::Target(crate::target::TargetError::Client(error))) => error.retry_after(),
            Self::Scrape(_) => None,
        }
    }
}

/// What a cycle came to.
#[derive(Debug)]
pub struct CycleReport {
    /// The target's name.
    pub target: String,
    /// Whether the target gave all that it should.
    pub up: bool,
    /// How long it took.
    pub duration: Duration,
    /// What was stored, and what was not.
    pub deliveries: Vec<DeliveryReport>,
    /// Why nothing was asked for: the list of snapshots, or the scrape itself, failed.
    pub error: Option<CycleError>,
    /// Scopes whose snapshot is not stored yet.
    pub pending: usize,
    /// Age of the oldest of those.
    pub lag: Duration,
}

/// What became of one delivery.
#[derive(Debug)]
pub struct DeliveryReport {
    /// The table.
    pub table: TableName,
    /// The scope and its snapshot; nothing for series.
    pub snapshot: Option<(ScopeKey, SnapshotId)>,
    /// The handler's receipt.
    pub result: Result<Receipt, CycleError>,
}

impl CycleReport {
    /// Everything that failed.
    pub fn errors(&self) -> impl Iterator<Item = &CycleError> {
        self.error.iter().chain(self.deliveries.iter().filter_map(|delivery| delivery.result.as_ref().err()))
    }

    /// Whether all that the target has is stored.
    pub fn is_complete(&self) -> bool {
        self.errors().next().is_none() && self.pending == 0
    }
}

/// A target, and what is known of it from cycle to cycle.
pub(crate) struct Pursuit {
    pub(crate) target: Target,
    config: TargetConfig,
    retry_for: Duration,
    sink: Sink,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Of what was stored in whole.
    validators: Option<Validators>,
    /// What is known to be committed; of scopes in the last list only.
    stored: HashMap<(Part, ScopeKey), SnapshotId>,
    rejects: RejectsTable,
    received_bytes: u64,
    /// How many scopes of the last list are not stored, and since when the oldest could be.
    behind: Option<(usize, DateTime<Utc>)>,
}

impl Pursuit {
    pub(crate) fn new(config: &TargetConfig, retry_for: Duration, sink: Sink) -> Result<Self, ScrapeError> {
        let target = Target::new(config).map_err(crate::target::TargetError::from)?;
        Ok(Self { target, config: config.clone(), retry_for, sink, memory: Mutex::default() })
    }

    pub(crate) fn interval(&self) -> Duration {
        self.config.interval.0
    }

    /// Runs one cycle, after the one that is under way. Dropping it stores no snapshot in part.
    pub(crate) async fn cycle(&self, telemetry: &Telemetry, shutdown: &CancellationToken) -> CycleReport {
        let mut memory = self.memory.lock().await;
        let started = Instant::now();
        let mut report = CycleReport {
            target: self.target.name().to_owned(),
            up: true,
            duration: Duration::ZERO,
            deliveries: Vec::new(),
            error: None,
            pending: 0,
            lag: Duration::ZERO,
        };
        let mut tries = Tries { waits: Waits::new(FIRST_WAIT, LONGEST_WAIT, Some(self.retry_for)), shutdown };
        match self.config.kind() {
            TargetKind::Costream => self.snapshots(&mut memory, &mut tries, &mut report).await,
            TargetKind::Prometheus => self.series(&mut memory, &mut tries, &mut report).await,
        }
        let up = report.errors().all(|error| matches!(error.scrape(), None | Some(ScrapeError::Shutdown)));
        report.up = up;
        if let Some((pending, oldest)) = memory.behind {
            report.pending = pending;
            report.lag = (Utc::now() - oldest).to_std().unwrap_or_default();
        }
        report.duration = started.elapsed();
        self.say(&report);
        self.measure(&mut memory, &report, telemetry);
        report
    }

    async fn snapshots(&self, memory: &mut Memory, tries: &mut Tries<'_>, report: &mut CycleReport) {
        let validators = memory.validators.take();
        let listed = loop {
            match self.list(validators.as_ref(), tries.shutdown).await {
                Ok(listed) => break listed,
                Err(error) if tries.again(&error).await => {}
                Err(error) => {
                    report.error = Some(error);
                    memory.validators = validators;
                    return;
                }
            }
        };
        let Some((snapshots, validators_now)) = listed else {
            memory.validators = validators;
            return;
        };
        let listed: HashSet<&ScopeKey> = snapshots.iter().map(|snapshot| &snapshot.key).collect();
        memory.stored.retain(|(_, key), _| listed.contains(key));

        let mut failed = false;
        for mut snapshot in snapshots.iter().cloned() {
            for part in [Part::Rejects, Part::Records] {
                let table = match part.table(&snapshot) {
                    Ok(table) => table,
                    Err(error) => {
                        failed = true;
                        report.error.get_or_insert(error.into());
                        continue;
                    }
                };
                let result = self.part(part, &table, &mut snapshot, memory, tries).await.transpose();
                let Some(result) = result else { continue };
                failed |= result.is_err();
                let of = (snapshot.key.clone(), snapshot.snapshot);
                report.deliveries.push(DeliveryReport { table, snapshot: Some(of), result });
            }
            if tries.shutdown.is_cancelled() {
                failed = true;
                break;
            }
        }
        let pending = |snapshot: &&Snapshot| {
            let stored = memory.stored.get(&(Part::Records, snapshot.key.clone()));
            stored.is_none_or(|stored| *stored < snapshot.snapshot)
        };
        let pending = snapshots.iter().filter(pending).map(|snapshot| snapshot.taken_at);
        let behind = pending.fold(None, |behind: Option<(usize, _)>, taken_at| {
            Some(behind.map_or((1, taken_at), |(scopes, oldest)| (scopes + 1, taken_at.min(oldest))))
        });
        memory.behind = behind;
        memory.validators = (!failed).then_some(validators_now);
    }

    async fn list(
        &self,
        validators: Option<&Validators>,
        shutdown: &CancellationToken,
    ) -> Result<Option<(Vec<Snapshot>, Validators)>, CycleError> {
        let listing = self.in_time(self.target.snapshots(validators));
        let listed = shutdown.run_until_cancelled(listing).await.ok_or(ScrapeError::Shutdown)?;
        Ok(listed?.map_err(ScrapeError::from)?)
    }

    /// Stores a part of a snapshot, trying again while that makes sense. Nothing when there was nothing to
    /// do.
    async fn part(
        &self,
        part: Part,
        table: &TableName,
        snapshot: &mut Snapshot,
        memory: &mut Memory,
        tries: &mut Tries<'_>,
    ) -> Result<Option<Receipt>, CycleError> {
        let place = (part, snapshot.key.clone());
        loop {
            if let Some(stored) = memory.stored.get(&place).copied().filter(|stored| *stored >= snapshot.snapshot) {
                self.warn_of_later(table, snapshot, stored);
                return Ok(None);
            }
            let error = match self.deliver(part, table, snapshot, memory.rejects, tries.shutdown).await {
                Ok(delivered) => {
                    tries.waits.reset();
                    if delivered.arrived.is_none() {
                        self.warn_of_later(table, snapshot, delivered.committed);
                    }
                    memory.stored.insert(place, delivered.committed);
                    if part == Part::Rejects {
                        memory.rejects = RejectsTable::There;
                    }
                    return Ok(delivered.arrived.map(|(arrived, receipt)| {
                        *snapshot = arrived;
                        receipt
                    }));
                }
                Err(error) => error,
            };
            if !tries.again(&error).await {
                return Err(error);
            }
            // It may be gone by now, or there may be a later one.
            if let Ok(Some((now, _))) = self.list(None, tries.shutdown).await {
                match now.into_iter().find(|now| now.key == snapshot.key) {
                    Some(now) => *snapshot = now,
                    None => return Ok(None),
                }
            }
        }
    }

    /// Says that a snapshot will not be stored because a later one is. With two exporters of a source the
    /// later one is right; with one its clock went back while its spool was lost.
    fn warn_of_later(&self, table: &TableName, snapshot: &Snapshot, stored: SnapshotId) {
        if stored > snapshot.snapshot {
            let (target, scope) = (self.target.name(), &snapshot.key.scope);
            tracing::warn!(
                target, %table, %scope, snapshot = %snapshot.snapshot, %stored,
                "the store has a later snapshot, so this one is not stored: is the exporter's clock right?"
            );
        }
    }

    /// Stores a part of a snapshot, once.
    async fn deliver(
        &self,
        part: Part,
        table: &TableName,
        snapshot: &Snapshot,
        rejects: RejectsTable,
        shutdown: &CancellationToken,
    ) -> Result<Delivered, CycleError> {
        let by_key = part == Part::Records && snapshot.kind.is_by_key();
        let asking = async {
            let committed = if by_key { None } else { self.sink.committed(table, &snapshot.key).await? };
            if let Some(committed) = committed.filter(|committed| *committed >= snapshot.snapshot) {
                return Ok(Err(Delivered { committed, arrived: None }));
            }
            // A scope without rejects, now and before, is left out, but for the first: so the table is there.
            let none = part == Part::Rejects && committed.is_none() && snapshot.rejected == 0;
            if none && rejects == RejectsTable::There {
                return Ok(Err(Delivered { committed: snapshot.snapshot, arrived: None }));
            }
            let body = self.target.scope(part, &snapshot.key).await.map_err(ScrapeError::from)?;
            Ok::<_, CycleError>(Ok(scrape::records(part, body, snapshot, shutdown.clone()).await?))
        };
        let scraped = match shutdown.run_until_cancelled(asking).await.ok_or(ScrapeError::Shutdown)?? {
            Ok(scraped) => scraped,
            Err(stored) => return Ok(stored),
        };
        tracing::debug!(target = self.target.name(), %table, scope = %scraped.snapshot.key, snapshot = %scraped.snapshot.snapshot, "delivering");
        // Not cut short by a shutdown: the batches end with it, and a commit under way is let be.
        let arrived = scraped.snapshot.clone();
        let table = table.clone();
        let receipt = if by_key {
            let Scraped { schema, batches, .. } = scraped.of_points().map_err(|error| wrong_kind(snapshot, &error))?;
            let key = POINT_KEY.map(ColumnName::of).to_vec();
            self.sink.upsert(Upsert { table, key, schema, batches }).await?
        } else {
            self.sink.deliver(table, scraped.snapshot, scraped.totals, scraped.schema, scraped.batches).await?
        };
        fault::point(Point::Delivered);
        Ok(Delivered { committed: arrived.snapshot, arrived: Some((arrived, receipt)) })
    }

    async fn series(&self, memory: &mut Memory, tries: &mut Tries<'_>, report: &mut CycleReport) {
        let scraped_at = Utc::now();
        let receiving = self.in_time(self.receive(memory.validators.as_ref()));
        let received = tries.shutdown.run_until_cancelled(receiving).await.ok_or(ScrapeError::Shutdown);
        let (url, spooled, validators) = match received.flatten().flatten() {
            Ok(Some(received)) => received,
            Ok(None) => return,
            Err(error) => {
                report.error = Some(error.into());
                return;
            }
        };
        memory.validators = None;
        let result = loop {
            match self.upsert(&url, &spooled, scraped_at, tries.shutdown).await {
                Ok(receipt) => break Ok(receipt),
                Err(error) if tries.again(&error).await => {}
                Err(error) => break Err(error),
            }
        };
        if result.is_ok() {
            memory.validators = (validators != Validators::default()).then_some(validators);
        }
        report.deliveries.push(DeliveryReport { table: self.config.table.clone(), snapshot: None, result });
    }

    /// A whole scrape of a Prometheus target; nothing when it has not changed.
    async fn receive(
        &self,
        validators: Option<&Validators>,
    ) -> Result<Option<(String, Spooled, Validators)>, ScrapeError> {
        let Some(body) = self.target.metrics(validators).await? else { return Ok(None) };
        let limits = SeriesLimits {
            samples: self.config.sample_limit,
            labels: self.config.label_limit,
            label_name_bytes: self.config.label_name_length_limit,
            label_value_bytes: self.config.label_value_length_limit,
            body_bytes: self.config.body_size_limit.0,
        };
        let format = match body.form {
            Form::Text(format) => format,
            Form::Arrow => return Ok(None),
        };
        let spooled = Spooled::receive(format, body.chunks, &limits).await;
        let spooled = spooled.map_err(|source| ScrapeError::Series { url: body.url.clone(), source })?;
        Ok(Some((body.url, spooled, body.validators)))
    }

    async fn upsert(
        &self,
        url: &str,
        spooled: &Spooled,
        scraped_at: DateTime<Utc>,
        shutdown: &CancellationToken,
    ) -> Result<Receipt, CycleError> {
        let failed = |source: SeriesError| ScrapeError::Series { url: url.to_owned(), source };
        let reader = spooled.batches(self.target.name().to_owned(), scraped_at).await.map_err(failed)?;
        let upsert = Upsert {
            table: self.config.table.clone(),
            key: [X_SOURCE, SERIES, TIMESTAMP].map(ColumnName::of).to_vec(),
            schema: SeriesReader::schema(),
            batches: scrape::series_batches(url.to_owned(), reader, shutdown.clone()),
        };
        Ok(self.sink.upsert(upsert).await?)
    }

    async fn in_time<T>(&self, asking: impl Future<Output = T>) -> Result<T, ScrapeError> {
        let given = self.config.timeout.0;
        timeout(given, asking)
            .await
            .map_err(|_| ScrapeError::TimedOut { target: self.target.name().to_owned(), timeout: given })
    }

    /// Logs what the cycle stored.
    fn say(&self, report: &CycleReport) {
        let target = self.target.name();
        for delivery in &report.deliveries {
            let Ok(receipt) = &delivery.result else { continue };
            let (table, rows) = (&delivery.table, receipt.stored);
            match &delivery.snapshot {
                Some((key, snapshot)) => {
                    tracing::info!(target, %table, scope = key.scope.as_str(), %snapshot, rows, "stored");
                }
                None => tracing::debug!(target, %table, rows, "stored"),
            }
        }
    }

    /// Logs what failed, for cycles that nobody waits for: here, and nowhere below.
    pub(crate) fn complain(&self, report: &CycleReport) {
        let target = self.target.name();
        if let Some(error) = &report.error {
            tracing::warn!(target, error = one_line(error), "scrape failed");
        }
        for delivery in &report.deliveries {
            let Err(error) = &delivery.result else { continue };
            let table = &delivery.table;
            let scope = delivery.snapshot.as_ref().map(|(key, _)| key.scope.as_str());
            let snapshot = delivery.snapshot.as_ref().map(|(_, snapshot)| snapshot.to_string());
            tracing::warn!(target, %table, scope, snapshot, error = one_line(error), "not stored");
        }
    }

    fn measure(&self, memory: &mut Memory, report: &CycleReport, telemetry: &Telemetry) {
        let received_bytes = self.target.received_bytes();
        let received_before = std::mem::replace(&mut memory.received_bytes, received_bytes);
        let stored = |delivery: &DeliveryReport| delivery.result.as_ref().map_or(0, |receipt| receipt.stored);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch are exact in a double")]
        let now = Utc::now().timestamp_millis() as f64 / 1000.0;
        telemetry.record(
            self.target.name(),
            &Measured {
                up: report.up,
                seconds: report.duration.as_secs_f64(),
                received_bytes: received_bytes - received_before,
                lag_seconds: report.lag.as_secs_f64(),
                pending: report.pending,
                rows: report.deliveries.iter().map(|delivery| (delivery.table.as_str(), stored(delivery))).collect(),
                failures: report.errors().map(CycleError::reason).collect(),
                now,
            },
        );
    }
}

/// What is committed now of a part of a scope.
struct Delivered {
    committed: SnapshotId,
    /// What was delivered for it; nothing when there was nothing to do.
    arrived: Option<(Snapshot, Receipt)>,
}

/// Whether the table of rejects is known to be there.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum RejectsTable {
    #[default]
    Unknown,
    There,
}

impl Part {
    /// The table it goes to.
    fn table(self, snapshot: &Snapshot) -> Result<TableName, ScrapeError> {
        match (self, &snapshot.kind) {
            (Self::Rejects, _) => Ok(TableName::rejects()),
            (Self::Records, RowKind::Charges) => Ok(TableName::costs()),
            (Self::Records, RowKind::Points { table } | RowKind::Generic { table, .. }) => {
                table.parse().map_err(|error| wrong_kind(snapshot, &error))
            }
        }
    }
}

fn wrong_kind(snapshot: &Snapshot, error: &(dyn Error + 'static)) -> ScrapeError {
    ScrapeError::Kind { scope: snapshot.key.to_string(), reason: one_line(error) }
}

/// When a cycle tries again, and when it gives up.
struct Tries<'a> {
    waits: Waits,
    shutdown: &'a CancellationToken,
}

impl Tries<'_> {
    /// Waits before another try; false when there is none.
    async fn again(&mut self, error: &CycleError) -> bool {
        if !error.is_retryable() {
            return false;
        }
        let Some(wait) = self.waits.next(error.retry_after()) else { return false };
        let cause: &(dyn Error + 'static) = error;
        tracing::debug!(error = one_line(cause), "trying again in {:.1}s", wait.as_secs_f64());
        self.shutdown.run_until_cancelled(sleep(wait)).await.is_some()
    }
}

//! When a source is asked, and what one poll does: fetch, decode, convert, assemble, write, swap. The
//! decoder's task runs ahead of the writer's blocking thread by [`N_READY_PIECES`]; a slow disk so slows the source.
//! A poll that fails, or is dropped, leaves the last snapshot and no file; one whose report turns out
//! to be the bytes seen last leaves the last snapshot too. Failures that may pass are tried again, from the
//! start, for as long as `retry_for` says and at the server's own pace. A source that could not be had even so is asked
//! again after [`FIRST_PAUSE`], and then less and less often, where its interval is longer than that; or as soon as a
//! Secret, or another resource, changes that it was asked with.
//!
//! Who asks waits for a place, first come, first served: so many polls at once, of them so many of one host. The wait
//! before a second try takes no place. A source has at most as many reports waiting as there are places, so that one
//! with many does not keep the others from theirs.

mod flight;
mod keep;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use costream_common::record::{RowKind, ScopeKey, ScopeName, Snapshot, SourceName};
use costream_common::report::one_line;
use costream_common::stream::backoff::{Waits, jittered};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::flight::Progress;
use self::flight::{Flight, Flights};
use self::keep::Keeping;
pub(crate) use self::places::Places;
use crate::assemble::{AssembleError, Assembly, Piece};
use crate::config::Rows;
use crate::decode::{CsvReader, DecodeError, Limits};
use crate::generic::GenericError;
use crate::points::report::PointsError;
use crate::profile::ProfileName;
use crate::report::DecodeOptions;
use crate::snapshot::{Generation, ReportFacts, Spool, SpoolError};
use crate::source::{Fetched, Item, Parts, Seen, Source, SourceError};
use crate::sums::Ready;
use crate::telemetry::{Ended, Telemetry};
use crate::usage::{Around, Subscriptions, Usage, UsageError};

/// Batches and rejects between the converter and the disk.
const N_READY_PIECES: usize = 2;
/// About the first wait before a second try, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How soon a source of usage is polled again that waits for another source's report.
const WAITS_FOR_COSTS: Duration = Duration::from_secs(5);
/// From a poll to which the source gave nothing to the next one, and the longest that grows to. A source's interval may
/// be half a day, and what was missing be there in a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);

/// How the poll of one report, or the look for a source's reports, ended.
#[derive(Debug)]
pub struct PollOutcome {
    /// The source.
    pub source: SourceName,
    /// The report; nothing when the source's reports could not be found at all.
    pub scope: Option<ScopeName>,
    /// What the poll brought.
    pub result: Result<Polled, PollError>,
}

/// What a poll that went well brought.
#[derive(Clone, Debug)]
pub struct Polled {
    /// The scope's snapshot now.
    pub snapshot: Snapshot,
    /// Whether the poll made it: otherwise the report is what it was.
    pub changed: bool,
    /// The profile the report was read with.
    pub profile: ProfileName,
    /// The FOCUS version its columns tell.
    pub focus_version: Option<String>,
    /// Rules of leniency applied, and how often.
    pub rules: BTreeMap<String, u64>,
    /// Rejects by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Bytes the poll read.
    pub read_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a poll brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// The source gave no bytes, or not all of them.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The bytes are no cost report.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The records could not be kept.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The usage was not to be had.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The bytes are no points of usage.
    #[error(transparent)]
    Points(#[from] PointsError),
    /// The bytes are no rows of any make.
    #[error(transparent)]
    Generic(#[from] GenericError),
}

impl PollError {
    /// Whether the next try may go well.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_retryable())
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => error.retry_after(),
            Self::Usage(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the source, or what says how to ask it, gave nothing.
    fn is_missing(&self) -> bool {
        match self {
            Self::Source(_) => true,
            Self::Usage(error) => error.is_missing(),
            _ => false,
        }
    }

    fn waits_for_costs(&self) -> bool {
        matches!(self, Self::Usage(error) if error.waits_for_costs())
    }
}

/// How a source's last polls went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// Whether every report of the last poll could be had; nothing before the first poll.
    pub(crate) up: Option<bool>,
    pub(crate) polled_at: Option<DateTime<Utc>>,
    /// When a poll last went well as a whole.
    pub(crate) succeeded_at: Option<DateTime<Utc>>,
    pub(crate) took: Duration,
    /// Scopes that have a snapshot though their report is gone.
    pub(crate) gone: usize,
    /// What went wrong first in the last poll.
    pub(crate) failure: Option<String>,
}

/// A source, and how asking it goes.
#[derive(Debug)]
pub(crate) struct Polling {
    pub(crate) source: Source,
    /// What asks it, when it has no reports.
    usage: Option<Usage>,
    /// One poll at a time.
    busy: tokio::sync::Mutex<()>,
    status: Mutex<Status>,
    /// When the next poll is due; nothing before the first one.
    next: Mutex<Option<Instant>>,
    /// Polls in a row to which the source gave nothing.
    failures: AtomicU32,
}

/// What every poll shares.
#[derive(Debug)]
pub(crate) struct Polls {
    pub(crate) spool: Spool,
    pub(crate) telemetry: Telemetry,
    pub(crate) ready: Ready,
    pub(crate) retry_for: Duration,
    pub(crate) limits: Limits,
    pub(crate) csv_reader: CsvReader,
    places: Places,
    flights: Flights,
}

impl Polls {
    pub(crate) fn new(
        spool: Spool,
        telemetry: Telemetry,
        retry_for: Duration,
        limits: Limits,
        csv_reader: CsvReader,
        places: Places,
    ) -> Self {
        Self {
            spool,
            telemetry,
            ready: Ready::default(),
            retry_for,
            limits,
            csv_reader,
            places,
            flights: Flights::default(),
        }
    }

    /// The polls under way.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        self.flights.progress()
    }
}

/// Holders of these locks only copy values in and out.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Polling {
    /// # Errors
    /// The source cannot be asked.
    pub(crate) fn new(source: Source, subscriptions: &Arc<Subscriptions>) -> Result<Self, SourceError> {
        let usage = |from| Usage::new(source.name.clone(), from, Arc::clone(subscriptions));
        let usage = source.usage().map(usage).transpose()?;
        Ok(Self {
            source,
            usage,
            busy: tokio::sync::Mutex::default(),
            status: Mutex::default(),
            next: Mutex::default(),
            failures: AtomicU32::default(),
        })
    }

    /// Whether it is asked for usage.
    pub(crate) fn is_usage(&self) -> bool {
        self.usage.is_some()
    }

    pub(crate) fn status(&self) -> Status {
        locked(&self.status).clone()
    }

    /// Whether its rows are charges.
    pub(crate) fn is_of_charges(&self) -> bool {
        !self.is_usage() && matches!(self.source.rows, Rows::Charges)
    }

    /// Whether its rows are points of usage.
    pub(crate) fn is_of_points(&self) -> bool {
        self.is_usage() || matches!(self.source.rows, Rows::Points(_))
    }

    /// How long until the next poll is due.
    fn wait(&self) -> Duration {
        locked(&self.next).map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    /// From the last poll to the next, give or take a tenth.
    fn pause(&self) -> Duration {
        paced(self.source.interval, self.failures.load(Ordering::Relaxed))
    }

    /// Polls every report of the source once. Holds the outcomes: one snapshot's totals per scope.
    pub(crate) async fn poll(&self, polls: &Polls) -> Vec<PollOutcome> {
        let _busy = self.busy.lock().await;
        let began = Instant::now();
        let name = &self.source.name;
        if let Some(resources) = self.source.resources() {
            resources.forget();
        }
        let listed = match &self.usage {
            Some(usage) => usage.begin(&polls.spool, Utc::now()).await.map_err(PollError::from),
            None => {
                let _place = polls.places.take(self.source.host()).await;
                self.source.items().await.map_err(PollError::from)
            }
        };
        let (outcomes, gone) = match listed {
            Ok(items) => {
                let there: BTreeSet<&ScopeName> = items.iter().map(|item| &item.scope).collect();
                let gone = gone(&polls.spool, name, &there);
                let polled = futures::stream::iter(items).map(|item| self.poll_report(polls, item));
                let mut outcomes: Vec<_> = polled.buffered(polls.places.n_places).collect().await;
                for error in self.usage.iter().flat_map(Usage::end) {
                    polls.telemetry.polled(name, Ended::Failed, began.elapsed());
                    outcomes.push(PollOutcome { source: name.clone(), scope: None, result: Err(error.into()) });
                }
                (outcomes, gone)
            }
            Err(error) => {
                polls.telemetry.polled(name, Ended::Failed, began.elapsed());
                let result = Err(error);
                (vec![PollOutcome { source: name.clone(), scope: None, result }], self.status().gone)
            }
        };
        self.settle(&outcomes, gone, began);
        let is_change = |outcome: &PollOutcome| outcome.result.as_ref().is_ok_and(|polled| polled.changed);
        if outcomes.iter().any(is_change) {
            polls.ready.refresh(&polls.spool).await;
        } else {
            polls.ready.changed();
        }
        outcomes
    }

    fn settle(&self, outcomes: &[PollOutcome], gone: usize, began: Instant) {
        let failure = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err());
        let is_missing = |outcome: &PollOutcome| outcome.result.as_ref().is_err_and(PollError::is_missing);
        let failures = if outcomes.iter().any(is_missing) { self.failures.load(Ordering::Relaxed) + 1 } else { 0 };
        self.failures.store(failures, Ordering::Relaxed);
        let now = Utc::now();
        let mut status = locked(&self.status);
        status.up = Some(failure.is_none());
        status.polled_at = Some(now);
        status.took = began.elapsed();
        status.gone = gone;
        status.failure = failure.map(|error| one_line(error));
        if failure.is_none() {
            status.succeeded_at = Some(now);
        }
        *locked(&self.next) = Instant::now().checked_add(jittered(self.pause()));
    }

    async fn poll_report(&self, polls: &Polls, item: Item) -> PollOutcome {
        let began = Instant::now();
        let source = &self.source.name;
        let scope = item.scope.clone();
        let result = self.tried(polls, item, began).await;
        let ended = match &result {
            Ok(polled) if polled.changed => Ended::Changed,
            Ok(_) => Ended::Unchanged,
            Err(_) => Ended::Failed,
        };
        polls.telemetry.polled(source, ended, began.elapsed());
        if ended == Ended::Changed {
            polls.ready.refresh_if_due(&polls.spool).await;
        }
        PollOutcome { source: source.clone(), scope: Some(scope), result }
    }

    async fn tried(&self, polls: &Polls, mut item: Item, began: Instant) -> Result<Polled, PollError> {
        let mut waits = Waits::new(FIRST_WAIT, LONGEST_WAIT, None);
        let (mut is_stale, mut columns) = (false, None);
        loop {
            let error = match self.attempt(polls, &mut item, is_stale, columns.take(), began).await {
                Err(Halt::Wider(all)) => {
                    columns = Some(all);
                    continue;
                }
                Err(Halt::Failed(error)) if error.is_retryable() => error,
                Err(Halt::Failed(error)) => return Err(error),
                Ok(polled) => return Ok(polled),
            };
            is_stale = matches!(error, PollError::Source(SourceError::Changed(_)));
            match waits.next(error.retry_after()) {
                Some(wait) if began.elapsed() + wait <= polls.retry_for => {
                    polls.telemetry.retried(&self.source.name);
                    tracing::debug!(source = %self.source.name, error = one_line(&error), ?wait, "tries again");
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// One try: with the report as it was looked for, or, when that `is_stale`, as it is there now.
    async fn attempt(
        &self,
        polls: &Polls,
        item: &mut Item,
        is_stale: bool,
        columns: Option<SchemaRef>,
        began: Instant,
    ) -> Result<Polled, Halt> {
        if let Some(usage) = &self.usage {
            // Not one of the reports' places: it may wait for its budget, and holds as many answers as it may itself.
            let _place = polls.places.take_for_usage().await;
            let around = Around { spool: &polls.spool, telemetry: &polls.telemetry, retry_for: polls.retry_for };
            let taken = usage.take(item, around).await?;
            return Ok(polled(&taken.generation, taken.changed, taken.read_bytes, began));
        }
        let _place = polls.places.take(self.source.host()).await;
        if is_stale {
            *item = self.source.again(item.clone()).await?;
        }
        let key = ScopeKey { source: self.source.name.clone(), scope: item.scope.clone() };
        let rows = if polls.spool.has_rows() { " with rows" } else { "" };
        let conversion = match &self.source.rows {
            Rows::Charges => format!("{} {}{rows}", env!("CARGO_PKG_VERSION"), self.source.profile),
            Rows::Points(points) => format!("{} {points:?}", env!("CARGO_PKG_VERSION")),
            Rows::Generic(generic) => format!("{} {generic:?}", env!("CARGO_PKG_VERSION")),
        };
        // Other rules would make other records of the same bytes.
        let last = polls.spool.get(&key).filter(|generation| generation.manifest.report.conversion == conversion);
        let seen = last.as_ref().map(|generation| generation.seen());
        let parts = match (self.source.fetch(item, seen.as_ref()).await?, &last) {
            (Fetched::Fresh(parts), _) => parts,
            (Fetched::Unchanged, Some(last)) => return Ok(polled(last, false, 0, began)),
            // Without a seen report nothing can be unchanged.
            (Fetched::Unchanged, None) => return Err(SourceError::Changed(item.shown.clone()).into()),
            (Fetched::Unfinished, Some(last)) => {
                tracing::info!(source = %key.source, scope = %key.scope, "its next export is still being written");
                return Ok(polled(last, false, 0, began));
            }
            (Fetched::Unfinished, None) => return Err(SourceError::Unfinished(item.shown.clone()).into()),
        };
        let flight = &polls.flights.begin(key.clone());
        let keeping = |key| Keeping { polls, key, conversion: conversion.clone(), last: last.clone() };
        let (generation, changed, read_bytes) = match &self.source.rows {
            Rows::Charges => self.write(polls, key, parts, columns, conversion, last.as_ref(), flight).await?,
            Rows::Points(of) => keeping(key).points(parts, of).await?,
            Rows::Generic(of) => keeping(key).generic(parts, self.options(polls, &item.shown), of, flight).await?,
        };
        Ok(polled(&generation, changed, read_bytes, began))
    }

    /// How a report is read that is called `file`.
    fn options(&self, polls: &Polls, file: &str) -> DecodeOptions {
        DecodeOptions {
            profile: self.source.profile,
            file: file.to_owned(),
            limits: polls.limits,
            csv_reader: polls.csv_reader,
            scratch: polls.spool.scratch(),
            keep_labels: polls.spool.has_rows(),
        }
    }

    /// Brings a report to the disk; says whether it became a new generation, and its bytes.
    #[expect(clippy::too_many_arguments, reason = "one step of `attempt`, which has all of them at hand")]
    async fn write(
        &self,
        polls: &Polls,
        key: ScopeKey,
        parts: Parts,
        columns: Option<SchemaRef>,
        conversion: String,
        last: Option<&Arc<Generation>>,
        flight: &Flight,
    ) -> Result<(Arc<Generation>, bool, u64), Halt> {
        let options = self.options(polls, key.scope.as_str());
        let mut assembly = Assembly::open(parts, options, columns).await?;
        let (pieces, received) = mpsc::channel(N_READY_PIECES);
        let (spool, file, schema) = (polls.spool.clone(), assembly.file().to_owned(), assembly.schema());
        let writing = tokio::task::spawn_blocking(move || write(&spool, key, file, &schema, received));
        let assembled = hand_over(&mut assembly, &pieces, flight).await;
        let read_bytes = assembly.bytes();
        polls.telemetry.read(&self.source.name, read_bytes);
        let ended = self.end(assembled, assembly, &pieces, conversion, last).await;
        // Without an end the writer removes what it has written.
        drop(pieces);
        let gone = |error: tokio::task::JoinError| PollError::from(SpoolError::Gone(error.to_string()));
        let written = writing.await.map_err(gone)?.map_err(PollError::from)?;
        if let Some((last, seen)) = ended? {
            let noted = tokio::task::spawn_blocking(move || last.seen_again(seen).map(|()| last)).await;
            let last = noted.map_err(gone)?.map_err(PollError::from)?;
            return Ok((last, false, read_bytes));
        }
        match written {
            Some(generation) => Ok((generation, true, read_bytes)),
            None => Err(PollError::from(SpoolError::Gone("it ended early".to_owned())).into()),
        }
    }

    /// Tells the writer that all is there; or says which generation it is already, and what was seen of it now.
    async fn end(
        &self,
        assembled: Result<(), AssembleError>,
        assembly: Assembly,
        pieces: &mpsc::Sender<ToDisk>,
        conversion: String,
        last: Option<&Arc<Generation>>,
    ) -> Result<Option<(Arc<Generation>, Seen)>, Halt> {
        assembled?;
        let (profile, focus_version, rules) = (assembly.profile(), assembly.focus_version(), assembly.rules());
        let seen = assembly.into_parts().seal().await?;
        if let Some(last) = last.filter(|last| seen.digest.is_some() && last.seen().digest == seen.digest) {
            return Ok(Some((Arc::clone(last), seen)));
        }
        let facts = ReportFacts { seen, conversion, profile, focus_version, rules };
        // A writer that is not there any more says why itself.
        let _ = pieces.send(ToDisk::End(Box::new(facts))).await;
        Ok(None)
    }

    /// Waits, after a poll to which the source gave nothing, until one of the resources that it was asked with is another one.
    async fn resources_changed(&self, polls: &Polls) {
        let is_failing = self.failures.load(Ordering::Relaxed) > 0;
        let Some(resources) = self.source.resources().filter(|_| is_failing) else {
            return std::future::pending().await;
        };
        let _place = polls.places.take_to_watch().await;
        resources.changed().await;
    }

    /// Polls on schedule until told to stop; a poll in flight is then dropped.
    pub(crate) async fn keep_polling(&self, polls: &Polls, shutdown: CancellationToken) {
        let mut is_to_wait = false;
        loop {
            let wait = self.wait();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.resources_changed(polls), if !is_to_wait => {
                    tracing::info!(source = %self.source.name, "what says how it is asked has changed: it is polled at once");
                }
            }
            let outcomes = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    tracing::info!(source = %self.source.name, "the poll in flight was dropped; the last snapshot stays");
                    return;
                }
                outcomes = self.poll(polls) => outcomes,
            };
            outcomes.iter().for_each(log);
            let errors = || outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err());
            let later = |wait: Duration| Instant::now().checked_add(wait);
            // A server that asked for more time than one poll has gets it from the schedule.
            let asked = errors().filter_map(PollError::retry_after).max();
            is_to_wait = asked.is_some();
            if let Some(asked) = asked {
                let mut next = locked(&self.next);
                *next = (*next).max(later(asked));
            }
            if errors().any(PollError::waits_for_costs) {
                *locked(&self.next) = later(WAITS_FOR_COSTS);
            }
        }
    }
}

/// How long after a poll the next one comes.
fn paced(interval: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => interval,
        Some(doublings) => interval.min(FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE)),
    }
}

fn polled(generation: &Generation, changed: bool, read_bytes: u64, began: Instant) -> Polled {
    let manifest = &generation.manifest;
    Polled {
        snapshot: manifest.snapshot.clone(),
        changed,
        profile: manifest.report.profile,
        focus_version: manifest.report.focus_version.clone(),
        rules: manifest.report.rules.clone(),
        rejects: manifest.rejects.clone(),
        read_bytes,
        took: began.elapsed(),
    }
}

/// Counts, and says, the scopes whose report is gone: their rows stay.
fn gone(spool: &Spool, source: &SourceName, there: &BTreeSet<&ScopeName>) -> usize {
    let current = spool.current();
    let gone = current
        .iter()
        .map(|generation| generation.key())
        .filter(|key| key.source == *source && !there.contains(&key.scope));
    gone.inspect(|key| tracing::warn!(source = %key.source, scope = %key.scope, "its report is gone; its rows stay"))
        .count()
}

fn log(outcome: &PollOutcome) {
    let source = &outcome.source;
    let scope = outcome.scope.as_ref().map(ScopeName::as_str).unwrap_or_default();
    match &outcome.result {
        Ok(Polled { snapshot, changed: true, took, profile, .. }) => {
            let (rows, rejected) = (snapshot.totals.rows(), snapshot.rejected);
            tracing::info!(%source, scope, snapshot = %snapshot.snapshot, rows, rejected, %profile, ?took, "polled");
        }
        Ok(_) => tracing::debug!(%source, scope, "polled: it has not changed"),
        Err(error) => tracing::warn!(%source, scope, error = one_line(error), "poll failed; the last snapshot stays"),
    }
}

/// Why a try brought nothing.
enum Halt {
    Failed(PollError),
    /// It is to be made again at once, with these columns.
    Wider(SchemaRef),
}

impl<E: Into<PollError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<AssembleError> for Halt {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Source(error) => Self::Failed(error.into()),
            AssembleError::Decode(error) => Self::Failed(error.into()),
            AssembleError::Wider(columns) => Self::Wider(columns),
        }
    }
}

/// What goes to the writer.
enum ToDisk {
    Piece(Piece),
    End(Box<ReportFacts>),
}

/// Brings a report to the writer, piece by piece, as it has room; a writer that has ended says why itself.
async fn hand_over(
    assembly: &mut Assembly,
    pieces: &mpsc::Sender<ToDisk>,
    flight: &Flight,
) -> Result<(), AssembleError> {
    while let Some(piece) = assembly.next().await? {
        match &piece {
            Piece::Batch(batch) => {
                flight.rows.fetch_add(u64::try_from(batch.num_rows()).unwrap_or_default(), Ordering::Relaxed);
            }
            Piece::Rejected(_) => {
                flight.rejected.fetch_add(1, Ordering::Relaxed);
            }
            Piece::Part(_) => {}
        }
        if pieces.send(ToDisk::Piece(piece)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes pieces until their end; nothing when they stop without one.
fn write(
    spool: &Spool,
    key: ScopeKey,
    file: String,
    schema: &SchemaRef,
    mut pieces: mpsc::Receiver<ToDisk>,
) -> Result<Option<Arc<Generation>>, SpoolError> {
    let mut writer = spool.begin(key, file, schema, RowKind::Charges)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            ToDisk::Piece(Piece::Part(file)) => writer.part(file)?,
            ToDisk::Piece(Piece::Batch(batch)) => writer.batch(&batch)?,
            ToDisk::Piece(Piece::Rejected(rejected)) => writer.reject(&rejected)?,
            ToDisk::End(facts) => return writer.commit(*facts).map(Some),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

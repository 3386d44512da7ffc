//! When a source is asked, and what one poll does: fetch, decode, convert, write, swap. The
//! decoder's task runs ahead of the writer's blocking thread by [`N_READY_PIECES`]; a slow disk so slows the source.
//! A poll that fails, or is dropped, leaves the last snapshot and no file; one whose report turns out
//! to be the bytes seen last leaves the last snapshot too. Failures that may pass are tried again, from the
//! start, for as long as `retry_for` says and at the server's own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use costream_common::record::{ScopeKey, ScopeName, Snapshot, SourceName};
use costream_common::report::one_line;
use costream_common::stream::backoff::{Waits, jittered};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::convert::Rejected;
use crate::decode::{CsvReader, DecodeError, Limits};
use crate::profile::ProfileName;
use crate::report::{DecodeOptions, Decoded, Report};
use crate::snapshot::{Generation, ReportFacts, Spool, SpoolError};
use crate::source::{Fetched, Item, Receipt, Source, SourceError};
use crate::sums::Ready;
use crate::telemetry::{Ended, Telemetry};

/// Batches and rejects between the converter and the disk.
const N_READY_PIECES: usize = 2;
/// About the first wait before a second try, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

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
}

impl PollError {
    /// Whether the next try may go well.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_retryable())
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// A poll under way, for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The report.
    pub key: ScopeKey,
    /// Rows taken so far.
    pub rows: u64,
    /// Rows refused so far.
    pub rejected: u64,
}

#[derive(Debug, Default)]
struct Flight {
    rows: AtomicU64,
    rejected: AtomicU64,
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
    /// One poll at a time.
    busy: tokio::sync::Mutex<()>,
    status: Mutex<Status>,
    last: Mutex<Option<Instant>>,
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
    /// Polls under way at once, of all sources.
    concurrent_polls: usize,
    places: tokio::sync::Semaphore,
    flights: Mutex<BTreeMap<ScopeKey, Arc<Flight>>>,
}

impl Polls {
    pub(crate) fn new(
        spool: Spool,
        telemetry: Telemetry,
        retry_for: Duration,
        limits: Limits,
        csv_reader: CsvReader,
        concurrent_polls: usize,
    ) -> Self {
        let places = tokio::sync::Semaphore::new(concurrent_polls);
        Self {
            spool,
            telemetry,
            ready: Ready::default(),
            retry_for,
            limits,
            csv_reader,
            concurrent_polls,
            places,
            flights: Mutex::default(),
        }
    }

    /// The polls under way.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let flights = locked(&self.flights);
        flights
            .iter()
            .map(|(key, flight)| Progress {
                key: key.clone(),
                rows: count(&flight.rows),
                rejected: count(&flight.rejected),
            })
            .collect()
    }
}

/// Holders of these locks only copy values in and out.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Polling {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, busy: tokio::sync::Mutex::default(), status: Mutex::default(), last: Mutex::default() }
    }

    pub(crate) fn status(&self) -> Status {
        locked(&self.status).clone()
    }

    /// How long until the next poll is due.
    fn wait(&self) -> Duration {
        let due = locked(&self.last).map(|last| last + jittered(self.source.interval));
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    /// Polls every report of the source once. Holds the outcomes: one snapshot's totals per scope.
    pub(crate) async fn poll(&self, polls: &Polls) -> Vec<PollOutcome> {
        let _busy = self.busy.lock().await;
        let began = Instant::now();
        let name = &self.source.name;
        let (outcomes, gone) = match self.source.items().await {
            Ok(items) => {
                let there: BTreeSet<&ScopeName> = items.iter().map(|item| &item.scope).collect();
                let gone = gone(&polls.spool, name, &there);
                let polled = futures::stream::iter(items).map(|item| self.poll_report(polls, item));
                let outcomes = polled.buffered(polls.concurrent_polls).collect().await;
                (outcomes, gone)
            }
            Err(error) => {
                polls.telemetry.polled(name, Ended::Failed, began.elapsed());
                let result = Err(error.into());
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
        *locked(&self.last) = Some(Instant::now());
    }

    async fn poll_report(&self, polls: &Polls, item: Item) -> PollOutcome {
        let began = Instant::now();
        let source = &self.source.name;
        let result = self.tried(polls, &item, began).await;
        let ended = match &result {
            Ok(polled) if polled.changed => Ended::Changed,
            Ok(_) => Ended::Unchanged,
            Err(_) => Ended::Failed,
        };
        polls.telemetry.polled(source, ended, began.elapsed());
        if ended == Ended::Changed {
            polls.ready.refresh_if_due(&polls.spool).await;
        }
        PollOutcome { source: source.clone(), scope: Some(item.scope), result }
    }

    async fn tried(&self, polls: &Polls, item: &Item, began: Instant) -> Result<Polled, PollError> {
        let mut waits = Waits::new(FIRST_WAIT, LONGEST_WAIT, None);
        loop {
            let error = match self.attempt(polls, item, began).await {
                Err(error) if error.is_retryable() => error,
                ended => return ended,
            };
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

    async fn attempt(&self, polls: &Polls, item: &Item, began: Instant) -> Result<Polled, PollError> {
        let _place = polls.places.acquire().await;
        let key = ScopeKey { source: self.source.name.clone(), scope: item.scope.clone() };
        let conversion = format!("{} {}", env!("CARGO_PKG_VERSION"), self.source.profile);
        // Other rules would make other records of the same bytes.
        let last = polls.spool.get(&key).filter(|generation| generation.manifest.report.conversion == conversion);
        let seen = last.as_ref().map(|generation| generation.seen());
        let (reader, receipt) = match (self.source.fetch(item, seen.as_ref()).await?, &last) {
            (Fetched::Fresh(reader, receipt), _) => (reader, receipt),
            (Fetched::Unchanged, Some(last)) => return Ok(polled(last, false, 0, began)),
            // Without a seen report nothing can be unchanged.
            (Fetched::Unchanged, None) => return Err(SourceError::Changed(item.shown.clone()).into()),
        };
        let flight = InFlight::new(polls, key.clone());
        let options = DecodeOptions {
            profile: self.source.profile,
            file: item.shown.clone(),
            limits: polls.limits,
            csv_reader: polls.csv_reader,
            scratch: polls.spool.scratch(),
        };
        let decoded = match Report::open(reader, options).await {
            Ok(report) => {
                self.write(polls, key, item, report, receipt, conversion, last.as_ref(), &flight.flight).await
            }
            Err(error) => Err(blamed(error, &receipt)),
        };
        decoded.map(|(generation, changed, read_bytes)| polled(&generation, changed, read_bytes, began))
    }

    /// Brings an open report to the disk; says whether it became a new generation, and its bytes.
    #[expect(clippy::too_many_arguments, reason = "one step of `attempt`, which has all of them at hand")]
    async fn write(
        &self,
        polls: &Polls,
        key: ScopeKey,
        item: &Item,
        mut report: Report,
        receipt: Receipt,
        conversion: String,
        last: Option<&Arc<Generation>>,
        flight: &Flight,
    ) -> Result<(Arc<Generation>, bool, u64), PollError> {
        let (pieces, received) = mpsc::channel(N_READY_PIECES);
        let (spool, file, schema) = (polls.spool.clone(), item.shown.clone(), report.schema());
        let writing = tokio::task::spawn_blocking(move || write(&spool, key, file, &schema, received));
        let decoded = hand_over(&mut report, &pieces, flight).await;
        let read_bytes = receipt.bytes();
        polls.telemetry.read(&self.source.name, read_bytes);
        let sealed = match decoded {
            Ok(()) => receipt.seal().await.map_err(PollError::from),
            Err(error) => Err(blamed(error, &receipt)),
        };
        let is_known =
            |last: &&Arc<Generation>, digest: &Option<String>| digest.is_some() && last.seen().digest == *digest;
        let (sealed, known) = match sealed {
            Ok(seen) => match last.filter(|last| is_known(last, &seen.digest)) {
                Some(last) => (Ok(()), Some((last, seen))),
                None => {
                    let facts = ReportFacts {
                        seen,
                        conversion,
                        profile: report.profile(),
                        focus_version: report.version().map(|version| version.as_str().to_owned()),
                        rules: report.rules().iter().map(|(rule, count)| ((*rule).to_owned(), *count)).collect(),
                    };
                    // A writer that is not there any more says why below.
                    let _ = pieces.send(Piece::End(Box::new(facts))).await;
                    (Ok(()), None)
                }
            },
            Err(error) => (Err(error), None),
        };
        // Without an end the writer removes what it has written.
        drop(pieces);
        let written = writing.await.map_err(|error| SpoolError::Gone(error.to_string()))??;
        sealed?;
        if let Some((last, seen)) = known {
            let last = Arc::clone(last);
            let noted = tokio::task::spawn_blocking(move || last.seen_again(seen).map(|()| last)).await;
            let last = noted.map_err(|error| SpoolError::Gone(error.to_string()))??;
            return Ok((last, false, read_bytes));
        }
        match written {
            Some(generation) => Ok((generation, true, read_bytes)),
            None => Err(SpoolError::Gone("it ended early".to_owned()).into()),
        }
    }

    /// Polls on schedule until told to stop; a poll in flight is then dropped.
    pub(crate) async fn keep_polling(&self, polls: &Polls, shutdown: CancellationToken) {
        loop {
            let wait = self.wait();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
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
            // A server that asked for more time than one poll has gets it from the schedule.
            let asked = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()?.retry_after()).max();
            if let Some(later) = asked.and_then(|asked| asked.checked_sub(self.source.interval)) {
                *locked(&self.last) = Instant::now().checked_add(later);
            }
        }
    }
}

/// The source's own failure where there was one: the decoder only saw its copy.
fn blamed(error: DecodeError, receipt: &Receipt) -> PollError {
    receipt.failure().map_or(PollError::Decode(error), PollError::Source)
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

/// What goes to the writer.
enum Piece {
    Batch(arrow::array::RecordBatch),
    Rejected(Rejected),
    End(Box<ReportFacts>),
}

impl From<Decoded> for Piece {
    fn from(decoded: Decoded) -> Self {
        match decoded {
            Decoded::Batch(batch) => Self::Batch(batch),
            Decoded::Rejected(rejected) => Self::Rejected(rejected),
        }
    }
}

/// Brings a report to the writer, piece by piece, as it has room; a writer that has ended says why itself.
async fn hand_over(report: &mut Report, pieces: &mpsc::Sender<Piece>, flight: &Flight) -> Result<(), DecodeError> {
    while let Some(piece) = report.next().await? {
        match &piece {
            Decoded::Batch(batch) => {
                flight.rows.fetch_add(u64::try_from(batch.num_rows()).unwrap_or_default(), Ordering::Relaxed)
            }
            Decoded::Rejected(_) => flight.rejected.fetch_add(1, Ordering::Relaxed),
        };
        if pieces.send(Piece::from(piece)).await.is_err() {
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
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Option<Arc<Generation>>, SpoolError> {
    let mut writer = spool.begin(key, file, schema)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Batch(batch) => writer.batch(&batch)?,
            Piece::Rejected(rejected) => writer.reject(&rejected)?,
            Piece::End(facts) => return writer.commit(*facts).map(Some),
        }
    }
    Ok(None)
}

/// Shows a poll as under way for as long as it lives.
struct InFlight<'a> {
    polls: &'a Polls,
    key: ScopeKey,
    flight: Arc<Flight>,
}

impl<'a> InFlight<'a> {
    fn new(polls: &'a Polls, key: ScopeKey) -> Self {
        let flight = Arc::new(Flight::default());
        locked(&polls.flights).insert(key.clone(), Arc::clone(&flight));
        Self { polls, key, flight }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        locked(&self.polls.flights).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use costream_common::record::MAX_BATCH_BYTES;
    use tokio::io::{AsyncRead, ReadBuf};

    use super::*;
    use crate::decode::chunk::N_READY_CHUNKS;

    const HEADER: &[u8] = b"BilledCost,BillingCurrency,x_Note\n";
    /// So many rows fill a batch by their number and by their bytes, about.
    const ROW_BYTES: u64 = 1_000;
    /// What the decoder hands over at a time, and its two buffers together at most.
    const CHUNK_BYTES: u64 = 256 << 10;
    /// Batches: those that wait, the one that is handed over and the one that is open. Chunks: those that wait, the one
    /// that is filled and the one that is converted, and one for the buffers.
    const AHEAD_BYTES: u64 =
        (N_READY_PIECES as u64 + 2) * MAX_BATCH_BYTES as u64 + (N_READY_CHUNKS as u64 + 3) * CHUNK_BYTES;

    /// A report without an end, which counts what was read of it.
    struct Endless {
        row: Vec<u8>,
        at: usize,
        read: Arc<AtomicU64>,
    }

    impl AsyncRead for Endless {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            let n = to.remaining().min(self.row.len() - self.at);
            to.put_slice(&self.row[self.at..self.at + n]);
            self.at = (self.at + n) % self.row.len();
            self.read.fetch_add(n as u64, Ordering::SeqCst);
            Poll::Ready(Ok(()))
        }
    }

    // On one thread, a task that still had room to read would be run by the yields.
    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_writer_is_the_pace_at_which_the_source_is_read() {
        let note = "x".repeat(usize::try_from(ROW_BYTES).expect("few") - b"1,EUR,\n".len());
        let (row, read) = (format!("1,EUR,{note}\n").into_bytes(), Arc::<AtomicU64>::default());
        assert_eq!(row.len() as u64, ROW_BYTES);
        let rows = Endless { row, at: 0, read: Arc::clone(&read) };
        let source = tokio::io::AsyncReadExt::chain(HEADER, rows);
        let mut report = Report::open(source, DecodeOptions::new("costs.csv")).await.expect("a report");
        let (pieces, mut received) = mpsc::channel(N_READY_PIECES);
        let handing = tokio::spawn(async move { hand_over(&mut report, &pieces, &Flight::default()).await });
        let mut written = 0;
        for _ in 0..30 {
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            let ahead = read.load(Ordering::SeqCst) - written * ROW_BYTES;
            assert!((1..AHEAD_BYTES).contains(&ahead), "{ahead} bytes are read ahead of {written} rows");
            match received.recv().await {
                Some(Piece::Batch(batch)) => written += batch.num_rows() as u64,
                _ => panic!("every row is good"),
            }
        }
        assert!(written * ROW_BYTES > 3 * AHEAD_BYTES, "enough was written to break the bound");
        drop(received);
        handing.await.expect("no panic").expect("a writer that has ended is no error of the report");
    }
}

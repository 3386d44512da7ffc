//! Usage in, snapshots of points out: what Azure Monitor says of the resources that are asked about, day by day.
//!
//! ```text
//! configuration -> servers, spooled charges -> resources -> plan: questions -> ask (token, budget) -> points -> spool: one snapshot a day
//! ```
//!
//! The pieces are days (UTC), each a scope of its own. Today is asked from its beginning at every poll and replaced as it
//! grows. A day that is over is asked once more when it has ended, when the questions have changed, and when
//! `settle_after` has gone by: then it is settled, and served for as long as `keep` says. A poll asks for every day from
//! the first in the spool on, so that an outage leaves no hole; no point is in two days, so that nothing overlaps.
//! All of that is known from the spool, and so after a restart.
//!
//! A series of which nothing came (its resource is gone, or was not answered for) keeps the points that it had. One
//! resource that fails is told and stops nobody; without a token, or without a server, the poll fails and the last snapshots stay.
//! Where a ProviderConfig names several servers, or something of it is missing, the rest goes on: the poll has failed
//! all the same. Its days are asked for again when what was missing has come, and while a server fails.
//!
//! Peak memory: the ids of the resources, a few pointers a question, and an answer for each of
//! `concurrent_requests`. Slowed by the disk, and by the subscription's budget.

mod ask;
mod budget;
mod plan;
mod resources;
mod server;
mod token;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::error::ArrowError;
use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use costream_common::http::client::ClientError;
use costream_common::inherited::{CallError, ObjectRef};
use costream_common::record::{RowKind, ScopeKey, ScopeName, SourceName};
use costream_common::report::one_line;
use futures::StreamExt as _;
use futures::future::ready;

pub use self::ask::AskError;
pub(crate) use self::budget::Subscriptions;
use self::plan::{Piece, Plan, Question};
use self::resources::Known;
use self::server::{Found, Server, Servers};
pub use self::token::TokenError;
use crate::config::azure_monitor::Resources;
use crate::points::answer::{self, Answered};
use crate::points::{self, Points};
use crate::profile::ProfileName;
use crate::snapshot::{Generation, Intake, ReportFacts, Spool, SpoolError};
use crate::source::{AskedUsage, Item, Seen, UsageFrom};
use crate::telemetry::Telemetry;

/// How far back a poll goes at most, in days: Azure Monitor keeps no more.
const MAX_DAYS_BACK: u64 = 93;
/// How questions that were not answered are counted.
const UNANSWERED: &str = "question_not_answered";

/// Usage that was not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// There is no report yet that says which resources there are.
    #[error("no cost report of {} has been read yet, which would name the resources to ask about", of.as_ref().map_or("any source".to_owned(), |of| format!("source {of}")))]
    NoCosts {
        /// The source of the reports.
        of: Option<SourceName>,
    },
    /// What says whom to ask, and with what, cannot be had.
    #[error(transparent)]
    Call(#[from] Box<CallError>),
    /// Certificates, a proxy or headers that a Secret names cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A MetricConfig asks for what cannot be.
    #[error("MetricConfig {of}: {reason}")]
    Metric {
        /// Which.
        of: ObjectRef,
        /// What is wrong.
        reason: String,
    },
    /// The server, or the way to it.
    #[error(transparent)]
    Ask(#[from] Box<AskError>),
    /// Nobody is left to be asked.
    #[error("every server that has something to answer has failed in this poll")]
    NoServer,
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A batch could not be built.
    #[error("build a batch of points")]
    Batch(#[from] ArrowError),
}

impl UsageError {
    /// The wait a server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Ask(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether somebody else is to give, or to do, something first.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Client(_) | Self::Metric { .. } | Self::Ask(_) | Self::NoServer)
    }

    /// Whether it waits for another source's poll.
    pub fn waits_for_costs(&self) -> bool {
        matches!(self, Self::NoCosts { .. })
    }
}

/// What asking for a day came to.
pub(crate) struct Taken {
    pub(crate) generation: Arc<Generation>,
    pub(crate) changed: bool,
    pub(crate) read_bytes: u64,
}

/// What a poll's pieces share.
pub(crate) struct Around<'a> {
    pub(crate) spool: &'a Spool,
    pub(crate) telemetry: &'a Telemetry,
    pub(crate) retry_for: Duration,
}

/// What the answers for a day came to.
struct Told {
    counted: BTreeMap<String, u64>,
    /// Of the rows.
    digest: String,
    /// Questions that may be answered another time.
    open: u64,
    /// Whether the plan was not all that is to be asked.
    is_partial: bool,
    /// Whether no server failed.
    is_whole: bool,
    read_bytes: u64,
}

/// A source of usage.
#[derive(Debug)]
pub(crate) struct Usage {
    source: SourceName,
    servers: Servers,
    /// What the poll under way asks.
    now: Mutex<Now>,
}

#[derive(Clone, Debug, Default)]
struct Now {
    at: DateTime<Utc>,
    first_day: NaiveDate,
    plan: Arc<Plan>,
    trouble: Arc<Mutex<Trouble>>,
}

/// What keeps a part of the questions from being asked.
#[derive(Debug, Default)]
struct Trouble {
    /// Servers that have failed, which are not asked again.
    servers: Vec<Arc<Server>>,
    /// Whether the plan is not all that is to be asked.
    is_partial: bool,
    /// What is to be told.
    failures: Vec<UsageError>,
}

impl Trouble {
    fn is_with(&self, server: &Arc<Server>) -> bool {
        self.servers.iter().any(|failed| Arc::ptr_eq(failed, server))
    }
}

impl Usage {
    /// # Errors
    /// The certificates to trust cannot be read.
    pub(crate) fn new(
        source: SourceName,
        from: &UsageFrom,
        subscriptions: Arc<Subscriptions>,
    ) -> Result<Self, ClientError> {
        Ok(Self { source, servers: Servers::new(from, subscriptions)?, now: Mutex::default() })
    }

    /// Begins a poll: finds out whom to ask, and the days to ask for. Takes days out of the spool that nobody needs any more.
    ///
    /// # Errors
    /// No resource is known yet, or not whom to ask, or the spool cannot be read.
    pub(crate) async fn begin(&self, spool: &Spool, now: DateTime<Utc>) -> Result<Vec<Item>, UsageError> {
        let Found { servers, failures } = self.servers.now().await?;
        let trouble = Arc::new(Mutex::new(Trouble { servers: Vec::new(), is_partial: !failures.is_empty(), failures }));
        let questions = servers.iter().flat_map(|server| &server.config.ask);
        let days = questions.flat_map(|question| &question.metrics).map(|metric| metric.timespan.days()).max();
        let spooled = spool.clone();
        let planning = tokio::task::spawn_blocking(move || plan(&servers, &spooled));
        let plan = planning.await.map_err(|error| SpoolError::Gone(error.to_string()))??;
        let days = days.unwrap_or_default().min(MAX_DAYS_BACK);
        let today = now.date_naive();
        let back = |days: u64| today.checked_sub_days(Days::new(days)).unwrap_or(today);
        let mut had: BTreeMap<NaiveDate, Arc<Generation>> = BTreeMap::new();
        for generation in spool.current().into_iter().filter(|generation| generation.key().source == self.source) {
            had.extend(day(&generation.key().scope).map(|day| (day, generation)));
        }
        // The last one says how far it was asked: it is not given up, however long ago that was.
        let last = had.last_key_value().map(|(day, _)| *day);
        had.retain(|day, generation| {
            let served_until = generation.seen().usage().map(|asked| asked.at + self.servers.common().keep.0);
            let is_over = *day < back(days) && Some(*day) != last && served_until.is_none_or(|until| until < now);
            if is_over {
                spool.retire(generation.key());
            }
            !is_over
        });
        let first_day = had.first_key_value().map_or(today, |(day, _)| *day).min(back(days)).max(back(MAX_DAYS_BACK));
        *locked(&self.now) = Now { at: now, first_day, plan: Arc::new(plan), trouble };
        let days = first_day.iter_days().take_while(|day| *day <= today);
        let item = |day: NaiveDate| {
            let scope = ScopeName::new(&day.to_string()).expect("a date has neither blanks nor control characters");
            Item::new(scope, format!("metrics of {day}"))
        };
        // Today first: it is what people look at.
        let mut items: Vec<Item> = days.map(item).collect();
        items.reverse();
        Ok(items)
    }

    /// Ends a poll: what a part of it failed with.
    pub(crate) fn end(&self) -> Vec<UsageError> {
        std::mem::take(&mut locked(&locked(&self.now).trouble).failures)
    }

    /// Asks for a day, unless it is settled.
    ///
    /// # Errors
    /// Nothing could be had; the last snapshot stays.
    pub(crate) async fn take(&self, item: &Item, around: Around<'_>) -> Result<Taken, UsageError> {
        let now = locked(&self.now).clone();
        let Now { at, first_day, plan, .. } = &now;
        let (at, first_day) = (*at, *first_day);
        let day = day(&item.scope).unwrap_or(first_day);
        let ends = day.succ_opt().unwrap_or(day).and_time(NaiveTime::MIN).and_utc();
        let key = ScopeKey { source: self.source.clone(), scope: item.scope.clone() };
        let last = around.spool.get(&key);
        if let Some(last) = &last
            && let Some(asked) = last.seen().usage()
            && !self.is_due(asked, ends, at, plan)
        {
            return Ok(Taken { generation: Arc::clone(last), changed: false, read_bytes: 0 });
        }
        let piece = Piece { day, until: at.min(ends) };
        let today = at.date_naive();
        // A point of a day that nobody asks for is today's: a server may not heed the time it is asked for.
        let is_ours = |micros: i64| match DateTime::from_timestamp_micros(micros).map(|time| time.date_naive()) {
            Some(of) => of == day || (day == today && !(first_day..=today).contains(&of)),
            None => false,
        };
        let kind = RowKind::Points { table: self.servers.common().table.clone() };
        let intake = Intake::begin(around.spool, key, item.shown.clone(), points::schema(), kind);
        let asking = self.answers(&now, piece, &around, &intake, is_ours, last.as_ref()).await;
        let Told { counted, digest, open, is_partial, is_whole, read_bytes } = match asking {
            Ok(answers) => answers,
            Err(error) => {
                // Why there are no answers says more than what became of the file.
                let _ = intake.discard().await;
                return Err(error);
            }
        };
        around.telemetry.read(&self.source, read_bytes);
        let asked_whole = || last.as_ref().and_then(|last| last.seen().usage().map(|asked| asked.at));
        let at = if is_whole { at } else { asked_whole().unwrap_or(day.and_time(NaiveTime::MIN).and_utc()) };
        let seen = Seen::of_usage(AskedUsage { at, plan: plan.digest.clone(), open, is_partial }, digest, read_bytes);
        let facts = ReportFacts {
            seen,
            conversion: env!("CARGO_PKG_VERSION").to_owned(),
            profile: ProfileName::Strict,
            focus_version: None,
            rules: counted,
        };
        let (generation, changed) = intake.commit(facts, last).await?;
        Ok(Taken { generation, changed, read_bytes })
    }

    /// Whether a day is to be asked for again.
    fn is_due(&self, asked: &AskedUsage, ends: DateTime<Utc>, now: DateTime<Utc>, plan: &Plan) -> bool {
        let settles = ends + TimeDelta::from_std(self.servers.common().settle_after.0).unwrap_or(TimeDelta::MAX);
        let is_settling = now < settles;
        asked.at < ends
            || (asked.at < settles && !is_settling)
            || (is_settling && asked.open > 0)
            || ((is_settling || asked.is_partial) && asked.plan != plan.digest)
    }

    /// Brings the answers, and what is kept of the last snapshot, to the disk.
    async fn answers(
        &self,
        Now { plan, trouble, .. }: &Now,
        piece: Piece,
        around: &Around<'_>,
        intake: &Intake,
        is_ours: impl Fn(i64) -> bool,
        last: Option<&Arc<Generation>>,
    ) -> Result<Told, UsageError> {
        let mut points = Points::new();
        let mut has_come: HashSet<(Arc<str>, Arc<str>)> = HashSet::new();
        let (mut read_bytes, mut n_answered, mut open) = (0, 0, 0);
        let (mut failure, mut of_servers) = (None, Vec::new());
        // By their places: a closure over borrowed questions is not general enough for a task.
        let places = futures::stream::iter(0..plan.questions.len());
        let places = places.filter(|at| ready(!locked(trouble).is_with(&plan.questions[*at].server)));
        let asked = places.map(|at| async move { (at, self.answer(&plan.questions[at], piece, around).await) });
        let mut answers = std::pin::pin!(asked.buffered(self.servers.common().concurrent_requests.get()));
        while let Some((at, answered)) = answers.next().await {
            let (answered, bytes) = match answered {
                Ok(answered) => answered,
                Err(error) if error.concerns_all() => {
                    if plan.is_of_one_server() {
                        return Err(Box::new(error).into());
                    }
                    let server = &plan.questions[at].server;
                    if !locked(trouble).is_with(server) {
                        locked(trouble).servers.push(Arc::clone(server));
                        of_servers.push(error);
                    }
                    continue;
                }
                Err(error) => {
                    tracing::warn!(source = %self.source, day = %piece.day, error = one_line(&error), "a question was not answered; the others go on");
                    open += u64::from(error.may_pass());
                    failure.get_or_insert(error);
                    continue;
                }
            };
            n_answered += 1;
            read_bytes += bytes;
            for point in &answered.points {
                points.take(point, &is_ours)?;
                if point.average.is_some() {
                    has_come.insert((Arc::clone(&point.resource), Arc::clone(&point.metric)));
                }
                intake.add_all(points.ready()).await;
            }
        }
        let unanswered = plan.questions.len() as u64 - n_answered;
        if n_answered == 0 && unanswered > 0 {
            let error = of_servers.pop().or(failure);
            return Err(error.map_or(UsageError::NoServer, |error| Box::new(error).into()));
        }
        let (is_partial, is_whole) = {
            let mut trouble = locked(trouble);
            trouble.failures.extend(of_servers.into_iter().map(|error| Box::new(error).into()));
            (trouble.is_partial, trouble.servers.is_empty())
        };
        for batch in last.map(|last| last.records()).transpose()?.into_iter().flatten() {
            let batch = batch?;
            for row in points::rows(&batch) {
                // Few series are without an answer.
                if !has_come.contains(&(Arc::from(row.resource), Arc::from(row.metric))) {
                    points.keep(row)?;
                }
            }
            intake.add_all(points.ready()).await;
        }
        points.flush()?;
        intake.add_all(points.ready()).await;
        let (mut counted, digest) = points.end();
        if unanswered > 0 {
            counted.insert(UNANSWERED.to_owned(), unanswered);
        }
        Ok(Told { counted, digest, open, is_partial, is_whole, read_bytes })
    }

    async fn answer(
        &self,
        question: &Question,
        piece: Piece,
        around: &Around<'_>,
    ) -> Result<(Answered, u64), AskError> {
        let ask = question.ask(piece);
        let told = |result| around.telemetry.asked(&self.source, result);
        let body = question.server.asker.answer(&ask, around.retry_for, told).await?;
        let url = || costream_common::http::client::public_url(&ask.url);
        let answered =
            answer::read(&body, &question.resources).map_err(|source| AskError::Malformed { url: url(), source })?;
        if let Some((metric, code)) = answered.failed.first().filter(|_| answered.points.is_empty()) {
            return Err(AskError::Metric { url: url(), metric: metric.to_string(), code: code.clone() });
        }
        Ok((answered, body.len() as u64))
    }
}

/// Holders of these locks only copy values in and out.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The day that a scope is; nothing for other scopes.
fn day(scope: &ScopeName) -> Option<NaiveDate> {
    scope.as_str().parse().ok()
}

/// What is asked of whom now.
fn plan(servers: &[Arc<Server>], spool: &Spool) -> Result<Plan, UsageError> {
    let generations = spool.current();
    let mut asked = Vec::new();
    let mut waits_for = None;
    for (server, question) in servers.iter().flat_map(|server| server.config.ask.iter().map(move |ask| (server, ask))) {
        let resources = match &question.of {
            Resources::Named(named) => named.iter().map(Known::from).collect(),
            Resources::FromCosts(from) => {
                if !generations.iter().any(|generation| resources::is_meant(generation, from)) {
                    waits_for = Some(from.source.clone());
                    continue;
                }
                resources::of_costs(&generations, from)?
            }
        };
        asked.push((server, question.metrics.as_slice(), resources));
    }
    match waits_for {
        Some(of) if asked.is_empty() => Err(UsageError::NoCosts { of }),
        _ => Ok(Plan::of(asked)),
    }
}

#[cfg(test)]
mod tests;

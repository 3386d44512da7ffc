//! One run: a caller, the code and its arguments in; what it prints out, as it prints it, and how it ended. Whoever reads
//! slowly slows the notebook; who goes away ends it. Refused when all places are taken and as many wait.
//!
//! A run has a user and password of its own, a gateway of its own that takes no other, a directory, and a keeper, and
//! none of them outlives it. Holds, for each run, [`N_READY_CHUNKS`] chunks of [`CHUNK_BYTES`] and the last
//! [`TAIL_BYTES`] of its standard error, and until it has begun its code.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use costream_common::http::door::Listener;
use costream_common::http::serve;
use costream_common::report;
use costream_common::secret::ExposeSecret as _;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cells::Cells;
use super::folder::{Folder, Folders};
use super::keeper::{Keeper, KeeperError};
use super::order::{self, Beyond, End, Tier, Told};
use super::python::{Interpreter, Python, PythonError};
use super::settings::{ComputeConfig, RunLimits};
use super::tier::{Found, Program, Tiers};
use super::{GATEWAY_PORT, settings};
use crate::auth::{Caller, Gate, Issued, Rights, RunCredentials};

/// What is read of a run's output at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks waiting for the client; one ready, one in the making.
const N_READY_CHUNKS: usize = 1;
/// What is kept of a run's standard error: its end.
const TAIL_BYTES: usize = 16 << 10;
/// How long a keeper that was asked to end its run may take before it is ended itself.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long the answer waits until a run's directory is gone.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);
/// How long what a run printed is waited for once nothing of it is left.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// The first that an interpreter does.
const BOOTSTRAP: &str = include_str!("bootstrap.py");
/// What a notebook finds defined.
const PRELUDE: &str = include_str!("prelude.py");

/// Why no run was begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// All places are taken, and as many wait as may.
    #[error("{running} notebooks are running and {waiting} waiting: try again")]
    Busy {
        /// Runs that go on.
        running: usize,
        /// Requests that wait.
        waiting: usize,
    },
    /// There is no interpreter, or not yet.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// This machine cannot keep runs in as far as is asked for.
    #[error("notebooks are not run here: containment.at_least is {at_least}, and this machine does not have it: {why}")]
    Uncontained {
        /// The tier that is asked for.
        at_least: &'static str,
        /// What is missing.
        why: String,
    },
    /// The run's directory, network or keeper could not be made.
    #[error("begin a run")]
    Begin(#[from] std::io::Error),
    /// The run's keeper could not be begun.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// Not well.
    Failed(RunFailure),
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFailure {
    /// In words.
    pub why: String,
    /// What kind of end it was.
    pub kind: FailureKind,
    /// The end of what it wrote to standard error.
    pub stderr: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The notebook's own doing.
    Notebook,
    /// It took too long.
    Time,
    /// It went beyond another limit.
    Limit,
    /// Its client went away.
    Gone,
    /// The handler could not run it.
    Handler,
}

/// A run that was begun. Dropped, it ends.
#[derive(Debug)]
pub struct Run {
    /// What it prints.
    pub output: mpsc::Receiver<Bytes>,
    /// How it ended, once the output has.
    pub outcome: oneshot::Receiver<Outcome>,
}

/// The places of runs, and all that each needs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<ComputeConfig>,
    python: Python,
    folders: Folders,
    tiers: Tiers,
    credentials: RunCredentials,
    gate: Gate,
    running: Arc<Semaphore>,
    present: Arc<Semaphore>,
    /// Numbers of places that are free, each with a user of its own.
    free: Mutex<Vec<usize>>,
}

/// A place, and its number. Given back when dropped.
struct Place {
    number: usize,
    shared: Arc<Shared>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

impl Runs {
    pub(super) fn new(
        config: Arc<ComputeConfig>,
        python: Python,
        folders: Folders,
        credentials: RunCredentials,
        gate: Gate,
    ) -> Self {
        let running = config.concurrency;
        let shared = Shared {
            tiers: Tiers::new(Arc::clone(&config)),
            python,
            folders,
            credentials,
            gate,
            running: Arc::new(Semaphore::new(running)),
            present: Arc::new(Semaphore::new(running.saturating_add(config.waiting).min(Semaphore::MAX_PERMITS))),
            free: Mutex::new((0..running).rev().collect()),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What this machine has for runs.
    pub(super) async fn found(&self) -> Arc<Found> {
        let interpreter = self.shared.python.ready();
        self.shared.tiers.found(interpreter.as_deref(), &self.shared.folders).await
    }

    /// Whether all places are free.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.running.available_permits() == self.shared.config.concurrency
    }

    /// Begins a run of a caller's; `routes` is what its gateway serves.
    pub(super) async fn begin(
        &self,
        caller: &Caller,
        cells: Cells,
        args: Vec<String>,
        routes: Router,
    ) -> Result<Run, RunError> {
        let shared = &self.shared;
        let place = self.place().await?;
        let interpreter = shared.python.interpreter(shared.config.wait.0).await?;
        let found = shared.tiers.found(Some(&interpreter), &shared.folders).await;
        let tier = found.tier.ok_or_else(|| self.uncontained(&found))?;
        let (tell, output) = mpsc::channel(N_READY_CHUNKS);
        let (tell_outcome, outcome) = oneshot::channel();
        let begun = Begun::new(place, tier, &interpreter, caller, &cells, args, routes)?;
        tokio::spawn(async move {
            let outcome = begun.attend(tell).await;
            // Who asked may be gone.
            let _gone = tell_outcome.send(outcome);
        });
        Ok(Run { output, outcome })
    }

    async fn place(&self) -> Result<Place, RunError> {
        let shared = &self.shared;
        let busy = || RunError::Busy { running: shared.config.concurrency, waiting: shared.config.waiting };
        let present = Arc::clone(&shared.present).try_acquire_owned().map_err(|_| busy())?;
        let running = tokio::time::timeout(shared.config.wait.0, Arc::clone(&shared.running).acquire_owned()).await;
        let running = running.ok().and_then(Result::ok).ok_or_else(busy)?;
        let number = shared.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // There are as many numbers as places.
        let number = number.ok_or_else(busy)?;
        Ok(Place { number, shared: Arc::clone(shared), _permits: [running, present] })
    }

    fn uncontained(&self, found: &Found) -> RunError {
        let reasons: Vec<_> = found.without.iter().map(|(tier, why)| format!("{tier}: {why}")).collect();
        RunError::Uncontained { at_least: self.shared.config.containment.at_least.as_str(), why: reasons.join("; ") }
    }
}

/// What the bootstrap reads.
#[derive(Serialize)]
struct Input<'r> {
    #[serde(flatten)]
    cells: &'r Cells,
    args: &'r [String],
    prelude: &'static str,
}

/// A run under way, and what goes with it.
struct Begun {
    place: Place,
    folder: Folder,
    login: Issued,
    gateway: Gateway,
    keeper: Keeper,
    stdout: tokio::process::ChildStdout,
    stderr: tokio::process::ChildStderr,
}

impl Begun {
    fn new(
        place: Place,
        tier: Tier,
        interpreter: &Interpreter,
        caller: &Caller,
        cells: &Cells,
        args: Vec<String>,
        routes: Router,
    ) -> Result<Self, RunError> {
        let shared = &place.shared;
        let uid = shared.tiers.user(place.number);
        let folder = shared.folders.make(uid)?;
        let mut gateway = Gateway { gate: shared.gate.for_runs(), routes, serving: None };
        let port = if shared.tiers.own_network(tier) {
            GATEWAY_PORT
        } else {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            gateway.serve(listener)?;
            port
        };
        let login = shared.credentials.issue(caller, Rights::ALL);
        let mut argv = vec![
            Ipv4Addr::LOCALHOST.to_string(),
            port.to_string(),
            login.user.to_string(),
            login.password.expose_secret().to_owned(),
        ];
        argv.extend(args);
        let input = order::frame(&Input { cells, args: &argv, prelude: PRELUDE })?;
        let program = Program { path: &interpreter.program, args: &["-c", BOOTSTRAP], reads: &interpreter.reads };
        let order = shared.tiers.order(tier, uid, folder.path(), port, &program);
        let (keeper, stdout, stderr) = Keeper::begin(&order, &input)?;
        Ok(Self { place, folder, login, gateway, keeper, stdout, stderr })
    }

    /// Sees the run to its end, and leaves nothing of it.
    async fn attend(self, output: mpsc::Sender<Bytes>) -> Outcome {
        let Self { place, folder, login, mut gateway, mut keeper, stdout, stderr } = self;
        let limits = place.shared.config.limits;
        let printed = Printed::new(limits.output_bytes);
        let out = tokio::spawn(pass_on(stdout, output.clone(), printed.clone()));
        let complaint = tokio::spawn(keep_tail(stderr, printed.clone()));
        let ended = ended(&mut keeper, &mut gateway, &limits, &output, &printed).await;

        keeper.gone().await;
        drop((login, gateway, output));
        // The place is free when nothing is left; who has written a million files does not wait for their end.
        let leaving = tokio::spawn(async move {
            folder.remove().await;
            drop(place);
        });
        let _goes_on = tokio::time::timeout(LEAVE_WITHIN, leaving).await;
        // What was printed is the client's, however slowly it reads.
        let _stalled = tokio::time::timeout(LAST_WORDS, out).await;
        let stderr = match tokio::time::timeout(LAST_WORDS, complaint).await {
            Ok(Ok(tail)) => String::from_utf8_lossy(&tail).trim_end().to_owned(),
            _ => String::new(),
        };
        match ended.failure(&limits) {
            None => Outcome::Done,
            Some((kind, why)) => Outcome::Failed(RunFailure { why, kind, stderr }),
        }
    }
}

/// How a run came to its end.
enum Ended {
    /// By itself, or by its keeper.
    Itself(End),
    /// Because of its time, its output, or its client.
    Stopped(Stop),
    /// It never began.
    Unbegun { step: String, cause: String },
    /// Its keeper broke off.
    Broken(String),
}

#[derive(Clone, Copy)]
enum Stop {
    Time,
    Output,
    Gone,
}

/// Waits for a run's end, and brings it about when the run is beyond its limits or nobody wants it.
async fn ended(
    keeper: &mut Keeper,
    gateway: &mut Gateway,
    limits: &RunLimits,
    output: &mpsc::Sender<Bytes>,
    printed: &Printed,
) -> Ended {
    let time = tokio::time::sleep(limits.time.0);
    let mut time = std::pin::pin!(time);
    let mut stopped: Option<(Stop, Instant)> = None;
    let mut unbegun = None;
    loop {
        let patience = stopped.map_or_else(|| Instant::now() + settings::LONGEST_RUN, |(_, at)| at + END_WITHIN);
        let stop = tokio::select! {
            told = keeper.hear() => match told {
                Ok(Some(Told::Ended(end))) => {
                    return match (unbegun, stopped) {
                        (Some((step, cause)), _) => Ended::Unbegun { step, cause },
                        // It may have come to its end in the same moment.
                        (None, Some((stop, _))) if end.code != Some(0) => Ended::Stopped(stop),
                        (None, _) => Ended::Itself(end),
                    };
                }
                Ok(Some(Told::Failed { step, cause })) => {
                    unbegun = Some((step, cause));
                    continue;
                }
                Ok(Some(Told::Gateway)) => {
                    if let Some(Err(error)) = keeper.gateway().map(|listener| gateway.serve(listener)) {
                        keeper.kill().await;
                        return Ended::Broken(format!("serve the run's gateway: {error}"));
                    }
                    continue;
                }
                Ok(Some(Told::Child(_) | Told::Ready(_))) => continue,
                Ok(None) => {
                    keeper.kill().await;
                    return match unbegun {
                        Some((step, cause)) => Ended::Unbegun { step, cause },
                        None => Ended::Broken("its keeper was ended".to_owned()),
                    };
                }
                Err(error) => {
                    keeper.kill().await;
                    return Ended::Broken(report::one_line(&error));
                }
            },
            () = &mut time, if stopped.is_none() => Stop::Time,
            () = output.closed(), if stopped.is_none() => Stop::Gone,
            () = printed.too_much.cancelled(), if stopped.is_none() => Stop::Output,
            () = tokio::time::sleep_until(patience) => {
                keeper.kill().await;
                return Ended::Broken("its keeper does not answer".to_owned());
            }
        };
        keeper.end();
        stopped = Some((stop, Instant::now()));
    }
}

impl Ended {
    /// What is wrong with it; nothing when it ended well.
    fn failure(self, limits: &RunLimits) -> Option<(FailureKind, String)> {
        let limit = |key: &str, bound: &dyn std::fmt::Display| {
            (FailureKind::Limit, format!("the notebook was stopped: more than limits.{key} ({bound})"))
        };
        Some(match self {
            Self::Stopped(Stop::Time) => {
                (FailureKind::Time, format!("the notebook was stopped: more than limits.time ({:?})", limits.time.0))
            }
            Self::Stopped(Stop::Output) => limit("output_bytes", &limits.output_bytes),
            Self::Stopped(Stop::Gone) => {
                (FailureKind::Gone, "the notebook was stopped: its client went away".to_owned())
            }
            Self::Unbegun { step, cause } => {
                (FailureKind::Handler, format!("the notebook cannot be run: {step}: {cause}"))
            }
            Self::Broken(why) => (FailureKind::Handler, format!("the run broke off: {why}")),
            Self::Itself(End { beyond: Some(beyond), .. }) => match beyond {
                Beyond::CpuTime => limit("cpu_time", &format_args!("{:?}", limits.cpu_time.0)),
                Beyond::Memory => limit("memory_bytes", &limits.memory_bytes),
                Beyond::Processes => limit("processes", &limits.processes),
                Beyond::Disk => limit("disk_bytes", &limits.disk_bytes),
                Beyond::Files => limit("files", &limits.files),
            },
            Self::Itself(End { code: Some(0), .. }) => return None,
            Self::Itself(End { signal: Some(SIGXCPU), .. }) => {
                limit("cpu_time", &format_args!("{:?}", limits.cpu_time.0))
            }
            Self::Itself(End { signal: Some(SIGXFSZ), .. }) => limit("file_bytes", &limits.file_bytes),
            Self::Itself(End { signal: Some(signal), .. }) => {
                (FailureKind::Notebook, format!("the notebook was ended by signal {signal}"))
            }
            Self::Itself(End { code, .. }) => {
                (FailureKind::Notebook, format!("the notebook ended with status {}", code.unwrap_or(-1)))
            }
        })
    }
}

/// By these signals a process ends that is beyond a limit of the system's; they have one number everywhere.
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// A run's gateway: the SQL door, for this run's user alone, as long as the run lives.
struct Gateway {
    gate: Gate,
    routes: Router,
    serving: Option<(DropGuard, JoinHandle<()>)>,
}

impl Gateway {
    fn serve(&mut self, listener: TcpListener) -> std::io::Result<()> {
        let listener = Listener::over(listener)?;
        let ending = CancellationToken::new();
        let serving = serve::serve_through(listener, self.gate.clone(), self.routes.clone(), ending.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::warn!(error = report::one_line(&error), "a run's gateway failed");
            }
        });
        self.serving = Some((ending.drop_guard(), serving));
        Ok(())
    }
}

/// What a run has printed so far, on both streams.
#[derive(Clone)]
struct Printed {
    bytes: Arc<AtomicU64>,
    most: u64,
    too_much: CancellationToken,
}

impl Printed {
    fn new(most: u64) -> Self {
        Self { bytes: Arc::default(), most, too_much: CancellationToken::new() }
    }

    /// Counts bytes; how many of them are still within the limit.
    fn add(&self, length: usize) -> usize {
        let before = self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        let left = self.most.saturating_sub(before);
        if (length as u64) <= left {
            return length;
        }
        self.too_much.cancel();
        usize::try_from(left).unwrap_or(length)
    }
}

/// Hands on what is printed, until there is no more, too much, or nobody to take it.
async fn pass_on(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Bytes>, printed: Printed) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let within = printed.add(length);
        if within > 0 && to.send(Bytes::copy_from_slice(&chunk[..within])).await.is_err() {
            return;
        }
        if within < length {
            return;
        }
    }
}

/// Reads to the end, or to the limit, and keeps the last of it.
async fn keep_tail(mut from: impl AsyncRead + Unpin, printed: Printed) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let within = printed.add(length);
        tail.extend_from_slice(&chunk[..within]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        if within < length {
            break;
        }
    }
    tail
}

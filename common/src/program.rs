//! A program's life: its heaps, its runtime, the signal that asks it to end, and an end that nobody
//! can hold up.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::fault;
use crate::http::serve::DRAIN_WITHIN;

/// The status of a process that a signal ended, as shells show Ctrl-C.
const ENDED_BY_SIGNAL: i32 = 130;
/// How long threads that are deep in a computation are waited for, once all else has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// By this variable glibc's allocator learns, before a program begins, how many heaps its threads may have.
const HEAPS: &str = "MALLOC_ARENA_MAX";

/// Runs a program's body to its end.
pub fn run(body: impl Future<Output = ExitCode>) -> ExitCode {
    with_few_heaps();
    if let Err(error) = fault::check() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(body);
    runtime.shutdown_timeout(LAST_WORDS);
    code
}

/// Begins the program once more, with no more heaps than there are processors, unless the environment says how
/// many it shall have. glibc would give threads eight for each processor, and each keeps the most it ever held:
/// batches wander from thread to thread, so that would be several times what is in use. When it cannot begin
/// again, it goes on as it is.
fn with_few_heaps() {
    let (Ok(processors), Ok(program)) = (std::thread::available_parallelism(), std::env::current_exe()) else {
        return;
    };
    if cfg!(target_env = "gnu") && std::env::var_os(HEAPS).is_none() {
        let mut args = std::env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = args.next() {
            again.arg0(name);
        }
        // The same process: its number, its files and its parent stay.
        let _cannot = again.args(args).env(HEAPS, processors.to_string()).exec();
    }
}

/// Lets work go on until it ends by itself, after the shutdown for [`DRAIN_WITHIN`] at most. What is broken
/// off then was not acknowledged, and is done again by the next run.
pub async fn drained(work: impl Future<Output = ()>, shutdown: &CancellationToken) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        () = &mut work => return,
        () = shutdown.cancelled() => {}
    }
    if tokio::time::timeout(DRAIN_WITHIN, work).await.is_err() {
        tracing::warn!(
            "some work was still under way after {DRAIN_WITHIN:?} and is broken off; the next run does it again"
        );
    }
}

/// A token that is cancelled at the first Ctrl-C or SIGTERM. The second one ends the process:
/// whatever it was about to store is not stored, and nothing that was is lost.
///
/// # Errors
/// Signals cannot be waited for.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn({
        let token = token.clone();
        async move {
            for nth in 1.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if nth > 1 {
                    std::process::exit(ENDED_BY_SIGNAL);
                }
                tracing::info!("finishing what is under way; a second signal ends at once");
                token.cancel();
            }
        }
    });
    Ok(token)
}

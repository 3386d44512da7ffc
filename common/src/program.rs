//! A program's life: its runtime, the signal that asks it to end, and an end that nobody can
//! hold up.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::fault;
use crate::http::serve::DRAIN_WITHIN;

/// The status of a process that a signal ended, as shells show Ctrl-C.
const ENDED_BY_SIGNAL: i32 = 130;
/// How long threads that are deep in a computation are waited for, once all else has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a program's body to its end.
pub fn run(body: impl Future<Output = ExitCode>) -> ExitCode {
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

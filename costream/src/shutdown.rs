//! The end: the first signal asks everybody to finish, the second one ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The status of a process that a signal ended, as shells show Ctrl-C.
const ENDED_BY_SIGNAL: i32 = 130;

/// A token that is cancelled at the first Ctrl-C or SIGTERM. The second one ends the process:
/// whatever it was about to store is not stored, and nothing that was is lost.
///
/// # Errors
/// Signals cannot be waited for.
pub(crate) fn on_signal() -> std::io::Result<CancellationToken> {
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

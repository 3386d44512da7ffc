//! One configuration after another. At SIGHUP the file is read anew, as the whole Prometheus
//! family does it. What is wrong with it is told, and all goes on as before. A good one takes effect
//! as if the program had ended and begun anew: what is under way is finished, or dropped, as at
//! SIGTERM, and then it is set up again. A configuration that turns out to be no good only then
//! (its address is taken, its folder cannot be written) gives way to the one before it.

use std::error::Error;
use std::io;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::report::one_line;

/// SIGHUPs, as they come. Once it has been made, none ends the process.
///
/// # Errors
/// Signals cannot be waited for.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Runs `live` under the `first` configuration, and under what `read` makes of the `file` at each
/// SIGHUP, until it ends by itself or by the `shutdown`. Its own token says when to end.
///
/// # Errors
/// Those of `live`, where there is no earlier configuration to go back to.
pub async fn run<C, T, E, R>(
    file: Option<&Path>,
    first: C,
    mut hangups: Signal,
    shutdown: &CancellationToken,
    read: impl Fn() -> Result<C, E>,
    live: impl Fn(C, CancellationToken) -> R,
) -> Result<T, E>
where
    C: Clone,
    E: Into<Box<dyn Error + Send + Sync>>,
    R: Future<Output = Result<T, E>>,
{
    let told = |error: E| one_line(&*error.into());
    let (mut now, mut before) = (first, None);
    loop {
        let ending = shutdown.child_token();
        let mut living = std::pin::pin!(live(now.clone(), ending.clone()));
        let next = loop {
            tokio::select! {
                ended = &mut living => break Err(ended),
                Some(()) = hangups.recv() => match file.map(|_| read()) {
                    None => tracing::warn!("SIGHUP, and there is no configuration file to read anew: all goes on"),
                    Some(Ok(next)) => break Ok(next),
                    Some(Err(error)) => {
                        tracing::error!(error = told(error), "the new configuration is no good; the old one goes on");
                    }
                },
            }
        };
        match (next, before.take()) {
            (Ok(next), _) => {
                tracing::info!("configuration read anew; it takes effect when what is under way has ended");
                ending.cancel();
                match living.await {
                    ended if shutdown.is_cancelled() => return ended,
                    Ok(_) => {}
                    Err(error) => tracing::error!(error = told(error), "the old configuration ended badly"),
                }
                before = Some(std::mem::replace(&mut now, next));
            }
            (Err(Err(error)), Some(old)) if !shutdown.is_cancelled() => {
                tracing::error!(error = told(error), "the new configuration cannot be used; the old one goes on");
                now = old;
            }
            (Err(ended), _) => return ended,
        }
    }
}

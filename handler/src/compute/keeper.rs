//! The handler's end of a [`launcher`]: begins a keeper, tells it what to run, and hears of it. Dropped, the run ends: a
//! keeper whose handler is gone ends its run.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::launcher;
use super::order::{self, Order, Told};

/// What is read of a keeper's words at a time; they are short.
const READ_BYTES: usize = 4096;

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// This program's `main` does not call [`launcher::serve_if_asked`], or the system is not Linux.
    #[error("this program cannot be begun as a keeper of notebooks")]
    NoLauncher,
    /// The system did not let it begin.
    #[error("begin the keeper of a notebook")]
    Begin(#[source] io::Error),
    /// The socket between the two failed.
    #[error("talk to the keeper of a notebook")]
    Talk(#[source] io::Error),
}

/// A keeper that was begun.
pub(super) struct Keeper {
    program: Child,
    hears: OwnedReadHalf,
    /// While this is open the run may go on.
    tells: Option<JoinHandle<io::Result<OwnedWriteHalf>>>,
    heard: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
    /// The first process of the run.
    first: Option<i32>,
    /// The user that the run alone has.
    uid: Option<u32>,
}

impl Keeper {
    /// Begins a keeper with an order and with what its interpreter is to read; with what the run prints.
    pub(super) fn begin(order: &Order, input: &[u8]) -> Result<(Self, ChildStdout, ChildStderr), KeeperError> {
        let command = launcher::keeper().ok_or(KeeperError::NoLauncher)?;
        let (ours, theirs) = UnixStream::pair().map_err(KeeperError::Begin)?;
        let theirs = theirs.into_std().and_then(|theirs| theirs.set_nonblocking(false).map(|()| theirs));
        let theirs = OwnedFd::from(theirs.map_err(KeeperError::Begin)?);
        let mut command = Command::from(command);
        command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut program = command.spawn().map_err(KeeperError::Begin)?;
        let (Some(stdout), Some(stderr)) = (program.stdout.take(), program.stderr.take()) else {
            return Err(KeeperError::Begin(io::Error::other("there are no pipes")));
        };
        let mut words = order::frame(order).map_err(KeeperError::Talk)?;
        // Once for the keeper, and once for what becomes the interpreter.
        words.extend_from_within(..);
        words.extend_from_slice(input);
        let (hears, mut tells) = ours.into_split();
        // More than a socket holds, while the other side has things to say first.
        let tells = Some(tokio::spawn(async move { tells.write_all(&words).await.map(|()| tells) }));
        let keeper =
            Self { program, hears, tells, heard: Vec::new(), sockets: VecDeque::new(), first: None, uid: order.uid };
        Ok((keeper, stdout, stderr))
    }

    /// What it says next; nothing when it is gone. May be given up and asked again.
    pub(super) async fn hear(&mut self) -> Result<Option<Told>, KeeperError> {
        loop {
            if let Some(told) = self.taken().map_err(KeeperError::Talk)? {
                if let Told::Child(first) = told {
                    self.first = Some(first);
                }
                return Ok(Some(told));
            }
            let mut bytes = [0; READ_BYTES];
            let stream: &UnixStream = self.hears.as_ref();
            let received = stream.async_io(Interest::READABLE, || launcher::receive(stream, &mut bytes)).await;
            let (length, socket) = match received {
                // It ended without reading all that it was told.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                received => received.map_err(KeeperError::Talk)?,
            };
            self.sockets.extend(socket);
            if length == 0 {
                return Ok(None);
            }
            self.heard.extend_from_slice(&bytes[..length]);
        }
    }

    /// The next frame of what was heard.
    fn taken(&mut self) -> io::Result<Option<Told>> {
        let Some(length) = self.heard.first_chunk().copied() else { return Ok(None) };
        let end = 4 + order::length_of(length)?;
        let Some(frame) = self.heard.get(4..end) else { return Ok(None) };
        let told = serde_json::from_slice(frame)?;
        self.heard.drain(..end);
        Ok(Some(told))
    }

    /// The socket that came with [`Told::Gateway`].
    pub(super) fn gateway(&mut self) -> Option<TcpListener> {
        self.sockets.pop_front().map(TcpListener::from)
    }

    /// Asks it to end the run.
    pub(super) fn end(&mut self) {
        // The half that tells is closed with its task, or with what came of that.
        if let Some(tells) = self.tells.take() {
            tells.abort();
        }
    }

    /// Ends it and its run, whatever it thinks.
    pub(super) async fn kill(&mut self) {
        let _gone = self.program.start_kill();
        self.gone().await;
        let (first, uid) = (self.first, self.uid);
        let _panicked = tokio::task::spawn_blocking(move || launcher::kill(first, uid)).await;
    }

    /// Waits until it is gone.
    pub(super) async fn gone(&mut self) {
        let _status = self.program.wait().await;
    }
}

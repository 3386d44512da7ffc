//! The launcher: this very program, begun once more for each run, as the keeper of one notebook. What it does to
//! itself (names, users, limits) it could not do within the handler, and in a program of its own it needs no `unsafe`.
//!
//! ```text
//! handler ── socket ──┐
//!    └─ keeper        │  waits, watches what the run uses, ends it: when the handler asks, or is no more
//!         └─ inside ◀─┘  builds the fences about itself, and becomes the notebook's interpreter
//! ```
//!
//! In: an [`Order`] on standard input, which is a socket. Out: [`Told`]. A keeper ends when nothing of its run is
//! left; it never waits for the run's goodwill. It holds nothing but the order.

mod calls;
mod fence;
mod inside;
mod names;
mod root;
mod watch;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, set_child_subreaper, waitpid};

use self::watch::{Watch, descendants};
use super::order::{self, Beyond, End, Order, Tier, Told};

pub(super) use self::names::receive;

/// The program itself, even when another has been put in its place meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// What a launcher is called in a list of processes, and how it knows that it is one.
const KEEPER: &str = "costream-notebook-keeper";
/// What becomes the interpreter.
const INSIDE: &str = "costream-notebook";
/// From one look at what a run uses to the next, in milliseconds.
const TICK_MILLIS: i32 = 100;

/// Rounds of killing what a lost keeper left, and the pause between two.
const ROUNDS: usize = 100;
const ROUND: Duration = Duration::from_millis(10);

/// Whether this program's `main` calls [`serve_if_asked`]: only then can it be begun as a launcher.
static SERVES: AtomicBool = AtomicBool::new(false);

/// To be called first of all in `main`: serves as a launcher when begun as one, and gives the status to end with.
/// A program that never calls it cannot run notebooks.
pub fn serve_if_asked() -> Option<ExitCode> {
    SERVES.store(true, Ordering::Relaxed);
    let name = std::env::args_os().next()?;
    let role: fn(UnixStream) -> Result<ExitCode, Failure> = if name == OsStr::new(KEEPER) {
        |socket| keep(socket)
    } else if name == OsStr::new(INSIDE) {
        |socket| match inside::begin(socket)? {}
    } else {
        return None;
    };
    let mut replies = match socket() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("{KEEPER} is begun by the handler alone: {error}");
            return Some(ExitCode::FAILURE);
        }
    };
    let code = replies.try_clone().map_err(failed("share the socket")).and_then(role);
    Some(code.unwrap_or_else(|Failure { step, cause }| {
        let _handler_gone = order::write(&mut replies, &Told::Failed { step, cause });
        ExitCode::FAILURE
    }))
}

/// The command that begins a keeper; nothing when this program cannot serve as one.
pub(super) fn keeper() -> Option<Command> {
    SERVES.load(Ordering::Relaxed).then(|| {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0(KEEPER).env_clear().process_group(0);
        command
    })
}

/// Ends a run whose keeper does not: its first process, and whatever has the user that it alone has. Who is killed
/// begins no other, so that a few rounds are enough.
pub(super) fn kill(first: Option<i32>, uid: Option<u32>) {
    for _ in 0..ROUNDS {
        let of_user = uid.map(watch::of_user).unwrap_or_default();
        let rest: Vec<_> = first.and_then(Pid::from_raw).into_iter().chain(of_user).collect();
        if rest.into_iter().filter(|pid| kill_process(*pid, Signal::Kill).is_ok()).count() == 0 {
            return;
        }
        std::thread::sleep(ROUND);
    }
}

/// Whether the handler may choose users.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A step on the way to a run that could not be taken.
#[derive(Debug)]
struct Failure {
    step: String,
    cause: String,
}

fn failed<E: fmt::Display>(step: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { step: step.to_owned(), cause: error.to_string() }
}

/// The socket that is the standard input.
fn socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn order_from(socket: &mut UnixStream) -> Result<Order, Failure> {
    let order = order::read(socket).map_err(failed("read the order"))?;
    order.ok_or_else(|| failed("read the order")("there is none"))
}

/// Begins a run, and sees it to its end.
fn keep(mut socket: UnixStream) -> Result<ExitCode, Failure> {
    let order = order_from(&mut socket)?;
    // Whom the run leaves behind becomes ours.
    set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("become the parent of orphans"))?;
    if order.tier == Tier::Isolated {
        names::leave(order.network)?;
        if let Some(gateway) = names::gateway(&order)? {
            names::send(&socket, gateway).map_err(failed("hand over the gateway's socket"))?;
        }
    }
    let input = socket.try_clone().map_err(failed("share the socket"))?;
    let child = Command::new(THIS_PROGRAM)
        .arg0(INSIDE)
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(input)))
        .spawn()
        .map_err(failed("begin the run"))?;
    let first = Pid::from_child(&child);
    let begun = pidfd_open(first, PidfdFlags::empty()).map_err(failed("watch the run"))?;
    let _handler_gone = order::write(&mut socket, &Told::Child(first.as_raw_nonzero().get()));

    let mut watch = Watch::new(&order);
    let mut beyond: Option<Beyond> = None;
    loop {
        let mut events = [PollFd::new(&begun, PollFlags::IN), PollFd::new(&socket, PollFlags::RDHUP)];
        match poll(&mut events, TICK_MILLIS) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for the run")(error)),
        }
        let [ended, asked] = [&events[0], &events[1]].map(|event| !event.revents().is_empty());
        if ended {
            break;
        }
        beyond = watch.look(first);
        if asked || beyond.is_some() {
            let _gone = kill_process(first, Signal::Kill);
            break;
        }
    }
    let status = waitpid(Some(first), WaitOptions::empty()).map_err(failed("wait for the run"))?;
    sweep();
    let end = End {
        code: status.and_then(|status| status.exit_status()).and_then(|code| i32::try_from(code).ok()),
        signal: status.and_then(|status| status.terminating_signal()).and_then(|signal| i32::try_from(signal).ok()),
        beyond: beyond.or_else(|| watch.last_word()),
    };
    let _handler_gone = order::write(&mut socket, &Told::Ended(end));
    Ok(ExitCode::SUCCESS)
}

/// Ends whatever is left. Orphans are our children, so that the last one is known; who is killed begins no other.
fn sweep() {
    loop {
        for pid in descendants() {
            let _gone = kill_process(pid, Signal::Kill);
        }
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_none_left) => return,
        }
    }
}

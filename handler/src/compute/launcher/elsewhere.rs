//! Where there is no Linux there is no launcher, and no notebook is run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};

/// Serves as a launcher when begun as one: never here.
pub fn serve_if_asked() -> Option<ExitCode> {
    None
}

pub(super) fn keeper() -> Option<Command> {
    None
}

pub(super) fn receive(_from: impl AsFd, _bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn kill(_first: Option<i32>, _uid: Option<u32>) {}

pub(super) fn is_root() -> bool {
    false
}

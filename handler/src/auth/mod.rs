//! Who asks, and what they may: a request's head in, a [`Caller`] in its extensions out, or the
//! answer that turns it away. Checked on every request; nothing is kept between two of them but
//! what [`WebConfig`](costream_common::http::web::WebConfig) remembers of verified passwords.
//!
//! [`Gate`] stands before the routes wherever they are served, and finds out who asks:
//!
//! | the address | the caller |
//! |---|---|
//! | has users (`basic_auth_users`) | the user, with the [`Rights`] that `handler.users` says |
//! | has client certificates and no users | `crate`, with the rights that `handler.users` says of it |
//! | asks for nothing, this machine only | `crate`, with all rights |
//! | asks for nothing and is open to others (`allow_unauthenticated`) | `crate`, who may read and write: nobody runs code without a password |
//!
//! A user's password, or name and password, may also come in base64 once more: as given first, then
//! decoded. A notebook's run has a login of its own ([`RunCredentials`]), which the SQL door alone
//! takes, and no longer than the run lives.
//!
//! Each route says the right it needs (`api`); a request that got past no gate has no [`Caller`] and is
//! answered by none of them.
//!
//! Peak memory: a run's login takes some hundred bytes; the rest is `WebConfig`'s.

mod gate;
mod rights;
mod runs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use costream_common::http::door::{Exposure, Listener};

pub use self::gate::Gate;
pub use self::rights::{Right, Rights, RightsError, UserRights};
pub use self::runs::{Issued, RunCredentials};

/// Who is asked for no password: CrateDB's own name for it.
pub const DEFAULT_USER: &str = "crate";

/// Who may come in at an address, in words.
pub fn admitted(listener: &Listener) -> &'static str {
    match listener.open_to() {
        None => "users of the web configuration are let in",
        Some(Exposure::LoopbackOnly) => "no password is asked for, everybody on this machine is crate, with all rights",
        Some(Exposure::Unauthenticated) => {
            "no password is asked for, everybody is crate, with the rights read and write"
        }
    }
}

/// Who asks, in a request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's name: what `current_user` says.
    pub name: Arc<str>,
    /// What they may.
    pub rights: Rights,
    /// The login of the notebook's run that asks on the user's behalf.
    pub run: Option<Arc<str>>,
}

/// Who asks in this process: [`DEFAULT_USER`], with all rights.
impl Default for Caller {
    fn default() -> Self {
        Self::new(DEFAULT_USER, Rights::ALL)
    }
}

/// A right that a caller does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user {user:?} lacks the right {right:?}", right = right.name())]
pub struct Lacking {
    /// The caller.
    pub user: Arc<str>,
    /// The right.
    pub right: Right,
}

impl Caller {
    /// A user with rights, who asks for themselves.
    pub fn new(name: &str, rights: Rights) -> Self {
        Self { name: name.into(), rights, run: None }
    }

    /// Whether the caller has a right.
    ///
    /// # Errors
    /// They do not.
    pub fn require(&self, right: Right) -> Result<(), Lacking> {
        if self.rights.has(right) { Ok(()) } else { Err(Lacking { user: Arc::clone(&self.name), right }) }
    }
}

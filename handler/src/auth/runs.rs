//! Logins that are good for one run of a notebook: a caller in, a user and a password out, until
//! [`Issued`] is dropped.
//!
//! ```
//! # use costream_handler::auth::{Caller, Rights, RunCredentials};
//! let credentials = RunCredentials::default();
//! let caller = Caller::default();
//! let login = credentials.issue(&caller, Rights::READ_WRITE);
//! // `login.user` and `login.password` go to the notebook as `<user> <password>`.
//! drop(login);
//! // From here on nobody gets in with them.
//! ```
//!
//! Who comes with such a login is the [`Caller`] it was issued for, with no more rights than both the
//! caller has and the run was given, and [`Caller::run`] tells which run it was. The gate takes it for `/_sql` and `GET /`
//! and nowhere else. User and password are random (64 and 256 bits); the registry keeps the digest of
//! both, and finds a login by it, so that the time a look takes says nothing of what is kept. The password is a
//! [`SecretString`], which no log shows.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use costream_common::http::web::Login;
use costream_common::secret::SecretString;
use sha2::{Digest, Sha256};

use super::{Caller, Rights};

/// What the user of every run's login begins with.
const PREFIX: &str = "costream-run-";

/// Whether a user's name is one that a run has, or had.
pub(super) fn is_a_runs(user: &str) -> bool {
    user.starts_with(PREFIX)
}

type Live = Arc<Mutex<HashMap<[u8; 32], Caller>>>;

/// The logins of the runs that live. Cheap to clone; clones are one registry.
#[derive(Clone, Default)]
pub struct RunCredentials {
    live: Live,
}

impl fmt::Debug for RunCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCredentials").field("live", &self.len()).finish()
    }
}

/// A run's login. Dropping it ends its validity; what is under way with it goes on.
#[derive(Debug)]
pub struct Issued {
    /// The user; no secret.
    pub user: Arc<str>,
    /// The password, of letters and digits.
    pub password: SecretString,
    _revoke: Revoke,
}

struct Revoke {
    key: [u8; 32],
    live: Live,
}

impl fmt::Debug for Revoke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoke")
    }
}

impl Drop for Revoke {
    fn drop(&mut self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl RunCredentials {
    /// Makes a login for a run of this caller's, with those of the rights that the caller has.
    pub fn issue(&self, caller: &Caller, rights: Rights) -> Issued {
        let user: Arc<str> = format!("{PREFIX}{:016x}", rand::random::<u64>()).into();
        let password = rand::random::<[u8; 32]>().iter().fold(String::new(), |mut password, byte| {
            // Writing to text does not fail.
            let _ = write!(password, "{byte:02x}");
            password
        });
        let key = digest(&user, password.as_bytes());
        let caller =
            Caller { name: Arc::clone(&caller.name), rights: caller.rights.and(rights), run: Some(user.clone()) };
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(key, caller);
        Issued { user, password: password.into(), _revoke: Revoke { key, live: Arc::clone(&self.live) } }
    }

    /// Whose run has this login; nothing when none that lives has.
    pub(super) fn caller(&self, login: &Login) -> Option<Caller> {
        let key = digest(&login.user, &login.password);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// How many logins are good.
    pub fn len(&self) -> usize {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no login is good.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn digest(user: &str, password: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(user.len().to_le_bytes());
    digest.update(user);
    digest.update(password);
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use costream_common::secret::ExposeSecret as _;

    use super::*;
    use crate::auth::Right;

    fn login(issued: &Issued) -> Login {
        Login { user: issued.user.to_string(), password: issued.password.expose_secret().as_bytes().to_vec() }
    }

    #[test]
    fn a_runs_login_is_its_callers_until_it_is_dropped() {
        let credentials = RunCredentials::default();
        let ann = Caller::new("ann", Rights::READ);
        let (first, second) =
            (credentials.issue(&ann, Rights::ALL), credentials.issue(&Caller::default(), Rights::USUAL));
        let caller = credentials.caller(&login(&first)).expect("a caller");
        assert_eq!((&*caller.name, caller.rights, caller.run), ("ann", Rights::READ, Some(first.user.clone())));
        let caller = credentials.caller(&login(&second)).expect("a caller");
        assert!(&*caller.name == "crate" && !caller.rights.has(Right::Admin), "{caller:?}");
        for wrong in [
            Login { password: login(&second).password, ..login(&first) },
            Login { password: Vec::new(), ..login(&first) },
            Login { user: String::new(), ..login(&first) },
        ] {
            assert_eq!(credentials.caller(&wrong), None);
        }
        let before = login(&first);
        drop(first);
        assert_eq!((credentials.caller(&before), credentials.len()), (None, 1));
        assert!(credentials.caller(&login(&second)).is_some());
    }

    #[test]
    fn a_runs_password_is_never_the_same_and_never_shown() {
        let credentials = RunCredentials::default();
        let issued: Vec<_> = (0..100).map(|_| credentials.issue(&Caller::default(), Rights::ALL)).collect();
        let passwords: std::collections::HashSet<_> =
            issued.iter().map(|issued| issued.password.expose_secret()).collect();
        assert!(passwords.len() == 100 && passwords.iter().all(|password| password.len() == 64));
        let shown = format!("{credentials:?} {:?} {:?}", issued[0], login(&issued[0]));
        assert!(!shown.contains(issued[0].password.expose_secret()), "{shown}");
        drop(issued);
        assert!(credentials.is_empty());
    }
}

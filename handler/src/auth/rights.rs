//! What users may, as `handler.users` of the configuration says it:
//!
//! ```yaml
//! handler:
//!   users:
//!     ann: [read, write, compute]
//!     scraper: [write]
//!     root: [admin]
//! ```
//!
//! While it says nothing, every user of the web configuration may `read`, `write` and `compute`. Once
//! somebody's rights are written down, who is not in the list may `read`.

use std::collections::BTreeMap;
use std::fmt;

use costream_common::http::web::WebConfig;
use serde::{Deserialize, Deserializer};

use super::DEFAULT_USER;
use super::runs::is_a_runs;

/// One thing that a user may or may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Ask for what is stored.
    Read,
    /// Upload, and write tables other than the cost tables.
    Write,
    /// Run notebooks, and keep them.
    Compute,
    /// Everything: the others' rights, writing the cost tables by hand, and settings.
    Admin,
}

impl Right {
    const EACH: [Self; 4] = [Self::Read, Self::Write, Self::Compute, Self::Admin];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Compute => "compute",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of [`Right`]s. Who has `admin` has them all.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// None.
    pub const NONE: Self = Self(0);
    /// To read, and nothing else.
    pub const READ: Self = Self(Right::Read.bit());
    /// To read and to write.
    pub const READ_WRITE: Self = Self(Self::READ.0 | Right::Write.bit());
    /// All but `admin`.
    pub const USUAL: Self = Self(Self::READ_WRITE.0 | Right::Compute.bit());
    /// All.
    pub const ALL: Self = Self(Self::USUAL.0 | Right::Admin.bit());

    /// Whether a right is among them.
    pub fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        let rights = rights.into_iter().fold(0, |rights, right| rights | right.bit());
        if rights & Right::Admin.bit() != 0 { Self::ALL } else { Self(rights) }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Right::EACH.into_iter().filter(|right| self.has(*right))).finish()
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Right>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The rights of users, by name: `handler.users`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct UserRights(BTreeMap<String, Rights>);

/// Rights that are nobody's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RightsError {
    /// There is no such user.
    #[error("handler.users: {user}: is no user of the web configuration")]
    Unknown {
        /// The name.
        user: String,
    },
    /// There is no web configuration, and so nobody is told from anybody.
    #[error("handler.users: {user}: without users in a web_config_file everybody is {DEFAULT_USER}")]
    Nobody {
        /// The first name.
        user: String,
    },
    /// The name is one that runs of notebooks have.
    #[error("web configuration: basic_auth_users.{user}: such names are for the runs of notebooks")]
    Reserved {
        /// The name.
        user: String,
    },
}

impl UserRights {
    /// What a user may.
    pub fn of(&self, user: &str) -> Rights {
        match self.0.get(user) {
            Some(rights) => *rights,
            None if self.0.is_empty() => Rights::USUAL,
            None => Rights::READ,
        }
    }

    /// Whether all users are there, so that a misspelt one does not go unseen.
    ///
    /// # Errors
    /// One is not.
    pub fn check(&self, web: Option<&WebConfig>) -> Result<(), RightsError> {
        let web = web.filter(|web| web.authenticates());
        if let Some(user) = web.and_then(|web| web.users().find(|user| is_a_runs(user))) {
            return Err(RightsError::Reserved { user: user.to_owned() });
        }
        for user in self.0.keys() {
            let Some(web) = web else { return Err(RightsError::Nobody { user: user.clone() }) };
            // Certificates alone tell nobody's name.
            let is_known = web.users().any(|known| known == user)
                || (web.users().next().is_none() && user.as_str() == DEFAULT_USER);
            if !is_known {
                return Err(RightsError::Unknown { user: user.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use costream_common::config::parse;

    use super::*;

    fn rights(text: &str) -> Result<UserRights, String> {
        parse(text, Path::new("costream.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn who_has_admin_has_everything_and_who_is_left_out_may_read() {
        let users = rights("{ann: [read, write], scraper: [write], root: [admin], nobody: []}\n").expect("good rights");
        for (user, expected) in [
            ("ann", "rw--"),
            ("scraper", "-w--"),
            ("root", "rwca"),
            ("nobody", "----"),
            ("bob", "r---"),
            ("Ann", "r---"),
        ] {
            let has = users.of(user);
            let shown: String = Right::EACH
                .into_iter()
                .zip("rwca".chars())
                .map(|(right, sign)| if has.has(right) { sign } else { '-' })
                .collect();
            assert_eq!(shown, expected, "{user}");
        }
        assert_eq!(UserRights::default().of("bob"), Rights::USUAL);
        assert!(!Rights::USUAL.has(Right::Admin) && Rights::ALL.and(Rights::READ) == Rights::READ);
        let error = rights("ann: [read]\nbob: [rite]\n").expect_err("no right");
        assert!(error.contains("line 2") && error.contains("rite"), "{error}");
    }

    #[test]
    fn rights_of_a_user_who_is_not_there_are_an_error() {
        let hash = "$2y$04$uAgn.QLUcqT9SkWCjvyl7O5W8qhJVELVlsePn4sU1H3RHrO8bZ7RO";
        let web = |user: &str| {
            let text = format!("basic_auth_users: {{{user}: {hash}}}\n");
            WebConfig::parse(&text, Path::new("web.yml")).expect("a good web configuration")
        };
        let ann = rights("ann: [read]\n").expect("good rights");
        assert!(ann.check(Some(&web("ann"))).is_ok());
        let open = WebConfig::parse("{}\n", Path::new("web.yml")).expect("a good web configuration");
        for (web, expected) in
            [(Some(&web("bob")), "no user"), (None, "everybody is crate"), (Some(&open), "everybody is crate")]
        {
            let error = ann.check(web).expect_err("no ann").to_string();
            assert!(error.contains("handler.users: ann: ") && error.contains(expected), "{error}");
        }
        assert!(UserRights::default().check(None).is_ok());
        let error = UserRights::default().check(Some(&web("costream-run-1"))).expect_err("a run's name");
        assert!(matches!(error, RightsError::Reserved { .. }), "{error}");
    }
}

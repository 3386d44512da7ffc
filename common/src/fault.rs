//! Named places at which tests stop a process dead, to prove that nothing is lost and nothing
//! doubled there. A program built with debug assertions reads [`VARIABLE`]: `<point>`, or
//! `<point>:<n>` for its n-th passing. When it gets there it says so on standard error and aborts:
//! no destructor runs, no buffer is flushed, as after a SIGKILL. In release builds [`point`] is
//! nothing at all.

use std::fmt;

/// The environment variable that names a point.
pub const VARIABLE: &str = "COSTREAM_FAULT";

/// A place where a process may be stopped. Named `<role>.<place>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A batch has been written to the spool; more of the report is to come.
    Spool,
    /// A generation's files are whole; the manifest that makes them one is not in place.
    BeforeSwap,
    /// The manifest is in place; the predecessor is still there, and served.
    AfterSwap,
    /// A batch is about to be sent to a scraper.
    Send,
    /// The scraper has received a batch and not yet delivered it.
    BetweenBatches,
    /// The handler has said that it stored a delivery; the scraper has not noted it.
    Delivered,
    /// The handler has written a batch into a file that nobody sees.
    Write,
    /// All files are there; the commit that makes them the table's is about to be made.
    BeforeCommit,
    /// The commit is made, and nobody has been told.
    AfterCommit,
    /// Small files have been merged into one; the commit that exchanges them is about to be made.
    Merge,
    /// Old files have been deleted; housekeeping is not over.
    Vacuum,
}

impl Point {
    /// Every point, in the order in which the data passes them.
    pub const ALL: [Self; 11] = [
        Self::Spool,
        Self::BeforeSwap,
        Self::AfterSwap,
        Self::Send,
        Self::BetweenBatches,
        Self::Delivered,
        Self::Write,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::Merge,
        Self::Vacuum,
    ];

    /// How [`VARIABLE`] calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spool => "exporter.spool",
            Self::BeforeSwap => "exporter.before-swap",
            Self::AfterSwap => "exporter.after-swap",
            Self::Send => "exporter.send",
            Self::BetweenBatches => "scraper.between-batches",
            Self::Delivered => "scraper.delivered",
            Self::Write => "handler.write",
            Self::BeforeCommit => "handler.before-commit",
            Self::AfterCommit => "handler.after-commit",
            Self::Merge => "handler.merge",
            Self::Vacuum => "handler.vacuum",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of [`VARIABLE`] that names no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}={0:?} is none of {points}", points = Point::ALL.map(Point::name).join(" "))]
pub struct FaultError(String);

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{FaultError, Point, VARIABLE};

    /// The point at which this process is to stop, and at its how-manieth passing, from 1.
    fn armed() -> &'static Result<Option<(Point, u32)>, FaultError> {
        static ARMED: OnceLock<Result<Option<(Point, u32)>, FaultError>> = OnceLock::new();
        ARMED.get_or_init(|| match std::env::var(VARIABLE) {
            Ok(text) => super::parse(&text).map(Some),
            Err(_) => Ok(None),
        })
    }

    /// Holds the variable against the points there are.
    ///
    /// # Errors
    /// It names none: the test that set it would test nothing.
    pub fn check() -> Result<(), FaultError> {
        armed().clone().map(|_| ())
    }

    /// Passes a point; at the one that was named, stops the process dead.
    pub fn point(here: Point) {
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let Ok(Some((point, nth))) = armed() else { return };
        if *point == here && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *nth {
            eprintln!("stopped dead at {here}");
            std::process::abort();
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{check, point};

/// Nothing: this is a release build.
///
/// # Errors
/// None.
#[cfg(not(debug_assertions))]
pub fn check() -> Result<(), FaultError> {
    Ok(())
}

/// Nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: Point) {}

#[cfg(any(debug_assertions, test))]
fn parse(text: &str) -> Result<(Point, u32), FaultError> {
    let wrong = || FaultError(text.to_owned());
    let (name, nth) = match text.split_once(':') {
        Some((name, nth)) => (name, nth.parse().ok().filter(|nth| *nth > 0).ok_or_else(wrong)?),
        None => (text, 1),
    };
    let point = Point::ALL.into_iter().find(|point| point.name() == name).ok_or_else(wrong)?;
    Ok((point, nth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_its_passing() {
        assert_eq!(parse("handler.before-commit"), Ok((Point::BeforeCommit, 1)));
        assert_eq!(parse("exporter.spool:3"), Ok((Point::Spool, 3)));
        for wrong in ["", "handler", "exporter.spool:0", "exporter.spool:", "exporter.spool:x"] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("exporter.spool exporter.before-swap"), "{error}");
        }
    }

    #[test]
    fn names_are_distinct_and_begin_with_their_role() {
        let mut names: Vec<_> = Point::ALL.map(Point::name).into();
        assert!(names.iter().all(|name| ["exporter.", "scraper.", "handler."].iter().any(|r| name.starts_with(r))));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}

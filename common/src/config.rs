//! Configuration: one YAML file with a section per role. Each role reads its own section and
//! leaves the others alone; an unknown key is an error that names the key and the line.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// The largest configuration file worth reading, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The file: a section per role. A role's program names its own section's type and leaves the
/// others [`IgnoredAny`].
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound = "E: Default + DeserializeOwned, S: Default + DeserializeOwned, H: Default + DeserializeOwned"
)]
pub struct File<E = IgnoredAny, S = IgnoredAny, H = IgnoredAny> {
    /// What the exporter reads.
    #[serde(default)]
    pub exporter: E,
    /// What the scraper reads.
    #[serde(default)]
    pub scraper: S,
    /// What the handler reads.
    #[serde(default)]
    pub handler: H,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is missing or unreadable.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file as given.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A key is unknown or missing, or a value is of the wrong kind.
    #[error("configuration {}{}: {reason}", path.display(), Line(*line))]
    Invalid {
        /// The file as given.
        path: PathBuf,
        /// The line, from 1; nothing when the parser could not tell.
        line: Option<u64>,
        /// The key and what is wrong with it.
        reason: String,
    },
}

struct Line(Option<u64>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " line {line}"))
    }
}

/// Reads a configuration file.
///
/// # Errors
/// The file cannot be read, is not YAML, or does not fit `T`: the line and the key are named.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(&text(path)?, path)
}

/// A configuration file's text.
pub(crate) fn text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = read_at_most(path, MAX_CONFIG_BYTES).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error.utf8_error())))
}

/// Reads a file of at most `max_bytes`, however long it says it is: a device says nothing.
pub(crate) fn read_at_most(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("larger than {} MiB", max_bytes >> 20)));
    }
    Ok(bytes)
}

/// Reads a configuration from its text; `path` is what an error names.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let at = error.location();
        let reason = error.to_string();
        // What is wrong with a value does not say whose it is.
        let key =
            at.as_ref().and_then(|at| key_before(text, at.line(), at.column())).filter(|key| !reason.contains(*key));
        ConfigError::Invalid {
            path: path.to_owned(),
            line: at.map(|at| at.line()),
            reason: key.map_or_else(|| reason.clone(), |key| format!("{key}: {reason}")),
        }
    })
}

/// The key of the value that stands at a place of a text, both from 1.
fn key_before(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let end = line.char_indices().nth(usize::try_from(column).ok()?.checked_sub(1)?).map_or(line.len(), |(at, _)| at);
    let before = line[..end].trim_end().strip_suffix(':')?;
    let last = before.rsplit(|c: char| c.is_whitespace() || "{,[".contains(c)).next()?;
    Some(last.trim_matches(['"', '\''])).filter(|key| !key.is_empty())
}

/// A duration as the Prometheus family writes it: `15s`, `5m`, `12h30m`, `1d`, `250ms`, `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration such as 15s, 5m or 12h30m");
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(end);
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                "y" => 31_536_000.0,
                _ => return Err(wrong()),
            };
            let number: f64 = number.parse().map_err(|_| wrong())?;
            total = Duration::try_from_secs_f64(number * seconds)
                .ok()
                .and_then(|part| total.checked_add(part))
                .ok_or_else(wrong)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Exporter {
        #[serde(default)]
        poll_interval: Option<Span>,
    }

    fn read(text: &str) -> Result<File<Exporter>, ConfigError> {
        parse(text, Path::new("costream.yaml"))
    }

    #[test]
    fn a_role_reads_its_own_section() {
        let file = read("exporter:\n  poll_interval: 12h30m\nhandler:\n  anything: [1, 2]\n").expect("a good file");
        assert_eq!(file.exporter.poll_interval, Some(Span(Duration::from_secs(45_000))));
    }

    #[test]
    fn an_error_names_the_key_and_the_line() {
        let error = read("exporter:\n  pol_interval: 1h\n").expect_err("a misspelt key").to_string();
        assert!(error.contains("line 2") && error.contains("pol_interval"), "{error}");
        let error = read("exporter:\n  poll_interval: soon\n").expect_err("no duration").to_string();
        assert!(error.contains("line 2") && error.contains("poll_interval: ") && error.contains("soon"), "{error}");
        let error = read("exporter: {'poll_interval': soon}\n").expect_err("no duration").to_string();
        assert!(error.contains("line 1: poll_interval: "), "{error}");
        let error = read("exporter: {\u{85}poll_interval: soon}\n").expect_err("no duration").to_string();
        assert!(error.contains("line 1"), "a blank of two bytes: {error}");
        let error = read("exportr: {}\n").expect_err("an unknown section").to_string();
        assert!(error.contains("line 1") && error.contains("exportr"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_read_without_end() {
        let error = load::<File>(Path::new("/dev/zero")).expect_err("too large");
        assert!(crate::report::one_line(&error).ends_with("larger than 16 MiB"), "{error}");
    }

    #[test]
    fn durations_are_read_as_prometheus_writes_them() {
        for (text, seconds) in [
            ("15s", 15.0),
            ("250ms", 0.25),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("2d", 172_800.0),
            ("12h30m0s", 45_000.0),
            ("1h.5m", 3630.0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs_f64(seconds))), "{text}");
        }
        for text in ["", "15", "h", "1x", "-1s", "1e9s", "99999999999999999999y"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

//! `handler.compute` of the configuration: where Python comes from, how far a run is kept from everything else, and
//! what it may use. Every key has a default; a value that cannot work is an error that names its key and line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use costream_common::config::Span;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::order::{Allowed, Network, Tier};

/// Runs at a time, at most: each may have a user of its own.
const MAX_CONCURRENCY: u64 = 64;
/// Users that are free on systems that keep to systemd's ranges (60578 to 61183).
const FIRST_UID: u32 = 60_600;
/// The longest time that a run may be given.
pub(super) const LONGEST_RUN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the section holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeConfig {
    /// Where the interpreter comes from.
    pub python: PythonConfig,
    /// How far runs are kept from everything else.
    pub containment: Containment,
    /// Whom runs may connect to beside the gateway.
    pub network: Network,
    /// What runs may read beside the system's programs and the interpreter.
    pub read_paths: Vec<PathBuf>,
    /// Variables of every run's environment, which is empty otherwise. No place for a secret.
    pub environment: BTreeMap<String, String>,
    /// The user of the first of the runs that go on at a time, and so on, when the handler is root. What is left of a
    /// run is found by its user: two handlers of one machine need numbers of their own.
    #[serde(deserialize_with = "a_user")]
    pub first_uid: u32,
    /// What one run may use.
    pub limits: RunLimits,
    /// Runs at a time.
    #[serde(deserialize_with = "a_few")]
    pub concurrency: usize,
    /// Requests that may wait for a run's place; the rest are told to come back.
    pub waiting: usize,
    /// How long they wait, and how long they wait for the interpreter to be made.
    #[serde(deserialize_with = "some_time")]
    pub wait: Span,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self {
            python: PythonConfig::default(),
            containment: Containment::default(),
            network: Network::Deny,
            read_paths: Vec::new(),
            environment: BTreeMap::new(),
            first_uid: FIRST_UID,
            limits: RunLimits::default(),
            concurrency: 4,
            waiting: 16,
            wait: Span(Duration::from_secs(30)),
        }
    }
}

/// Where Python comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PythonConfig {
    /// An interpreter that has all that notebooks need; otherwise one is made in `data_dir`.
    pub interpreter: Option<PathBuf>,
    /// The Python that makes it.
    pub base: PathBuf,
    /// What it has, as pip takes it. Notebooks count on `crate`.
    pub packages: Vec<String>,
}

impl Default for PythonConfig {
    fn default() -> Self {
        Self {
            interpreter: None,
            base: "python3".into(),
            packages: ["crate==2.3.0", "pandas==3.1.1"].map(str::to_owned).into(),
        }
    }
}

/// How far runs are kept from everything else: as far as the machine can, within these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct Containment {
    /// A machine that cannot do this runs nothing.
    pub at_least: Tier,
    /// No more than this is tried.
    pub at_most: Tier,
}

impl Default for Containment {
    fn default() -> Self {
        Self { at_least: Tier::Confined, at_most: Tier::Isolated }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    at_least: Option<Tier>,
    at_most: Option<Tier>,
}

impl TryFrom<Bounds> for Containment {
    type Error = &'static str;

    fn try_from(Bounds { at_least, at_most }: Bounds) -> Result<Self, Self::Error> {
        let default = Self::default();
        let at_most = at_most.unwrap_or(default.at_most);
        let at_least = at_least.unwrap_or(default.at_least.min(at_most));
        if at_least <= at_most { Ok(Self { at_least, at_most }) } else { Err("at_least is more than at_most") }
    }
}

/// What one run may use, all its processes together where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunLimits {
    /// From its beginning to its end.
    #[serde(deserialize_with = "some_time")]
    pub time: Span,
    /// Of processors.
    #[serde(deserialize_with = "some_time")]
    pub cpu_time: Span,
    /// In memory, beside files and code.
    #[serde(deserialize_with = "at_least::<_, 67_108_864>")]
    pub memory_bytes: u64,
    /// Processes and threads.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub processes: u64,
    /// Files and sockets open in one process.
    #[serde(deserialize_with = "at_least::<_, 16>")]
    pub open_files: u64,
    /// The size of one file.
    #[serde(deserialize_with = "at_least::<_, 65_536>")]
    pub file_bytes: u64,
    /// All files.
    #[serde(deserialize_with = "at_least::<_, 1_048_576>")]
    pub disk_bytes: u64,
    /// Their number, with directories.
    #[serde(deserialize_with = "at_least::<_, 16>")]
    pub files: u64,
    /// What it may print.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub output_bytes: u64,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            time: Span(Duration::from_secs(600)),
            cpu_time: Span(Duration::from_secs(600)),
            memory_bytes: 1 << 30,
            processes: 64,
            open_files: 256,
            file_bytes: 256 << 20,
            disk_bytes: 512 << 20,
            files: 20_000,
            output_bytes: 64 << 20,
        }
    }
}

impl RunLimits {
    /// In the system's units.
    pub(super) fn allowed(&self) -> Allowed {
        Allowed {
            cpu_seconds: self.cpu_time.0.as_secs() + u64::from(self.cpu_time.0.subsec_nanos() > 0),
            memory_bytes: self.memory_bytes,
            processes: self.processes,
            open_files: self.open_files,
            file_bytes: self.file_bytes,
            disk_bytes: self.disk_bytes,
            files: self.files,
        }
    }
}

fn at_least<'de, D: Deserializer<'de>, const LEAST: u64>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number < LEAST {
        return Err(D::Error::custom(format!("{number} is too little: {LEAST} at least")));
    }
    // What the system takes for "no limit" is none of its numbers.
    Ok(number.min(i64::MAX.unsigned_abs()))
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    let time = Span::deserialize(deserializer)?;
    if time.0.is_zero() || time.0 > LONGEST_RUN {
        return Err(D::Error::custom("more than nothing and no more than 7d"));
    }
    Ok(time)
}

fn a_few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = u64::deserialize(deserializer)?;
    let few = usize::try_from(number).ok().filter(|_| (1..=MAX_CONCURRENCY).contains(&number));
    few.ok_or_else(|| D::Error::custom(format!("1 to {MAX_CONCURRENCY} runs at a time")))
}

fn a_user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let first = u32::deserialize(deserializer)?;
    // The last numbers mean "nobody" and "no change".
    let has_room = u64::from(first) + MAX_CONCURRENCY + 1 < u64::from(u32::MAX) - 1;
    if first == 0 || !has_room {
        return Err(D::Error::custom("no user of runs is root, and there are numbers above it"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use costream_common::config::parse;

    use super::*;

    fn read(text: &str) -> Result<ComputeConfig, String> {
        parse(text, Path::new("costream.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_set_one_by_one() {
        assert_eq!(read("{}\n"), Ok(ComputeConfig::default()));
        let text = "containment: {at_least: isolated}\nnetwork: allow\nlimits: {time: 2s, processes: 8}\n";
        let expected = ComputeConfig {
            containment: Containment { at_least: Tier::Isolated, ..Containment::default() },
            network: Network::Allow,
            limits: RunLimits { time: Span(Duration::from_secs(2)), processes: 8, ..RunLimits::default() },
            ..ComputeConfig::default()
        };
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn what_cannot_work_is_named_with_its_key_and_line() {
        for (text, line, key, reason) in [
            ("limits:\n  memory_bytes: 1000\n", 2, "memory_bytes", "67108864 at least"),
            ("limits:\n  time: 0s\n", 2, "time", "more than nothing"),
            ("limits:\n  time: 8d\n", 2, "time", "7d"),
            ("limits:\n  processes: 0\n", 2, "processes", "1 at least"),
            ("limits:\n  tim: 1s\n", 2, "tim", "unknown"),
            ("concurrency: 65\n", 1, "concurrency", "1 to 64"),
            ("first_uid: 0\n", 1, "first_uid", "root"),
            ("first_uid: 4294967290\n", 1, "first_uid", "numbers above"),
            ("containment: {at_least: much}\n", 1, "at_least", "much"),
            ("containment: {at_least: isolated, at_most: limits}\n", 1, "containment", "more than at_most"),
            ("network: some\n", 1, "network", "some"),
        ] {
            let error = read(text).expect_err(text);
            for part in [&format!("line {line}"), key, reason] {
                assert!(error.contains(part), "{text:?}: {part} in {error}");
            }
        }
    }
}

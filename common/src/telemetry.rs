//! Logs, as the Prometheus family's flags name them. Progress and logs go to standard error;
//! standard output is for results.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The flags every program of the house has.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// Only log messages of this severity or above.
    #[arg(
        id = "log.level",
        long = "log.level",
        value_name = "LEVEL",
        default_value = "info",
        global = true,
        display_order = 1000
    )]
    pub level: Level,
    /// Output format of log messages.
    #[arg(
        id = "log.format",
        long = "log.format",
        value_name = "FORMAT",
        default_value = "logfmt",
        global = true,
        display_order = 1001
    )]
    pub format: Format,
}

/// Severities, as the Prometheus family names them.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What may want a look.
    Warn,
    /// What failed.
    Error,
}

/// Forms of a log line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// Text with `key=value` fields.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. Call once, first thing in `main`. Only the house's own
/// targets follow the level; what libraries log is shown from warnings up.
pub fn init(flags: &LogFlags) {
    let level = match flags.level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let others = if matches!(flags.level, Level::Error) { "error" } else { "warn" };
    let ours = ["costream", "costream_common", "costream_exporter", "costream_scraper", "costream_handler"];
    let filter = ours.iter().fold(others.to_owned(), |filter, target| format!("{filter},{target}={level}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match flags.format {
        Format::Logfmt => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}

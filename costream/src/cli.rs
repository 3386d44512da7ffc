//! The command line, as `costream --help` shows it. Parsed values only; what they mean is the
//! commands' business.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use costream_common::telemetry::LogFlags;
use costream_exporter::profile::ProfileName;
use url::Url;

/// Where everything is kept unless told otherwise.
pub(crate) const DATA_DIR: &str = "./costream-data";

/// Cost and usage data from any cloud, streamed to Prometheus, Grafana and SQL.
///
/// Without a command: `run` on the sample report.
#[derive(Debug, Parser)]
#[command(name = "costream", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogFlags,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Exporter, scraper and handler in one process: poll, store, serve.
    ///
    /// Ends with 0: all of it is stored and the totals agree. 1: it failed. 2: wrong usage or
    /// configuration. 3: stored, but more rows were rejected than allowed.
    Run(Box<RunArgs>),
    /// Run one SQL statement on the store and print what it gives.
    Sql(SqlArgs),
    /// Write a FOCUS report for tests and measurements. The same arguments make the same bytes.
    Generate(GenerateArgs),
    /// Hold report, exporter and store against each other, to the last digit: ends with 0 when they agree.
    Reconcile(ReconcileArgs),
    /// Read a configuration file and say what is wrong with it.
    Check(CheckArgs),
}

/// `costream run`
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Where reports in transit and the store are kept; the file's `store_url` is left aside [default: ./costream-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Poll every source once, store, print the table, end. Serves nothing unless an address is given
    #[arg(long)]
    pub(crate) once: bool,
    /// With --once: how many rows may be rejected before the status is 3
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) allow_rejects: u64,
    /// Where the exporter listens; port 0 takes a free one [default: 127.0.0.1:2112]
    #[arg(long = "exporter.listen-address", value_name = "ADDRESS")]
    pub(crate) exporter_listen_address: Option<String>,
    /// Where the handler listens; port 0 takes a free one [default: 127.0.0.1:8088]
    #[arg(long = "handler.listen-address", value_name = "ADDRESS")]
    pub(crate) handler_listen_address: Option<String>,
    /// TLS and users of both addresses, in the Prometheus exporter toolkit's format
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub(crate) web_config_file: Option<PathBuf>,
    /// Serve other addresses than this machine's without asking for a password
    #[arg(long = "web.allow-unauthenticated")]
    pub(crate) allow_unauthenticated: bool,
}

/// Where reports come from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SourceArgs {
    /// A report: a file, a directory, a glob or an http(s) URL. May be repeated; takes the place of the
    /// configuration's sources [default: the sample report]
    #[arg(long = "source", value_name = "PATH|URL|GLOB")]
    pub(crate) given: Vec<String>,
    /// How lenient to be with these sources' reports [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<ProfileName>,
    /// A configuration file; flags win over it
    #[arg(long = "config.file", value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Directory of the resources that an inherited configuration refers to, in place of the cluster
    #[arg(long = "config.resources-dir", value_name = "DIR")]
    pub(crate) resources_dir: Option<PathBuf>,
}

/// `costream sql`
#[derive(Args, Debug)]
pub(crate) struct SqlArgs {
    /// The statement
    pub(crate) statement: String,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// A configuration file: its handler's store is asked, unless --data-dir or --url names another
    #[arg(long = "config.file", value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Ask the tables as they were at this time: RFC 3339, or a date or time of day in UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) as_of: Option<DateTime<Utc>>,
    /// The form of what is printed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Which store to ask.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    /// The store in this directory; a costream may be running on it [default: the configuration's store, else
    /// ./costream-data]
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The handler at this URL, which may name a user and a password; or the store at it (s3://, az://, gs://, ...)
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<Url>,
}

/// Forms of a statement's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for reading.
    #[default]
    Table,
    /// RFC 4180 with a header; null is empty.
    Csv,
    /// An array of objects; numbers have all their digits.
    Json,
}

/// `costream generate`
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// How many rows
    #[arg(long, value_name = "N")]
    pub(crate) rows: u64,
    /// Which report of all there are
    #[arg(long, value_name = "S")]
    pub(crate) seed: u64,
    /// Whose way of writing; auto: three providers and every oddity in one report
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) profile: ProfileName,
    /// The file; `.gz` and `.zst` are compressed, `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `costream reconcile`
#[derive(Args, Debug)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// With --url: the exporter to ask as well
    #[arg(long = "exporter.url", value_name = "URL", requires = "url")]
    pub(crate) exporter_url: Option<Url>,
}

/// `costream check`
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(long = "config.file", value_name = "FILE")]
    pub(crate) config_file: PathBuf,
    /// Directory of the resources that an inherited configuration refers to, in place of the cluster
    #[arg(long = "config.resources-dir", value_name = "DIR")]
    pub(crate) resources_dir: Option<PathBuf>,
}

/// A time as people write it; without a zone it is UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc());
        }
    }
    let midnight = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    midnight.map(|time| time.and_utc()).ok_or_else(|| "no time such as 2026-11-22T13:05:01Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_taken_as_people_write_them() {
        for (text, rfc) in [
            ("2026-11-22T13:05:01Z", "2026-11-22T13:05:01+00:00"),
            ("2026-11-22T13:05:01.5+02:00", "2026-11-22T11:05:01.500+00:00"),
            ("2026-11-22 13:05:01", "2026-11-22T13:05:01+00:00"),
            ("2026-11-22T13:05", "2026-11-22T13:05:00+00:00"),
            ("2026-11-22", "2026-11-22T00:00:00+00:00"),
        ] {
            assert_eq!(time(text).map(|time| time.to_rfc3339()).as_deref(), Ok(rfc), "{text}");
        }
        assert!(time("yesterday").is_err());
    }
}

//! The exporter's section of the configuration file, parsed to values that are good: a location
//! is one, names are distinct, intervals are not nought, dimensions are columns.
//!
//! ```yaml
//! exporter:
//!   listen_address: 127.0.0.1:2112
//!   spool_dir: ./costream-data/spool
//!   spool_max_bytes: 20GiB        # default: the disk
//!   poll_interval: 5m
//!   retry_for: 30s                # how long a poll tries anew before it has failed
//!   concurrent_polls: 2
//!   concurrent_polls_per_host: 2  # of one server, or one bucket
//!   limits: {max_record_bytes: 16777216, max_columns: 2000}
//!   metrics:
//!     dimensions: [ProviderName, ServiceName, Tags.team]
//!     max_series: 10000
//!     rows: false                 # whether every row is a sample too, as inherited configurations have it
//!   sources:
//!     - path: /reports/*.csv.gz
//!       profile: aws
//!     - name: azure
//!       url: https://example.com/export.csv
//!       bearer_token: {file: /var/run/secrets/token}
//!       tls: {ca_file: /etc/ssl/example.pem}
//!     - name: aws
//!       url: s3://billing/exports/
//!       layout: aws                 # auto (the default), plain, aws, azure, gcp, oci
//!       object_store:               # what the environment does not say, in its names
//!         AWS_REGION: eu-central-1
//!         AWS_SECRET_ACCESS_KEY: {file: /var/run/secrets/key}
//!     - name: usage
//!       azure_monitor: {...}        # see `azure_monitor`
//! ```

pub mod azure_monitor;
pub mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use costream_common::cloud::{BucketUrlError, Cloud};
use costream_common::config::Span;
use costream_common::http::client::{Access, BasicAuth, HeaderSource, Tls, public_url};
use costream_common::inherited::{Call, Resources};
use costream_common::record::{SourceName, USAGE_TABLE};
use costream_common::secret::SecretSource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use self::azure_monitor::AzureMonitor;
use self::provider::ProviderUsage;
use crate::decode::{CsvReader, Limits};
use crate::dimensions::Dimensions;
use crate::profile::ProfileName;

/// Where the exporter listens unless told otherwise.
pub const LISTEN_ADDRESS: &str = "127.0.0.1:2112";
/// Fewest series a budget may have: a few currencies and periods must find room.
const MIN_SERIES: usize = 100;

/// The section `exporter`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExporterConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen_address: String,
    /// TLS and users, in the exporter toolkit's format.
    pub web_config_file: Option<PathBuf>,
    /// Where snapshots are kept. Nobody else may use it meanwhile.
    pub spool_dir: PathBuf,
    /// Most bytes the spool may take, a snapshot's predecessor and the one being written among
    /// them. Unset: what the disk has.
    #[serde(deserialize_with = "size")]
    pub spool_max_bytes: Option<u64>,
    /// From one poll of a source to the next, give or take a tenth.
    #[serde(deserialize_with = "interval")]
    pub poll_interval: Duration,
    /// How long one poll tries anew after failures that may pass.
    pub retry_for: Span,
    /// Polls under way at once, at most 128. Each holds a few batches in memory.
    pub concurrent_polls: NonZeroUsize,
    /// Of them, those of one server or one bucket.
    pub concurrent_polls_per_host: NonZeroUsize,
    /// What a report may ask of us at most.
    pub limits: Limits,
    /// What takes reports apart; not a matter of configuration.
    #[serde(skip)]
    pub csv_reader: CsvReader,
    /// What `/metrics` sums over.
    pub metrics: MetricsConfig,
    /// Where reports come from.
    #[serde(deserialize_with = "distinct")]
    pub sources: Vec<SourceConfig>,
}

impl Default for ExporterConfig {
    fn default() -> Self {
        Self {
            listen_address: LISTEN_ADDRESS.to_owned(),
            web_config_file: None,
            spool_dir: PathBuf::from("./costream-data/spool"),
            spool_max_bytes: None,
            poll_interval: Duration::from_secs(300),
            retry_for: Span(Duration::from_secs(30)),
            concurrent_polls: NonZeroUsize::MIN.saturating_add(1),
            concurrent_polls_per_host: NonZeroUsize::MIN.saturating_add(1),
            limits: Limits::default(),
            csv_reader: CsvReader::default(),
            metrics: MetricsConfig::default(),
            sources: Vec::new(),
        }
    }
}

/// What `/metrics` sums over.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The columns to sum over. Source, currency and billing period are always there.
    pub dimensions: Dimensions,
    /// Most series of a cost metric, over all sources.
    #[serde(deserialize_with = "budget")]
    pub max_series: usize,
    /// Whether it has the reports' rows, a sample each, as the exporters have them that are replaced.
    pub rows: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { dimensions: Dimensions::default(), max_series: 10_000, rows: false }
    }
}

/// One source of reports.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SourceKeys")]
pub struct SourceConfig {
    /// What its records call it.
    pub name: SourceName,
    /// Where it is.
    pub location: Location,
    /// Which leniency its reports need.
    pub profile: ProfileName,
    /// When its polls come at another pace.
    pub poll_interval: Option<Duration>,
    /// What the rows of its reports are.
    pub rows: Rows,
}

/// What the rows of a source's reports are.
#[derive(Clone, Debug, Default)]
pub enum Rows {
    /// Charges.
    #[default]
    Charges,
    /// Points of usage: each report is one answer of Azure Monitor.
    Points(Points),
    /// Anything: rows of any columns, one of which is a number.
    Generic(Generic),
}

/// What rows of any columns do not say themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generic {
    /// The place of the column that is a number, from 0, in the order in which the columns are read.
    pub value_column: usize,
    /// What the number is called in an exposition.
    pub metric: String,
    /// The table that the rows go to.
    pub table: String,
}

/// What an answer of Azure Monitor does not say itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    /// The resource that was asked.
    pub resource_id: String,
    /// The table that the points go to.
    #[serde(default = "usage_table")]
    pub table: String,
}

fn usage_table() -> String {
    USAGE_TABLE.to_owned()
}

/// How a provider lays its reports out in a directory or a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A folder without reports of its own is what its manifests say; others are plain.
    #[default]
    Auto,
    /// Each file of the folder is a report.
    Plain,
    /// AWS Data Exports: manifests per export and billing period.
    Aws,
    /// Azure Cost Management exports: run folders with manifests.
    Azure,
    /// Google Cloud, exported from BigQuery: the files of a folder are one report.
    Gcp,
    /// Oracle Cloud: each file, in folders per day, is a report that adds to the others.
    Oci,
}

/// Where a source's reports are.
#[derive(Clone)]
pub enum Location {
    /// A file, a directory (every regular file in it), or a glob; or a directory with a provider's layout.
    Files(String),
    /// A directory of a layout that is named.
    Export {
        /// The directory.
        path: String,
        /// Its layout.
        layout: Layout,
    },
    /// A bucket of a cloud: an object, a folder (with a `/` at its end), or a glob.
    Bucket {
        /// Whose it is.
        cloud: Cloud,
        /// Without credentials.
        url: Url,
        /// The folder's layout.
        layout: Layout,
        /// What the environment does not say of the way there, in the environment's names.
        settings: BTreeMap<String, HeaderSource>,
    },
    /// One report behind a URL.
    Url {
        /// Without user and password.
        url: Url,
        /// What to ask with.
        access: Box<Access>,
    },
    /// Usage, asked of Azure Monitor.
    AzureMonitor(Box<AzureMonitor>),
    /// Usage that an inherited configuration's ProviderConfig asks for.
    Provider(Box<ProviderUsage>),
    /// One report behind a request of an inherited configuration.
    Call {
        /// What is asked.
        call: Box<Call>,
        /// Where what it refers to is.
        resources: Resources,
    },
}

/// A source that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// None or two of `path`, `url` and `azure_monitor`.
    #[error("a source has either `path` or `url`, or it has `azure_monitor`")]
    Location,
    /// A source of usage without a name.
    #[error("a source with `azure_monitor` has a `name`")]
    NoName,
    /// A key of reports at a source that has none.
    #[error("`{0}` is for sources with `path` or `url`")]
    NotForUsage(&'static str),
    /// Not a URL we can ask.
    #[error("url {shown}: {reason}")]
    Url {
        /// The URL, as far as it can be shown.
        shown: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Credentials for a file.
    #[error("`{0}` is for sources with `url`")]
    NotForFiles(&'static str),
    /// Credentials of a server for a bucket.
    #[error("`{0}` is for http and https; a bucket takes its credentials from the environment, or `object_store`")]
    NotForBuckets(&'static str),
    /// A bucket's key for a server.
    #[error("`{0}` is not for http and https: a URL there is one report")]
    NotForServers(&'static str),
    /// A setting that no cloud's tools know.
    #[error("`object_store`: {name} is no setting of {prefix}...")]
    Setting {
        /// Its name as written.
        name: String,
        /// What names of this cloud begin with.
        prefix: &'static str,
    },
    /// A secret in the configuration.
    #[error("`object_store`: {0} is a secret: it is `{{file: ...}}`, `{{env: ...}}` or `{{kubernetes: ...}}`")]
    PlainSecret(String),
    /// Rows that are two things.
    #[error("`points` and `generic` exclude each other")]
    TwoKinds,
    /// Two sets of credentials.
    #[error("`bearer_token` and `basic_auth` exclude each other")]
    TwoCredentials,
    /// The name is none.
    #[error("name {0}")]
    Name(#[from] costream_common::record::NameError),
    /// Two sources of one name: their records could not be told apart.
    #[error("two sources are called {0}: give one another `name`")]
    Twice(SourceName),
    /// An interval of nought.
    #[error("`poll_interval` must be longer than nought")]
    NoInterval,
}

/// A source's keys as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceKeys {
    name: Option<String>,
    path: Option<String>,
    url: Option<String>,
    #[serde(default)]
    profile: Option<ProfileName>,
    poll_interval: Option<Span>,
    bearer_token: Option<SecretSource>,
    basic_auth: Option<BasicAuth>,
    #[serde(default)]
    headers: BTreeMap<String, HeaderSource>,
    tls: Option<Tls>,
    layout: Option<Layout>,
    #[serde(default)]
    object_store: BTreeMap<String, HeaderSource>,
    azure_monitor: Option<AzureMonitor>,
    points: Option<Points>,
    generic: Option<Generic>,
}

impl SourceConfig {
    /// Whether its rows are charges.
    pub fn is_of_charges(&self) -> bool {
        matches!(self.rows, Rows::Charges)
            && !matches!(self.location, Location::AzureMonitor(_) | Location::Provider(_))
    }
}

impl TryFrom<SourceKeys> for SourceConfig {
    type Error = InvalidSource;

    fn try_from(keys: SourceKeys) -> Result<Self, InvalidSource> {
        let for_servers = [
            ("bearer_token", keys.bearer_token.is_some()),
            ("basic_auth", keys.basic_auth.is_some()),
            ("headers", !keys.headers.is_empty()),
            ("tls", keys.tls.is_some()),
        ];
        let for_buckets = [("layout", keys.layout.is_some()), ("object_store", !keys.object_store.is_empty())];
        let first = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, set)| *set).map(|(key, _)| *key);
        if keys.bearer_token.is_some() && keys.basic_auth.is_some() {
            return Err(InvalidSource::TwoCredentials);
        }
        let for_reports = [
            ("profile", keys.profile.is_some()),
            ("points", keys.points.is_some()),
            ("generic", keys.generic.is_some()),
        ];
        let location = match (keys.path, keys.url, keys.azure_monitor) {
            (Some(path), None, None) => match (first(&for_servers).or(first(&for_buckets[1..])), keys.layout) {
                (Some(key), _) => return Err(InvalidSource::NotForFiles(key)),
                (None, Some(layout)) => Location::Export { path, layout },
                (None, None) => Location::Files(path),
            },
            (None, None, Some(azure)) => {
                if let Some(key) = first(&for_servers).or(first(&for_buckets)).or(first(&for_reports)) {
                    return Err(InvalidSource::NotForUsage(key));
                }
                Location::AzureMonitor(Box::new(azure))
            }
            (None, Some(url), None) => match cloud_of(&url) {
                Some(cloud) => match first(&for_servers) {
                    Some(key) => return Err(InvalidSource::NotForBuckets(key)),
                    None => bucket(cloud, &url, keys.layout.unwrap_or_default(), keys.object_store)?,
                },
                None => {
                    if let Some(key) = first(&for_buckets) {
                        return Err(InvalidSource::NotForServers(key));
                    }
                    let (bearer_token, basic_auth, headers) = (keys.bearer_token, keys.basic_auth, keys.headers);
                    let tls = keys.tls.unwrap_or_default();
                    located(&url, Access { bearer_token, basic_auth, userinfo: None, headers, tls })?
                }
            },
            _ => return Err(InvalidSource::Location),
        };
        let poll_interval = keys.poll_interval.map(|Span(interval)| interval);
        if poll_interval.is_some_and(|interval| interval.is_zero()) {
            return Err(InvalidSource::NoInterval);
        }
        let profile = keys.profile.unwrap_or(ProfileName::Auto);
        let name = keys.name.map_or_else(|| location.name(), |name| Ok(SourceName::new(&name)?))?;
        let rows = match (keys.points, keys.generic) {
            (None, None) => Rows::Charges,
            (Some(points), None) => Rows::Points(points),
            (None, Some(generic)) => Rows::Generic(generic),
            (Some(_), Some(_)) => return Err(InvalidSource::TwoKinds),
        };
        Ok(Self { name, location, profile, poll_interval, rows })
    }
}

/// Without secrets: a URL's query may hold one.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(given) => f.debug_tuple("Files").field(given).finish(),
            Self::Export { path, layout } => f.debug_tuple("Export").field(path).field(layout).finish(),
            Self::Bucket { url, layout, .. } => f.debug_tuple("Bucket").field(&url.as_str()).field(layout).finish(),
            Self::Url { url, .. } => f.debug_tuple("Url").field(&public_url(url)).finish(),
            Self::AzureMonitor(azure) => f.debug_tuple("AzureMonitor").field(&public_url(&azure.base_url)).finish(),
            Self::Provider(usage) => f.debug_tuple("Provider").field(&usage.provider).finish(),
            Self::Call { call, .. } => f.debug_tuple("Call").field(&call.shown()).finish(),
        }
    }
}

impl Location {
    /// What a source there is called when it has no name of its own.
    fn name(&self) -> Result<SourceName, InvalidSource> {
        Ok(match self {
            Self::Files(given) | Self::Export { path: given, .. } => SourceName::new(given)?,
            Self::Bucket { url, .. } => SourceName::new(url.as_str())?,
            Self::Url { url, .. } => SourceName::new(&public_url(url))?,
            Self::AzureMonitor(_) | Self::Provider(_) => return Err(InvalidSource::NoName),
            Self::Call { call, .. } => SourceName::new(&call.shown())?,
        })
    }
}

/// Whose bucket a URL names, by its scheme.
fn cloud_of(text: &str) -> Option<Cloud> {
    text.split_once("://").and_then(|(scheme, _)| Cloud::of_scheme(&scheme.to_ascii_lowercase()))
}

fn bucket(
    cloud: Cloud,
    text: &str,
    layout: Layout,
    settings: BTreeMap<String, HeaderSource>,
) -> Result<Location, InvalidSource> {
    let url = parsed(text)?;
    cloud.check(&url).map_err(|error| InvalidSource::Url {
        shown: url.scheme().to_owned() + "://" + url.host_str().unwrap_or_default(),
        reason: match error {
            BucketUrlError::Credentials => format!("{error} (nor `?` in a glob)"),
            _ => error.to_string(),
        },
    })?;
    for (name, value) in &settings {
        if !cloud.knows(name) {
            return Err(InvalidSource::Setting { name: name.clone(), prefix: cloud.settings_prefix() });
        }
        if matches!(value, HeaderSource::Plain(_)) && is_secret(name) {
            return Err(InvalidSource::PlainSecret(name.clone()));
        }
    }
    Ok(Location::Bucket { cloud, url, layout, settings })
}

/// Whether a setting of this name holds a secret, rather than says where one is.
fn is_secret(name: &str) -> bool {
    let says_where = ["_FILE", "_PATH", "_URI", "_URL", "_ID", "_ENDPOINT", "_CREDENTIALS"];
    let is_one = ["SECRET", "_KEY", "TOKEN", "SAS", "PASSWORD"];
    !says_where.iter().any(|end| name.ends_with(end)) && is_one.iter().any(|part| name.contains(part))
}

fn parsed(text: &str) -> Result<Url, InvalidSource> {
    text.parse().map_err(|error: url::ParseError| InvalidSource::Url {
        // What does not parse may have a secret anywhere: show where it was going.
        shown: text.split(['?', '@', '#']).next().unwrap_or_default().to_owned(),
        reason: error.to_string(),
    })
}

fn located(text: &str, mut access: Access) -> Result<Location, InvalidSource> {
    let mut url = parsed(text)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(InvalidSource::Url {
            shown: public_url(&url),
            reason: "neither http nor https, nor a bucket's: s3, az, abfss, gs".to_owned(),
        });
    }
    access.take_userinfo(&mut url);
    Ok(Location::Url { url, access: Box::new(access) })
}

impl ExporterConfig {
    /// The configuration of `costream run`: each source a path, a URL or a glob.
    ///
    /// # Errors
    /// A source is no location, or two are the same.
    pub fn for_run(sources: &[String], profile: ProfileName, data_dir: &Path) -> Result<Self, InvalidSource> {
        let source = |given: &String| {
            let scheme = given.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
            let location = match scheme.as_deref() {
                Some("http" | "https") => located(given, Access::default())?,
                Some(scheme) => match Cloud::of_scheme(scheme) {
                    Some(cloud) => bucket(cloud, given, Layout::Auto, BTreeMap::new())?,
                    None => Location::Files(given.clone()),
                },
                None => Location::Files(given.clone()),
            };
            Ok(SourceConfig { name: location.name()?, location, profile, poll_interval: None, rows: Rows::Charges })
        };
        let sources = all_distinct(sources.iter().map(source).collect::<Result<_, InvalidSource>>()?)?;
        let poll_interval = Duration::from_secs(60);
        Ok(Self { spool_dir: data_dir.join("spool"), poll_interval, sources, ..Self::default() })
    }
}

fn all_distinct(sources: Vec<SourceConfig>) -> Result<Vec<SourceConfig>, InvalidSource> {
    let mut names = BTreeSet::new();
    match sources.iter().find(|source| !names.insert(&source.name)) {
        Some(twice) => Err(InvalidSource::Twice(twice.name.clone())),
        None => Ok(sources),
    }
}

fn distinct<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SourceConfig>, D::Error> {
    all_distinct(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match Span::deserialize(deserializer)? {
        Span(Duration::ZERO) => Err(D::Error::custom(InvalidSource::NoInterval)),
        Span(interval) => Ok(interval),
    }
}

fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        max_series if max_series < MIN_SERIES => {
            Err(D::Error::custom(format!("max_series must be at least {MIN_SERIES}")))
        }
        max_series => Ok(max_series),
    }
}

/// Bytes, as a number or with a unit: `500MB`, `20GiB`.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size is a number of bytes, or such as 500MB or 20GiB")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let text = match Option::<Size>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Size::Bytes(bytes)) => return Ok(Some(bytes)),
        Some(Size::Text(text)) => text,
    };
    let wrong = || D::Error::custom(format!("{text:?} is no size such as 500MB or 20GiB"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;

//! The scraper's section of the configuration file.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use costream_common::config::Span;
use costream_common::http::client::{Access, BasicAuth, HeaderSource, Tls, public_url};
use costream_common::secret::SecretSource;
use costream_handler::ident::TableName;
use serde::{Deserialize, Deserializer};
use url::Url;

/// Which targets are scraped, and where what they give goes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScraperConfig {
    /// Where the scraper's own `/metrics` is served: `host:port`.
    pub listen_address: String,
    /// Users and certificates for it, in the format of Prometheus' exporter toolkit.
    pub web_config_file: Option<PathBuf>,
    /// The handler that what is scraped is uploaded to.
    pub handler: HandlerAccess,
    /// How long one cycle retries what may go well a little later, since its last success.
    pub retry_for: Span,
    /// What is scraped.
    #[serde(deserialize_with = "usable")]
    pub targets: Vec<TargetConfig>,
}

impl Default for ScraperConfig {
    fn default() -> Self {
        Self {
            listen_address: "127.0.0.1:9188".to_owned(),
            web_config_file: None,
            handler: HandlerAccess::default(),
            retry_for: Span(Duration::from_secs(60)),
            targets: Vec::new(),
        }
    }
}

/// Targets that can be scraped, and told apart.
fn usable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TargetConfig>, D::Error> {
    let targets = Vec::<TargetConfig>::deserialize(deserializer)?;
    let mut names = HashSet::new();
    for target in &targets {
        let name = target.name();
        let wrong = |what: &str| Err(serde::de::Error::custom(format!("target {name}: {what}")));
        if !matches!(target.url.scheme(), "http" | "https") || !target.url.has_host() {
            return wrong("`url` must be of http or https");
        }
        if target.interval.0.is_zero() || target.timeout.0.is_zero() {
            return wrong("`interval` and `timeout` must be longer than nought");
        }
        if target.bearer_token.is_some() && target.basic_auth.is_some() {
            return wrong("`bearer_token` and `basic_auth` exclude each other");
        }
        if !names.insert(target.name()) {
            return wrong("there are two of this name: give one another `name`");
        }
    }
    Ok(targets)
}

/// The handler, and with what it is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandlerAccess {
    /// Its address.
    pub url: Url,
    /// A bearer token.
    pub bearer_token: Option<SecretSource>,
    /// User and password.
    pub basic_auth: Option<BasicAuth>,
    /// Further headers.
    pub headers: BTreeMap<String, HeaderSource>,
    /// How it proves who it is.
    pub tls: Tls,
}

impl Default for HandlerAccess {
    fn default() -> Self {
        Self {
            url: Url::parse("http://127.0.0.1:8088").expect("a constant"),
            bearer_token: None,
            basic_auth: None,
            headers: BTreeMap::new(),
            tls: Tls::default(),
        }
    }
}

impl HandlerAccess {
    /// The credentials.
    pub fn access(&self) -> Access {
        Access {
            bearer_token: self.bearer_token.clone(),
            basic_auth: self.basic_auth.clone(),
            userinfo: None,
            headers: self.headers.clone(),
            tls: self.tls.clone(),
        }
    }
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// An exporter of ours: whole snapshots, each stored once.
    Costream,
    /// Any other Prometheus endpoint: series, stored by series and time.
    Prometheus,
}

/// How the rows of a snapshot are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Records {
    /// As an Arrow IPC stream; as text from an exporter that has none.
    #[default]
    Arrow,
    /// As Prometheus text.
    Text,
}

/// A target.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// An exporter's address, or a Prometheus endpoint's.
    pub url: Url,
    /// What it is; by default Prometheus when the path ends in `/metrics`, else ours.
    #[serde(default)]
    pub kind: Option<TargetKind>,
    /// What logs and metrics, and the column `x_source` of a Prometheus target, call it; by default its URL without
    /// secrets.
    #[serde(default)]
    pub name: Option<String>,
    /// How the rows of an exporter of ours are asked for.
    #[serde(default)]
    pub records: Records,
    /// The table that a Prometheus target's series go to.
    #[serde(default = "TableName::metrics")]
    pub table: TableName,
    /// The time from one scrape to the next, give or take a tenth.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How long a Prometheus target, or an exporter's list of snapshots, may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// A bearer token.
    #[serde(default)]
    pub bearer_token: Option<SecretSource>,
    /// User and password.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderSource>,
    /// How it proves who it is.
    #[serde(default)]
    pub tls: Tls,
    /// Most samples of one scrape of a Prometheus target; nought: any number. As all four
    /// limits below: a scrape beyond it fails as a whole.
    #[serde(default)]
    pub sample_limit: u64,
    /// Most labels of one sample, the metric's name counted; nought: any number.
    #[serde(default)]
    pub label_limit: usize,
    /// Longest label name, in bytes; nought: any.
    #[serde(default)]
    pub label_name_length_limit: usize,
    /// Longest label value, in bytes; nought: any.
    #[serde(default)]
    pub label_value_length_limit: usize,
    /// Largest body, in bytes when it is not compressed; nought: any.
    #[serde(default = "default_body_size_limit")]
    pub body_size_limit: ByteSize,
}

fn default_interval() -> Span {
    Span(Duration::from_secs(60))
}

fn default_timeout() -> Span {
    Span(Duration::from_secs(10))
}

/// A scrape is kept on disk until it is known to be whole.
fn default_body_size_limit() -> ByteSize {
    ByteSize(1 << 30)
}

impl TargetConfig {
    /// A target with nothing but its address said.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            kind: None,
            name: None,
            records: Records::default(),
            table: TableName::metrics(),
            interval: default_interval(),
            timeout: default_timeout(),
            bearer_token: None,
            basic_auth: None,
            headers: BTreeMap::new(),
            tls: Tls::default(),
            sample_limit: 0,
            label_limit: 0,
            label_name_length_limit: 0,
            label_value_length_limit: 0,
            body_size_limit: default_body_size_limit(),
        }
    }

    /// What logs, metrics and tables call it.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| public_url(&self.url).trim_end_matches('/').to_owned())
    }

    /// What the target is.
    pub fn kind(&self) -> TargetKind {
        let by_path = if self.url.path().ends_with("/metrics") { TargetKind::Prometheus } else { TargetKind::Costream };
        self.kind.unwrap_or(by_path)
    }

    /// The credentials.
    pub fn access(&self) -> Access {
        Access {
            bearer_token: self.bearer_token.clone(),
            basic_auth: self.basic_auth.clone(),
            userinfo: None,
            headers: self.headers.clone(),
            tls: self.tls.clone(),
        }
    }
}

/// A number of bytes as the Prometheus family writes it: `100MB`, `1GiB`, `512`; `KB` and `KiB` are 1024 both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size such as 100MB, 1GiB or 512");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let power = match unit {
            "" | "B" => 0,
            "KB" | "KiB" => 10,
            "MB" | "MiB" => 20,
            "GB" | "GiB" => 30,
            "TB" | "TiB" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << power).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as 100MB, 1GiB or 512")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use costream_common::config::{File, parse};
    use serde::de::IgnoredAny;

    use super::*;

    fn read(text: &str) -> Result<ScraperConfig, String> {
        let file: Result<File<IgnoredAny, ScraperConfig>, _> = parse(text, Path::new("costream.yaml"));
        file.map(|file| file.scraper).map_err(|error| error.to_string())
    }

    #[test]
    fn a_target_needs_no_more_than_its_url() {
        let config = read("scraper:\n  targets:\n    - url: http://127.0.0.1:2112\n    - url: http://node:9100/metrics\n      body_size_limit: 10MB\n      sample_limit: 5\n").expect("a good section");
        let kinds: Vec<_> = config.targets.iter().map(TargetConfig::kind).collect();
        assert_eq!(kinds, [TargetKind::Costream, TargetKind::Prometheus]);
        assert_eq!(config.targets[1].body_size_limit, ByteSize(10 << 20));
        assert_eq!(config.handler.url.as_str(), "http://127.0.0.1:8088/");
        assert!(read("exporter: {}\n").expect("no section").targets.is_empty());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, word) in [
            ("scraper:\n  targets:\n    - url: http://h\n      intervall: 1m\n", 4, "intervall"),
            ("scraper:\n  targets:\n    - url: here\n", 3, "relative URL"),
            ("scraper:\n  targets:\n    - url: file:///etc/passwd\n", 3, "http or https"),
            ("scraper:\n  targets:\n    - url: http://h\n      interval: 0s\n", 3, "interval"),
            ("scraper:\n  targets:\n    - url: http://h\n    - url: http://h/\n", 3, "two of this name"),
            (
                "scraper:\n  targets:\n    - url: http://h\n      bearer_token: {env: T}\n      basic_auth: {username: u, password: {env: P}}\n",
                3,
                "exclude each other",
            ),
            ("scraper:\n  targets:\n    - url: http://h\n      body_size_limit: 10 MB\n", 4, "10 MB"),
            ("scraper:\n  targets:\n    - url: http://h\n      table: 1\n", 4, "table"),
        ] {
            let error = read(text).expect_err("a mistake");
            assert!(
                error.contains(&format!("line {line}")) && error.contains(word),
                "{error}, not line {line} and {word}"
            );
        }
    }

    #[test]
    fn sizes_are_read_as_prometheus_does() {
        for (text, bytes) in [("0", 0), ("512", 512), ("1KB", 1024), ("1KiB", 1024), ("3GB", 3 << 30)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MB", "-1", "1.5GB", "99999999999TB", "1XB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}

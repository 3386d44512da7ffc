//! A source of usage: Azure Monitor, of which resources it is asked what, and how often at most.
//!
//! ```yaml
//! - name: azure-usage
//!   azure_monitor:
//!     auth:
//!       client_credentials: {tenant: T, client_id: C, client_secret: {file: /var/run/secrets/azure}}
//!     ask:
//!       - from_costs: {source: azure-costs, resource_type: Virtual machine}
//!         metrics:
//!           - {name: Percentage CPU, timespan: month, interval: PT15M}
//!       - resources: [/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/vm1]
//!         metrics: [{name: Percentage CPU}]
//! ```

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use costream_common::config::Span;
use costream_common::http::client::{Access, Tls};
use costream_common::record::{SourceName, USAGE_TABLE};
use costream_common::secret::SecretSource;
use serde::{Deserialize, Deserializer};
use url::Url;

/// Azure Resource Manager, which also answers for metrics.
const BASE_URL: &str = "https://management.azure.com";
/// Where tokens are had; the tenant is the first part of the path.
const LOGIN_URL: &str = "https://login.microsoftonline.com";
/// What Azure Resource Manager answers a subscription in an hour.
const REQUESTS_PER_HOUR: NonZeroU32 = NonZeroU32::new(12_000).expect("more than nought");
/// Requests under way at once, unless told otherwise.
const CONCURRENT_REQUESTS: NonZeroUsize = NonZeroUsize::new(4).expect("more than nought");
const DAY: Duration = Duration::from_secs(86_400);

/// Azure Monitor, and what it is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureMonitor {
    /// Where resources are asked for their metrics, one at a time.
    #[serde(default = "base_url")]
    pub base_url: Url,
    /// Where many resources of a region are asked in one request (`metrics:getBatch`), with `{region}` for the
    /// region. Unset: they are asked one by one, which needs fewer rights.
    #[serde(default)]
    pub batch_url: Option<BatchUrl>,
    /// Who asks.
    pub auth: Auth,
    /// What is asked of which resources.
    #[serde(deserialize_with = "some")]
    pub ask: Vec<Question>,
    /// Most requests a subscription is asked in any hour, by all sources together; where they differ, the lowest counts.
    #[serde(default = "requests_per_hour")]
    pub requests_per_hour: NonZeroU32,
    /// Requests under way at once.
    #[serde(default = "concurrent_requests")]
    pub concurrent_requests: NonZeroUsize,
    /// The table that the points go to.
    #[serde(default = "table")]
    pub table: String,
    /// How long after its end a day is asked once more, for points that came late.
    #[serde(default = "settle_after")]
    pub settle_after: Span,
    /// How long a day is served after it was last asked, for a scraper that was away.
    #[serde(default = "keep")]
    pub keep: Span,
    /// How the servers prove who they are.
    #[serde(default)]
    pub tls: Tls,
}

impl AzureMonitor {
    /// With nothing said but who asks what.
    pub fn new(auth: Auth, ask: Vec<Question>) -> Self {
        Self {
            base_url: base_url(),
            batch_url: None,
            auth,
            ask,
            requests_per_hour: REQUESTS_PER_HOUR,
            concurrent_requests: CONCURRENT_REQUESTS,
            table: table(),
            settle_after: settle_after(),
            keep: keep(),
            tls: Tls::default(),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// A token as it is, read anew for every request.
    BearerToken(SecretSource),
    /// An application, which asks for tokens itself.
    ClientCredentials(ClientCredentials),
    /// As a report is asked for; not a matter of this section.
    #[serde(skip)]
    Access(Box<Access>),
}

/// An application of Microsoft Entra ID.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    /// The directory it is known in.
    pub tenant: String,
    /// Its name there.
    pub client_id: String,
    /// Its password.
    pub client_secret: SecretSource,
    /// Where it asks, when that is not `<login>/<tenant>/oauth2/token`.
    #[serde(default)]
    pub token_url: Option<Url>,
    /// What its tokens are for: Azure Resource Manager, whose name is another one in national clouds.
    #[serde(default = "management")]
    pub resource: String,
}

/// Which metrics of which resources.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "QuestionKeys")]
pub struct Question {
    /// The resources.
    pub of: Resources,
    /// The metrics; at least one.
    pub metrics: Vec<Metric>,
}

/// Which resources.
#[derive(Clone, Debug)]
pub enum Resources {
    /// Those.
    Named(Vec<Resource>),
    /// Those of cost reports.
    FromCosts(FromCosts),
}

/// A resource that is named outright.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "ResourceKeys")]
pub struct Resource {
    /// Its id, from `/subscriptions/` on.
    pub id: String,
    /// Its region, such as `westeurope`, without which it is asked alone.
    pub region: Option<String>,
}

/// Every resource of one type in the cost reports that were polled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromCosts {
    /// The source of the reports; all sources of charges when unset.
    #[serde(default)]
    pub source: Option<SourceName>,
    /// The reports' `ResourceType`.
    pub resource_type: String,
}

/// A metric.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Its name, such as `Percentage CPU`.
    pub name: String,
    /// Its namespace, when it is not the resource's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What stands behind the resource's id, when it is not Azure Monitor's own path. Three `%s` in it take name, timespan and
    /// interval; without them those are parameters.
    #[serde(default)]
    pub resource_suffix: Option<String>,
    /// How far back the first poll goes.
    #[serde(default)]
    pub timespan: Timespan,
    /// From one point to the next, in the form of ISO 8601.
    #[serde(default)]
    pub interval: Interval,
}

/// How far back the first poll goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timespan {
    /// To yesterday.
    #[default]
    Day,
    /// 30 days.
    Month,
    /// 365 days, of which Azure Monitor has the last 93.
    Year,
}

impl Timespan {
    /// In days.
    pub fn days(self) -> u64 {
        match self {
            Self::Day => 1,
            Self::Month => 30,
            Self::Year => 365,
        }
    }
}

/// A duration of ISO 8601, such as `PT15M`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Interval(String);

impl Default for Interval {
    fn default() -> Self {
        Self("PT15M".to_owned())
    }
}

impl Interval {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Interval {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_duration = text.strip_prefix('P').is_some_and(|rest| {
            let known = |c: char| c.is_ascii_digit() || "YMWDTHS".contains(c);
            rest.starts_with(|c: char| c.is_ascii_digit() || c == 'T')
                && rest.ends_with(|c: char| c.is_ascii_alphabetic() && c != 'T')
                && rest.chars().all(known)
        });
        if is_duration {
            Ok(Self(text))
        } else {
            Err(format!("`interval`: {text:?} is no duration such as PT15M or P1D"))
        }
    }
}

/// A URL with `{region}` in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BatchUrl(String);

impl BatchUrl {
    /// The URL of a region; nothing when the region is no part of a host's name.
    pub fn of(&self, region: &str) -> Option<Url> {
        let is_region = !region.is_empty() && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        is_region.then(|| self.0.replace("{region}", region).parse().ok()).flatten()
    }
}

impl TryFrom<String> for BatchUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = Self(text);
        match url.of("region") {
            Some(url) if matches!(url.scheme(), "http" | "https") => {}
            _ => return Err("`batch_url` is no URL such as https://{region}.metrics.monitor.azure.com".to_owned()),
        }
        Ok(url)
    }
}

impl ClientCredentials {
    /// Where it asks for tokens.
    pub fn token_url(&self) -> Url {
        self.token_url.clone().unwrap_or_else(|| {
            let mut url: Url = LOGIN_URL.parse().expect("a constant");
            let mut path = url.path_segments_mut().expect("a URL of https has a path");
            path.extend([self.tenant.as_str(), "oauth2", "token"]);
            drop(path);
            url
        })
    }
}

fn base_url() -> Url {
    BASE_URL.parse().expect("a constant")
}

fn management() -> String {
    format!("{BASE_URL}/")
}

fn requests_per_hour() -> NonZeroU32 {
    REQUESTS_PER_HOUR
}

fn concurrent_requests() -> NonZeroUsize {
    CONCURRENT_REQUESTS
}

fn table() -> String {
    USAGE_TABLE.to_owned()
}

fn settle_after() -> Span {
    Span(2 * DAY)
}

fn keep() -> Span {
    Span(31 * DAY)
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Question>, D::Error> {
    let questions = Vec::deserialize(deserializer)?;
    if questions.is_empty() {
        return Err(serde::de::Error::custom("`ask` is empty: name resources or `from_costs`, and their `metrics`"));
    }
    Ok(questions)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionKeys {
    resources: Option<Vec<Resource>>,
    from_costs: Option<FromCosts>,
    metrics: Vec<Metric>,
}

impl TryFrom<QuestionKeys> for Question {
    type Error = &'static str;

    fn try_from(keys: QuestionKeys) -> Result<Self, &'static str> {
        let of = match (keys.resources, keys.from_costs) {
            (Some(named), None) if named.iter().all(|resource| resource.id.starts_with('/')) => Resources::Named(named),
            (Some(_), None) => return Err("`resources` are ids such as /subscriptions/..."),
            (None, Some(from_costs)) => Resources::FromCosts(from_costs),
            _ => return Err("an item of `ask` has either `resources` or `from_costs`"),
        };
        if keys.metrics.is_empty() {
            return Err("an item of `ask` has `metrics`");
        }
        Ok(Self { of, metrics: keys.metrics })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a resource is an id, or {id, region}")]
enum ResourceKeys {
    Id(String),
    Known { id: String, region: Option<String> },
}

impl From<ResourceKeys> for Resource {
    fn from(keys: ResourceKeys) -> Self {
        match keys {
            ResourceKeys::Id(id) => Self { id, region: None },
            ResourceKeys::Known { id, region } => Self { id, region },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ExporterConfig, Location};
    use costream_common::config;

    fn read(section: &str) -> Result<AzureMonitor, String> {
        let text = format!("exporter:\n  sources:\n    - name: usage\n      azure_monitor:\n{section}");
        let file = config::parse::<config::File<ExporterConfig>>(&text, std::path::Path::new("costream.yaml"));
        let mut sources = file.map_err(|error| error.to_string())?.exporter.sources;
        match sources.pop().map(|source| source.location) {
            Some(Location::AzureMonitor(azure)) => Ok(*azure),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_key_is_read_and_most_have_a_default() {
        let azure = read(
            "        base_url: http://127.0.0.1:1
        batch_url: 'http://{region}.localhost'
        auth: {client_credentials: {tenant: t/x, client_id: c, client_secret: {env: S}}}
        requests_per_hour: 600
        concurrent_requests: 2
        table: vm_usage
        settle_after: 6h
        keep: 7d
        ask:
          - from_costs: {source: costs, resource_type: Virtual machine}
            metrics: [{name: Percentage CPU, timespan: month, interval: PT1H, namespace: n, resource_suffix: /m}]
          - resources: [/subscriptions/a, {id: /subscriptions/b, region: westeurope}]
            metrics: [{name: Percentage CPU}]
",
        )
        .expect("a good section");
        assert_eq!((azure.requests_per_hour.get(), azure.table.as_str()), (600, "vm_usage"));
        let Auth::ClientCredentials(application) = &azure.auth else { panic!("an application") };
        assert_eq!(application.token_url().as_str(), "https://login.microsoftonline.com/t%2Fx/oauth2/token");
        let batch = azure.batch_url.expect("a url");
        assert_eq!(batch.of("westeurope").expect("a url").as_str(), "http://westeurope.localhost/");
        assert_eq!(batch.of("evil.example/"), None);
        let Resources::Named(named) = &azure.ask[1].of else { panic!("names") };
        assert_eq!(named[1].region.as_deref(), Some("westeurope"));
        assert_eq!((azure.ask[1].metrics[0].interval.as_str(), azure.ask[0].metrics[0].timespan.days()), ("PT15M", 30));

        let azure =
            read("        auth: {bearer_token: {file: /t}}\n        ask: [{resources: [/s], metrics: [{name: a}]}]\n")
                .expect("defaults");
        assert_eq!(azure.base_url.as_str(), "https://management.azure.com/");
        assert_eq!((azure.requests_per_hour.get(), azure.table.as_str()), (12_000, "usage"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let asked = |ask: &str| format!("        auth: {{bearer_token: {{env: T}}}}\n        ask: {ask}\n");
        for (section, says) in [
            (asked("[]"), "`ask` is empty"),
            (asked("[{metrics: [{name: a}]}]"), "either `resources` or `from_costs`"),
            (asked("[{resources: [vm1], metrics: [{name: a}]}]"), "/subscriptions/"),
            (asked("[{resources: [/s], metrics: []}]"), "has `metrics`"),
            (asked("[{resources: [/s], metrics: [{name: a, interval: 15m}]}]"), "PT15M"),
            (asked("[{resources: [/s], metrics: [{name: a, timespan: week}]}]"), "timespan"),
            (asked("[{resources: [/s], metrics: [{nam: a}]}]"), "nam"),
            (format!("{}        batch_url: monitor\n", asked("[{resources: [/s], metrics: [{name: a}]}]")), "{region}"),
            ("        ask: [{resources: [/s], metrics: [{name: a}]}]\n".to_owned(), "auth"),
        ] {
            let error = read(&section).expect_err(says);
            assert!(error.contains(says) && error.contains("line "), "{section}{error}");
        }
    }
}

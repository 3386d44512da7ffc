//! The documents of an inherited configuration as people and the operator write them: YAML in, one tree out,
//! whichever of the two spellings (`endpointRef` or `endpointref`, `metadata` or `objectmeta`), new keys or old
//! ones (`api` or `url`, `pollingInterval` or `pollingIntervalHours`). One type takes every kind, so that
//! an error names the key and its line wherever the document stands: alone, one of several, or in a list.
//! An unknown key is an error. Holds the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use super::ObjectRef;
use crate::config::{self, ConfigError, Span};

/// Most documents of one file.
const MAX_DOCUMENTS: usize = 10_000;

/// One document, of any kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    #[serde(alias = "apiversion")]
    api_version: Option<IgnoredAny>,
    kind: Option<String>,
    typemeta: TypeMeta,
    #[serde(alias = "objectmeta")]
    pub(super) metadata: Option<Metadata>,
    pub(super) spec: Option<Spec>,
    status: Option<IgnoredAny>,
    /// A list's.
    items: Option<Vec<Document>>,
    /// A Secret's, in base64.
    #[serde(deserialize_with = "secrets")]
    pub(super) data: BTreeMap<String, super::SecretText>,
    /// A Secret's, as it is.
    #[serde(alias = "stringdata", deserialize_with = "secrets")]
    pub(super) string_data: BTreeMap<String, super::SecretText>,
    r#type: Option<IgnoredAny>,
    immutable: Option<IgnoredAny>,
    /// The scraper's own file, which is no resource.
    #[serde(alias = "databaseconfigref")]
    pub(super) database_config_ref: Option<ObjectRef>,
    pub(super) exporter: Option<Scraped>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TypeMeta {
    kind: Option<String>,
}

/// As much of a resource's metadata as we read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
}

/// What any kind may specify.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(alias = "exporterconfig")]
    pub(super) exporter_config: Option<Exported>,
    #[serde(alias = "scraperconfig")]
    pub(super) scraper_config: Option<Scraped>,
    #[serde(alias = "focusspec")]
    focus_spec: Option<IgnoredAny>,
    // A DatabaseConfig's.
    pub(super) username: Option<String>,
    #[serde(alias = "passwordsecretref")]
    pub(super) password_secret_ref: Option<UnnamedKey>,
    // A ProviderConfig's.
    #[serde(alias = "resourcesref")]
    pub(super) resources_ref: Option<Vec<ObjectRef>>,
    // A ResourceConfig's.
    #[serde(alias = "resourcefocusname")]
    pub(super) resource_focus_name: Option<String>,
    #[serde(alias = "metricsref")]
    pub(super) metrics_ref: Option<Vec<ObjectRef>>,
    // A MetricConfig's.
    #[serde(alias = "metricname")]
    pub(super) metric_name: Option<String>,
    pub(super) endpoint: Option<MetricEndpoint>,
    pub(super) timespan: Option<String>,
    pub(super) interval: Option<String>,
}

/// Where a metric is, beside the resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MetricEndpoint {
    #[serde(alias = "resourcesuffix")]
    pub(super) resource_suffix: Option<String>,
    /// Of older ones, where nobody read it.
    #[serde(rename = "resourcePrefix", alias = "resourceprefix")]
    unread: Option<IgnoredAny>,
    #[serde(alias = "resourceprefixapi")]
    #[serde(rename = "resourcePrefixAPI")]
    pub(super) resource_prefix: Option<Api>,
}

/// `exporterConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Exported {
    pub(super) provider: Option<Unnamed>,
    pub(super) api: Option<Api>,
    pub(super) url: Option<String>,
    #[serde(alias = "requireauthentication")]
    pub(super) require_authentication: Option<bool>,
    #[serde(alias = "authenticationmethod")]
    pub(super) authentication_method: Option<String>,
    #[serde(alias = "bearertoken")]
    pub(super) bearer_token: Option<UnnamedKey>,
    #[serde(alias = "metrictype")]
    pub(super) metric_type: Option<String>,
    pub(super) generic: Option<Generic>,
    #[serde(alias = "pollinginterval")]
    pub(super) polling_interval: Option<Interval>,
    #[serde(alias = "pollingintervalhours")]
    pub(super) polling_interval_hours: Option<Hours>,
    #[serde(alias = "additionalvariables")]
    pub(super) additional_variables: Option<BTreeMap<String, String>>,
}

/// `scraperConfig`, and `exporter` of the scraper's own file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Scraped {
    #[serde(alias = "tablename")]
    pub(super) table_name: Option<String>,
    pub(super) api: Option<Api>,
    pub(super) url: Option<String>,
    #[serde(alias = "pollinginterval")]
    pub(super) polling_interval: Option<Interval>,
    #[serde(alias = "pollingintervalhours")]
    pub(super) polling_interval_hours: Option<Hours>,
    #[serde(alias = "metrictype")]
    pub(super) metric_type: Option<String>,
    pub(super) generic: Option<Generic>,
    #[serde(alias = "scraperdatabaseconfigref")]
    pub(super) scraper_database_config_ref: Option<Unnamed>,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Api {
    pub(super) path: Option<String>,
    pub(super) verb: Option<String>,
    pub(super) headers: Option<Vec<String>>,
    pub(super) payload: Option<String>,
    #[serde(alias = "endpointref")]
    pub(super) endpoint_ref: Option<Unnamed>,
}

impl Api {
    /// Whether it says anything: the operator writes an empty one.
    pub(super) fn says_something(&self) -> bool {
        let is_some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        is_some(&self.path) || self.endpoint_ref.as_ref().is_some_and(|endpoint| endpoint.named().is_some())
    }

    /// The same, with its Secret beside the resource that it is of when it does not say where that is.
    pub(super) fn beside(mut self, of: &ObjectRef) -> Self {
        let named = self.endpoint_ref.as_ref().and_then(Unnamed::named).map(|endpoint| endpoint.beside(of));
        self.endpoint_ref = named.map(|ObjectRef { name, namespace }| Unnamed { name: Some(name), namespace });
        self
    }
}

/// A reference that may be written and name nothing, as the operator does it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Unnamed {
    name: Option<String>,
    namespace: Option<String>,
}

impl Unnamed {
    /// The reference, when it names something.
    pub(super) fn named(&self) -> Option<ObjectRef> {
        let name = self.name.clone().filter(|name| !name.is_empty())?;
        Some(ObjectRef { name, namespace: self.namespace.clone().filter(|namespace| !namespace.is_empty()) })
    }
}

/// A key of a Secret that may be written and name nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UnnamedKey {
    name: Option<String>,
    namespace: Option<String>,
    key: Option<String>,
}

impl UnnamedKey {
    /// The Secret and its key, when it names one.
    pub(super) fn named(&self) -> Option<(ObjectRef, String)> {
        let of = Unnamed { name: self.name.clone(), namespace: self.namespace.clone() };
        Some((of.named()?, self.key.clone().filter(|key| !key.is_empty())?))
    }
}

/// Which column of any report is the value, and what it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Generic {
    /// The value's column, from 0.
    #[serde(alias = "valuecolumnindex")]
    pub value_column_index: usize,
    /// The metric's name.
    #[serde(alias = "metricname")]
    pub metric_name: String,
}

/// A Go duration, as text or `{duration: text}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval(pub(super) Duration);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 12h30m, or `duration:` of one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                let Span(duration) = text.parse().map_err(E::custom)?;
                Ok(duration)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Duration, A::Error> {
                let mut duration = None;
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "duration" | "Duration" => duration = Some(map.next_value::<Span>()?.0),
                        other => return Err(de::Error::unknown_field(other, &["duration"])),
                    }
                }
                duration.ok_or_else(|| de::Error::missing_field("duration"))
            }
        }
        deserializer.deserialize_any(Written).map(Self)
    }
}

/// A number of hours; nought, as the operator writes it, says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hours(pub(super) Duration);

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hours = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(hours * 3600.0)
            .map(Self)
            .map_err(|_| de::Error::custom(format!("{hours} is no number of hours")))
    }
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, super::SecretText>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    /// Its kind; the scraper's own file has none.
    pub(super) fn kind(&self) -> Option<&str> {
        self.kind.as_deref().or(self.typemeta.kind.as_deref())
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.metadata.as_ref()?.name.as_deref().filter(|name| !name.is_empty())
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.metadata.as_ref()?.namespace.as_deref().filter(|namespace| !namespace.is_empty())
    }
}

/// Whether a text is an inherited configuration and not one of ours: its first document says of what kind it is,
/// is a list, or refers to a database.
pub(super) fn is_inherited(text: &str, path: &Path) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        kind: Option<IgnoredAny>,
        typemeta: Option<IgnoredAny>,
        #[serde(alias = "databaseconfigref")]
        database_config_ref: Option<IgnoredAny>,
    }
    let is = |text: &str| match config::parse::<Head>(text, path) {
        Ok(head) => head.kind.is_some() || head.typemeta.is_some() || head.database_config_ref.is_some(),
        Err(_) => config::parse::<Vec<IgnoredAny>>(text, path).is_ok(),
    };
    parts(text).iter().find(|part| !is_blank(part)).is_some_and(|part| is(part))
}

/// The documents of a text, those of lists among them.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Document>, ConfigError> {
    let mut documents = Vec::new();
    for part in parts(text).iter().filter(|part| !is_blank(part)) {
        let is_list = part
            .lines()
            .find(|line| !is_blank(line))
            .is_some_and(|line| line.starts_with("- ") || line.starts_with('['));
        let read: Vec<Document> = if is_list { parsed(part, path)? } else { vec![parsed(part, path)?] };
        for document in read {
            match document.items {
                Some(items) => documents.extend(items),
                None => documents.push(document),
            }
        }
        if documents.len() > MAX_DOCUMENTS {
            let reason = format!("more than {MAX_DOCUMENTS} documents");
            return Err(ConfigError::Invalid { path: path.to_owned(), line: None, reason });
        }
    }
    Ok(documents)
}

fn parsed<T: DeserializeOwned>(part: &str, path: &Path) -> Result<T, ConfigError> {
    config::parse(part, path)
}

/// The text's documents, each with as many empty lines before it as stand before it in the text, so
/// that lines are counted as they stand.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (at, line) in text.lines().enumerate() {
        let is_marker = line == "---" || line.starts_with("--- ") || line == "...";
        if is_marker {
            parts.push("\n".repeat(at));
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(if is_marker { "" } else { line });
            part.push('\n');
        }
    }
    parts
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

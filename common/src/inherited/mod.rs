//! The configurations of the systems that are replaced, unchanged: a file in, what the exporter and the scraper
//! are to ask out.
//!
//! A file is one of these when its first document says its `kind`, when it is a list, or when it refers to a
//! database ([`read`] finds out); otherwise it is one of ours. Its documents are an `ExporterScraperConfig`, or
//! several, beside the resources that they refer to (`Secret`, `DatabaseConfig`, `ProviderConfig`, `ResourceConfig`,
//! `MetricConfig`), or the scraper's own file. What does not stand in it is read from a directory or from the
//! cluster, anew for each request ([`Resources`]). Both spellings and the old keys are taken ([`document`]).
//!
//! Nothing secret is kept, shown, or part of an error: a [`Call`] knows where its credentials are, and
//! [`Call::resolve`] reads them for one request. Memory: the file, and one resource at a time.

mod document;
mod endpoint;
mod explain;
mod provider;
mod resource;
mod variables;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use self::document::{Api, Document, Exported, Scraped};
use self::endpoint::Endpoint;
use self::resource::SecretText;
use self::variables::Variables;
use crate::config::{self, ConfigError};
use crate::http::client::{Access, Client, ClientError, HeaderSource, Method, public_url};
use crate::secret::{Held, KubernetesReason, SecretSource};

pub use self::document::Generic;
pub use self::provider::{MetricServer, ProviderMetrics, ResourceMetric};
pub use self::resource::{Login, ObjectRef, ResourceError, Resources};
pub use self::variables::VariableError;

/// Where the operators mount a configuration.
pub const MOUNTED: &str = "/config/config.yaml";
const EXPORTER_SCRAPER_CONFIG: &str = "ExporterScraperConfig";
/// From one poll to the next, when nobody says.
const POLL_EVERY: Duration = Duration::from_secs(3600);
/// What the names of usage and its table end in, after those of the report whose resources it is of.
const OF_RESOURCES: &str = "_res";
/// The variable that names the file of `cert-file`. Whatever that is called, it was always sent as a bearer token.
const TOKEN_FILE: &str = "certFilePath";
/// The variable that says whose usage a report is.
const RESOURCE_ID: &str = "ResourceId";

/// What an inherited configuration asks for.
#[derive(Clone, Debug)]
pub struct Inherited {
    /// What is polled.
    pub exporters: Vec<ExporterPart>,
    /// What is scraped, and where it goes.
    pub scrapers: Vec<ScraperPart>,
    /// Where what they refer to is.
    pub resources: Resources,
}

/// What a report is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// A cost report.
    Cost,
    /// Usage of one resource, in Azure Monitor's shape.
    Resource,
    /// Anything with a column of values.
    Generic(Generic),
}

impl MetricType {
    /// As it is written.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Resource => "resource",
            Self::Generic(_) => "generic",
        }
    }
}

/// An `exporterConfig`.
#[derive(Clone, Debug)]
pub struct ExporterPart {
    /// The resource's name, or what comes next to one.
    pub name: String,
    /// What is asked.
    pub call: Call,
    /// Of what it answers.
    pub metric_type: MetricType,
    /// How often it is asked.
    pub interval: Duration,
    /// The usage that is polled of the report's resources.
    pub usage: Option<UsagePart>,
    /// The variable `ResourceId`.
    pub resource_id: Option<String>,
    /// The table that it ends in.
    pub table: Option<String>,
}

/// The usage of a cost report's resources, as the `provider` beside the report says.
#[derive(Clone, Debug)]
pub struct UsagePart {
    /// The report's name and [`OF_RESOURCES`], and no other's.
    pub name: String,
    /// The ProviderConfig, which says what is polled of which resources.
    pub provider: ObjectRef,
    /// The table that it ends in: the report's and [`OF_RESOURCES`].
    pub table: Option<String>,
}

/// A `scraperConfig`, or the scraper's own file.
#[derive(Clone, Debug)]
pub struct ScraperPart {
    /// The exporter; nothing when it is the one beside it in the file.
    pub call: Option<Call>,
    /// The table.
    pub table: String,
    /// What goes into it.
    pub metric_type: MetricType,
    /// How often.
    pub interval: Duration,
    /// Who stores it.
    pub database: Option<ObjectRef>,
}

/// A request whose credentials are read when it is made.
#[derive(Clone, Debug)]
pub struct Call {
    target: Target,
    /// The verb.
    pub verb: Method,
    /// The body; empty for none.
    pub payload: String,
    headers: BTreeMap<String, HeaderSource>,
    variables: Variables,
}

#[derive(Clone, Debug)]
enum Target {
    /// A whole URL, and the key that has its token.
    Url { url: Url, access: Box<Access>, bearer_token: Option<(ObjectRef, String)> },
    /// A path of a server that a Secret names, or of the cluster.
    Path { path: String, endpoint: Option<ObjectRef> },
}

/// A request, ready to be made.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Whom to ask.
    pub url: Url,
    /// With what.
    pub access: Access,
    /// Through whom.
    pub proxy: Option<Url>,
    /// Whether it is to be told.
    pub debug: bool,
}

impl Resolved {
    /// A client that asks so.
    ///
    /// # Errors
    /// The certificates, the proxy or a header cannot be used.
    pub fn client(self) -> Result<Client, ClientError> {
        match &self.proxy {
            Some(proxy) => Client::through(self.access, proxy),
            None => Client::new(self.access),
        }
    }
}

/// A request that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// What it refers to cannot be had.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// It goes to the cluster, and there is none.
    #[error("the cluster's API, which is asked as there is no endpointRef")]
    Cluster(#[source] KubernetesReason),
    /// A variable of the server's URL has no value.
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// The server's URL is none.
    #[error("Secret {of}: server-url: {reason}")]
    Server {
        /// The Secret.
        of: String,
        /// What is wrong.
        reason: String,
    },
}

impl CallError {
    /// Whether it may be made a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Resource(error) => error.is_retryable(),
            Self::Cluster(reason) => reason.is_retryable(),
            _ => false,
        }
    }
}

/// Reads a configuration file, when it is an inherited one; nothing when it is one of ours.
/// Resources that do not stand in it are looked for in the directory, or, without one, in the cluster.
///
/// # Errors
/// The file cannot be read; or it is one, and wrong: the key, the line and the reason.
pub fn read(path: &Path, resources: Option<&Path>) -> Result<Option<Inherited>, ConfigError> {
    let text = config::text(path)?;
    parse(&text, path, resources, |name| std::env::var(name).ok())
}

fn parse(
    text: &str,
    path: &Path,
    resources: Option<&Path>,
    environment: impl Fn(&str) -> Option<String> + Copy,
) -> Result<Option<Inherited>, ConfigError> {
    if !document::is_inherited(text, path) {
        return Ok(None);
    }
    let documents = document::read(text, path)?;
    let (mut exporters, mut scrapers) = (Vec::new(), Vec::new());
    for document in &documents {
        let wrong = |reason: String| {
            let of = document.name().map(|name| format!("{name}: ")).unwrap_or_default();
            ConfigError::Invalid { path: path.to_owned(), line: None, reason: format!("{of}{reason}") }
        };
        match document.kind() {
            Some(EXPORTER_SCRAPER_CONFIG) => {
                let spec = document.spec.as_ref().ok_or_else(|| wrong("`spec` is missing".to_owned()))?;
                if let Some(exported) = &spec.exporter_config {
                    let scraped = spec.scraper_config.as_ref();
                    exporters.push(exporter(document, exported, scraped, environment).map_err(wrong)?);
                }
                if let Some(scraped) = spec.scraper_config.as_ref().filter(|scraped| scraped.table_name.is_some()) {
                    let database = scraped.scraper_database_config_ref.as_ref().and_then(document::Unnamed::named);
                    let scraper = scraper("spec.scraperConfig", scraped, database).map_err(wrong)?;
                    let usage = spec.exporter_config.as_ref().and_then(|_| exporters.last()?.usage.as_ref());
                    let of_usage = usage.and_then(|usage| usage.table.clone()).map(|table| ScraperPart {
                        table,
                        metric_type: MetricType::Resource,
                        ..scraper.clone()
                    });
                    scrapers.extend([scraper].into_iter().chain(of_usage));
                }
            }
            None => {
                let scraped = document.exporter.as_ref().ok_or_else(|| wrong("`kind` is missing".to_owned()))?;
                scrapers.push(scraper("exporter", scraped, document.database_config_ref.clone()).map_err(wrong)?);
            }
            Some(
                "Secret" | "DatabaseConfig" | "ProviderConfig" | "ResourceConfig" | "MetricConfig" | "FocusConfig",
            ) => {}
            Some(other) => return Err(wrong(format!("`kind`: {other} is none that is known"))),
        }
    }
    let mut names = std::collections::BTreeSet::new();
    if let Some(twice) = exporters.iter().find(|exporter| !names.insert(exporter.name.clone())) {
        let reason = format!("two ExporterScraperConfigs are called {}", twice.name);
        return Err(ConfigError::Invalid { path: path.to_owned(), line: None, reason });
    }
    for usage in exporters.iter_mut().filter_map(|exporter| exporter.usage.as_mut()) {
        while !names.insert(usage.name.clone()) {
            usage.name.push_str(OF_RESOURCES);
        }
    }
    // What was read of the others may hold secrets, and is not referred to.
    let is_resource = |document: &Document| document.kind().is_some_and(|kind| kind != EXPORTER_SCRAPER_CONFIG);
    let documents = documents.into_iter().filter(is_resource).collect();
    let resources = Resources::new(documents, resources.map(PathBuf::from));
    Ok(Some(Inherited { exporters, scrapers, resources }))
}

fn exporter(
    document: &Document,
    written: &Exported,
    scraped: Option<&Scraped>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<ExporterPart, String> {
    let within = "spec.exporterConfig";
    let none = BTreeMap::new();
    let variables = Variables::resolve(written.additional_variables.as_ref().unwrap_or(&none), environment);
    let variables = variables.map_err(|error| format!("{within}.{error}"))?;
    let url = written.url.as_deref().filter(|url| !url.is_empty());
    let mut call = match (url, &written.api) {
        (Some(url), _) => Call::to_url(&format!("{within}.url"), url, variables)?,
        (None, Some(api)) => Call::of(&format!("{within}.api"), api, variables)?,
        (None, None) => return Err(format!("{within} has neither `api` nor `url`")),
    };
    authenticated(&mut call, written).map_err(|error| format!("{within}.{error}"))?;
    let metric_type = metric_type(within, written.metric_type.as_deref(), written.generic.as_ref(), url.is_some())?;
    let resource_id = call.variables.get(RESOURCE_ID).map(str::to_owned);
    if metric_type == MetricType::Resource && resource_id.is_none() {
        return Err(format!("{within}.additionalVariables: {RESOURCE_ID} is missing: it says whose usage it is"));
    }
    let table = scraped.and_then(|scraped| scraped.table_name.clone());
    let next_to_a_name = table.clone().or_else(|| call.endpoint_name()).unwrap_or_else(|| "report".to_owned());
    let name = document.name().map_or(next_to_a_name, str::to_owned);
    let provider = written.provider.as_ref().and_then(document::Unnamed::named);
    let usage = match (provider, &metric_type) {
        (Some(provider), MetricType::Cost) => Some(UsagePart {
            name: format!("{name}{OF_RESOURCES}"),
            provider,
            table: table.as_ref().map(|table| format!("{table}{OF_RESOURCES}")),
        }),
        (Some(provider), _) => {
            // The operators gave theirs to the configurations that they made for single resources, too.
            tracing::info!(name, %provider, "the report has no resources whose usage could be polled");
            None
        }
        (None, _) => None,
    };
    Ok(ExporterPart {
        name,
        metric_type,
        interval: interval(written.polling_interval, written.polling_interval_hours),
        usage,
        resource_id,
        table,
        call,
    })
}

/// What the old keys say of credentials.
fn authenticated(call: &mut Call, written: &Exported) -> Result<(), String> {
    let wanted = written.require_authentication.unwrap_or_default();
    let key = written.bearer_token.as_ref().and_then(document::UnnamedKey::named);
    match (wanted, written.authentication_method.as_deref().unwrap_or_default(), key) {
        (false, ..) => Ok(()),
        (true, "bearer-token" | "", Some(key)) => match &mut call.target {
            Target::Url { bearer_token, .. } => {
                *bearer_token = Some(key);
                Ok(())
            }
            Target::Path { .. } => {
                Err("bearerToken is for `url`: with `api` the Secret of endpointRef has it".to_owned())
            }
        },
        (true, "bearer-token" | "", None) => Err("bearerToken names no key of a Secret".to_owned()),
        (true, "cert-file", _) => match (&mut call.target, call.variables.get(TOKEN_FILE)) {
            (Target::Url { access, .. }, Some(path)) => {
                access.bearer_token = Some(SecretSource::File(path.into()));
                Ok(())
            }
            (Target::Url { .. }, None) => Err(format!(
                "authenticationMethod: cert-file needs additionalVariables.{TOKEN_FILE}, the file whose text is sent as the token"
            )),
            (Target::Path { .. }, _) => {
                Err("authenticationMethod: cert-file is for `url`: with `api` the Secret of endpointRef has it"
                    .to_owned())
            }
        },
        (true, other, _) => Err(format!("authenticationMethod: {other:?} is neither bearer-token nor cert-file")),
    }
}

fn scraper(within: &str, written: &Scraped, database: Option<ObjectRef>) -> Result<ScraperPart, String> {
    let url = written.url.as_deref().filter(|url| !url.is_empty());
    let api = written.api.as_ref().filter(|api| api.says_something());
    let call = match (url, api) {
        (Some(url), _) => Some(Call::to_url(&format!("{within}.url"), url, Variables::default())?),
        (None, Some(api)) => Some(Call::of(&format!("{within}.api"), api, Variables::default())?),
        (None, None) => None,
    };
    let table = written.table_name.clone().filter(|table| !table.is_empty());
    Ok(ScraperPart {
        call,
        table: table.ok_or_else(|| format!("{within}.tableName is missing"))?,
        metric_type: metric_type(within, written.metric_type.as_deref(), written.generic.as_ref(), false)?,
        interval: interval(written.polling_interval, written.polling_interval_hours),
        database,
    })
}

/// The older resources, which have a `url`, meant usage when they said nothing.
fn metric_type(
    within: &str,
    text: Option<&str>,
    generic: Option<&Generic>,
    is_old: bool,
) -> Result<MetricType, String> {
    match text.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" if is_old => Ok(MetricType::Resource),
        "" | "cost" => Ok(MetricType::Cost),
        "resource" => Ok(MetricType::Resource),
        "generic" => match generic {
            Some(generic) if !generic.metric_name.is_empty() => Ok(MetricType::Generic(generic.clone())),
            _ => Err(format!("{within}.generic.metricName is missing: metricType generic needs it")),
        },
        other => Err(format!("{within}.metricType: {other:?} is none of cost, resource and generic")),
    }
}

fn interval(interval: Option<document::Interval>, hours: Option<document::Hours>) -> Duration {
    let said = [interval.map(|interval| interval.0), hours.map(|hours| hours.0)];
    said.into_iter().flatten().find(|said| !said.is_zero()).unwrap_or(POLL_EVERY)
}

impl Call {
    fn of(within: &str, api: &Api, variables: Variables) -> Result<Self, String> {
        let path = variables.fill("path", api.path.as_deref().unwrap_or_default());
        let path = path.map_err(|error| format!("{within}.{error}"))?;
        let verb = api.verb.as_deref().filter(|verb| !verb.is_empty()).unwrap_or("GET").to_ascii_uppercase();
        let verb = verb.parse().map_err(|_| format!("{within}.verb: {verb:?} is none of HTTP's"))?;
        let mut headers = BTreeMap::new();
        for header in api.headers.iter().flatten() {
            let (name, value) = header.split_once(':').ok_or_else(|| {
                // A header without a colon may be a secret.
                format!("{within}.headers: one of them is not written as `Name: value`")
            })?;
            // It may hold a token.
            let value = HeaderSource::Secret(SecretSource::Held(Held(value.trim().into())));
            headers.insert(name.trim().to_owned(), value);
        }
        let target = Target::Path { path, endpoint: api.endpoint_ref.as_ref().and_then(document::Unnamed::named) };
        Ok(Self { target, verb, payload: api.payload.clone().unwrap_or_default(), headers, variables })
    }

    fn to_url(within: &str, url: &str, variables: Variables) -> Result<Self, String> {
        let filled = variables.fill("url", url).map_err(|error| format!("{within}: {error}"))?;
        let mut access = Access::default();
        let url = located(&filled, &mut access).map_err(|reason| format!("{within}: {reason}"))?;
        let target = Target::Url { url, access: Box::new(access), bearer_token: None };
        Ok(Self { target, verb: Method::GET, payload: String::new(), headers: BTreeMap::new(), variables })
    }

    /// The server alone, asked with the same credentials: a URL's host, or what `server-url` says.
    #[must_use]
    pub fn server(&self) -> Self {
        let mut server = self.clone();
        match &mut server.target {
            Target::Url { url, .. } => {
                url.set_path("");
                url.set_query(None);
                url.set_fragment(None);
            }
            Target::Path { path, .. } => path.clear(),
        }
        server.for_metrics()
    }

    /// Another server, in whose name and path the variables are this one's.
    fn beside(&self, api: &Api) -> Result<Self, String> {
        let within = "spec.endpoint.resourcePrefixAPI";
        let call = Self::of(within, api, self.variables.clone())?;
        if call.verb != Method::GET || !call.payload.is_empty() {
            return Err(format!("{within}: metrics are asked for by GET, without a payload"));
        }
        Ok(call.for_metrics())
    }

    /// Asked for metrics in JSON, whatever was wanted of a report.
    fn for_metrics(mut self) -> Self {
        self.headers.retain(|name, _| !name.eq_ignore_ascii_case("accept"));
        Self { verb: Method::GET, payload: String::new(), ..self }
    }

    fn endpoint_name(&self) -> Option<String> {
        match &self.target {
            Target::Path { endpoint, .. } => endpoint.as_ref().map(|endpoint| endpoint.name.clone()),
            Target::Url { url, .. } => url.host_str().map(str::to_owned),
        }
    }

    /// Where it goes, as far as that is known without asking anybody and is no secret.
    pub fn shown(&self) -> String {
        match &self.target {
            Target::Url { url, .. } => public_url(url),
            Target::Path { path, .. } => format!("{} at {}", public_path(path), self.server_shown()),
        }
    }

    /// As [`Self::shown`], of the server alone.
    fn server_shown(&self) -> String {
        match &self.target {
            Target::Url { url, .. } => url.origin().ascii_serialization(),
            Target::Path { endpoint: Some(endpoint), .. } => format!("the server-url of Secret {endpoint}"),
            Target::Path { endpoint: None, .. } => "the cluster's API".to_owned(),
        }
    }

    /// The Secrets that it reads.
    pub fn secrets(&self) -> Option<&ObjectRef> {
        match &self.target {
            Target::Url { bearer_token, .. } => bearer_token.as_ref().map(|(of, _)| of),
            Target::Path { endpoint, .. } => endpoint.as_ref(),
        }
    }

    /// The file that has its token.
    pub fn token_file(&self) -> Option<&Path> {
        match &self.target {
            Target::Url { access, .. } => match &access.bearer_token {
                Some(SecretSource::File(path)) => Some(path),
                _ => None,
            },
            Target::Path { .. } => None,
        }
    }

    /// Reads what it takes to make the request now.
    ///
    /// # Errors
    /// Something it refers to cannot be had, or is wrong.
    pub async fn resolve(&self, resources: &Resources) -> Result<Resolved, CallError> {
        let mut resolved = match &self.target {
            Target::Url { url, access, bearer_token } => {
                let mut access = Access::clone(access);
                if let Some((of, key)) = bearer_token {
                    access.bearer_token = Some(SecretSource::Held(Held(resources.secret_key(of, key).await?)));
                }
                Resolved { url: url.clone(), access, proxy: None, debug: false }
            }
            Target::Path { path, endpoint } => {
                let Endpoint { server, proxy, mut access, debug } =
                    Endpoint::read(endpoint.as_ref(), resources).await?;
                let server = self.variables.fill("server-url", &server)?;
                let url = match path.as_str() {
                    "" => server,
                    path => format!("{}/{}", server.trim_end_matches('/'), path.trim_start_matches('/')),
                };
                let of = || endpoint.as_ref().map_or_else(|| "of the cluster".to_owned(), ObjectRef::to_string);
                let url = located(&url, &mut access).map_err(|reason| CallError::Server { of: of(), reason })?;
                Resolved { url, access, proxy, debug }
            }
        };
        resolved.access.headers.extend(self.headers.clone());
        Ok(resolved)
    }
}

/// A URL that can be asked, user and password taken out of it.
fn located(text: &str, access: &mut Access) -> Result<Url, String> {
    // What does not parse may have a secret anywhere.
    let mut url: Url = text.parse().map_err(|error: url::ParseError| format!("it is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it is neither http nor https".to_owned());
    }
    access.take_userinfo(&mut url);
    Ok(url)
}

/// A variable's value, unless its name says that it is secret.
fn public_value<'a>(name: &str, value: &'a str) -> &'a str {
    let url = Url::parse_with_params("http://nowhere", [(name, "")]);
    if url.is_ok_and(|url| public_url(&url).ends_with("=***")) { "***" } else { value }
}

/// A path without what may be a secret in its query.
fn public_path(path: &str) -> String {
    const NOWHERE: &str = "http://nowhere";
    let url = format!("{NOWHERE}/{}", path.trim_start_matches('/')).parse::<Url>();
    let shown = url.map(|url| public_url(&url));
    shown.ok().and_then(|shown| shown.strip_prefix(NOWHERE).map(str::to_owned)).unwrap_or_else(|| "a path".to_owned())
}

#[cfg(test)]
mod tests;

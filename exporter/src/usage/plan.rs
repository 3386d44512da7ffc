//! Resources and metrics in, questions out: as few as Azure Monitor allows. Up to [`MAX_METRICS`] metrics of one
//! namespace and interval are one question; so are up to [`MAX_BATCH`] resources of one type, region and subscription where
//! `batch_url` is set (<https://learn.microsoft.com/azure/azure-monitor/essentials/migrate-to-batch-api>). A metric with a path of
//! its own is asked alone. Holds the ids once, and a few pointers a question.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use sha2::{Digest as _, Sha256};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::ask::Ask;
use super::resources::Known;
use super::server::Server;
use crate::config::azure_monitor::Metric;

/// Most metrics of one question.
const MAX_METRICS: usize = 20;
/// Most resources of one question.
const MAX_BATCH: usize = 50;
/// Azure Monitor's own path below a resource.
const METRICS_PATH: &str = "/providers/microsoft.insights/metrics";
const API_VERSION: &str = "2023-10-01";
const BATCH_API_VERSION: &str = "2024-02-01";

/// A part of a day that is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) day: NaiveDate,
    /// When it ends, or what time it is now.
    pub(super) until: DateTime<Utc>,
}

impl Piece {
    fn from(self) -> DateTime<Utc> {
        self.day.and_time(chrono::NaiveTime::MIN).and_utc()
    }

    fn times(self) -> [String; 2] {
        [self.from(), self.until].map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    /// `YYYY-MM-DD/YYYY-MM-DD`: what a path of one's own is given.
    fn dates(self) -> String {
        let next = self.day.succ_opt().unwrap_or(self.day);
        format!("{}/{next}", self.day)
    }
}

/// What is asked of whom; each day anew.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) questions: Vec<Question>,
    /// Tells one plan from another.
    pub(super) digest: String,
}

/// Resources that are asked the same together.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Who is asked.
    pub(super) server: Arc<Server>,
    pub(super) resources: Arc<[Arc<str>]>,
    /// The region of a batch; nothing when the resource is asked alone.
    region: Option<Arc<str>>,
    metrics: Arc<Metrics>,
}

/// Metrics that are asked for together.
#[derive(Debug)]
struct Metrics {
    names: Vec<String>,
    namespace: Option<String>,
    suffix: Option<String>,
    interval: String,
}

impl Plan {
    /// `asked`: who is asked for which metrics of which resources.
    pub(super) fn of<'a>(asked: impl IntoIterator<Item = (&'a Arc<Server>, &'a [Metric], Vec<Known>)>) -> Self {
        let mut questions = Vec::new();
        for (server, metrics, resources) in asked {
            let config = &server.config;
            for metrics in together(metrics).map(Arc::new) {
                let is_batched = config.batch_url.is_some() && metrics.suffix.is_none();
                let mut batches: BTreeMap<_, Vec<Arc<str>>> = BTreeMap::new();
                for Known { id, region } in &resources {
                    let place = region.as_ref().filter(|_| is_batched).zip(resource_type(id));
                    match place
                        .filter(|(region, _)| config.batch_url.as_ref().is_some_and(|url| url.of(region).is_some()))
                    {
                        Some((region, kind)) => {
                            batches.entry((subscription(id), region.clone(), kind)).or_default().push(Arc::clone(id));
                        }
                        None => questions.push(Question {
                            server: Arc::clone(server),
                            resources: [Arc::clone(id)].into(),
                            region: None,
                            metrics: Arc::clone(&metrics),
                        }),
                    }
                }
                for ((_, region, _), ids) in batches {
                    questions.extend(ids.chunks(MAX_BATCH).map(|ids| Question {
                        server: Arc::clone(server),
                        resources: ids.into(),
                        region: Some(Arc::clone(&region)),
                        metrics: Arc::clone(&metrics),
                    }));
                }
            }
        }
        let mut digest = Sha256::new();
        for Question { resources, metrics, .. } in &questions {
            digest.update(format!("{resources:?}{metrics:?}"));
        }
        Self { questions, digest: format!("{:x}", digest.finalize()) }
    }

    /// Whether nobody goes on when one server fails.
    pub(super) fn is_of_one_server(&self) -> bool {
        self.questions.windows(2).all(|pair| Arc::ptr_eq(&pair[0].server, &pair[1].server))
    }
}

/// The metrics that one question can be about, in order of their first.
fn together(metrics: &[Metric]) -> impl Iterator<Item = Metrics> {
    let mut sets: Vec<Metrics> = Vec::new();
    for metric in metrics {
        let Metric { name, namespace, resource_suffix, interval, .. } = metric;
        let joins = |set: &&mut Metrics| {
            set.suffix.is_none()
                && resource_suffix.is_none()
                && set.names.len() < MAX_METRICS
                && set.namespace == *namespace
                && set.interval == interval.as_str()
        };
        match sets.iter_mut().find(joins) {
            Some(set) => set.names.push(name.clone()),
            None => sets.push(Metrics {
                names: vec![name.clone()],
                namespace: namespace.clone(),
                suffix: resource_suffix.clone(),
                interval: interval.as_str().to_owned(),
            }),
        }
    }
    sets.into_iter()
}

impl Question {
    /// The request for a piece.
    pub(super) fn ask(&self, piece: Piece) -> Ask {
        let config = &self.server.config;
        let first = self.resources.first().map(|id| &**id).unwrap_or_default();
        let batch = self.region.as_ref().and_then(|region| config.batch_url.as_ref()?.of(region));
        let subscription = subscription(first);
        match batch {
            Some(url) => {
                let ids: Vec<&str> = self.resources.iter().map(|id| &**id).collect();
                Ask {
                    url: self.metrics.of_many(url, &subscription, first, piece),
                    batch: Some(serde_json::json!({"resourceids": ids}).to_string()),
                    subscription,
                }
            }
            None => Ask { url: self.metrics.of_one(config.base_url.clone(), first, piece), batch: None, subscription },
        }
    }
}

impl Metrics {
    fn of_one(&self, mut url: Url, resource: &str, piece: Piece) -> Url {
        let base = url.path().trim_end_matches('/').to_owned();
        let names = self.names.join(",");
        let Some(suffix) = &self.suffix else {
            url.set_path(&format!("{base}{resource}{METRICS_PATH}"));
            let mut query = url.query_pairs_mut();
            query
                .append_pair("api-version", API_VERSION)
                .append_pair("metricnames", &names)
                .append_pair("timespan", &piece.times().join("/"))
                .append_pair("interval", &self.interval)
                .append_pair("aggregation", "Average");
            if let Some(namespace) = &self.namespace {
                query.append_pair("metricnamespace", namespace);
            }
            drop(query);
            return url;
        };
        let name: String = byte_serialize(names.as_bytes()).collect();
        let values = [name, piece.dates(), self.interval.clone()];
        let is_form = suffix.matches("%s").count() == values.len();
        let suffix = if is_form {
            values.iter().fold(suffix.clone(), |text, value| text.replacen("%s", value, 1))
        } else {
            suffix.clone()
        };
        let (path, query) = suffix.split_once('?').map_or((suffix.as_str(), None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{base}{resource}{path}"));
        url.set_query(query);
        if !is_form {
            let [_, dates, interval] = &values;
            url.query_pairs_mut()
                .append_pair("metricnames", &names)
                .append_pair("timespan", dates)
                .append_pair("interval", interval);
        }
        url
    }

    fn of_many(&self, mut url: Url, subscription: &str, resource: &str, piece: Piece) -> Url {
        let base = url.path().trim_end_matches('/').to_owned();
        let own = resource_type(resource).unwrap_or_default();
        let [from, until] = piece.times();
        url.set_path(&format!("{base}/subscriptions/{subscription}/metrics:getBatch"));
        url.query_pairs_mut()
            .append_pair("starttime", &from)
            .append_pair("endtime", &until)
            .append_pair("interval", &self.interval)
            .append_pair("metricnamespace", self.namespace.as_deref().unwrap_or(&own))
            .append_pair("metricnames", &self.names.join(","))
            .append_pair("aggregation", "average")
            .append_pair("api-version", BATCH_API_VERSION);
        url
    }
}

/// The parts of a resource's id, in lower case.
fn parts(id: &str) -> Vec<String> {
    id.trim_matches('/').split('/').map(str::to_ascii_lowercase).collect()
}

/// The subscription of a resource; of one without, nothing, which is one too.
fn subscription(id: &str) -> String {
    let parts = parts(id);
    let is_named = parts.first().is_some_and(|part| part == "subscriptions");
    parts.into_iter().nth(1).filter(|_| is_named).unwrap_or_default()
}

/// `microsoft.compute/virtualmachines`: what follows the last `providers`, without the names.
fn resource_type(id: &str) -> Option<String> {
    let parts = parts(id);
    let at = parts.iter().rposition(|part| part == "providers")?;
    let (namespace, rest) = parts.get(at + 1..)?.split_first()?;
    let kinds: Vec<&str> = rest.iter().step_by(2).map(String::as_str).collect();
    (!kinds.is_empty()).then(|| format!("{namespace}/{}", kinds.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::azure_monitor::{Auth, AzureMonitor, Timespan};

    const VM: &str = "/subscriptions/S1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";

    fn server(batch_url: Option<&str>) -> Arc<Server> {
        let config = AzureMonitor {
            base_url: "http://127.0.0.1:1/azure/".parse().expect("a url"),
            batch_url: batch_url.map(|url| url.to_owned().try_into().expect("a url")),
            ..AzureMonitor::new(Auth::Access(Box::default()), Vec::new())
        };
        Arc::new(Server::new(config, Arc::default()).expect("a server"))
    }

    fn metric(name: &str, suffix: Option<&str>) -> Metric {
        Metric {
            name: name.to_owned(),
            namespace: None,
            resource_suffix: suffix.map(str::to_owned),
            timespan: Timespan::Day,
            interval: Default::default(),
        }
    }

    fn known(id: &str, region: Option<&str>) -> Known {
        Known { id: id.into(), region: region.map(Arc::from) }
    }

    fn piece() -> Piece {
        let until = DateTime::parse_from_rfc3339("2026-11-26T00:00:00Z").expect("a time").to_utc();
        Piece { day: NaiveDate::from_ymd_opt(2026, 11, 25).expect("a day"), until }
    }

    fn urls(metrics: &[Metric], resources: Vec<Known>) -> Vec<String> {
        let plan = Plan::of([(&server(None), metrics, resources)]);
        plan.questions.iter().map(|question| question.ask(piece()).url.to_string()).collect()
    }

    #[test]
    fn metrics_of_one_resource_are_one_question() {
        let metrics: Vec<_> = (0..21).map(|n| metric(&format!("m {n}"), None)).collect();
        let urls = urls(&metrics, vec![known(VM, Some("westeurope"))]);
        let [first, second] = urls.as_slice() else { panic!("{urls:?}") };
        assert!(
            first.starts_with(&format!("http://127.0.0.1:1/azure{VM}/providers/microsoft.insights/metrics?")),
            "{first}"
        );
        assert!(first.contains("metricnames=m+0%2Cm+1%2C") && first.contains("%2Cm+19&"), "{first}");
        assert!(
            second.contains(
                "metricnames=m+20&timespan=2026-11-25T00%3A00%3A00Z%2F2026-11-26T00%3A00%3A00Z&interval=PT15M"
            ),
            "{second}"
        );
    }

    #[test]
    fn a_path_of_ones_own_is_filled_in_or_gets_parameters() {
        for (suffix, expected) in [
            (
                "/providers/microsoft.insights/metrics?api-version=2023-10-01",
                "/providers/microsoft.insights/metrics?api-version=2023-10-01&metricnames=Percentage+CPU&timespan=2026-11-25%2F2026-11-26&interval=PT15M",
            ),
            (
                "/m?metricnames=%s&timespan=%s&interval=%s&v=1",
                "/m?metricnames=Percentage+CPU&timespan=2026-11-25/2026-11-26&interval=PT15M&v=1",
            ),
            ("/m", "/m?metricnames=Percentage+CPU&timespan=2026-11-25%2F2026-11-26&interval=PT15M"),
        ] {
            let urls = urls(&[metric("Percentage CPU", Some(suffix))], vec![known(VM, None)]);
            assert_eq!(urls, [format!("http://127.0.0.1:1/azure{VM}{expected}")]);
        }
    }

    #[test]
    fn resources_of_one_type_region_and_subscription_are_one_question() {
        let server = server(Some("http://127.0.0.1:2/{region}"));
        let mut resources: Vec<_> = (0..51).map(|n| known(&format!("{VM}{n}"), Some("westeurope"))).collect();
        resources.push(known(&VM.replace("S1", "S2"), Some("westeurope")));
        resources.push(known(VM, Some("eastus")));
        resources.push(known(VM, None));
        resources.push(known(VM, Some("not/a/region")));
        let metrics = [metric("a", None), metric("b", None)];
        let plan = Plan::of([(&server, &metrics[..], resources)]);
        let mut sizes: Vec<_> = plan.questions.iter().map(|question| question.resources.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 50]);
        let many = plan.questions.iter().find(|question| question.resources.len() == 50).expect("a batch");
        let ask = many.ask(piece());
        assert_eq!(
            ask.url.as_str(),
            "http://127.0.0.1:2/westeurope/subscriptions/s1/metrics:getBatch?starttime=2026-11-25T00%3A00%3A00Z&endtime=2026-11-26T00%3A00%3A00Z&interval=PT15M&metricnamespace=microsoft.compute%2Fvirtualmachines&metricnames=a%2Cb&aggregation=average&api-version=2024-02-01"
        );
        assert!(ask.batch.expect("a body").starts_with(&format!("{{\"resourceids\":[\"{VM}0\"")));
        assert_eq!(ask.subscription, "s1");
    }
}

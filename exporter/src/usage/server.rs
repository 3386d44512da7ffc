//! Whom a poll asks: the server of a configuration, which stays, or those that a ProviderConfig names, found out anew for each
//! poll, so that a resource may come later, or change, and a rotated token is used without a restart. The budget is a
//! subscription's, whichever source and server asks. Holds the questions of each server.

use std::sync::Arc;

use costream_common::http::client::{ClientError, public_url};
use costream_common::inherited::{Call, CallError, MetricServer, ResourceMetric};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StrDeserializer};
use url::Url;

use super::UsageError;
use super::ask::{Asker, Endpoint};
use super::budget::{Budget, Subscriptions};
use crate::config::azure_monitor::{Auth, AzureMonitor, FromCosts, Metric, Question, Resources, Timespan};
use crate::config::provider::ProviderUsage;
use crate::source::UsageFrom;

/// A server, and what it is asked.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is, and the questions.
    pub(super) config: AzureMonitor,
    pub(super) asker: Asker,
}

impl Server {
    /// The server of a configuration.
    ///
    /// # Errors
    /// The certificates to trust cannot be read.
    pub(super) fn new(config: AzureMonitor, subscriptions: Arc<Subscriptions>) -> Result<Self, ClientError> {
        let budget = Budget::new(config.requests_per_hour.get(), subscriptions);
        Ok(Self { asker: Asker::new(&config, budget)?, config })
    }
}

/// Whom a poll asks.
pub(super) struct Found {
    pub(super) servers: Vec<Arc<Server>>,
    /// What keeps some metrics from being asked for.
    pub(super) failures: Vec<UsageError>,
}

/// Where a poll has its servers from.
#[derive(Debug)]
pub(super) enum Servers {
    /// It is always the same one.
    One(Arc<Server>),
    /// A ProviderConfig says.
    OfProvider {
        usage: Arc<ProviderUsage>,
        /// What is the same for all of them.
        common: Box<AzureMonitor>,
        budget: Budget,
    },
}

impl Servers {
    /// # Errors
    /// The certificates to trust cannot be read.
    pub(super) fn new(from: &UsageFrom, subscriptions: Arc<Subscriptions>) -> Result<Self, ClientError> {
        Ok(match from {
            UsageFrom::AzureMonitor(config) => {
                Self::One(Arc::new(Server::new(AzureMonitor::clone(config), subscriptions)?))
            }
            UsageFrom::Provider(usage) => {
                let common = AzureMonitor::new(Auth::Access(Box::default()), Vec::new());
                let common = Box::new(AzureMonitor { table: usage.table.clone(), ..common });
                let budget = Budget::new(common.requests_per_hour.get(), subscriptions);
                Self::OfProvider { usage: Arc::clone(usage), common, budget }
            }
        })
    }

    /// What is the same for all servers; the questions are each one's own.
    pub(super) fn common(&self) -> &AzureMonitor {
        match self {
            Self::One(server) => &server.config,
            Self::OfProvider { common, .. } => common,
        }
    }

    /// Those of the poll that begins.
    ///
    /// # Errors
    /// What says who they are cannot be had, or none of them.
    pub(super) async fn now(&self) -> Result<Found, UsageError> {
        let (usage, common, budget) = match self {
            Self::One(server) => return Ok(Found { servers: vec![Arc::clone(server)], failures: Vec::new() }),
            Self::OfProvider { usage, common, budget } => (usage, common, budget),
        };
        let named = usage.resources.provider_metrics(&usage.provider, &usage.report).await;
        let named = named.map_err(|error| Box::new(CallError::from(error)))?;
        let missing = named.failures.into_iter().map(|error| Box::new(CallError::from(error)).into());
        let mut found = Found { servers: Vec::new(), failures: missing.collect() };
        for MetricServer { call, metrics } in named.servers {
            let ask = questions(usage, &metrics, &mut found.failures);
            match asker(usage, call, &metrics, budget).await {
                Ok((base_url, asker)) => found.servers.push(Arc::new(Server {
                    config: AzureMonitor { base_url, ask, ..AzureMonitor::clone(common) },
                    asker,
                })),
                Err(error) => found.failures.push(error),
            }
        }
        let is_nobody = found.servers.iter().all(|server| server.config.ask.is_empty());
        if is_nobody && !found.failures.is_empty() {
            return Err(found.failures.swap_remove(0));
        }
        Ok(found)
    }
}

/// Who asks a server that a Secret names, and where that is.
async fn asker(
    usage: &ProviderUsage,
    call: Call,
    metrics: &[ResourceMetric],
    budget: &Budget,
) -> Result<(Url, Asker), UsageError> {
    let resolved = call.resolve(&usage.resources).await.map_err(Box::new)?;
    let base_url = resolved.url.clone();
    if resolved.debug {
        let metrics = metrics.iter().map(|metric| metric.metric_name.as_str()).collect::<Vec<_>>();
        tracing::info!(url = public_url(&base_url), ?metrics, proxy = resolved.proxy.is_some(), "asks for usage");
    }
    let client = resolved.client()?;
    if client.is_insecure() {
        tracing::warn!(url = public_url(&base_url), "insecure: whoever answers is believed");
    }
    let endpoint = Endpoint { call, resources: usage.resources.clone(), server: base_url.origin() };
    Ok((base_url, Asker::of_endpoint(client, endpoint, budget.clone())))
}

/// What is asked of the resources of each type; metrics that cannot be are told.
fn questions(usage: &ProviderUsage, metrics: &[ResourceMetric], failures: &mut Vec<UsageError>) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    for metric in metrics {
        let of = FromCosts { source: Some(usage.costs.clone()), resource_type: metric.resource_type.clone() };
        let metric = match asked(metric) {
            Ok(metric) => metric,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        let same = |question: &&mut Question| matches!(&question.of, Resources::FromCosts(other) if *other == of);
        match questions.iter_mut().find(same) {
            Some(question) => question.metrics.push(metric),
            None => questions.push(Question { of: Resources::FromCosts(of), metrics: vec![metric] }),
        }
    }
    questions
}

fn asked(metric: &ResourceMetric) -> Result<Metric, UsageError> {
    let wrong = |reason: String| UsageError::Metric { of: metric.of.clone(), reason };
    let timespan: StrDeserializer<'_, ValueError> = metric.timespan.as_str().into_deserializer();
    Ok(Metric {
        name: metric.metric_name.clone(),
        namespace: None,
        resource_suffix: Some(metric.resource_suffix.clone()),
        timespan: Timespan::deserialize(timespan).map_err(|error| wrong(format!("`timespan`: {error}")))?,
        interval: metric.interval.clone().try_into().map_err(wrong)?,
    })
}

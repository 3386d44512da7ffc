//! What is asked for the usage of a report's resources: a ProviderConfig in, the metrics of its ResourceConfigs out, each with
//! the server that is asked for it. They are read anew for each poll ([`super::resource`]), so that one may come later, or
//! change. Of one that is missing it is said which, and the others go on. Holds the metrics.

use super::Call;
use super::document::Api;
use super::resource::{Kind, ObjectRef, ResourceError, Resources, incomplete};

/// How far back usage is asked for when a MetricConfig does not say.
const TIMESPAN: &str = "month";
/// From one point to the next when a MetricConfig does not say.
const INTERVAL: &str = "PT15M";

/// What a ProviderConfig asks for.
#[derive(Debug, Default)]
pub struct ProviderMetrics {
    /// By the servers that are asked.
    pub servers: Vec<MetricServer>,
    /// What of it cannot be had.
    pub failures: Vec<ResourceError>,
}

/// A server, and what it is asked.
#[derive(Clone, Debug)]
pub struct MetricServer {
    /// The server: its path stands before a resource's id.
    pub call: Call,
    /// The metrics, each of every resource of its type.
    pub metrics: Vec<ResourceMetric>,
}

/// A metric of every resource of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMetric {
    /// The MetricConfig that it is from.
    pub of: ObjectRef,
    /// The `ResourceType` of the cost report.
    pub resource_type: String,
    /// The metric's name.
    pub metric_name: String,
    /// What follows a resource's id.
    pub resource_suffix: String,
    /// `day`, `month` or `year`.
    pub timespan: String,
    /// `PT15M`, say.
    pub interval: String,
}

impl Resources {
    /// The metrics of a ProviderConfig, over its ResourceConfigs and their MetricConfigs, by the servers that are asked for
    /// them: the report's own, or what `endpoint.resourcePrefixAPI` says.
    ///
    /// # Errors
    /// The ProviderConfig cannot be had, or asks for nothing.
    pub async fn provider_metrics(&self, of: &ObjectRef, report: &Call) -> Result<ProviderMetrics, ResourceError> {
        let mut servers: Vec<(Option<Api>, MetricServer)> = Vec::new();
        let mut failures = Vec::new();
        let provider = self.spec(Kind::ProviderConfig, of).await?;
        for resource in provider.resources_ref.unwrap_or_default() {
            let resource = resource.beside(of);
            let (resource_type, metrics) = match self.resource_config(&resource).await {
                Ok(found) => found,
                Err(error) => {
                    failures.push(error);
                    continue;
                }
            };
            for metric in metrics {
                let metric = self.metric(metric.beside(&resource), &resource_type).await;
                if let Err(error) = metric.and_then(|(api, metric)| add(&mut servers, api, metric, report)) {
                    failures.push(error);
                }
            }
        }
        if servers.is_empty() && failures.is_empty() {
            return Err(incomplete(Kind::ProviderConfig, of, "it names no metric of any resource"));
        }
        Ok(ProviderMetrics { servers: servers.into_iter().map(|(_, server)| server).collect(), failures })
    }

    /// The type of resources that a ResourceConfig is about, and the MetricConfigs of these.
    async fn resource_config(&self, of: &ObjectRef) -> Result<(String, Vec<ObjectRef>), ResourceError> {
        let spec = self.spec(Kind::ResourceConfig, of).await?;
        let resource_type = spec
            .resource_focus_name
            .ok_or_else(|| incomplete(Kind::ResourceConfig, of, "spec.resourceFocusName is missing"))?;
        Ok((resource_type, spec.metrics_ref.unwrap_or_default()))
    }

    /// A MetricConfig, and the server that is its own.
    async fn metric(&self, of: ObjectRef, resource_type: &str) -> Result<(Option<Api>, ResourceMetric), ResourceError> {
        let spec = self.spec(Kind::MetricConfig, &of).await?;
        let missing = |what: &str| incomplete(Kind::MetricConfig, &of, what);
        let endpoint = spec.endpoint.unwrap_or_default();
        let api = endpoint.resource_prefix.filter(Api::says_something).map(|api| api.beside(&of));
        let metric = ResourceMetric {
            resource_type: resource_type.to_owned(),
            metric_name: spec.metric_name.ok_or_else(|| missing("spec.metricName is missing"))?,
            resource_suffix: endpoint
                .resource_suffix
                .ok_or_else(|| missing("spec.endpoint.resourceSuffix is missing"))?,
            timespan: spec.timespan.unwrap_or_else(|| TIMESPAN.to_owned()),
            interval: spec.interval.unwrap_or_else(|| INTERVAL.to_owned()),
            of,
        };
        Ok((api, metric))
    }
}

/// Adds a metric to those of its server.
fn add(
    servers: &mut Vec<(Option<Api>, MetricServer)>,
    api: Option<Api>,
    metric: ResourceMetric,
    report: &Call,
) -> Result<(), ResourceError> {
    match servers.iter_mut().find(|(of, _)| *of == api) {
        // Two ResourceConfigs may name the same.
        Some((_, server)) if server.metrics.contains(&metric) => {}
        Some((_, server)) => server.metrics.push(metric),
        None => {
            let call = api.as_ref().map_or_else(|| Ok(report.server()), |api| report.beside(api));
            let call = call.map_err(|reason| incomplete(Kind::MetricConfig, &metric.of, &reason))?;
            servers.push((api, MetricServer { call, metrics: vec![metric] }));
        }
    }
    Ok(())
}

//! What an inherited configuration asks for, in words, line by line: for people who check one before they run it.
//! Nothing is asked and no secret is read; a value of the environment is not shown, only whose it is.

use std::time::Duration;

use super::{Call, ExporterPart, Inherited, MetricType, ScraperPart, UsagePart};
use crate::http::client::Method;

impl Inherited {
    /// The lines.
    pub fn explained(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for part in &self.exporters {
            self.exporter(part, &mut lines);
        }
        for part in &self.scrapers {
            self.scraper(part, &mut lines);
        }
        lines
    }

    fn exporter(&self, part: &ExporterPart, lines: &mut Vec<String>) {
        let ExporterPart { name, call, metric_type, interval, usage, table, .. } = part;
        let of = match metric_type {
            MetricType::Cost => "a cost report".to_owned(),
            MetricType::Resource => format!("usage of {}", part.resource_id.as_deref().unwrap_or_default()),
            MetricType::Generic(generic) => {
                format!("column {} of any report, as {}", generic.value_column_index, generic.metric_name)
            }
        };
        lines.push(format!("source {name}: {of}, every {}", shown(*interval)));
        self.call(call, lines);
        if let Some(table) = table {
            lines.push(format!("  table {table}"));
        }
        if let Some(usage) = usage {
            self.usage(usage, part, lines);
        }
    }

    fn usage(&self, usage: &UsagePart, of: &ExporterPart, lines: &mut Vec<String>) {
        let UsagePart { name, provider, table } = usage;
        let place = self.resources.place();
        lines.push(format!("source {name}: usage of the resources of {}, every {}", of.name, shown(of.interval)));
        lines.push(format!(
            "  ProviderConfig {provider}, its ResourceConfigs and MetricConfigs: read from {place} for each poll"
        ));
        let server = of.call.server_shown();
        lines.push(format!(
            "  GET a resource's id and a metric's resourceSuffix at {server}, or at the metric's resourcePrefixAPI"
        ));
        if let Some(table) = table {
            lines.push(format!("  table {table}"));
        }
    }

    fn scraper(&self, part: &ScraperPart, lines: &mut Vec<String>) {
        let ScraperPart { call, table, metric_type, interval, database } = part;
        lines.push(format!("table {table}: {} rows, every {}", metric_type.as_str(), shown(*interval)));
        match call {
            Some(call) => self.call(call, lines),
            None => lines.push("  from the exporter beside it".to_owned()),
        }
        if let Some(database) = database {
            let place = self.resources.place();
            lines.push(format!("  uploaded as the user of DatabaseConfig {database}, read from {place} each time"));
        }
    }

    fn call(&self, call: &Call, lines: &mut Vec<String>) {
        let Call { verb, payload, .. } = call;
        lines.push(format!("  {verb} {}", call.shown()));
        for (name, value, variable) in call.variables.iter() {
            lines.push(match variable {
                Some(variable) => format!("  variable {name}: from environment variable {variable}, which is set"),
                None => format!("  variable {name}: {}", super::public_value(name, value)),
            });
        }
        for name in call.headers.keys() {
            lines.push(format!("  header {name}, its value as written"));
        }
        if !payload.is_empty() || *verb != Method::GET {
            lines.push(format!("  payload of {} bytes", payload.len()));
        }
        if let Some(file) = call.token_file() {
            lines.push(format!("  token of the file {}: read for each request", file.display()));
        }
        if let Some(secret) = call.secrets() {
            lines.push(format!("  Secret {secret}: read from {} for each request", self.resources.place()));
        }
    }
}

/// A duration as it may be written.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let shown: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { format!("{duration:?}") } else { shown }
}

//! An inherited configuration in, ours out: each `exporterConfig` is a source, asked for as often as it says, and
//! `/metrics` has the report's rows, on the port and for whomever it always had them. One whose `provider` names a
//! ProviderConfig is two: the report, and the usage of its resources.

use std::path::{Path, PathBuf};

use costream_common::config::{self, ConfigError};
use costream_common::inherited::{self, ExporterPart, Inherited, MetricType, UsagePart};
use costream_common::record::{SourceName, USAGE_TABLE};

use crate::config::provider::ProviderUsage;
use crate::config::{ExporterConfig, Generic, InvalidSource, Location, MetricsConfig, Points, Rows, SourceConfig};
use crate::profile::ProfileName;

/// Where the exporters that are replaced listen.
const LISTEN_ADDRESS: &str = "0.0.0.0:2112";
/// The table of rows of any make, where no other is named.
const GENERIC_TABLE: &str = "generic";

/// A configuration file that is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It cannot be read, or is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An inherited one that asks for what cannot be.
    #[error("configuration {}: {of}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// The ExporterScraperConfig.
        of: String,
        /// What is wrong.
        #[source]
        source: InvalidSource,
    },
    /// An inherited one of which nothing is to be polled.
    #[error("configuration {}: it has no exporterConfig: there is nothing to poll", .0.display())]
    Nothing(PathBuf),
}

/// A configuration file of the exporter's.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub exporter: ExporterConfig,
    /// Whether it is an inherited one: those are served to whoever asks, as they always were.
    pub is_inherited: bool,
}

impl Loaded {
    /// Reads a configuration file, ours or an inherited one, which is found out. Resources that an inherited
    /// one refers to are looked for in the directory, or, without one, in the cluster; later, as they are needed.
    ///
    /// # Errors
    /// It cannot be read, or is wrong: the key, the line and the reason.
    pub fn read(path: &Path, resources: Option<&Path>) -> Result<Self, LoadError> {
        match costream_common::inherited::read(path, resources)? {
            Some(inherited) => Ok(Self { exporter: exporter(&inherited, path)?, is_inherited: true }),
            None => {
                let file: config::File<ExporterConfig> = config::load(path)?;
                Ok(Self { exporter: file.exporter, is_inherited: false })
            }
        }
    }
}

/// The exporter that an inherited configuration asks for.
///
/// # Errors
/// A source cannot be one, or there is none.
pub fn exporter(inherited: &Inherited, path: &Path) -> Result<ExporterConfig, LoadError> {
    let mut sources = Vec::new();
    for part in &inherited.exporters {
        let named = |name: &str| {
            SourceName::new(name).map_err(|error| LoadError::Source {
                path: path.to_owned(),
                of: part.name.clone(),
                source: error.into(),
            })
        };
        let report = source(part, inherited, named(&part.name)?);
        if let Some(usage) = &part.usage {
            let of_usage = usage_source(usage, part, inherited, &report.name, named(&usage.name)?);
            sources.extend([report, of_usage]);
        } else {
            sources.push(report);
        }
    }
    if sources.is_empty() {
        return Err(LoadError::Nothing(path.to_owned()));
    }
    Ok(ExporterConfig {
        listen_address: LISTEN_ADDRESS.to_owned(),
        metrics: MetricsConfig { rows: true, ..MetricsConfig::default() },
        sources,
        ..ExporterConfig::default()
    })
}

fn source(part: &ExporterPart, inherited: &Inherited, name: SourceName) -> SourceConfig {
    let rows = match &part.metric_type {
        MetricType::Cost => Rows::Charges,
        MetricType::Resource => Rows::Points(Points {
            // Without one the file was not taken.
            resource_id: part.resource_id.clone().unwrap_or_default(),
            table: part.table.clone().unwrap_or_else(|| USAGE_TABLE.to_owned()),
        }),
        MetricType::Generic(inherited::Generic { value_column_index, metric_name }) => Rows::Generic(Generic {
            value_column: *value_column_index,
            metric: metric_name.clone(),
            table: part.table.clone().unwrap_or_else(|| GENERIC_TABLE.to_owned()),
        }),
    };
    SourceConfig {
        name,
        location: Location::Call { call: Box::new(part.call.clone()), resources: inherited.resources.for_one() },
        profile: ProfileName::Auto,
        poll_interval: Some(part.interval),
        rows,
    }
}

fn usage_source(
    usage: &UsagePart,
    part: &ExporterPart,
    inherited: &Inherited,
    costs: &SourceName,
    name: SourceName,
) -> SourceConfig {
    let usage = ProviderUsage {
        provider: usage.provider.clone(),
        costs: costs.clone(),
        report: part.call.clone(),
        resources: inherited.resources.for_one(),
        table: usage.table.clone().unwrap_or_else(|| USAGE_TABLE.to_owned()),
    };
    SourceConfig {
        name,
        location: Location::Provider(Box::new(usage)),
        profile: ProfileName::Auto,
        poll_interval: Some(part.interval),
        rows: Rows::default(),
    }
}

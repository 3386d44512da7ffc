//! What a run is to do: the configuration file, where one is given, with the command line's
//! flags over it, and the sample where nobody named a source.

use std::path::{Path, PathBuf};

use costream_common::config::{self, ConfigError};
use costream_common::inherited;
use costream_common::record::SourceName;
use costream_exporter::config::{ExporterConfig, InvalidSource, LISTEN_ADDRESS, Location, Rows, SourceConfig};
use costream_exporter::inherited::LoadError;
use costream_handler::config::HandlerConfig;
use costream_scraper::config::ScraperConfig;

use crate::cli::{DATA_DIR, SourceArgs};
use crate::sample;

/// The configuration file, all three sections read.
pub(crate) type ConfigFile = config::File<ExporterConfig, ScraperConfig, HandlerConfig>;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An inherited configuration file.
    #[error(transparent)]
    Inherited(#[from] LoadError),
    /// A `--source`.
    #[error("--source")]
    Source(#[from] InvalidSource),
    /// A profile for nothing.
    #[error("--profile is for --source: the sources of {} have profiles of their own", path.display())]
    Profile { path: PathBuf },
    /// The sample could not be laid down.
    #[error("write the sample below {}", dir.display())]
    Sample {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl SettingsError {
    /// Whether the operator has to write something else.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::Sample { .. })
    }
}

/// The file's sections with the flags over them.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) exporter: ExporterConfig,
    pub(crate) scraper: ScraperConfig,
    pub(crate) handler: HandlerConfig,
    /// Where the sample, the lock and whatever has no place of its own is kept.
    pub(crate) data_dir: PathBuf,
}

impl Settings {
    /// Reads the file, and puts the flags over it. Without any source there is the sample.
    ///
    /// # Errors
    /// The file or a flag is no good, or the sample cannot be named.
    pub(crate) fn new(args: &SourceArgs, data_dir: Option<&Path>) -> Result<Self, SettingsError> {
        let given = args.config_file.as_deref();
        let inherited = given.map(|path| inherited::read(path, args.resources_dir.as_deref()));
        let ConfigFile { mut exporter, scraper, mut handler } = match (given, inherited.transpose()?.flatten()) {
            (Some(path), Some(inherited)) => {
                let exporter = costream_exporter::inherited::exporter(&inherited, path)?;
                // Who runs all three on one machine looks at it from there, unless a flag says otherwise.
                let exporter = ExporterConfig { listen_address: LISTEN_ADDRESS.to_owned(), ..exporter };
                ConfigFile { exporter, ..ConfigFile::default() }
            }
            (Some(path), None) => config::load(path)?,
            (None, _) => ConfigFile::default(),
        };
        let kept = match (data_dir, given) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some(_)) => handler.data_dir.clone(),
            (None, None) => PathBuf::from(DATA_DIR),
        };
        let own = ExporterConfig::for_run(&args.given, args.profile.unwrap_or_default(), &kept)?;
        match given {
            None => exporter = own,
            Some(path) => {
                if args.profile.is_some() && args.given.is_empty() && !exporter.sources.is_empty() {
                    return Err(SettingsError::Profile { path: path.to_owned() });
                }
                if !args.given.is_empty() {
                    exporter.sources = own.sources;
                }
                if data_dir.is_some() {
                    exporter.spool_dir = own.spool_dir;
                }
            }
        }
        handler.data_dir.clone_from(&kept);
        if data_dir.is_some() {
            // Who names a directory means its store, not the one that the file keeps elsewhere.
            handler.store_url = None;
        }
        if exporter.sources.is_empty() {
            exporter.sources.push(SourceConfig {
                name: SourceName::new(sample::NAME).map_err(InvalidSource::from)?,
                location: Location::Files(sample::path(&kept).to_string_lossy().into_owned()),
                profile: args.profile.unwrap_or_default(),
                poll_interval: None,
                rows: Rows::Charges,
            });
        }
        Ok(Self { exporter, scraper, handler, data_dir: kept })
    }

    /// Lays the sample down when it is a source.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub(crate) async fn lay_sample_down(&self) -> Result<(), SettingsError> {
        let path = sample::path(&self.data_dir);
        let is_sample =
            |source: &SourceConfig| matches!(&source.location, Location::Files(given) if Path::new(given) == path);
        if !self.exporter.sources.iter().any(is_sample) {
            return Ok(());
        }
        sample::lay_down(&path).await.map_err(|source| SettingsError::Sample { dir: self.data_dir.clone(), source })
    }

    /// The sources' names.
    pub(crate) fn source_names(&self) -> Vec<SourceName> {
        self.exporter.sources.iter().map(|source| source.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(config: Option<&str>, given: &[&str], data_dir: Option<&str>) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("costream.yaml");
        let config_file = config.map(|text| {
            std::fs::write(&path, text).expect("written");
            path
        });
        let given = given.iter().map(|text| (*text).to_owned()).collect();
        Settings::new(&SourceArgs { given, profile: None, config_file, resources_dir: None }, data_dir.map(Path::new))
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "exporter: {spool_dir: spool, sources: [{path: a.csv, profile: aws}]}\nhandler: {data_dir: kept}\n";
        let from_file = settings(Some(file), &[], None).expect("a good file");
        assert_eq!(from_file.source_names()[0].as_str(), "a.csv");
        assert_eq!(from_file.exporter.spool_dir, Path::new("spool"));
        assert_eq!(from_file.data_dir, Path::new("kept"));
        let flagged = settings(Some(file), &["b.csv"], Some("data")).expect("good flags");
        assert_eq!(flagged.source_names()[0].as_str(), "b.csv");
        assert_eq!(flagged.exporter.sources.len(), 1);
        assert_eq!(flagged.exporter.spool_dir, Path::new("data/spool"));
        assert_eq!(flagged.handler.data_dir, Path::new("data"));
    }

    #[test]
    fn the_files_store_is_used_unless_a_data_directory_is_given() {
        let file = "handler: {store_url: 'file:///srv/store'}\n";
        let store = |data_dir| settings(Some(file), &[], data_dir).expect("a good file").handler.store_url;
        assert_eq!(store(None).map(|url| url.to_string()).as_deref(), Some("file:///srv/store"));
        assert_eq!(store(Some("data")), None);
    }

    #[test]
    fn an_inherited_file_is_taken_and_keeps_to_this_machine() {
        let file = "kind: ExporterScraperConfig
metadata: {name: azure}
spec: {exporterConfig: {api: {path: /a.csv, endpointRef: {name: e}}, pollingInterval: 12h}}
";
        let settings = settings(Some(file), &[], Some("data")).expect("a good file");
        assert_eq!(settings.source_names()[0].as_str(), "azure");
        assert_eq!(settings.exporter.sources[0].poll_interval, Some(std::time::Duration::from_secs(12 * 3600)));
        assert!(settings.exporter.metrics.rows && settings.exporter.listen_address == LISTEN_ADDRESS);
    }

    #[test]
    fn nothing_given_means_the_sample() {
        for config in [None, Some("handler: {}\n")] {
            let settings = settings(config, &[], Some("data")).expect("defaults");
            assert_eq!(settings.source_names()[0].as_str(), "sample");
        }
    }
}

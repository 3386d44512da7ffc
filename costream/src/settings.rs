//! What a run is to do: the configuration file, where one is given, with the command line's
//! flags over it, and the sample where nobody named a source.

use std::path::{Path, PathBuf};

use costream_common::config::{self, ConfigError};
use costream_common::http::serve::Exposure;
use costream_common::http::web::{WebConfig, WebConfigError};
use costream_common::record::SourceName;
use costream_exporter::ProfileName;
use costream_exporter::config::{ExporterConfig, InvalidSource, Location, SourceConfig};
use costream_handler::HandlerConfig;
use costream_scraper::ScraperConfig;

use crate::cli::{DATA_DIR, RunArgs, SourceArgs};
use crate::sample;
use crate::sql::store_dir;

/// The configuration file, all three sections read.
pub(crate) type ConfigFile = config::File<ExporterConfig, ScraperConfig, HandlerConfig>;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// TLS or users.
    #[error(transparent)]
    Web(#[from] WebConfigError),
}

impl SettingsError {
    /// Whether the operator has to write something else.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::Sample { .. })
    }
}

/// Which sources there are.
pub(crate) struct Sources {
    /// The whole file, its exporter section with the flags over it.
    pub(crate) file: ConfigFile,
    /// Where everything is kept: the flag's directory, or the default one.
    pub(crate) data_dir: PathBuf,
}

impl Sources {
    /// Reads the file, and puts the flags over it.
    ///
    /// # Errors
    /// The file or a flag is no good.
    pub(crate) async fn new(args: &SourceArgs, data_dir: Option<&Path>) -> Result<Self, SettingsError> {
        let mut file: ConfigFile = match &args.config_file {
            Some(path) => config::load(path)?,
            None => ConfigFile::default(),
        };
        if let (Some(path), Some(_), true) = (&args.config_file, args.profile, args.given.is_empty()) {
            return Err(SettingsError::Profile { path: path.clone() });
        }
        let kept = data_dir.unwrap_or(Path::new(DATA_DIR)).to_owned();
        let profile = args.profile.unwrap_or_default();
        let own = ExporterConfig::for_run(&args.given, profile, &kept)?;
        if args.config_file.is_none() {
            file.exporter = own;
        } else {
            if !args.given.is_empty() {
                file.exporter.sources = own.sources;
            }
            if data_dir.is_some() {
                file.exporter.spool_dir = own.spool_dir;
            }
        }
        Ok(Self { file, data_dir: kept })
    }

    /// Puts the sample in where there is no source.
    ///
    /// # Errors
    /// It cannot be laid down.
    pub(crate) async fn or_sample(mut self, profile: Option<ProfileName>) -> Result<Self, SettingsError> {
        if self.file.exporter.sources.is_empty() {
            let failed = |source| SettingsError::Sample { dir: self.data_dir.clone(), source };
            let path = sample::lay_down(&self.data_dir).await.map_err(failed)?;
            let name = SourceName::new(sample::NAME).map_err(InvalidSource::from)?;
            let location = Location::Files(path.to_string_lossy().into_owned());
            self.file.exporter.sources.push(SourceConfig { name, location, profile: profile.unwrap_or_default(), poll_interval: None });
        }
        Ok(self)
    }

    /// The sources' names.
    pub(crate) fn names(&self) -> Vec<SourceName> {
        self.file.exporter.sources.iter().map(|source| source.name.clone()).collect()
    }
}

/// What a run listens on, and how.
pub(crate) struct Doors {
    pub(crate) exporter: Option<Door>,
    pub(crate) handler: Option<Door>,
    pub(crate) exposure: Exposure,
}

/// One address.
pub(crate) struct Door {
    pub(crate) address: String,
    pub(crate) web: Option<WebConfig>,
}

impl Doors {
    /// The addresses of a run; with `--once` those alone that somebody asked for.
    ///
    /// # Errors
    /// A web configuration is no good.
    pub(crate) fn new(args: &RunArgs, file: &ConfigFile) -> Result<Self, SettingsError> {
        let door = |flag: &Option<String>, section: &str, web_file: &Option<PathBuf>| {
            let asked = flag.is_some() || args.sources.config_file.is_some();
            if args.once && !asked {
                return Ok(None);
            }
            let web = args.web_config_file.as_ref().or(web_file.as_ref()).map(|path| WebConfig::load(path)).transpose()?;
            let address = flag.clone().unwrap_or_else(|| section.to_owned());
            Ok::<_, SettingsError>(Some(Door { address, web }))
        };
        Ok(Self {
            exporter: door(&args.exporter_listen_address, &file.exporter.listen_address, &file.exporter.web_config_file)?,
            handler: door(&args.handler_listen_address, &file.handler.listen_address, &file.handler.web_config_file)?,
            exposure: if args.allow_unauthenticated { Exposure::Unauthenticated } else { Exposure::LoopbackOnly },
        })
    }
}

/// Puts `--data-dir` over the handler's section.
pub(crate) fn handler_config(args: &RunArgs, sources: &Sources) -> HandlerConfig {
    let mut config = sources.file.handler.clone();
    if args.data_dir.is_some() || args.sources.config_file.is_none() {
        config.store_dir = store_dir(&sources.data_dir);
    }
    config
}

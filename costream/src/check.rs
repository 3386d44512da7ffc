//! `costream check`: every section of a configuration file, and the files it names, read as the
//! three roles would read them; of an inherited one, what they would do with it.

use std::path::{Path, PathBuf};

use costream_common::config::{self, ConfigError};
use costream_common::http::web::{WebConfig, WebConfigError};
use costream_common::inherited;
use costream_exporter::inherited::LoadError;
use costream_exporter::{Exporter, ExporterError};
use costream_handler::auth::RightsError;

use crate::settings::ConfigFile;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// The file itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An inherited one.
    #[error(transparent)]
    Inherited(#[from] LoadError),
    /// A certificate or header of a source.
    #[error("configuration {}", path.display())]
    Exporter {
        path: PathBuf,
        #[source]
        source: Box<ExporterError>,
    },
    /// Rights that are nobody's.
    #[error("configuration {}", path.display())]
    Users {
        path: PathBuf,
        #[source]
        source: RightsError,
    },
    /// A web configuration that it names.
    #[error("configuration {}: {section}.web_config_file", path.display())]
    Web {
        path: PathBuf,
        section: &'static str,
        #[source]
        source: WebConfigError,
    },
}

/// Reads the file and says that it is good.
///
/// # Errors
/// It is not: the key, the line and the reason.
pub(crate) fn check(path: &Path, resources: Option<&Path>) -> Result<(), CheckError> {
    let refused = |error| CheckError::Exporter { path: path.to_owned(), source: Box::new(error) };
    if let Some(inherited) = inherited::read(path, resources)? {
        // The scraper's own file has nothing to poll.
        if !inherited.exporters.is_empty() {
            let exporter = costream_exporter::inherited::exporter(&inherited, path)?;
            Exporter::check(&exporter).map_err(refused)?;
        }
        println!("{} is good: an inherited configuration", path.display());
        inherited.explained().iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    let file: ConfigFile = config::load(path)?;
    Exporter::check(&file.exporter).map_err(refused)?;
    let web_files = [
        ("exporter", &file.exporter.web_config_file),
        ("scraper", &file.scraper.web_config_file),
        ("handler", &file.handler.web_config_file),
    ];
    let mut handlers = None;
    for (section, web_file) in web_files {
        if let Some(web_file) = web_file {
            let failed = |source| CheckError::Web { path: path.to_owned(), section, source };
            let web = WebConfig::load(web_file).map_err(failed)?;
            if section == "handler" {
                handlers = Some(web);
            }
        }
    }
    let users = file.handler.users.check(handlers.as_ref());
    users.map_err(|source| CheckError::Users { path: path.to_owned(), source })?;
    println!("{} is good", path.display());
    Ok(())
}

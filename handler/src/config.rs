//! The handler's section of the configuration file. Every key has a default, so that an empty
//! section works.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::UserRights;
use crate::compute::ComputeConfig;
use crate::sql::Limits;
use crate::store::delta::StoreUrl;
use costream_common::config::Span;
use serde::Deserialize;

/// Where the handler listens when nobody says otherwise: this machine only.
pub const LISTEN_ADDRESS: &str = "127.0.0.1:8088";
/// Where data is kept when nobody says otherwise, beside the working directory.
pub const DATA_DIR: &str = "costream-data";

/// What the handler reads.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandlerConfig {
    /// `host:port`; port 0 takes a free one.
    pub listen_address: String,
    /// The store is the folder `store` in it.
    pub data_dir: PathBuf,
    /// The store, when it is not in `data_dir`.
    pub store_url: Option<StoreUrl>,
    /// How long the past can be asked for.
    pub retention: Span,
    /// Between two rounds of housekeeping.
    pub maintenance_interval: Span,
    /// What statements may use.
    pub query: Limits,
    /// TLS and users, in the form of the Prometheus family.
    pub web_config_file: Option<PathBuf>,
    /// What the users may.
    pub users: UserRights,
    /// Serve any address without asking for a password.
    pub allow_unauthenticated: bool,
    /// Notebooks: their interpreter, and what keeps them in.
    pub compute: ComputeConfig,
}

impl Default for HandlerConfig {
    fn default() -> Self {
        Self {
            listen_address: LISTEN_ADDRESS.to_owned(),
            data_dir: PathBuf::from(DATA_DIR),
            store_url: None,
            retention: Span(Duration::from_secs(30 * 24 * 60 * 60)),
            maintenance_interval: Span(Duration::from_secs(60 * 60)),
            query: Limits::default(),
            web_config_file: None,
            users: UserRights::default(),
            allow_unauthenticated: false,
            compute: ComputeConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use costream_common::config::{File, parse};
    use serde::de::IgnoredAny;

    use super::*;

    fn read(text: &str) -> Result<HandlerConfig, String> {
        let file: File<IgnoredAny, IgnoredAny, HandlerConfig> =
            parse(text, Path::new("costream.yaml")).map_err(|error| error.to_string())?;
        Ok(file.handler)
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(read("handler: {}\n"), Ok(HandlerConfig::default()));
        assert_eq!(read("exporter: {}\n"), Ok(HandlerConfig::default()));
    }

    #[test]
    fn a_wrong_key_is_named_with_its_line() {
        let error = read("handler:\n  query:\n    max_row: 1\n").expect_err("a misspelt key");
        assert!(error.contains("line 3") && error.contains("max_row"), "{error}");
    }

    #[test]
    fn a_store_elsewhere_is_named_by_its_url_and_secrets_are_not() {
        let config = read("handler: {store_url: \"s3://bucket/costs\"}\n").expect("a good section");
        assert_eq!(config.store_url.map(|url| url.to_string()).as_deref(), Some("s3://bucket/costs"));
        let error = read("handler:\n  store_url: az://container/costs?sig=verysecret\n").expect_err("a signature");
        assert!(error.contains("line 2") && error.contains("store_url"), "{error}");
        assert!(error.contains("no credentials") && !error.contains("verysecret"), "{error}");
    }

    #[test]
    fn limits_are_set_one_by_one() {
        let config = read("handler:\n  query: {max_rows: 5, timeout: 2s}\n").expect("a good section");
        assert_eq!(config.query, Limits { max_rows: 5, timeout: Span(Duration::from_secs(2)), ..Limits::default() });
    }
}

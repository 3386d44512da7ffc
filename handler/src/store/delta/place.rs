//! Where a store is: its URL in, the object store that holds it out. A directory, or a bucket of
//! S3 (and what speaks it), Azure Blob Storage or Google Cloud Storage.
//!
//! The URL names the place and bears no secret. How it is reached (credentials, region,
//! endpoint) says the environment, in the variables of the clouds' own tools; without
//! credentials there, the machine's identity is asked for. Every request ends: see
//! [`REQUEST_TIMEOUT`] and [`RETRY_FOR`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use serde::Deserialize;
use url::Url;

use super::durable::DurableFiles;
use super::plain::PlainErrors;
use crate::ident::TableName;

/// How long one request may take, its body included, unless `AWS_TIMEOUT`, `AZURE_TIMEOUT` or
/// `GOOGLE_TIMEOUT` says otherwise.
const REQUEST_TIMEOUT: &str = "60s";
/// How often a request is tried again after a failure that may pass.
const MAX_RETRIES: usize = 6;
/// No try begins later than this after the first.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// A store's URL: `file:///folder`, `s3://bucket/folder`, `az://container/folder`,
/// `abfss://container@account.dfs.core.windows.net/folder` or `gs://bucket/folder`. Bears no
/// secret, so it can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl {
    url: Url,
    kind: Kind,
}

/// Whose the place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    S3,
    Azure,
    Gcs,
}

/// A text that is no store's URL. Does not repeat the text: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// It cannot be read as a URL.
    #[error("not a URL such as s3://bucket/folder: {0}")]
    Malformed(url::ParseError),
    /// Nobody's place.
    #[error("not a store's URL: those begin with file, s3, s3a, az, abfs, abfss or gs and ://")]
    Scheme,
    /// The bucket, container or path is missing.
    #[error("the URL names no bucket or folder")]
    Nowhere,
    /// A user, a password, a signature or the like.
    #[error("a store's URL bears no credentials and no parameters: they come from the environment")]
    Credentials,
}

impl TryFrom<Url> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(mut url: Url) -> Result<Self, StoreUrlError> {
        let kind = match url.scheme() {
            "file" => Kind::Directory,
            "s3" | "s3a" => Kind::S3,
            "az" | "abfs" | "abfss" => Kind::Azure,
            "gs" => Kind::Gcs,
            _ => return Err(StoreUrlError::Scheme),
        };
        // What stands before the `@` is a container on Azure, and a user elsewhere.
        let user = !url.username().is_empty() && kind != Kind::Azure;
        if user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(StoreUrlError::Credentials);
        }
        if url.host_str().is_some_and(|host| !host.is_empty()) == (kind == Kind::Directory) {
            return Err(StoreUrlError::Nowhere);
        }
        let folders: Vec<&str> = url.path().split('/').filter(|folder| !folder.is_empty()).collect();
        let path = format!("/{}", folders.join("/"));
        url.set_path(&path);
        Ok(Self { url, kind })
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        Url::parse(text).map_err(StoreUrlError::Malformed)?.try_into()
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(text: String) -> Result<Self, StoreUrlError> {
        text.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl StoreUrl {
    pub(super) fn as_url(&self) -> &Url {
        &self.url
    }

    /// A table's folder.
    pub(super) fn folder(&self, table: &TableName) -> Url {
        let mut url = self.url.clone();
        let path = format!("{}/{table}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// The bucket, or the file system, with everything in it. Nothing is asked of it yet.
    ///
    /// `variables`: names and values as the environment has them; those of other places are
    /// passed over, and so is what is empty.
    ///
    /// # Errors
    /// The variables contradict each other, or name a file that cannot be read.
    pub fn connect(
        &self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let given: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let errors = PlainErrors::of(&self.to_string());
        let store: Result<Arc<dyn ObjectStore>, _> = match self.kind {
            Kind::Directory => return Ok(Arc::new(DurableFiles::new())),
            Kind::S3 => s3(&self.url, &given).build().map(|store| Arc::new(store) as _),
            Kind::Azure => azure(&self.url, &given).build().map(|store| Arc::new(store) as _),
            Kind::Gcs => gcs(&self.url, &given).build().map(|store| Arc::new(store) as _),
        };
        store.map_err(|error| errors.tell(error)).map(|store| errors.over(store))
    }
}

/// The environment's variables, as far as they are text.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

/// The settings among the variables whose name begins with `prefix`, by the library's keys.
fn settings<'a, K: FromStr>(
    prefix: &'static str,
    given: &'a [(String, String)],
) -> impl Iterator<Item = (K, &'a String)> {
    given.iter().filter_map(move |(name, value)| {
        let own = name.starts_with(prefix).then(|| name.to_ascii_lowercase())?;
        Some((own.parse().ok()?, value))
    })
}

/// Whether somebody has asked for an endpoint without TLS: a server of his own, or an emulator.
fn is_plain_http(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// S3, by the variables of the AWS tools.
fn s3(url: &Url, given: &[(String, String)]) -> AmazonS3Builder {
    use AmazonS3ConfigKey::{Client, Endpoint, S3Endpoint};
    let patient = AmazonS3Builder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let builder = settings("AWS_", given).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let plain = [S3Endpoint, Endpoint].iter().any(|key| is_plain_http(builder.get_config_value(key)));
    let builder = if plain { builder.with_allow_http(true) } else { builder };
    builder.with_url(url.as_str()).with_retry(retry())
}

/// Azure, by the variables of the Azure SDKs, and the two that the Azure command line calls otherwise.
fn azure(url: &Url, given: &[(String, String)]) -> MicrosoftAzureBuilder {
    use AzureConfigKey::{AccessKey, AccountName, Client, Endpoint, MsiEndpoint};
    let patient = MicrosoftAzureBuilder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let others = given.iter().filter_map(|(name, value)| match name.as_str() {
        "AZURE_STORAGE_ACCOUNT" => Some((AccountName, value)),
        "AZURE_STORAGE_KEY" => Some((AccessKey, value)),
        "IDENTITY_ENDPOINT" => Some((MsiEndpoint, value)),
        _ => None,
    });
    let builder =
        others.chain(settings("AZURE_", given)).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let builder = match is_plain_http(builder.get_config_value(&Endpoint)) {
        true => builder.with_allow_http(true),
        false => builder,
    };
    builder.with_url(url.as_str()).with_retry(retry())
}

/// Google Cloud Storage, by the variables of the Google tools.
fn gcs(url: &Url, given: &[(String, String)]) -> GoogleCloudStorageBuilder {
    use GoogleConfigKey::{BaseUrl, Client};
    let patient = GoogleCloudStorageBuilder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let builder = settings("GOOGLE_", given).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let builder = match is_plain_http(builder.get_config_value(&BaseUrl)) {
        true => builder.with_config(Client(ClientConfigKey::AllowHttp), "true"),
        false => builder,
    };
    builder.with_url(url.as_str()).with_retry(retry())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_url() {
        for (text, shown, costs) in [
            ("file:///srv/store", "file:///srv/store", "file:///srv/store/costs/"),
            ("s3://bucket", "s3://bucket/", "s3://bucket/costs/"),
            ("s3a://bucket/a//b c/", "s3a://bucket/a/b%20c", "s3a://bucket/a/b%20c/costs/"),
            ("az://container/a", "az://container/a", "az://container/a/costs/"),
            (
                "abfss://c@account.dfs.core.windows.net/a",
                "abfss://c@account.dfs.core.windows.net/a",
                "abfss://c@account.dfs.core.windows.net/a/costs/",
            ),
            ("gs://bucket/a", "gs://bucket/a", "gs://bucket/a/costs/"),
        ] {
            let place: StoreUrl = text.parse().expect("a place");
            assert_eq!(place.to_string(), shown, "{text}");
            assert_eq!(place.folder(&TableName::costs()).as_str(), costs, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_and_not_repeated() {
        for (text, says) in [
            ("bucket/verysecret", "not a URL"),
            ("https://account.blob.core.windows.net/container?sig=verysecret", "not a store's URL"),
            ("s3://key:verysecret@bucket/a", "no credentials"),
            ("s3://verysecret@bucket/a", "no credentials"),
            ("az://container/a?sig=verysecret", "no credentials"),
            ("abfss://c:verysecret@account.dfs.core.windows.net/a", "no credentials"),
            ("s3:///a", "names no bucket"),
            ("file://elsewhere/a", "names no bucket"),
        ] {
            let error = text.parse::<StoreUrl>().expect_err("no place").to_string();
            assert!(error.contains(says) && !error.contains("verysecret"), "{text}: {error}");
        }
    }

    fn variables(given: &[(&str, &str)]) -> Vec<(String, String)> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_variables_of_the_clouds_tools_are_taken() {
        let given = variables(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_BUCKET", "another"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_PAGER", "less"),
            ("AZURE_STORAGE_ACCOUNT", "account"),
            ("AZURE_STORAGE_KEY", "a2V5"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/credentials.json"),
        ]);
        let s3 = s3(&Url::parse("s3://bucket/a").expect("a URL"), &given);
        for (key, value) in [
            (AmazonS3ConfigKey::Region, "eu-central-1"),
            (AmazonS3ConfigKey::Token, "token"),
            (AmazonS3ConfigKey::WebIdentityTokenFile, "/token"),
            (AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true"),
        ] {
            assert_eq!(s3.get_config_value(&key).as_deref(), Some(value), "{key:?}");
        }
        assert_eq!(s3.build().expect("a store").to_string(), "AmazonS3(bucket)", "the URL names the bucket");
        let azure = azure(&Url::parse("az://container/a").expect("a URL"), &given);
        for (key, value) in [
            (AzureConfigKey::AccountName, "account"),
            (AzureConfigKey::AccessKey, "a2V5"),
            (AzureConfigKey::FederatedTokenFile, "/token"),
            (AzureConfigKey::Client(ClientConfigKey::AllowHttp), "false"),
        ] {
            assert_eq!(azure.get_config_value(&key).as_deref(), Some(value), "{key:?}");
        }
        let gcs = gcs(&Url::parse("gs://bucket/a").expect("a URL"), &given);
        let credentials = gcs.get_config_value(&GoogleConfigKey::ApplicationCredentials);
        assert_eq!(credentials.as_deref(), Some("/credentials.json"));
    }

    #[test]
    fn variables_that_contradict_each_other_are_an_error_without_their_values() {
        let place: StoreUrl = "s3://bucket/a".parse().expect("a place");
        let error = place.connect(variables(&[("AWS_SECRET_ACCESS_KEY", "verysecret")])).expect_err("half a key");
        let error = error.to_string();
        assert!(error.contains("s3://bucket/a") && error.contains("AccessKeyId"), "{error}");
        assert!(!error.contains("verysecret"), "{error}");
        let both = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "verysecret")];
        let store = place.connect(variables(&both)).expect("a store");
        assert!(!format!("{store:?} {store}").contains("verysecret"));
    }
}
